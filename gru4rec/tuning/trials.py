"""A trial of a search: its point, how it went, and the rules by which one is stopped early. Pure."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Status = Literal["running", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class Trial:
    """One point of the space, trained."""

    number: int  # from 0
    values: Mapping[str, Any]  # the point: hyperparameters that are varied or fixed by the space
    curve: tuple[float, ...] = ()  # the metric on the validation split after each epoch
    status: Status = "running"
    why: str = ""  # it failed
    seconds: float = 0.0

    @property
    def value(self) -> float | None:
        """The best of its epochs; None where it has none, or failed."""
        return max(self.curve) if self.curve and self.status != "failed" else None

    @property
    def ended(self) -> bool:
        return self.status != "running"

    def after(self, epochs: int) -> "Trial":
        """As it was after so many epochs."""
        return replace(self, curve=self.curve[:epochs])


def best(trials: Mapping[int, Trial]) -> Trial | None:
    """The trial of the highest value; among equals the first. None where no trial has one."""
    found = [trial for trial in trials.values() if trial.value is not None]
    return max(found, key=lambda trial: (trial.value, -trial.number)) if found else None


def asha(curves: Mapping[int, Sequence[float]], number: int, grace: int, reduction: int = 3) -> bool:
    """Whether trial `number` is to be stopped now: asynchronous successive halving (Li et al., MLSys 2020).

    After grace, grace · reduction, grace · reduction² … epochs, a trial goes on if its best value so far is among the
    best 1 / reduction (or the best) of all that have come so far, by what those had then.
    """
    epochs = len(curves[number])
    rung = grace
    while rung < epochs:
        rung *= reduction
    if rung != epochs:
        return False
    reached = sorted((max(curve[:epochs]) for curve in curves.values() if len(curve) >= epochs), reverse=True)
    return max(curves[number]) < reached[max(1, len(reached) // reduction) - 1]


def median(curves: Mapping[int, Sequence[float]], number: int, grace: int, others: int = 3) -> bool:
    """Whether trial `number` is to be stopped now: the median stopping rule (Golovin et al., KDD 2017, section 3.2).

    After `grace` epochs, a trial is stopped whose best value so far is below the median of the others' mean values over
    as many epochs, if so many `others` have come so far.
    """
    epochs = len(curves[number])
    means = [
        math.fsum(curve[:epochs]) / epochs
        for other, curve in curves.items()
        if other != number and len(curve) >= epochs > 0
    ]
    if epochs < grace or len(means) < others:
        return False
    return max(curves[number]) < statistics.median(means)


STOPPING = {"asha": asha, "median": median}
