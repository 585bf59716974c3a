"""The registered model's code: MLflow runs this file when it loads the model with `mlflow.pyfunc`.

    mlflow.pyfunc.load_model("models:/gru4rec@champion").predict(
        pandas.DataFrame({"session_id": ["a"], "items": [[214536502, 214536500]]}), params={"k": 5}
    )

`exclude_seen` leaves out what the session has clicked, `exclude_items` the items of a list of ids (out of stock).
The answer has one row a session: session_id (if given), items, scores, and fallback, which is true where no
item of the session was known and the list is by popularity.
"""

import warnings

import mlflow
import pandas as pd
import pyarrow as pa

from gru4rec.scoring.recommend import recommend
from gru4rec.sessions.catalogue import UNKNOWN, catalogue, encoder
from gru4rec.tracking import folder

# MLflow asks for type hints, to derive a signature from; this model is logged with one.
with warnings.catch_warnings(record=True):

    class Recommender(mlflow.pyfunc.PythonModel):
        """The k best next items of sessions given as lists of item ids."""

        def load_context(self, context):
            """Load the model folder, on the CPU."""
            loaded = folder.load(context.artifacts["model"])
            self.model, self.known = loaded.model, catalogue(loaded.items)

        def predict(self, context, model_input, params=None):
            """One row for each row of `model_input`, which has `items` and may have `session_id`."""
            params = {"k": 20, "exclude_seen": False, "exclude_items": [], **(params or {})}
            if int(params["k"]) < 1:
                raise ValueError(f"k must be at least 1, got {params['k']}")
            banned = encoder(self.known)(pa.array(list(params["exclude_items"]), self.known.ids.type))
            rows = [None if clicked is None else list(clicked) for clicked in model_input["items"]]
            given = "session_id" in model_input
            # Session ids pass by untouched: they need not be of one type, nor of one that Arrow knows.
            sessions = pa.table(
                {"session_id": pa.nulls(len(rows)), "items": pa.array(rows, pa.list_(self.known.ids.type))}
            )
            given_k, seen = int(params["k"]), bool(params["exclude_seen"])
            found = recommend(self.model, self.known, sessions, given_k, seen, banned=banned[banned != UNKNOWN])
            answer = {name: found[name].to_pylist() for name in ("items", "scores", "fallback")}
            if given:
                answer = {"session_id": model_input["session_id"].tolist(), **answer}
            return pd.DataFrame(answer, index=model_input.index)


mlflow.models.set_model(Recommender())
