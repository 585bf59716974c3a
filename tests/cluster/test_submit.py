"""`ray job submit` as the README has it, to a head node that asks for a token."""

import re
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from cluster.head import Head, result

from gru4rec.config import Simulate
from gru4rec.sessions.simulate import simulate

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[2]


def wait_until(there: Callable[[], Any], seconds: float = 120) -> Any:
    """What `there` gives once that is something."""
    deadline = time.monotonic() + seconds
    while not (found := there()):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    return found


@pytest.fixture(scope="module")
def place():
    folder = Path(tempfile.mkdtemp(prefix="head-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def head(place):
    made = Head(place / "h", token="a1b2c3d4" * 8)
    yield made
    assert made.close() == []


def test_a_job_succeeds_and_its_log_ends_with_the_result(head, place):
    clicks, out = place / "clicks", place / "prepared"
    made = simulate(Simulate(out=str(clicks), sessions=500, items=40), str(clicks))
    # with a variable that the job would set for its workers itself
    variables = {"PYTHONWARNINGS": "ignore"}
    done = head.submit(f"python jobs/prepare.py --clicks {clicks} --out {out} --no-report", variables=variables)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert result(done.stdout)["rows_in"] == made["clicks"]
    assert (out / "prepare.json").is_file()
    assert "succeeded" in done.stdout


def test_a_job_that_fails_says_why_in_one_line_of_its_log(head, place):
    ended = head.submit_by_client(f"python jobs/train.py --data {place}/nothing --storage {place}/runs", {})
    assert ended["status"] == "FAILED"
    errors = [line for line in ended["logs"].splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert f"{place}/nothing" in errors[0]
    assert "Traceback" not in ended["logs"]
    assert not (place / "runs").exists()


@pytest.mark.slow
def test_a_job_that_is_stopped_says_so_and_the_same_command_goes_on(place):
    """In the time that RAY_JOB_STOP_WAIT_TIME_S gives it: three seconds, where nobody says otherwise."""
    made = Head(place / "s", environment={"RAY_JOB_STOP_WAIT_TIME_S": "60"})
    try:
        store = f"sqlite:///{place}/mlflow.db"
        log = "--sessions 5000 --items 200 --layers 32 --epochs 400"
        train = f"python jobs/train.py {log} --storage {place}/stopped --tracking-uri {store} --run-name first"
        name = made.start(train)
        wait_until(lambda: (place / "stopped" / "runs" / "first" / "run.json").is_file())
        client = mlflow.MlflowClient(store)
        (run,) = wait_until(lambda: client.search_runs(["1"], "metrics.loss > 0"))
        made.stop(name)
        assert made.job_status(name) == "STOPPED"
        told = made.logs(name)
        assert [line for line in told.splitlines() if line.startswith("error: ")] == ["error: stopped (SIGTERM)"]
        assert client.get_run(run.info.run_id).info.status == "KILLED"
        name = made.start(f"python jobs/train.py --resume first --storage {place}/stopped --tracking-uri {store}")
        wait_until(lambda: "going on from epoch" in made.logs(name))
        made.stop(name)
    finally:
        assert made.close() == []


def test_who_does_not_know_the_token_is_refused(head):
    done = head.submit("python jobs/prepare.py --help", env={"RAY_AUTH_TOKEN": "another one"})
    assert done.returncode == 1
    assert "usage:" not in done.stdout


def test_what_is_sent_is_what_a_job_needs(tmp_path):
    """By Ray's own packing: the code, and nothing of what the README's commands leave in the folder."""
    try:
        from ray._private.runtime_env.packaging import _zip_files
    except ImportError:
        pytest.skip("this version of Ray packs elsewhere")
    sent = {"jobs/train.py", "gru4rec/cli.py", "pyproject.toml", "out_of_stock.csv"}
    kept = {".git/HEAD", "tests/test_cli.py", "cluster/README.md", "mlflow.db", "mlartifacts/1/x", "gru4rec-runs/r/x"}
    readme = (ROOT / "README.md").read_text()
    written = set(re.findall(r"--out ([a-z.]+)(?=[\s`])", readme))
    assert {"clicks", "data", "recommendations", "items.parquet"} <= written
    kept |= {name if "." in name else f"{name}/part-0.parquet" for name in written} | {"comparison.html"}
    folder = tmp_path / "project"
    for name in (*sent, *kept):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    for name in (".gitignore", ".rayignore"):
        shutil.copy(ROOT / name, folder)
    _zip_files(str(folder), [], str(tmp_path / "sent.zip"), include_gitignore=True)
    with zipfile.ZipFile(tmp_path / "sent.zip") as packed:
        assert set(packed.namelist()) - {".gitignore", ".rayignore"} == sent
