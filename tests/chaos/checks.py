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


def flat(result: dict[str, Any], above: str = "") -> dict[str, Any]:
    """A result with its inner ones' values as `outer/inner`, so that a difference can be read off."""
    found: dict[str, Any] = {}
    for key, value in result.items():
        found |= flat(value, f"{above}{key}/") if isinstance(value, dict) else {above + key: value}
    return found


def same(job: Job, undisturbed: Undisturbed) -> None:
    """Assert that the job has ended well and left what the undisturbed run has left, bit for bit."""
    assert job.end() == 0, job.errors[-3000:]
    result, expected = job.result(), undisturbed.result
    measured = ("run_id", "run", "events_per_second", "exchange_bytes_per_step", "model")
    found, wanted = flat(result), flat(expected)
    differ = {key: (found.get(key), wanted.get(key)) for key in found | wanted if found.get(key) != wanted.get(key)}
    assert {key: both for key, both in differ.items() if key.partition("/")[0] not in measured} == {}
    assert job.weights() == undisturbed.weights
    job.kept_as_it_must()
