"""MLflow runs against a real sqlite store."""

import os
from pathlib import Path

import pytest

from gru4rec.errors import GRU4RecError
from gru4rec.tracking import runs


@pytest.fixture
def client(store):
    import mlflow

    return mlflow.MlflowClient(store)


def test_the_store_is_the_one_given_then_the_environments_then_that_of_mlflow_ui(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert runs.address() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert runs.address() == "http://tracking:5000"
    assert runs.address("sqlite:///other.db") == f"sqlite:///{tmp_path}/other.db"
    assert runs.address("sqlite:////abs/other.db") == "sqlite:////abs/other.db"


def test_connect_makes_the_experiment_once_with_its_artifacts_beside_the_store(store, client, tmp_path):
    first = runs.connect(store, "nightly")
    assert runs.connect(store, "nightly") == first
    assert client.get_experiment(first).artifact_location == f"file://{tmp_path}/mlartifacts"


def test_a_submitted_job_is_warned_of_a_store_that_goes_with_its_copy(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    runs.connect()
    assert f"recorded in {tmp_path}/mlflow.db, which is lost" in capsys.readouterr().err
    runs.connect(f"sqlite:///{tmp_path}/mlflow.db")
    assert capsys.readouterr().err == ""


def test_a_deleted_experiment_is_said_to_be_deleted(store, client):
    client.delete_experiment(runs.connect(store, "gone"))
    with pytest.raises(GRU4RecError, match="gone was deleted"):
        runs.connect(store, "gone")


def test_a_store_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / "mlflow.db").write_text("this is no database, whatever its name says" * 30)
    with pytest.raises(GRU4RecError, match=r"mlflow.db cannot be opened"):
        runs.connect(f"sqlite:///{tmp_path}/mlflow.db")


def test_a_server_that_is_not_there_is_named_with_the_remedy(monkeypatch):
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    with pytest.raises(
        GRU4RecError, match=r"http://\S*127.0.0.1:9 cannot be opened: .*; see to it, or name another with"
    ):
        runs.connect("http://127.0.0.1:9")
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_a_store_that_cannot_be_written_to_is_named_at_once(tmp_path, monkeypatch):
    """MLflow would try for minutes."""
    monkeypatch.setattr(os, "access", lambda path, mode: path != str(tmp_path))
    with pytest.raises(
        GRU4RecError, match=r"m\.db cannot be written to; see to it, or name another with --tracking-uri"
    ):
        runs.connect(f"sqlite:///{tmp_path}/m.db")
    assert not list(tmp_path.iterdir())


def test_usage_data_stays_here(store):
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_run_from_start_to_end(store, client):
    parameters = {"layers": (100, 50), "loss": "bpr-max", "learning_rate": 0.05}
    run_id = runs.start_run(runs.connect(store), parameters, "/data/prepared", "f" * 64, tags={"workers": "2"})
    runs.log_epoch(run_id, 1, loss=3.5, events_per_second=1000)
    runs.log_epoch(run_id, 2, loss=3.25, events_per_second=1100)
    runs.log_metrics(run_id, {"recall_at_20": 0.5})
    runs.finish(run_id)
    run = client.get_run(run_id)
    assert run.data.params == {"layers": "100,50", "loss": "bpr-max", "learning_rate": "0.05"}
    assert run.data.metrics == {"loss": 3.25, "events_per_second": 1100, "recall_at_20": 0.5}
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "loss")] == [(1, 3.5), (2, 3.25)]
    expected = {"kind": "train", "data": "/data/prepared", "data_fingerprint": "f" * 64, "workers": "2"}
    assert expected.items() <= run.data.tags.items()
    assert run.info.status == "FINISHED"
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("prepared", "f" * 36)


