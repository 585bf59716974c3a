"""Model versions against a real sqlite store: in as a folder, out as a folder, and served by pyfunc."""

import sys

import pandas as pd
import pyarrow as pa
import pytest
import torch

from gru4rec.config import Hyperparameters
from gru4rec.errors import InputError
from gru4rec.model.network import initialise
from gru4rec.scoring.recommend import recommend
from gru4rec.sessions.catalogue import catalogue
from gru4rec.tracking import folder, registry, runs

V = 60
MODEL = initialise(Hyperparameters(layers=(6,), seed=2), V)
STATE = {"item_table": MODEL.item_table * 2}
NUMBERS = [i + 100 for i in range(V)]
TEXTS = [f"item-{i}" for i in range(V)]


def items(ids):
    index = pa.array(range(V), pa.int32())
    return pa.table({"item_id": ids, "item_index": index, "support": list(range(V, 0, -1))})


@pytest.fixture
def registered(store, tmp_path):
    """Register a model with these item ids: (run id, version)."""

    def register(ids=NUMBERS, name="gru4rec"):
        folder.save(MODEL, items(ids), str(tmp_path / "model"), {"data_fingerprint": "abc"}, STATE)
        run_id = runs.start_run(runs.connect(store), {"layers": (6,)})
        metrics = {"recall_at_20": 0.5, "mrr_at_20": 0.25}
        return run_id, registry.register(run_id, str(tmp_path / "model"), name, metrics, "abc")

    return register


def expected(ids, rows, k=20, exclude_seen=False):
    sessions = pa.table({"session_id": pa.nulls(len(rows)), "items": pa.array(rows, pa.list_(pa.array(ids).type))})
    return recommend(MODEL, catalogue(items(ids)), sessions, k, exclude_seen)["items"].to_pylist()


def test_a_version_carries_its_run_its_data_and_its_metrics(store, registered):
    import mlflow

    run_id, version = registered()
    assert version == "1"
    found = mlflow.MlflowClient().get_model_version("gru4rec", version)
    assert found.run_id == run_id
    assert found.tags == {"data_fingerprint": "abc"}
    logged = mlflow.get_logged_model(found.source.removeprefix("models:/"))
    assert {m.key: m.value for m in logged.metrics} == {"recall_at_20": 0.5, "mrr_at_20": 0.25}


class Killed(BaseException):
    """What a SIGKILL would do."""


@pytest.mark.parametrize("where", ["log_batch", "_log_model_metrics", "create_model_version"])
def test_interrupted_anywhere_and_called_again_a_run_has_all_of_it_once(store, tmp_path, monkeypatch, where):
    import mlflow
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder.save(MODEL, items(NUMBERS), str(tmp_path / "model"))
    run_id = runs.start_run(runs.connect(store), {})
    call = (run_id, str(tmp_path / "model"), "gru4rec", {"recall_at_20": 0.5, "mrr_at_20": 0.25}, "abc")

    def killed(*arguments, **options):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(SqlAlchemyStore if where.startswith("_") else mlflow.MlflowClient, where, killed)
        with pytest.raises(Killed):
            registry.register(*call)
    assert registry.register(*call) == registry.register(*call) == "1"
    client = mlflow.MlflowClient()
    for key, value in {"recall_at_20": 0.5, "mrr_at_20": 0.25}.items():
        assert [(point.step, point.value) for point in client.get_metric_history(run_id, key)] == [(0, value)]
    (logged,) = client.search_logged_models([client.get_run(run_id).info.experiment_id])
    assert {(metric.key, metric.value) for metric in logged.metrics} == {("recall_at_20", 0.5), ("mrr_at_20", 0.25)}
    (version,) = client.search_model_versions("name = 'gru4rec'")
    assert version.source == f"models:/{logged.model_id}"


