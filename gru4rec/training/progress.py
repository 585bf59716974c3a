"""How far a training has come: a point of an epoch, whole epochs, the whole run; and who hears of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gru4rec.training import lanes
from gru4rec.training.curve import Mark


@dataclass(frozen=True)
class Epoch:
    """What one pass over the sessions gave, over all workers."""

    loss: float  # mean over the transitions
    events: int  # transitions trained
    steps: int
    seconds: float


@dataclass(frozen=True)
class Point:
    """Where an epoch stands after a block: with the weights, the optimizer's state and `Trainer.hidden` all there is.

    Sums are over what this worker knows: all lanes, or with local steps its own.
    """

    epoch: int = 0
    blocks: int = 0  # trained in this epoch
    loss: float = 0.0  # sum over the transitions
    events: int = 0
    own_events: int = 0  # of this worker's lanes
    steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0  # of these seconds, for input
    exchanging: float = 0.0  # of these seconds, in the sums over the workers
    limit: float = 0.0  # a block's mean loss above which training has exploded
    positions: tuple[lanes.Position, ...] = ()  # of each group of lanes
    clicked: tuple[np.ndarray, ...] = ()  # with `mask_seen`: what each lane's session has clicked
    curve: tuple[Mark, ...] = ()  # of the epoch so far


@dataclass(frozen=True)
class WorkerFigures:
    """What an epoch was like for one worker."""

    events_per_second: float
    wait_share: float  # of the time, spent waiting for input
    exchange_share: float  # of the time, spent in the sums over the workers
    exchange_bytes: float  # that the worker gives to sums, a step
    resident_mib: float  # most that the process ever held
    gpu_memory_mib: float  # most that tensors ever held; 0 without a GPU


@dataclass(frozen=True)
class Done:
    """A whole epoch."""

    epoch: Epoch
    validated: dict[str, float]  # metrics on the validation split; empty without early stopping
    workers: tuple[WorkerFigures, ...]
    curve: tuple[Mark, ...] = ()


def done_from(kept: dict[str, Any]) -> Done:
    """An epoch from what `dataclasses.asdict` and JSON made of it."""
    workers = tuple(WorkerFigures(**of) for of in kept["workers"])
    marks = tuple(Mark(*mark) for mark in kept.get("curve", ()))
    return Done(Epoch(**kept["epoch"]), kept["validated"], workers, marks)


@dataclass(frozen=True)
class Finished:
    """What the training left in the run's folder."""

    epochs: tuple[Done, ...]
    metrics: dict[str, float]  # on the test split
    predictions: int
    best_epoch: int  # whose weights RUN/model holds, from 1
    workers: int


class Listener(Protocol):
    """Who hears how it goes, from rank 0."""

    def begins(self, done: Sequence[Done], checkpoint: str) -> None:
        """Training begins or goes on: `done` epochs are behind it, `checkpoint` is the newest (empty: none)."""

    def progress(self, epoch: int, point: Point) -> None: ...

    def epoch_done(self, number: int, done: Done) -> None: ...

    def committed(self, checkpoint: str) -> None: ...

    def stage(self, name: str) -> None: ...

    def say(self, message: str) -> None:
        """Something that a person should read."""


class Quiet:
    """A listener to whom nothing is news."""

    def begins(self, *_: Any) -> None: ...
    def progress(self, *_: Any) -> None: ...
    def epoch_done(self, *_: Any) -> None: ...
    def committed(self, *_: Any) -> None: ...
    def stage(self, *_: Any) -> None: ...
    def say(self, *_: Any) -> None: ...
