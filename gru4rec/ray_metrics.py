"""What Prometheus is told of a run while it goes on, through Ray's own metrics.

Every node of a Ray cluster shows them at its metrics port, with `ray_` before each name; these are at that of the node
where the driver is. They go with the driver: what a run came to stays in MLflow and in the job's result.
cluster/README.md says what to watch. Imported only where Ray is connected.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING

from ray.util.metrics import Gauge

if TYPE_CHECKING:
    from gru4rec.scoring.gates import Gate
    from gru4rec.scoring.scorer import Outcome
    from gru4rec.training.notice_board import News

TRAINING = {
    "gru4rec_train_events_per_second": "Transitions trained a second, of late.",
    "gru4rec_train_loss": "Mean loss of the epoch so far.",
    "gru4rec_train_wait_share": "Share of the epoch's time that worker 0 has waited for input.",
    "gru4rec_train_exchange_share": "Share of the epoch's time that worker 0 has spent in sums over the workers.",
    "gru4rec_train_epoch": "Epoch in hand, from 1.",
    "gru4rec_train_workers": "Workers that train together.",
    "gru4rec_train_checkpoint_age_seconds": "Seconds since the newest checkpoint, or since the run began or went on.",
}
SCORING = {
    "gru4rec_score_sessions_per_second": "Sessions scored a second, of late.",
    "gru4rec_score_sessions_done": "Sessions whose lists are written.",
    "gru4rec_score_sessions": "Sessions that are to be scored.",
    "gru4rec_score_gate": "Figure of each gate (tag gate).",
    "gru4rec_score_gate_closed": "1 for a gate that refused the result, 0 for one that let it pass (tag gate).",
}

_RECENT_S = 10.0  # speeds are those of so many seconds, or more


@cache
def gauge(name: str) -> Gauge:
    """The gauge of this name, one a process; tags are `run`, and for gates `gate`."""
    tags = ("run", "gate") if "gate" in name else ("run",)
    return Gauge(name, (TRAINING | SCORING)[name], tag_keys=tags)


class _Speed:
    """How fast a count grows, over the last so many seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: list[tuple[float, int]] = []

    def __call__(self, count: int) -> float:
        """Counts a second; 0 at first, and after the count has fallen."""
        now = self._clock()
        if self._seen and count < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now, count))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _RECENT_S:
            del self._seen[0]
        then, before = self._seen[0]
        return (count - before) / (now - then) if now > then else 0.0


def of_training(run: str, transitions: int, clock: Callable[[], float] = time.monotonic) -> Callable[["News"], None]:
    """A function that tells Prometheus the workers' news; `transitions` are those of an epoch."""
    speed, began, newest = _Speed(clock), clock(), ""

    def tell(news: "News") -> None:
        nonlocal began, newest
        if news.checkpoint != newest:
            began, newest = clock(), news.checkpoint
        point, seconds = news.point, max(news.point.seconds, 1e-9)
        values = {
            "gru4rec_train_events_per_second": speed(news.epoch * transitions + point.events),
            "gru4rec_train_epoch": news.epoch + 1,
            "gru4rec_train_workers": news.workers,
            "gru4rec_train_checkpoint_age_seconds": clock() - began,
        }
        if point.events:
            values |= {
                "gru4rec_train_loss": point.loss / point.events,
                "gru4rec_train_wait_share": point.waited / seconds,
                "gru4rec_train_exchange_share": point.exchanging / seconds,
            }
        for name, value in values.items():
            gauge(name).set(value, {"run": run})

    return tell


def of_scoring(
    outcomes: Iterable["Outcome"], run: str, sessions: int, clock: Callable[[], float] = time.monotonic
) -> Iterator["Outcome"]:
    """The outcomes as they come, told to Prometheus; parts that an earlier run had made do not count for the speed."""
    speed, done, scored = _Speed(clock), 0, 0
    speed(0)
    gauge("gru4rec_score_sessions").set(sessions, {"run": run})
    for outcome in outcomes:
        done += outcome.part.rows
        scored += 0 if outcome.kept else outcome.part.rows
        gauge("gru4rec_score_sessions_done").set(done, {"run": run})
        gauge("gru4rec_score_sessions_per_second").set(speed(scored), {"run": run})
        yield outcome


def gates(checks: Iterable["Gate"], run: str) -> None:
    """Tell the figures and verdicts of the gates."""
    for check in checks:
        tags = {"run": run, "gate": check.gate}
        if check.figure is not None:
            gauge("gru4rec_score_gate").set(float(check.figure), tags)
        gauge("gru4rec_score_gate_closed").set(float(not check.passed), tags)
