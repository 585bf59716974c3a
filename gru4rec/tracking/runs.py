"""MLflow runs: where they are kept, and what is recorded of one.

MLflow is imported inside the functions, after its chatter was silenced. Runs are written through the client
by their id, never as "the active run", so that any process may add to one.
"""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

from gru4rec import storage
from gru4rec.errors import GRU4RecError, masked

DEFAULT_STORE = "mlflow.db"
_ANOTHER = "see to it, or name another with --tracking-uri or MLFLOW_TRACKING_URI"
_BATCH = 1000  # metrics that MLflow takes at once


def address(tracking_uri: str = "") -> str:
    """The tracking URI given, else MLFLOW_TRACKING_URI, else ./mlflow.db, which is what `mlflow ui` opens.

    A path of sqlite is made absolute: Ray's workers have other working directories.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DEFAULT_STORE}"
    path = sqlite_path(uri)
    return f"sqlite:///{path}" if path else uri


def sqlite_path(uri: str) -> str:
    """The absolute path of the file of a sqlite URI; empty for any other URI."""
    scheme, mark, path = uri.partition(":///")
    return os.path.abspath(path) if mark and scheme == "sqlite" and path else ""


def mlflow_at(tracking_uri: str = "") -> Any:
    """The mlflow module, set to this store, quiet, and sending no usage data anywhere."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }.items():
        os.environ.setdefault(name, value)
    import mlflow

    mlflow.set_tracking_uri(address(tracking_uri))
    return mlflow


