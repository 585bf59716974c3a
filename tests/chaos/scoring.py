"""A scoring job as a person starts it, to be disturbed from outside, and what must be true of it at every moment."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from chaos.cluster import NOT_LAST, Cluster
from chaos.processes import PATIENCE_S, Family, Process

from gru4rec.config import Hyperparameters
from gru4rec.model.network import initialise
from gru4rec.tracking import folder as model_folder

ROOT = Path(__file__).resolve().parents[2]
SESSIONS, ITEMS, FILES = 100_000, 10_000, 4
DATE = "2026-11-22"
ACTOR = "ray::MapWorker"


class Inputs(NamedTuple):
    """What is scored, with two models, and what must come of each: a digest of all bytes of the parts."""

    sessions: Path
    models: dict[str, Path]
    expected: dict[str, str]
    old: Path  # a folder of results in which the old model's counts


def next_night(sessions: Path, place: Path) -> None:
    """Every second session has two clicks more, in the same files."""
    place.mkdir()
    for path in sessions.iterdir():
        table = pq.read_table(path)
        rows = [row + [1, 2] * (i % 2) for i, row in enumerate(table["items"].to_pylist())]
        items = pa.array(rows, table["items"].type)
        pq.write_table(table.set_column(1, "items", items), place / path.name, row_group_size=10_000)


def make_inputs(place: Path) -> tuple[Path, dict[str, Path]]:
    drawn = np.random.default_rng(1)
    lengths = drawn.integers(0, 6, SESSIONS)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    clicks = drawn.integers(0, ITEMS + 100, offsets[-1])
    column = pa.ListArray.from_arrays(pa.array(offsets), pa.array(clicks))
    table = pa.table({"session_id": np.arange(SESSIONS), "items": column})
    (place / "sessions").mkdir(parents=True)
    for number in range(FILES):
        part = table.slice(number * SESSIONS // FILES, SESSIONS // FILES)
        pq.write_table(part, place / "sessions" / f"{number}.parquet", row_group_size=10_000)
    items = {"item_id": range(ITEMS), "item_index": pa.array(range(ITEMS), pa.int32()), "support": [1] * ITEMS}
    models = {}
    for seed, name in enumerate(("old", "new")):
        models[name] = place / name
        model = initialise(Hyperparameters(layers=(64,), seed=seed), ITEMS)
        model_folder.save(model, pa.table(items), str(models[name]))
    return place / "sessions", models


class ScoreJob:
    """`jobs/score.py` in a folder of its own. The folder's path is short: Ray has sockets below it."""

    def __init__(self, folder: Path, inputs: Inputs, out: str = "", cluster: Cluster | None = None) -> None:
        self.folder, self.inputs = folder, inputs
        self.out = out or str(folder / "out")
        self._cluster = cluster
        self._families: list[Family] = []
        self._process: subprocess.Popen | None = None
        (folder / "tmp").mkdir(parents=True)

    @property
    def place(self) -> Path:
        return Path(self.out) / f"date={DATE}"

    def start(self, model: str = "new", more: str = "", script: str = "", **given: Any) -> None:
        """Run the command; `script` instead of jobs/score.py."""
        env = {**os.environ, **NOT_LAST, "TMPDIR": str(self.folder / "tmp"), "PYTHONPATH": str(ROOT)}
        for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
            env.pop(name, None)
        env |= self._cluster.environment if self._cluster else {}
        settings = {"model": self.inputs.models[model], "sessions": self.inputs.sessions, "out": self.out, "date": DATE}
        settings |= given
        flags = [part for name, value in settings.items() for part in ("--" + name.replace("_", "-"), str(value))]
        program = ["-c", script] if script else [str(ROOT / "jobs" / "score.py")]
        flags += ["--max-fallback-share", "1", "--experiment", "", *more.split()]
        with open(self.folder / "stderr", "a") as errors, open(self.folder / "stdout", "w") as output:
            self._process = subprocess.Popen(
                [sys.executable, *program, *flags],
                cwd=self.folder,
                env=env,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
        self._families.append(Family(self._process.pid))

    def end(self, timeout: float = 300) -> int:
        assert self._process is not None
        return self._process.wait(timeout)

    def kill_driver(self) -> None:
        """And wait until nobody can write any more."""
        assert self._process is not None
        assert self._process.poll() is None, f"it ended before it could be killed: {self.errors[-2000:]}"
        self._process.kill()
        self._process.wait()
        deadline = time.monotonic() + 60
        while self.actors():
            assert time.monotonic() < deadline, self.actors()
            time.sleep(0.1)

    def actors(self) -> list[Process]:
        return (self._cluster.family if self._cluster else self._families[-1]).alive(ACTOR)

    def until(self, condition: Callable[[], Any], timeout: float = 240) -> Any:
        """What `condition` gives once that is true. Fails where the job ends before, or after the timeout."""
        assert self._process is not None
        deadline = time.monotonic() + timeout
        while not (found := condition()):
            assert self._process.poll() is None, f"the job ended: {self.errors[-3000:]}"
            assert time.monotonic() < deadline, f"not within {timeout} s: {self.errors[-3000:]}"
            time.sleep(0.02)
        return found

    def parts(self) -> int:
        """Parts that are there, of the new result."""
        counts = self.counts()
        found = [path for path in self.place.glob("model-*") if path.name != counts]
        return sum(len(list(path.glob("part-*.parquet"))) for path in found)

    def counts(self) -> str:
        """The result that counts; "" for none."""
        path = self.place / "manifest.json"
        return json.loads(path.read_text())["result"] if path.exists() else ""

    @property
    def errors(self) -> str:
        """All of stderr so far, over all commands."""
        return (self.folder / "stderr").read_text()

    def result(self) -> dict[str, Any]:
        return json.loads((self.folder / "stdout").read_text().splitlines()[-1])

    def digest(self) -> str:
        return digest(self.place)

    def whole(self) -> str:
        """Which model's result counts, after looking at every byte of it; "" for none."""
        if not self.counts():
            return ""
        found = self.digest()
        (name,) = [name for name, expected in self.inputs.expected.items() if expected == found]
        return name

    def close(self) -> None:
        """End what a failed test has left."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        for family in self._families:
            family.kill()
            family.left(0)

    def nothing_left(self) -> None:
        """Assert that all processes are gone, and that the result's folder holds no half-written file."""
        for family in self._families:
            assert family.left(PATIENCE_S) == []
        folder = self.place / self.counts()
        assert {path.suffix for path in folder.iterdir()} == {".parquet", ".json"}

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def digest(place: Path) -> str:
    """Of all bytes of the parts of the result that counts, in their order."""
    content = json.loads((place / "manifest.json").read_text())
    found = hashlib.sha256()
    for file in content["files"]:
        found.update((place / file["name"]).read_bytes())
    return found.hexdigest()