def test_points_by_step_more_than_mlflow_takes_at_once(store, client):
    run_id = runs.start_run(runs.connect(store), {})
    points = {step: {"curves/loss": step / 2, "curves/events_per_second": 2.0 * step} for step in range(1, 701)}
    runs.log_points(run_id, points)
    history = client.get_metric_history(run_id, "curves/loss")
    assert {point.step: point.value for point in history} == {step: of["curves/loss"] for step, of in points.items()}
    assert runs.logged_steps(run_id, "curves/events_per_second") == points.keys()


def test_what_a_run_has_is_not_recorded_again(store, client):
    run_id = runs.start_run(runs.connect(store), {})
    runs.log_metrics(run_id, {"recall_at_20": 0.5})
    runs.log_missing(run_id, {"recall_at_20": 0.6, "mrr_at_20": 0.25})
    runs.log_missing(run_id, {"recall_at_20": 0.6, "mrr_at_20": 0.3})
    assert client.get_run(run_id).data.metrics == {"recall_at_20": 0.5, "mrr_at_20": 0.25}
    assert len(client.get_metric_history(run_id, "recall_at_20")) == 1


@pytest.mark.parametrize(("kind", "called"), [("compare", "compare"), ("train", None)])
def test_a_run_is_called_as_it_is_told_or_after_its_kind(store, client, kind, called):
    experiment = runs.connect(store)
    assert client.get_run(runs.start_run(experiment, {}, kind=kind, name="mine")).info.run_name == "mine"
    assert called in (None, client.get_run(runs.start_run(experiment, {}, kind=kind)).info.run_name)


def test_credentials_in_a_path_are_not_recorded(store, client):
    run_id = runs.start_run(runs.connect(store), {}, "s3://key:hush@bucket/data", "abc")
    recorded = client.get_run(run_id)
    assert "hush" not in str(recorded.to_dictionary())
    assert recorded.data.tags["data"] == "s3://bucket/data"


def test_a_file_is_kept_with_a_run_once(store, client, tmp_path, bucket):
    run_id = runs.start_run(runs.connect(store), {})
    (tmp_path / "report.html").write_text("first")
    runs.log_file(run_id, str(tmp_path / "report.html"))
    (tmp_path / "report.html").write_text("second")
    runs.log_file(run_id, str(tmp_path / "report.html"))
    s3, uri = bucket
    s3.put_object(Bucket="logs", Key="data/other.html", Body=b"from afar")
    runs.log_file(run_id, uri("data/other.html"))
    kept = {found.path: client.download_artifacts(run_id, found.path) for found in client.list_artifacts(run_id)}
    assert {name: Path(path).read_text() for name, path in kept.items()} == {
        "report.html": "first",
        "other.html": "from afar",
    }


@pytest.mark.parametrize(("error", "status"), [(OSError("full"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_a_run_ends_with_its_block_and_well_only_where_that_does(store, client, error, status):
    good, bad, refused = (runs.start_run(runs.connect(store), {}) for _ in range(3))
    with runs.ending(good):
        assert client.get_run(good).info.status == "RUNNING"
    with pytest.raises(type(error)), runs.ending(bad):
        raise error
    with runs.ending(refused, "FAILED"):
        pass
    assert [client.get_run(one).info.status for one in (good, bad, refused)] == ["FINISHED", status, "FAILED"]


def test_a_run_that_others_go_on_with_is_left_to_them(store, client):
    run_id = runs.start_run(runs.connect(store), {})
    with pytest.raises(TimeoutError), runs.ending(run_id, left=(TimeoutError,)):
        raise TimeoutError
    assert client.get_run(run_id).info.status == "RUNNING"


def test_a_store_that_is_gone_at_the_end_does_not_hide_why_the_run_failed(monkeypatch, capsys):
    def gone(*_):
        raise ConnectionError("no store at http://who:hush@host/\nand a long story")

    monkeypatch.setattr(runs, "finish", gone)
    with pytest.raises(ValueError, match="the reason"), runs.ending("abc"):
        raise ValueError("the reason")
    said = capsys.readouterr().err
    assert said == "WARNING: MLflow still shows run abc as running: no store at http://***@host/\n"
    with pytest.raises(ConnectionError), runs.ending("abc"):
        pass
