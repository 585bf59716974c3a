"""A worker that dies, and Ctrl-C, in a job as its users run it; the whole of this is the chaos suite."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import mlflow
import pytest
from chaos.job import model_hash
from chaos.processes import Family, signalled
from prepared_folder import prepared_folder
from simple_log import simple_log
from workers import train_run_together

from gru4rec import cli, config
from gru4rec.training import checkpoints
from gru4rec.training.job import train

WORKER = "ray::RayTrainWorker"


@pytest.mark.ray
def test_a_killed_worker_changes_nothing(ray_local, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    sessions, _ = simple_log(20_000, 500)
    prepared_folder(tmp_path / "data", {"train": sessions, "test": simple_log(500, 500, seed=1)[0]}, 500)
    command = f"--data {tmp_path}/data --workers 2 --epochs 2 --layers 32 --n-sample 64 --batch-size 16"
    expected = train_run_together(tmp_path, 2, command, str(tmp_path / "expected"))

    place, family, killed = str(tmp_path / "runs" / "runs" / "r" / "checkpoints"), Family(os.getpid()), []

    def kill() -> None:
        while not checkpoints.committed(place) and not over.wait(0.05):
            pass
        killed.extend(worker for worker in family.alive(WORKER)[:1] if signalled(worker, signal.SIGKILL))

    over = threading.Event()
    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    code = cli.run(
        config.Train, train, [*command.split(), *["--run-name", "r", "--storage", "runs", "--checkpoint-steps", "128"]]
    )
    over.set()
    captured = capsys.readouterr()
    assert code == 0, captured.err
    killer.join()
    assert killed
    assert not set(killed) & set(family.alive())
    result = json.loads(captured.out.splitlines()[-1])
    assert "going on from epoch 1, step" in captured.err
    assert result["loss"] == [done.epoch.loss for done in expected.epochs]
    assert result["events"] == sum(done.epoch.events for done in expected.epochs) == 2 * sessions.transitions
    assert {key: result[key] for key in expected.metrics} == expected.metrics
    assert model_hash(tmp_path / "runs" / "runs" / "r" / "model") == model_hash(tmp_path / "expected" / "model")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("times", [1, 4])
def test_ctrl_c_ends_the_job_with_a_word_and_leaves_nothing_behind(times, tmp_path):
    """Also where it is pressed again and again, since that takes a while."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    script = Path(__file__).resolve().parents[2] / "jobs" / "train.py"
    log = "--sessions 3000 --items 100 --layers 16 --n-sample 32 --epochs 3000"
    with open(tmp_path / "out", "w") as out, open(tmp_path / "err", "w") as err:
        command = [sys.executable, str(script), *log.split(), "--run-name", "r"]
        job = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=out, stderr=err, start_new_session=True)
    family = Family(job.pid)
    try:
        deadline = time.monotonic() + 180
        while "epoch 2/3000" not in (tmp_path / "err").read_text():
            assert job.poll() is None, (tmp_path / "err").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        for _ in range(times):
            job.send_signal(signal.SIGINT)
            time.sleep(1)
        assert job.wait(60) == 1
        assert family.left(60) == []
    finally:
        family.kill()
    assert (tmp_path / "err").read_text().splitlines()[-1] == "error: interrupted"
    assert (tmp_path / "out").read_text() == ""
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs(["1"])
    assert run.info.status == "KILLED"
