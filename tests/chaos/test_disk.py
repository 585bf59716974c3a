"""A disk that is full at random moments."""

import signal
import subprocess
import time
from pathlib import Path

import pytest
from chaos.checks import same
from chaos.processes import signalled

pytestmark = pytest.mark.chaos


@pytest.fixture
def disk(place):
    """A file system of 64 MB: room for the checkpoints that are kept, and for one more."""
    folder = place / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "chaos", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """A file that leaves so many bytes free."""
    ballast, piece = disk / "ballast", bytes(2**16)
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(piece)
        except OSError:
            file.truncate(max(file.tell() - leave, 0))
    return ballast


def test_a_full_disk(start, undisturbed, moments, inject, disk):
    job = start(storage=disk / "storage")
    early, late = moments.uniform(0, 0.4), moments.uniform(0.5, 0.8)

    job.until_trained(early * undisturbed.steps)
    ballast = fill(disk, leave=moments.choice([0, 2_000_000]))  # nothing can be written, or a part
    inject(f"disk full after step {job.steps()}")
    job.until(lambda: "WARNING: no checkpoint could be written" in job.errors)
    kept = job.checkpoints()
    before = set(job.workers())
    assert signalled(moments.choice(sorted(before)), signal.SIGKILL)
    inject(f"worker killed while the disk is full, after step {job.steps()}")
    job.until(lambda: set(job.workers()) - before)
    time.sleep(moments.uniform(0, 5))
    assert job.checkpoints() == kept
    ballast.unlink()

    job.until_trained(late * undisturbed.steps)
    ballast = fill(disk, leave=0)
    inject(f"disk full to the end, after step {job.steps()}")
    assert job.end() == 1
    last = job.errors.splitlines()[-1]
    assert last.startswith(f"error: {job.run / 'model'}: cannot be written")
    assert "make room and run the same command again" in last
    ballast.unlink()
    job.start()
    same(job, undisturbed)
