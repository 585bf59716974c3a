"""What the workers tell of a training, and the small actor by which the driver hears it.

It outlives the workers, so it also counts how often they were started, and knows when that is no use any more.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray

from gru4rec.errors import GRU4RecError
from gru4rec.training.progress import Done, Point


@dataclass(frozen=True)
class News:
    """What the workers have told so far."""

    stage: str = "starting"
    epoch: int = 0  # in hand, from 0
    point: Point = field(default_factory=Point)  # where it stands
    workers: int = 0
    done: tuple[Done, ...] = ()
    said: tuple[str, ...] = ()  # for a person, in order
    checkpoint: str = ""  # the newest


@ray.remote(num_cpus=0)
class NoticeBoard:
    """Where workers put their news and the driver reads them; it outlives the workers."""

    def __init__(self, patience: int) -> None:
        self._news = News()
        self._patience = patience  # failures in a row, without a new checkpoint, after which to give up
        self._starts = 0  # since the last checkpoint
        self._seen: tuple[int, str] | None = None  # workers and checkpoint of the last beginning
        self._last_error = ""
        self._fatal: Exception | None = None

    def starts(self) -> bool:
        """The workers start, once more or for the first time; whether there is anything left to do."""
        self._starts += 1
        if self._starts > self._patience + 1 and self._fatal is None:
            why = f"; the last error was: {self._last_error}" if self._last_error else ""
            self._fatal = GRU4RecError(
                f"the workers failed {self._starts - 1} times without a new checkpoint (--max-failures){why}"
            )
        return self._fatal is None

    def begins(self, workers: int, done: tuple[Done, ...], checkpoint: str) -> None:
        if self._seen != (workers, checkpoint):
            self._starts = 1
        self._seen = workers, checkpoint
        self._news = News("training", len(done), Point(), workers, done, self._news.said, checkpoint)

    def progress(self, epoch: int, point: Point) -> None:
        self._news = replace(self._news, stage="training", epoch=epoch, point=point)

    def epoch_done(self, number: int, done: Done) -> None:
        self._news = replace(self._news, done=(*self._news.done[:number], done))

    def committed(self, checkpoint: str) -> None:
        self._starts = 1
        self._news = replace(self._news, checkpoint=checkpoint)

    def stage(self, name: str) -> None:
        self._news = replace(self._news, stage=name)

    def say(self, message: str) -> None:
        self._news = replace(self._news, said=(*self._news.said, message))

    def failed(self, error: Exception, fatal: bool) -> None:
        """A worker failed. A `fatal` error would come again: no other attempt is made."""
        self._last_error = f"{type(error).__name__}: {error}"
        if fatal and self._fatal is None:
            self._fatal = error

    def read(self) -> News:
        return self._news

    def fatal(self) -> Exception | None:
        return self._fatal


class Teller:
    """Tells the notice board what rank 0 has to tell, without waiting for it."""

    def __init__(self, board: Any, workers: int) -> None:
        self._board, self._workers = board, workers

    def begins(self, done: Sequence[Done], checkpoint: str) -> None:
        ray.get(self._board.begins.remote(self._workers, tuple(done), checkpoint))

    def progress(self, epoch: int, point: Point) -> None:
        self._board.progress.remote(epoch, replace(point, positions=(), clicked=()))

    def epoch_done(self, number: int, done: Done) -> None:
        ray.get(self._board.epoch_done.remote(number, done))

    def committed(self, checkpoint: str) -> None:
        self._board.committed.remote(checkpoint)

    def stage(self, name: str) -> None:
        self._board.stage.remote(name)

    def say(self, message: str) -> None:
        ray.get(self._board.say.remote(message))
