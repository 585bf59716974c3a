"""MLflow stores for tests: an empty one is set up once and copied for each test, which saves seconds."""

import shutil

import pytest


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    from gru4rec.tracking import runs

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    runs.mlflow_at(f"sqlite:///{path}").MlflowClient().search_experiments()
    return path


@pytest.fixture
def store(empty_store, tmp_path, monkeypatch):
    """The tracking URI of an empty store in the test's own folder."""
    from gru4rec.tracking import runs

    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    runs.mlflow_at(uri)
    yield uri
    runs.mlflow_at(uri).set_tracking_uri(None)
