"""Fixtures that all tests share."""

import os
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# Their assertions say as much as those of the tests that call them.
pytest.register_assert_rewrite("chaos.job", "chaos.checks", "chaos.searching")

# The time of one example says more about the machine's load than about the code.
hypothesis.settings.register_profile("gru4rec", deadline=None)
hypothesis.settings.load_profile("gru4rec")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real click logs; a test that needs it is skipped where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("GRU4REC_SHARED_DATA") or default)
    if not folder.is_dir():
        pytest.skip(f"real click logs are not at {folder} (set GRU4REC_SHARED_DATA to their folder)")
    return folder


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """One small Ray cluster for the whole test run."""
    from gru4rec import cli

    cli.quiet(False)
    import ray

    from gru4rec import on_ray

    environment = on_ray.worker_environment(False)
    root = str(Path(__file__).resolve().parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)  # inherited by the workers
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=200_000_000,
        include_dashboard=False,
        log_to_driver=False,
    )
    on_ray.quiet_data()
    yield
    ray.shutdown()
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture
def bucket() -> Iterator[tuple[Any, Callable[[str], str]]]:
    """(client, function from a key to its URI) of an empty bucket `logs` of a real S3 API on this machine."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="who",
        aws_secret_access_key="hush",  # noqa: S106
    )
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST")).close()  # noqa: S310
    client.create_bucket(Bucket="logs")
    yield client, lambda key: f"s3://who:hush@logs/{key}?endpoint_override={endpoint}&region=us-east-1"
    server.stop()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """An MLflow store that is set up once and copied for each test, which saves seconds."""
    from gru4rec.tracking import runs

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    runs.mlflow_at(f"sqlite:///{path}").MlflowClient().search_experiments()
    return path


@pytest.fixture
def store(empty_store, tmp_path, monkeypatch) -> Iterator[str]:
    """The tracking URI of an empty store in the test's own folder."""
    from gru4rec.tracking import runs

    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    runs.mlflow_at(uri)
    yield uri
    runs.mlflow_at(uri).set_tracking_uri(None)
