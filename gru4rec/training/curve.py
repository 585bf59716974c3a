"""How loss and speed went within an epoch, by its hundredths.

The points are the same for every number of workers and lanes, and for every attempt: an interrupted run goes on with
the marks that its checkpoint holds, and two runs line up. A mark holds sums from the epoch's start, which come back
from a checkpoint bit for bit; what a person sees are their differences.
"""

from collections.abc import Sequence
from typing import NamedTuple

PARTS = 100  # of an epoch


class Mark(NamedTuple):
    """Where an epoch stood after the first block that ended in this part or a later one."""

    part: int  # from 1 to PARTS
    loss: float  # sum over the transitions
    events: int  # transitions
    seconds: float


class Stretch(NamedTuple):
    """What lies between a mark and the one before."""

    part: int
    loss: float  # mean over the transitions
    events_per_second: float


def extended(marks: tuple[Mark, ...], loss: float, events: int, seconds: float, transitions: float) -> tuple[Mark, ...]:
    """The epoch's marks after a block; the sums are from the epoch's start, `transitions` those of the whole."""
    part = min(int(events * PARTS / max(transitions, 1)), PARTS)
    reached = marks[-1].part if marks else 0
    return (*marks, Mark(part, loss, events, seconds)) if part > reached else marks


def stretches(marks: Sequence[Mark]) -> list[Stretch]:
    """Mean loss and speed from mark to mark."""
    found = []
    before = Mark(0, 0.0, 0, 0.0)
    for mark in marks:
        events = mark.events - before.events
        loss = (mark.loss - before.loss) / events
        found.append(Stretch(mark.part, loss, events / max(mark.seconds - before.seconds, 1e-9)))
        before = mark
    return found
