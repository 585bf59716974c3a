"""One trial, in a process of its own: trained on the training split, validated after each epoch. The engine alone.

Killed anywhere, it goes on from its last checkpoint, with the same bits as undisturbed.
"""

import uuid
from collections.abc import Callable, Sequence
from typing import Any

import torch

from gru4rec import storage
from gru4rec.config import Hyperparameters
from gru4rec.errors import GRU4RecError, InputError, masked
from gru4rec.sessions.prepared import Prepared
from gru4rec.training.exchange import Alone
from gru4rec.training.loop import ATTEMPT, MODEL, Plan, TakenOver, Training
from gru4rec.training.progress import Done, Quiet
from gru4rec.tuning import records

RUN, FAILED = "run", "failed.json"


class Reporter:
    """Hears of each epoch, keeps its value in the trial's folder, and passes it on."""

    def __init__(self, place: str, metric: str, tell: Callable[[int, float], None]) -> None:
        """`tell` gets each epoch, from 1, and its value; also those of an earlier attempt, once more."""
        self._place, self._key, self._tell = place, f"valid_{metric}", tell
        self._curve: list[float] = []

    def begins(self, done: Sequence[Done], checkpoint: str) -> None:
        self._curve = [one.validated[self._key] for one in done]
        records.keep_curve(self._place, self._curve)
        for epoch, value in enumerate(self._curve, start=1):
            self._tell(epoch, value)

    def epoch_done(self, number: int, done: Done) -> None:
        self._curve.append(done.validated[self._key])
        records.keep_curve(self._place, self._curve)
        self._tell(len(self._curve), self._curve[-1])

    def progress(self, *_: Any) -> None: ...
    def committed(self, *_: Any) -> None: ...
    def stage(self, *_: Any) -> None: ...
    def say(self, *_: Any) -> None: ...


def run(
    settings: Hyperparameters,
    data: str,
    place: str,
    metric: str,
    tell: Callable[[int, float], None],
    device: str,
    fingerprint: str = "",
) -> None:
    """Train a trial in its folder `place`; a training that fails (NaN, out of memory) leaves FAILED there, with why.

    `settings.patience` must be on, so that each epoch is validated. The test split is never read. `fingerprint`: of the
    data of the search; empty: any. Raises InputError for other data, and for data that are damaged: no trial could do
    better; TakenOver where another process has begun on the same trial.
    """
    failed = storage.join(place, FAILED)
    if storage.exists(failed):  # of an earlier attempt
        storage.remove_file(failed)
    prepared = _opened(data, fingerprint)
    plan = Plan(storage.join(place, RUN), _attempt(storage.join(place, RUN)), tested="", keep=1)
    try:
        Training(settings, prepared, plan, Alone(), Reporter(place, metric, tell), device).run()
    except (InputError, TakenOver):
        raise
    except (GRU4RecError, MemoryError, torch.OutOfMemoryError) as error:
        reason = f"{'' if isinstance(error, GRU4RecError) else type(error).__name__ + ': '}{error}"
        storage.write_json(failed, {"why": masked(reason)})


def train_whole(
    settings: Hyperparameters, data: str, place: str, device: str, epochs: int = 0, fingerprint: str = ""
) -> str:
    """Train on training and validation split together; the model's folder. Whole already, it is left as it is.

    `epochs`: stop after so many of the settings'; 0: after all. `fingerprint` and errors as in `run`.
    """
    model = storage.join(place, MODEL)
    if not storage.exists(storage.join(model, "config.json")):
        plan = Plan(place, _attempt(place), splits=("train", "valid"), tested="", keep=1, epochs=epochs)
        Training(settings, _opened(data, fingerprint), plan, Alone(), Quiet(), device).run()
    return model


def _opened(data: str, fingerprint: str) -> Prepared:
    """The prepared folder. Raises InputError where it was prepared anew since the search was begun."""
    prepared = Prepared(data)
    if fingerprint:
        prepared.check_is(fingerprint, "this search")
    return prepared


def _attempt(run: str) -> str:
    """Take over the run's folder: a process that a killed search has left for a moment writes no more there."""
    mine = uuid.uuid4().hex
    storage.make_folder(run)
    storage.write_bytes(storage.join(run, ATTEMPT), mine.encode())
    return mine
