"""Workers that stand still without dying."""

import signal
import time

import pytest
from chaos.checks import same
from chaos.job import Job, model_hash
from chaos.processes import signalled
from workers import train_run

pytestmark = pytest.mark.chaos

TIMEOUT = 15


def stall(job: Job, steps: float, moments, inject) -> None:
    """Stop a worker; it must be replaced, and gone."""
    job.until_trained(steps)
    time.sleep(moments.uniform(0, 1))
    before = set(job.until(job.workers))
    stopped = moments.choice(sorted(before))
    assert signalled(stopped, signal.SIGSTOP)
    inject(f"one of {len(before)} worker(s) stopped after step {job.steps()}")
    job.until(lambda: set(job.workers()) - before and stopped not in job.workers(), timeout=TIMEOUT + 120)


def test_one_of_two_workers_stands_still(start, undisturbed, moments, inject):
    job = start(f"--stall-timeout {TIMEOUT}")
    for share in sorted(moments.uniform(0, 0.9) for _ in range(2)):
        stall(job, share * undisturbed.steps, moments, inject)
    same(job, undisturbed)


def test_the_only_worker_stands_still(place, settings, data, moments, inject):
    one = settings.replace("--workers 2", "--workers 1").replace("--epochs 2", "--epochs 1")
    alone = train_run(one, str(place / "alone"))
    job = Job(place / "one", f"{one} --stall-timeout {TIMEOUT}")
    try:
        job.start()
        stall(job, moments.uniform(0, 0.8) * alone.epochs[0].epoch.steps, moments, inject)
        assert job.end() == 0, job.errors
        assert job.weights() == model_hash(place / "alone" / "model")
        result = job.result()
        assert result["loss"] == [alone.epochs[0].epoch.loss]
        assert result["events"] == data.summary["splits"]["train"]["transitions"]
        assert {key: result[key] for key in alone.metrics} == alone.metrics
        job.kept_as_it_must()
    finally:
        job.close()
        job.remove()