def connect(tracking_uri: str = "", experiment: str = "gru4rec") -> str:
    """Open the store, make `experiment` where it is new, and return its id.

    Call it on the driver before any worker touches the store: a new sqlite store is set up by the first to
    come, and two at a time fail. Artifacts of a sqlite store lie beside its file, in mlartifacts/. Raises
    GRU4RecError where the store cannot be opened.
    """
    path = sqlite_path(address(tracking_uri))
    if os.environ.get("RAY_ADDRESS") and not (tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")):
        print(
            f"WARNING: runs and versions are recorded in {path}, which is lost where a submitted job runs in a copy of "
            "its working directory; name a store with --tracking-uri or MLFLOW_TRACKING_URI",
            file=sys.stderr,
            flush=True,
        )
    if path and not os.access(path if os.path.exists(path) else os.path.dirname(path), os.W_OK):
        raise GRU4RecError(f"MLflow store {path} cannot be written to; {_ANOTHER}")
    try:
        client = mlflow_at(tracking_uri).MlflowClient()
        with few_retries():
            client.search_experiments(max_results=1)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            place = f"file://{os.path.dirname(path)}/mlartifacts" if path else None
            return client.create_experiment(experiment, artifact_location=place)
    except Exception as error:  # MLflow lets those of the database and of the network through
        reason = masked(str(error).partition("\n")[0])
        place = storage.shown(address(tracking_uri))
        raise GRU4RecError(f"MLflow store {place} cannot be opened: {reason}; {_ANOTHER}") from error
    if found.lifecycle_stage != "active":
        raise GRU4RecError(f"MLflow experiment {experiment} was deleted; restore it or name another")
    return found.experiment_id


@contextlib.contextmanager
def few_retries() -> Iterator[None]:
    """A server that is not there is told of within seconds: MLflow asks it for four minutes, unless told otherwise."""
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    if name in os.environ:
        yield
        return
    os.environ[name] = "3"
    try:
        yield
    finally:
        del os.environ[name]


def start_run(
    experiment_id: str,
    parameters: Mapping[str, Any],
    data: str = "",
    data_fingerprint: str = "",
    kind: str = "train",
    tags: Mapping[str, str] | None = None,
    name: str | None = None,
) -> str:
    """Begin a run and return its id; `connect` first.

    `parameters` become MLflow params under the same names (lists as `100,50`). The data's path and
    fingerprint become tags and a dataset input. Without a `name`, MLflow thinks of one for a training; other runs have
    that of their kind.
    """
    import mlflow
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    client = mlflow.MlflowClient()
    shown = storage.shown(data)
    marks = {"kind": kind, "data": shown, "data_fingerprint": data_fingerprint, **(tags or {})}
    called = None if kind == "train" else kind
    run_id = client.create_run(
        experiment_id, tags={k: v for k, v in marks.items() if v}, run_name=name or called
    ).info.run_id
    client.log_batch(run_id, params=[Param(key, plain(value)) for key, value in parameters.items()])
    if data:
        dataset = Dataset(
            name=_dataset(data),
            digest=data_fingerprint[:36] or "unknown",
            source_type="local" if "://" not in data else shown.partition("://")[0],
            source=shown,
        )
        context = InputTag("mlflow.data.context", {"train": "training"}.get(kind, kind))
        client.log_inputs(run_id, [DatasetInput(dataset, [context])])
    return run_id


def _dataset(data: str) -> str:
    """The dataset's name in MLflow."""
    return os.path.basename(storage.shown(data).rstrip("/")) or "data"


def plain(value: Any) -> str:
    """A parameter's value as MLflow keeps it: `100,50` for lists."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def log_metrics(
    run_id: str,
    metrics: Mapping[str, float],
    step: int = 0,
    model_id: str | None = None,
    at_ms: int | None = None,
    data: tuple[str, str] | None = None,
) -> None:
    """Record metrics of a run at a step; with `model_id` for that logged model as well, with `data`, a prepared folder
    and its fingerprint, as measured on that.

    `at_ms`: milliseconds since 1970, now by default. The same points at the same time are recorded once, however often.
    """
    import mlflow
    from mlflow.entities import Metric

    time_ms = int(time.time() * 1000) if at_ms is None else at_ms
    dataset = {"dataset_name": _dataset(data[0]), "dataset_digest": data[1][:36] or "unknown"} if data else {}
    recorded = [
        Metric(key, float(value), time_ms, step, model_id=model_id, run_id=run_id, **dataset)
        for key, value in metrics.items()
    ]
    mlflow.MlflowClient().log_batch(run_id, metrics=recorded)


def log_epoch(run_id: str, epoch: int, **metrics: float) -> None:
    """Record what an epoch (counted from 1) brought: loss, events_per_second, …"""
    log_metrics(run_id, metrics, step=epoch)


def log_points(run_id: str, points: Mapping[int, Mapping[str, float]]) -> None:
    """Record metrics by step, all at once."""
    import mlflow
    from mlflow.entities import Metric

    time_ms = int(time.time() * 1000)
    found = [Metric(key, float(value), time_ms, step) for step, of in points.items() for key, value in of.items()]
    for first in range(0, len(found), _BATCH):
        mlflow.MlflowClient().log_batch(run_id, metrics=found[first : first + _BATCH])


def log_missing(run_id: str, metrics: Mapping[str, float]) -> None:
    """Record those of the metrics that the run does not have: called again, it does what is left to do."""
    import mlflow

    known = mlflow.MlflowClient().get_run(run_id).data.metrics
    log_metrics(run_id, {key: value for key, value in metrics.items() if key not in known})


def reopen(run_id: str) -> None:
    """Go on with a run that ended, or whose process did. Raises GRU4RecError where the store does not have it."""
    import mlflow

    try:
        mlflow.MlflowClient().update_run(run_id, status="RUNNING")
    except mlflow.exceptions.MlflowException as error:
        raise GRU4RecError(
            f"MLflow run {run_id} cannot be gone on with: {error}; name its store with --tracking-uri"
        ) from error


def logged_steps(run_id: str, metric: str) -> set[int]:
    """The steps at which a run has a point of `metric`."""
    import mlflow

    return {point.step for point in mlflow.MlflowClient().get_metric_history(run_id, metric)}


def log_file(run_id: str, path: str) -> None:
    """Keep a copy of the file `path` (any that `pyarrow.fs` opens) with a run, unless it has one of that name."""
    import mlflow

    client = mlflow.MlflowClient()
    name = storage.locate(path)[1].rpartition("/")[2]
    if name in {artifact.path for artifact in client.list_artifacts(run_id)}:
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, name)
        storage.write_bytes(copy, storage.read_bytes(path))
        client.log_artifact(run_id, copy)


def log_json(run_id: str, content: Mapping[str, Any], name: str) -> None:
    """Keep a JSON file with a run."""
    import mlflow

    mlflow.MlflowClient().log_dict(run_id, dict(content), name)


def log_text(run_id: str, content: str, name: str) -> None:
    """Keep a text file with a run."""
    import mlflow

    mlflow.MlflowClient().log_text(run_id, content, name)


@contextlib.contextmanager
def ending(run_id: str, well: str = "FINISHED", left: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """End the run with the block: as `well` says; FAILED where the block raises, KILLED where it was interrupted.

    It is left as it is where the block raises one of `left`: others are at work on it then.

    What the block raises is what comes out: if the store cannot be told then, that is a warning.
    """
    with failing(run_id, left):
        yield
    finish(run_id, well)


@contextlib.contextmanager
def failing(run_id: str, left: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """As `ending` where the block raises; otherwise the run goes on."""
    try:
        yield
    except left:
        raise
    except BaseException as error:
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        try:
            finish(run_id, status)
        except Exception as untold:
            reason = masked(str(untold).partition("\n")[0])
            print(f"WARNING: MLflow still shows run {run_id} as running: {reason}", file=sys.stderr, flush=True)
        raise


def finish(run_id: str, status: str = "FINISHED") -> None:
    """End a run: FINISHED, FAILED or KILLED."""
    import mlflow

    mlflow.MlflowClient().set_terminated(run_id, status)