def test_versions_count_up_and_aliases_and_latest_resolve_to_numbers(store, registered):
    registered()
    _, second = registered()
    assert second == "2"
    registry.set_alias("gru4rec", "1", "champion")
    assert registry.resolve("models:/gru4rec@champion", store) == ("models:/gru4rec/1", "1")
    assert registry.resolve("models:/gru4rec/latest", store) == ("models:/gru4rec/2", "2")
    assert registry.resolve("models:/gru4rec/2", store) == ("models:/gru4rec/2", "2")


def test_what_is_fetched_is_the_folder_that_was_registered(store, registered, tmp_path):
    run_id, version = registered()
    for uri in (f"models:/gru4rec/{version}", f"runs:/{run_id}/model"):
        fetched = registry.fetch(uri, store)
        for name in (folder.WEIGHTS, folder.CONFIG, folder.ITEMS):
            with open(f"{fetched}/{name}", "rb") as file:
                assert file.read() == (tmp_path / "model" / name).read_bytes()


@pytest.mark.parametrize("path", ["/some/folder", "models", "s3://bucket/model"])
def test_a_folder_is_passed_through(path):
    assert registry.resolve(path) == (path, None)
    assert registry.fetch(path) == path


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("models:/nobody/1", "no such model .*; there are the models: gru4rec$"),
        ("models:/nobody@champion", "no such model .*; there are the models: gru4rec$"),
        ("models:/nobody/latest", "no such model"),
        ("models:/gru4rec/7", "no such model .*; there are the versions 1, without an alias .compare --promote"),
        ("models:/gru4rec@nobody", "no such model .*; there are the versions 1, without an alias"),
        ("models:/gru4rec/Production", "not a version"),
        ("models:/gru4rec", "NAME/VERSION"),
        ("models:/", "NAME/VERSION"),
        ("runs:/0123456789abcdef/model", "cannot be read"),
    ],
)
def test_what_does_not_exist_is_an_input_error(store, registered, model, message):
    registered()
    with pytest.raises(InputError, match=message):
        registry.fetch(registry.resolve(model, store)[0], store)


def test_asking_a_store_that_is_not_there_does_not_make_one(tmp_path):
    with pytest.raises(InputError, match=r"no MLflow store at .*--tracking-uri"):
        registry.resolve("models:/gru4rec/1", f"sqlite:///{tmp_path}/typo.db")
    assert not list(tmp_path.iterdir())


def test_a_model_of_someone_else_is_refused(store, registered):
    import mlflow

    class Echo(mlflow.pyfunc.PythonModel):
        def predict(self, model_input: list[str]):
            return model_input

    mlflow.set_experiment(experiment_id=runs.connect(store))
    logged = mlflow.pyfunc.log_model(name="echo", python_model=Echo(), pip_requirements=[])
    mlflow.end_run()
    with pytest.raises(InputError, match="not a GRU4Rec model"):
        registry.fetch(logged.model_uri, store)


@pytest.mark.parametrize("ids", [NUMBERS, TEXTS])
def test_the_served_model_answers_as_the_batch_job_does(store, registered, ids):
    import mlflow

    _, version = registered(ids)
    served = mlflow.pyfunc.load_model(f"models:/gru4rec/{version}")
    unknown = "nothing" if ids is TEXTS else 5
    rows = [[ids[3], ids[4]], [ids[3], unknown, ids[4]], [], [unknown]]
    answer = served.predict(pd.DataFrame({"session_id": ["a", "b", "c", "d"], "items": rows}))
    assert answer["session_id"].tolist() == ["a", "b", "c", "d"]
    assert answer["items"].tolist() == expected(ids, rows)
    assert answer["fallback"].tolist() == [False, False, True, True]
    seen = served.predict(pd.DataFrame({"items": [[ids[0]]]}), params={"k": 3, "exclude_seen": True})
    assert seen["items"].tolist() == expected(ids, [[ids[0]]], 3, True)
    assert "session_id" not in seen
    out = answer["items"][0][:2]
    left = served.predict(pd.DataFrame({"items": rows}), params={"k": 5, "exclude_items": [*out, unknown]})
    assert left["items"].tolist() == [
        [item for item in listed if item not in out][:5] for listed in expected(ids, rows, 7)
    ]


