"""What the chaos tests share: the data, the run that nothing disturbs, random moments, and the count of faults."""

import itertools
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chaos.checks import Undisturbed
from chaos.job import Job
from prepared_folder import prepared_folder
from simple_log import simple_log

from gru4rec.sessions.prepared import Prepared, Sessions

_SEED = int(os.environ.get("GRU4REC_CHAOS_SEED") or time.time_ns() % 10**6)
_SESSIONS, _ITEMS = 60_000, 4_000

_NUMBERS = itertools.count()
_injected: list[str] = []


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _injected:
        terminalreporter.section("chaos")
        for fault in _injected:
            terminalreporter.line(fault)
        terminalreporter.line(f"{len(_injected)} faults injected; the same again: GRU4REC_CHAOS_SEED={_SEED}")


@pytest.fixture(scope="session")
def injected() -> list[str]:
    """The faults so far."""
    return _injected


@pytest.fixture(scope="session")
def inject() -> Callable[[str], None]:
    """To be told of each fault that was injected."""
    return _injected.append


@pytest.fixture
def moments(request: pytest.FixtureRequest) -> random.Random:
    """Random moments, the same for the same seed in the same test."""
    return random.Random(f"{_SEED} {request.node.name}")


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """A folder with a short path."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def data(place: Path) -> Prepared:
    sessions, _ = simple_log(_SESSIONS + 2000, _ITEMS)

    def part(first: int, last: int) -> Sessions:
        offsets = sessions.offsets[first : last + 1]
        return Sessions(offsets - offsets[0], sessions.items[offsets[0] : offsets[-1]])

    return prepared_folder(
        place / "data", {"train": part(0, _SESSIONS), "test": part(_SESSIONS, _SESSIONS + 2000)}, _ITEMS
    )


@pytest.fixture(scope="session")
def settings(data: Prepared) -> str:
    """Half a minute of training: two epochs, a checkpoint of 6 MB a second or so."""
    return (
        f"--data {data.folder} --workers 2 --epochs 2 --checkpoint-steps 256 --layers 100 --batch-size 32 "
        "--n-sample 512 --dropout-embed 0.2 --momentum 0.3"
    )


@pytest.fixture(scope="session")
def undisturbed(place: Path, settings: str) -> Undisturbed:
    job, began = Job(place / "calm", settings), time.monotonic()
    try:
        job.start()
        assert job.end() == 0, job.errors
        seconds = time.monotonic() - began
        job.kept_as_it_must()
        last = job.checkpoints()[-1]
        assert last.endswith("epoch-0002-step-000000000")
        within = max(name for name in job.checkpoints() if "epoch-0001" in name)
        made = Undisturbed(job.weights(), job.result(), 2 * int(within.rpartition("-")[2]), seconds)
    finally:
        job.close()
    job.remove()
    return made


@pytest.fixture
def start(place: Path, settings: str, undisturbed: Undisturbed) -> Iterator[Callable[..., Job]]:
    """A function that starts a job with the settings of the undisturbed run, and what more it is given."""
    made: list[Job] = []

    def started(more: str = "", **options: Any) -> Job:
        job = Job(place / f"j{next(_NUMBERS)}", f"{settings} {more}", **options)
        job.epoch_steps = undisturbed.steps // 2
        made.append(job)
        job.start()
        return job

    yield started
    for job in made:
        job.close()
        job.remove()
