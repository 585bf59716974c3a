"""A search as a person starts it, to be killed from outside, and what must be true of it afterwards."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from chaos.cluster import NOT_LAST
from chaos.processes import PATIENCE_S, Family

ROOT = Path(__file__).resolve().parents[2]
NAME = "s"
_HALF = re.compile(r".+\.(tmp|old)")


class Ended(NamedTuple):
    """How a trial ended, and the file that says so."""

    values: dict[str, Any]
    status: str
    curve: list[float]
    written: int  # ns since 1970


class TuneJob:
    """`jobs/tune.py` in a folder of its own, which holds its MLflow store, its storage and its temporary files.

    `settings` is what the command line says. The folder's path is short: Ray has sockets below it.
    """

    def __init__(self, folder: Path, settings: str) -> None:
        self.folder, self.settings = folder, settings
        self.storage = folder / "storage"
        self.search = self.storage / "searches" / NAME
        self._before: dict[str, int] = {}  # epochs of each trial when the command was run
        self._families: list[Family] = []
        self._process: subprocess.Popen | None = None
        (folder / "tmp").mkdir(parents=True)

    def start(self) -> None:
        """Run the command, always the same."""
        env = {**os.environ, **NOT_LAST, "TMPDIR": str(self.folder / "tmp"), "PYTHONPATH": str(ROOT)}
        for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
            env.pop(name, None)
        self._before = self._epochs()
        given = [*self.settings.split(), "--storage", str(self.storage), "--run-name", NAME]
        with open(self.folder / "stderr", "a") as errors, open(self.folder / "stdout", "w") as output:
            self._process = subprocess.Popen(
                [sys.executable, str(ROOT / "jobs" / "tune.py"), *given],
                cwd=self.folder,
                env=env,
                stdout=output,
                stderr=errors,
                start_new_session=True,  # a signal to the tests is not meant for it
            )
        self._families.append(Family(self._process.pid))

    def until(self, condition: Callable[[], Any], timeout: float = 240) -> Any:
        """What `condition` gives once that is true. Fails where the job ends before, or after the timeout."""
        assert self._process is not None
        deadline = time.monotonic() + timeout
        while not (found := condition()):
            assert self._process.poll() is None, f"the job ended: {self.errors[-3000:]}"
            assert time.monotonic() < deadline, f"not within {timeout} s: {self.errors[-3000:]}"
            time.sleep(0.01)
        return found

    def kill_driver(self) -> None:
        """And with it its Ray, which notices by itself."""
        assert self._process is not None
        assert self._process.poll() is None, f"it ended before it could be killed: {self.errors[-2000:]}"
        self._process.kill()
        self._process.wait()

    def end(self, timeout: float = 300) -> int:
        assert self._process is not None
        return self._process.wait(timeout)

    def close(self) -> None:
        """End what a failed test has left."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for family in self._families:
            family.kill()
            family.left(0)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- what it shows and leaves ------------------------------------------------------------------------------------

    @property
    def errors(self) -> str:
        """All of stderr so far, over all commands."""
        return (self.folder / "stderr").read_text()

    def result(self) -> dict[str, Any]:
        return json.loads((self.folder / "stdout").read_text().splitlines()[-1])

    def ended(self) -> dict[int, Ended]:
        """The trials that have ended, by number, as their folders say."""
        found = {}
        for path in sorted(self.search.glob("trials/*/result.json")):
            point = json.loads((path.parent / "trial.json").read_text())
            content = json.loads(path.read_text())
            found[point["number"]] = Ended(
                point["values"], content["status"], content["curve"], path.stat().st_mtime_ns
            )
        return found

    def in_hand(self) -> list[str]:
        """Trials that have come further by an epoch since the command was run last, and not to their end."""
        ended = {path.parent.name for path in self.search.glob("trials/*/result.json")}
        return [name for name, n in self._epochs().items() if n > self._before.get(name, 0) and name not in ended]

    def _epochs(self) -> dict[str, int]:
        curves = self.search.glob("trials/*/curve.json")
        return {path.parent.name: len(json.loads(path.read_text())["curve"]) for path in curves}

    def winners(self) -> list[Path]:
        """Checkpoints of the winner, over all seeds."""
        return sorted(self.search.glob("final/*/*/checkpoints/*/checkpoint.json"))

    def models(self) -> dict[str, bytes]:
        """All files of the final models."""
        files = sorted(path for path in self.search.glob("final/*/*/model/**/*") if path.is_file())
        return {path.relative_to(self.search).as_posix(): path.read_bytes() for path in files}

    def kept_as_it_must(self) -> None:
        """Assert that nothing is left of any process and half of any file, and that MLflow has all exactly once."""
        for family in self._families:
            assert family.left(PATIENCE_S) == []
        assert sorted(path.name for path in self.search.iterdir()) == [
            *(".lock", "final", "report.html", "result.json", "search.json", "trials")
        ]
        assert [path for path in self.storage.rglob("*") if _HALF.fullmatch(path.name)] == []
        of_trials = {path.name for path in self.search.glob("trials/*/*")}
        assert of_trials == {"trial.json", "curve.json", "result.json"}  # no weights
        assert [path.name for path in (self.folder / "tmp").iterdir() if path.name != "ray"] == []
        self._recorded_once()

    def _recorded_once(self) -> None:
        run_id, trials = self.result()["run_id"], self.ended()
        with sqlite3.connect(self.folder / "mlflow.db") as store:
            kept = "from runs join tags using (run_uuid) where lifecycle_stage = 'active' and tags.key = 'trial'"
            found = store.execute(f"select cast(tags.value as int), status, run_uuid {kept} order by 1").fetchall()
            assert [(number, status) for number, status, _ in found] == [(number, "FINISHED") for number in trials]
            for number, _, nested in found:
                query = "select value from metrics where run_uuid = ? and key = 'valid_metric' order by step"
                assert [value for (value,) in store.execute(query, (nested,))] == trials[number].curve
            kept = "from runs join tags using (run_uuid) where lifecycle_stage = 'active' and tags.key = 'search.run'"
            ((winner, *rest),) = store.execute(f"select run_uuid, status, tags.value {kept}").fetchall()
            assert rest == ["FINISHED", run_id]
            others = store.execute(
                "select run_uuid, status from runs where lifecycle_stage = 'active' and run_uuid not in "
                "(select run_uuid from tags where key in ('trial', 'search.run'))"
            )
            assert others.fetchall() == [(run_id, "FINISHED")]
            twice = "select key, count(*) from metrics where run_uuid = ? group by key, step having count(*) > 1"
            for one in (run_id, winner):
                assert store.execute(twice, (one,)).fetchall() == []
            assert store.execute("select version, run_id from model_versions").fetchall() == [(1, winner)]
        store.close()