def test_the_served_model_refuses_other_columns(store, registered):
    import mlflow

    _, version = registered()
    served = mlflow.pyfunc.load_model(f"models:/gru4rec/{version}")
    with pytest.raises(mlflow.exceptions.MlflowException, match="items"):
        served.predict(pd.DataFrame({"clicks": [[1]]}))
    for k in (0, None):
        with pytest.raises(mlflow.exceptions.MlflowException, match=f"k must be at least 1, got {k}"):
            served.predict(pd.DataFrame({"items": [[100]]}), params={"k": k})
    with pytest.raises(mlflow.exceptions.MlflowException, match="exclude_items: not item ids of this model"):
        served.predict(pd.DataFrame({"items": [[100]]}), params={"exclude_items": [2**70]})
    with pytest.raises(mlflow.exceptions.MlflowException, match="exclude_items"):
        served.predict(pd.DataFrame({"items": [[100]]}), params={"exclude_items": "100"})


def test_registering_leaves_nothing_pickled_and_no_import_path_behind(store, registered, tmp_path):
    before = list(sys.path)
    registered()
    assert sys.path == before
    logged = [path for path in (tmp_path / "mlartifacts").rglob("*") if path.is_file()]
    assert any(path.name == "pyfunc_model.py" for path in logged)
    assert not [path for path in logged if path.suffix in (".pkl", ".pickle", ".pt", ".pth", ".pyc")]


def test_the_optimizers_state_stays_with_the_run_for_further_training(store, registered, tmp_path):
    run_id, version = registered()
    served = folder.load(registry.fetch(f"models:/gru4rec/{version}", store))
    assert torch.equal(served.model.item_table, MODEL.item_table)
    for uri in (f"models:/gru4rec/{version}", f"runs:/{run_id}/model"):
        assert folder.load_optimizer(registry.fetch(uri, store)) == {}
        fetched = registry.fetch(uri, store, optimizer=True)
        assert torch.equal(folder.load_optimizer(fetched)["item_table"], STATE["item_table"])
        assert torch.equal(folder.load(fetched).model.item_table, MODEL.item_table)
    (kept,) = (tmp_path / "mlartifacts").rglob(folder.OPTIMIZER)
    assert run_id in kept.parts


def test_a_version_has_the_card_and_a_description(store, registered, tmp_path):
    import mlflow

    registered()
    folder.write_card(str(tmp_path / "model"), "# card\n")
    again = runs.start_run(runs.connect(store), {})
    version = registry.register(again, str(tmp_path / "model"), "gru4rec", description="short")
    assert folder.read_card(registry.fetch(f"models:/gru4rec/{version}", store)) == "# card\n"
    client = mlflow.MlflowClient()
    assert client.get_model_version("gru4rec", version).description == "short"
    registry.note("gru4rec", version, {}, "and more")
    assert client.get_model_version("gru4rec", version).description == "short\n\nand more"


def test_a_session_without_an_id_among_others_gets_none(store, registered):
    import mlflow

    _, version = registered()
    served = mlflow.pyfunc.load_model(f"models:/gru4rec/{version}")
    answer = served.predict(pd.DataFrame({"session_id": ["a", float("nan")], "items": [[100], [101]]}))
    assert answer["session_id"].tolist() == ["a", None]


def test_logging_without_registering(store, registered):
    run_id, version = registered(name="")
    assert version == ""
    assert folder.load(registry.fetch(f"runs:/{run_id}/model", store)).model.item_count == V


def test_a_name_that_cannot_be_searched_for_is_refused(store, registered):
    with pytest.raises(InputError, match="letters, digits"):
        registered(name="it's")
