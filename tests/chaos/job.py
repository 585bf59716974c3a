"""A train job as a person starts it, to be disturbed from outside, and what must be true of it afterwards."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chaos.cluster import NOT_LAST, Cluster
from chaos.processes import PATIENCE_S, Family, Process
from workers import tensors_hash

from gru4rec.tracking import folder as model_folder
from gru4rec.training import checkpoints

ROOT = Path(__file__).resolve().parents[2]
WORKER = "ray::RayTrainWorker"
RUN = "disturbed"
_SHARED = Path("/dev/shm")  # noqa: S108


class Job:
    """`jobs/train.py` in a folder of its own, which holds its MLflow store, its storage and its temporary files.

    `settings` is what the command line says. The folder's path is short: Ray has sockets below it.
    """

    epoch_steps = 10**6  # of the undisturbed run, once it is known

    def __init__(self, folder: Path, settings: str, storage: Path | None = None, cluster: Cluster | None = None):
        self.folder, self.settings = folder, settings
        self.storage = storage or folder / "storage"
        self.run = self.storage / "runs" / RUN
        self._cluster = cluster  # that it is to join; otherwise it starts its own
        self._errors = folder / "stderr"
        self._output = folder / "stdout"
        self._families: list[Family] = []
        self._process: subprocess.Popen | None = None

    # -- running it --------------------------------------------------------------------------------------------------

    def start(self, settings: str | None = None) -> None:
        """Run the command; `settings` replace those of the job."""
        self.folder.mkdir(exist_ok=True)
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        chosen = self.settings + f" --run-name {RUN}" if settings is None else settings
        env = {**os.environ, **NOT_LAST, "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
        env.pop("MLFLOW_TRACKING_URI", None)
        env.pop("RAY_ADDRESS", None)
        if self._cluster:
            env |= self._cluster.environment
        with open(self._errors, "a") as errors, open(self._output, "w") as output:
            self._process = subprocess.Popen(
                [sys.executable, str(ROOT / "jobs" / "train.py"), *chosen.split(), "--storage", str(self.storage)],
                cwd=self.folder,
                env=env,
                stdout=output,
                stderr=errors,
                start_new_session=True,  # a signal to the tests is not meant for it
            )
        self._families.append(Family(self._process.pid))

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def workers(self) -> list[Process]:
        """Ray Train's worker processes."""
        return (self._cluster.family if self._cluster else self._families[-1]).alive(WORKER)

    def driver_left(self, within_s: float = PATIENCE_S) -> list[str]:
        """What lives of the last driver, and of the cluster that it started, after so many seconds."""
        return self._families[-1].left(within_s)

    def workers_gone(self, timeout: float = 30) -> None:
        """Wait until no worker can write a checkpoint any more, after the driver was killed."""
        deadline = time.monotonic() + timeout
        while found := self.workers():
            assert time.monotonic() < deadline, found
            time.sleep(0.1)

    def kill_driver(self) -> None:
        assert self._process is not None
        assert self._process.poll() is None, f"it ended before it could be killed: {self.errors[-2000:]}"
        self._process.kill()
        self._process.wait()

    def until(self, condition: Callable[[], Any], timeout: float = 240) -> Any:
        """What `condition` gives once that is true. Fails where the job ends before, or after the timeout."""
        deadline = time.monotonic() + timeout
        while not (found := condition()):
            assert self.runs, f"the job ended: {self.errors[-3000:]}"
            assert time.monotonic() < deadline, f"not within {timeout} s: {self.errors[-3000:]}"
            time.sleep(0.05)
        return found

    def until_trained(self, steps: float, timeout: float = 240) -> None:
        """Wait for a checkpoint from so many steps on, over all epochs, and a worker to be there."""
        self.until(lambda: self.steps() >= steps and self.workers(), timeout)

    def end(self, timeout: float = 300) -> int:
        """Wait for the end; the exit code."""
        assert self._process is not None
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end within {timeout} s: {self.errors[-3000:]}") from None

    def close(self) -> None:
        """End what a failed test has left."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            time.sleep(1)
            self._process.kill()
            self._process.wait()
        for family in self._families:
            family.kill()
            family.left(0)

    # -- what it shows and leaves ------------------------------------------------------------------------------------

    @property
    def errors(self) -> str:
        """All of stderr so far, over all commands."""
        return self._errors.read_text() if self._errors.exists() else ""

    def result(self) -> dict[str, Any]:
        return json.loads(self._output.read_text().splitlines()[-1])

    def checkpoints(self) -> list[str]:
        """Those that look committed, oldest first."""
        place = self.run / "checkpoints"
        found = [entry.name for entry in place.iterdir()] if place.is_dir() else []
        return sorted(name for name in found if re.fullmatch(r"\d{6}-epoch-\d{4}-step-\d{9}", name))

    def steps(self) -> int:
        """Steps of the newest checkpoint, over all epochs; an epoch counts `self.epoch_steps`."""
        names = self.checkpoints()
        if not names:
            return 0
        _, _, epoch, _, step = names[-1].split("-")
        return int(epoch) * self.epoch_steps + int(step)

    def weights(self) -> str:
        """Digest of all bits of the final model and of its optimizer's state."""
        return model_hash(self.run / "model")

    def kept_as_it_must(self) -> None:
        """Assert that nothing is left of the processes and half of any file, and that MLflow has all exactly once."""
        for family in self._families:
            assert family.left(PATIENCE_S) == []
        deadline = time.monotonic() + 10
        while found := [path.name for path in _SHARED.glob("gru4rec-*")]:
            assert time.monotonic() < deadline, found  # others' are there for a moment
            time.sleep(0.2)
        left = sorted(path.relative_to(self.run).as_posix() for path in self.run.iterdir())
        assert left == ["attempt", "checkpoints", "model", "result.json", "run.json"]
        half = [path for path in self.storage.rglob("*") if re.search(r"\.(tmp|old)$", path.name)]
        assert half == []
        place = str(self.run / "checkpoints")
        assert [checkpoints.load(place, name).name for name in self.checkpoints()] == checkpoints.committed(place)
        assert [path.name for path in (self.folder / "tmp").iterdir() if path.name != "ray"] == []
        self._recorded_once()

    def _recorded_once(self) -> None:
        with sqlite3.connect(self.folder / "mlflow.db") as store:
            runs = store.execute("select run_uuid, status from runs").fetchall()
            assert runs == [(self.result()["run_id"], "FINISHED")]
            twice = store.execute("select key, step, count(*) from metrics group by key, step having count(*) > 1")
            assert twice.fetchall() == []
            losses = store.execute("select value from metrics where key = 'loss' order by step").fetchall()
            assert [value for (value,) in losses] == self.result()["loss"]
            assert store.execute("select version, run_id from model_versions").fetchall() == [(1, runs[0][0])]
        store.close()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def model_hash(folder: Path) -> str:
    kept = model_folder.load(str(folder))
    return tensors_hash(kept.model.tensors() | model_folder.load_optimizer(str(folder)))
