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
from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException

from gru4rec.scoring.recommend import recommend
from gru4rec.sessions.catalogue import UNKNOWN, catalogue, quick_encoder
from gru4rec.tracking import folder

# MLflow asks for type hints, to derive a signature from; this model is logged with one.
with warnings.catch_warnings(record=True):

    class Recommender(mlflow.pyfunc.PythonModel):
        """The k best next items of sessions given as lists of item ids."""

        def load_context(self, context):
            """Load the model folder, on the CPU."""
            loaded = folder.load(context.artifacts["model"])
            self.model, self.known = loaded.model, catalogue(loaded.items)
            self.encode = quick_encoder(self.known)

        def predict(self, context, model_input, params=None):
            """One row for each row of `model_input`, which has `items` and may have `session_id`."""
            params = {"k": 20, "exclude_seen": False, "exclude_items": [], **(params or {})}
            k, seen = params["k"], bool(params["exclude_seen"])
            if k is None or int(k) < 1:
                raise _refused(f"k must be at least 1, got {k}")
            kind = self.known.ids.type
            rows = [None if clicked is None else list(clicked) for clicked in model_input["items"]]
            # Session ids pass by untouched: they need not be of one type, nor of one that Arrow knows.
            sessions = pa.table({"session_id": pa.nulls(len(rows)), "items": pa.array(rows, pa.list_(kind))})
            banned = self._banned(params["exclude_items"])
            found = recommend(self.model, self.known, sessions, int(k), seen, self.encode, banned)
            answer = {name: found[name].to_pylist() for name in ("items", "scores", "fallback")}
            if "session_id" in model_input:
                # NaN, which pandas puts where an id is missing, is no JSON.
                given = [
                    None if isinstance(id, float) and id != id else id for id in model_input["session_id"].tolist()
                ]
                answer = {"session_id": pd.Series(given, model_input.index, object), **answer}
            return pd.DataFrame(answer, index=model_input.index)

        def _banned(self, ids):
            """Indices of the items that no list shows; None for none."""
            try:
                banned = self.encode(pa.array(list(ids), self.known.ids.type))
            except (pa.ArrowException, OverflowError) as error:
                raise _refused(f"exclude_items: not item ids of this model: {error}") from error
            return banned[banned != UNKNOWN] if len(banned) else None


def _refused(reason):
    """The error that the server answers with status 400 and the reason; others show a traceback."""
    return MlflowException(reason, INVALID_PARAMETER_VALUE)


mlflow.models.set_model(Recommender())
