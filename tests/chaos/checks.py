"""What a disturbed run must come to."""

from dataclasses import dataclass
from typing import Any

from chaos.job import Job


@dataclass(frozen=True)
class Undisturbed:
    """What a run gives that nothing disturbs."""

    weights: str
    result: dict[str, Any]
    steps: int  # over all epochs
    seconds: float  # of the whole job


def same(job: Job, undisturbed: Undisturbed) -> None:
    """Assert that the job has ended well and left what the undisturbed run has left, bit for bit."""
    assert job.end() == 0, job.errors[-3000:]
    result, expected = job.result(), undisturbed.result
    measured = ("run_id", "run", "events_per_second", "exchange_bytes_per_step", "model")
    assert {key: value for key, value in result.items() if key not in measured} == {
        key: value for key, value in expected.items() if key not in measured
    }
    assert job.weights() == undisturbed.weights
    job.kept_as_it_must()
