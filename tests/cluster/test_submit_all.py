"""Every job through `ray job submit` and through JobSubmissionClient, with token authentication on and off."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import mlflow
import pyarrow.parquet as pq
import pytest
from chaos.processes import Family
from cluster.head import ROOT, Head, free_ports, result, wait_for

from gru4rec.config import Simulate
from gru4rec.sessions.simulate import simulate

pytestmark = [pytest.mark.ray, pytest.mark.slow]

QUICK = "--layers 16 --n-sample 64 --batch-size 16 --epochs 2 --learning-rate 0.1"
SPACE = """
layers = [16]
n_sample = 64
batch_size = 16
learning_rate = { low = 0.05, high = 0.2, log = true }
"""


@pytest.fixture
def place():
    folder = Path(tempfile.mkdtemp(prefix="jobs-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["cli", "client"])
def way(request):
    """Through the command line to a cluster that asks for a token; through the client to one that does not."""
    return request.param


@pytest.fixture
def head(way, place):
    made = Head(place / "h", token="a1b2c3d4" * 8 if way == "cli" else "")
    yield made
    assert made.close() == []


@pytest.fixture
def tracking(way, place, head):
    """A store's address: a file, and for the client a server as that of the manifests, but without Postgres and S3."""
    store = f"sqlite:///{place}/mlflow.db"
    if way == "cli":
        yield store
        return
    (port,) = free_ports(1)
    server = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--serve-artifacts"]
    with open(place / "server.log", "w") as log:
        process = subprocess.Popen(
            [*server, "--artifacts-destination", str(place / "mlartifacts"), "--allowed-hosts", "localhost:*"],
            env={**head.environment, "MLFLOW_BACKEND_STORE_URI": store},
            cwd=place,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    family = Family(process.pid)
    try:
        wait_for(f"http://localhost:{port}/health", process, place / "server.log")
        yield f"http://localhost:{port}"
    finally:
        process.terminate()
        family.left(20)
        family.kill()
        process.wait()


@pytest.fixture
def submit(head, way, tracking):
    """A function that runs a command as a job and gives its last status and its log; `way` can be the other one."""
    variables = {"MLFLOW_TRACKING_URI": tracking}

    def submitted(entrypoint: str, way: str = way) -> tuple[str, str]:
        if way == "client":
            ended = head.submit_by_client(entrypoint, variables)
            return ended["status"], ended["logs"]
        done = head.submit(entrypoint, variables=variables)
        name = re.search(r"Job '(raysubmit_\w+)'", done.stdout)[1]
        status = head.job_status(name)
        assert (status == "SUCCEEDED") == (done.returncode == 0)
        return status, done.stdout

    return submitted


def succeeded(submit, command: str, **how: str) -> dict:
    status, log = submit(command, **how)
    assert status == "SUCCEEDED", log[-3000:]
    return result(log)


def test_from_clicks_to_a_champion_s_lists(submit, way, place, tracking):
    before = sorted(os.listdir(ROOT))
    clicks, data, storage = place / "clicks", place / "data", place / "storage"
    made = simulate(Simulate(out=str(clicks), sessions=2000, items=100), str(clicks))
    prepared = succeeded(submit, f"python jobs/prepare.py --clicks {clicks} --out {data} --valid-days 1")
    assert prepared["rows_in"] == made["clicks"]

    train = f"python jobs/train.py --data {data} --storage {storage} {QUICK} --workers 2 --run-name"
    trained = succeeded(submit, f"{train} first")
    assert (trained["model_version"], trained["workers"]) == ("1", 2)
    again = succeeded(submit, f"{train} first")
    assert again == trained

    (place / "space.toml").write_text(SPACE)
    found = succeeded(
        submit,
        f"python jobs/tune.py --data {data} --storage {storage} --space {place}/space.toml --trials 3 --epochs 1 "
        "--seeds 20 --run-name small --parallel 2",
    )
    assert found["trials"]
    candidate = mlflow.MlflowClient(tracking).get_model_version_by_alias("gru4rec", "candidate")
    assert found["model_version"] == str(candidate.version) == "2"
    assert (storage / "searches" / "small" / "report.html").is_file()

    model = "models:/gru4rec/1"
    report = f"--report {place}/report.html"
    evaluated = succeeded(submit, f"python jobs/evaluate.py --model {model} --data {data} --baselines markov {report}")
    assert evaluated["metrics"][model]["recall_at_20"] == pytest.approx(trained["recall_at_20"], abs=1e-4)

    compared = succeeded(
        submit, f"python jobs/compare.py --models {model} models:/gru4rec/2 --data {data} --promote {report}"
    )
    champion = mlflow.MlflowClient(tracking).get_model_version_by_alias("gru4rec", "champion")
    assert compared["promoted"]
    assert str(champion.version) in ("1", "2")

    score = f"python jobs/score.py --model models:/gru4rec@champion --sessions {data}/test --out {place}/lists"
    scored = succeeded(submit, f"{score} --date 2026-11-22")
    assert scored["model_version"] == str(champion.version)
    assert scored["sessions_in"] == scored["sessions_out"] > 0
    files = list((place / "lists" / "date=2026-11-22").glob(f"{scored['result']}/part*.parquet"))
    assert sum(pq.read_metadata(file).num_rows for file in files) == scored["sessions_out"]

    # Once more, the other way: the command line without a token, the client with one.
    other = {"cli": "client", "client": "cli"}[way]
    assert succeeded(submit, f"{score} --date 2026-11-22", way=other)["unchanged"]
    status, log = submit(f"{score} --date tomorrow", way=other)
    assert status == "FAILED"
    (error,) = {line for line in log.splitlines() if line.startswith("error: ")}  # the command line shows it twice
    assert error.startswith("error: --date: a date such as")
    assert sorted(os.listdir(ROOT)) == before
    known = {"h", "clicks", "data", "storage", "space.toml", "report.html", "lists", "mlflow.db", "mlartifacts"} | {
        "server.log"
    }
    assert set(os.listdir(place)) <= known
