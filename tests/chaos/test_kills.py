"""Workers and drivers that are killed at random moments, and checkpoints that were damaged meanwhile."""

import signal
import time
from pathlib import Path

import pytest
from chaos.checks import same
from chaos.processes import signalled

pytestmark = pytest.mark.chaos


def test_workers_killed_again_and_again(start, undisturbed, moments, inject):
    job = start()
    for share in sorted(moments.uniform(0, 0.9) for _ in range(4)):
        job.until_trained(share * undisturbed.steps)
        time.sleep(moments.uniform(0, 1))
        before = set(job.until(job.workers))
        assert signalled(moments.choice(sorted(before)), signal.SIGKILL)
        inject(f"worker killed after step {job.steps()}")
        job.until(lambda before=before: set(job.workers()) - before)
    same(job, undisturbed)
    assert "going on from epoch" in job.errors


def test_the_driver_killed_and_the_same_command_run_again(start, undisturbed, moments, inject):
    job = start()
    for share in sorted(moments.uniform(0, 0.95) for _ in range(2)):
        job.until_trained(share * undisturbed.steps)
        time.sleep(moments.uniform(0, 1))
        job.kill_driver()
        inject(f"driver killed after step {job.steps()}")
        time.sleep(moments.choice([0, 3]))
        job.start()
    same(job, undisturbed)
    assert "going on from epoch" in job.errors


def test_the_newest_checkpoint_damaged_and_the_run_resumed(start, undisturbed, moments, inject):
    job = start()
    for damage in moments.sample([flip, truncate, remove], 3):
        share = job.steps() / undisturbed.steps + moments.uniform(0.05, 0.25)
        job.until_trained(share * undisturbed.steps)
        job.until(lambda: len(job.checkpoints()) >= 2)
        job.kill_driver()
        job.workers_gone()
        *_, before, newest = job.checkpoints()
        path = damage(job.run / "checkpoints" / newest, moments)
        inject(f"driver killed after step {job.steps()}, {path.name}: {damage.__name__}")
        job.start("--resume disturbed")
        warning = f"WARNING: {path}"
        job.until(lambda warning=warning: warning in job.errors)
        epoch, step = (int(part) for part in before.split("-")[2::2])
        going_on = f"going on from epoch {epoch + 1}, step {step:,}"
        job.until(lambda going_on=going_on, warning=warning: going_on in job.errors.partition(warning)[2])
    same(job, undisturbed)


def flip(checkpoint: Path, moments) -> Path:
    path = moments.choice(sorted(path for path in checkpoint.rglob("*") if path.is_file()))
    content = bytearray(path.read_bytes())
    content[moments.randrange(len(content))] ^= 1 << moments.randrange(8)
    path.write_bytes(content)
    return path


def truncate(checkpoint: Path, moments) -> Path:
    path = moments.choice(sorted(path for path in checkpoint.rglob("*.*") if path.is_file()))
    path.write_bytes(path.read_bytes()[: moments.randrange(path.stat().st_size)])
    return path


def remove(checkpoint: Path, moments) -> Path:
    path = checkpoint / "checkpoint.json"
    path.unlink()
    return path
