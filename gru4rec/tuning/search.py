"""The search on Ray Tune: Tune starts trials where there is room, hears from them and stops them.

What is tried next and which trial is stopped are functions of the trials so far (algorithms.py, trials.py), which are
kept as JSON (records.py). A search that was interrupted is begun on Tune anew, with what is left: nothing is read back
from Tune's own state, which is a pickle.
"""

import contextlib
import io
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from ray import tune
from ray.tune import Callback, Stopper
from ray.tune.search import Searcher

from gru4rec import storage
from gru4rec.config import Hyperparameters, Tune
from gru4rec.errors import GRU4RecError, InputError
from gru4rec.tuning import records, trial
from gru4rec.tuning.algorithms import SUGGEST
from gru4rec.tuning.space import Space
from gru4rec.tuning.trials import STOPPING, Trial

_TUNE = "tune"  # what Tune itself writes, in the search's folder
_RETRIES = 2  # of a trial whose process or machine died


@dataclass
class Search:
    """A search while it goes on, on the driver; all that Tune tells it is passed on to `trials` and to the folder."""

    folder: str
    space: Space
    settings: Tune
    trials: dict[int, Trial]
    ended: Callable[[Trial], None]  # told of each trial that ends
    until: float = math.inf  # no new trial is begun later, on the clock that is `time.time`, the machines' common one
    meanwhile: Callable[[int], None] = lambda _: None  # told several times a second how many trials are in hand
    began: dict[int, float] = field(default_factory=dict)
    refused: GRU4RecError | None = None  # what no trial could do better about: the search ends with it

    def next(self) -> int | None:
        """The number of the next trial to start, which is written down; None: wait for others. −1: there is none."""
        for number, one in self.trials.items():
            if not one.ended and number not in self.began:  # of an earlier attempt
                self.began[number] = time.monotonic()
                return number
        number = len(self.trials)
        if number >= self.settings.trials or time.time() > self.until:
            return -1
        values = SUGGEST[self.settings.algorithm](self.space, self.settings.search_seed, self.trials, number)
        if values is None:
            return None
        self.trials[number] = Trial(number, values)
        records.keep_point(self.folder, self.trials[number])
        self.began[number] = time.monotonic()
        return number

    def heard(self, number: int, epoch: int, value: float) -> bool:
        """An epoch of a trial is over; whether the trial is to be stopped."""
        one = self.trials[number]
        if epoch == len(one.curve) + 1:
            one = self.trials[number] = replace(one, curve=(*one.curve, value))
        rule = STOPPING.get(self.settings.scheduler)
        if rule is None or epoch >= self.settings.epochs:
            return False
        # An earlier attempt has come further: it was let through then, when less was known of others. Not so the last
        # epoch that is known: the attempt may have ended before that was judged.
        if epoch < len(one.curve):
            return False
        curves = {other: found.curve for other, found in self.trials.items() if found.status != "failed"}
        return rule({**curves, number: one.curve}, number, self.settings.grace)

    def end(self, number: int, why: str = "") -> None:
        """A trial ended by itself, was stopped, or failed (`why`). Those not begun in time stay as they are, and so do
        all that end because the search is refused.
        """
        if self.refused:
            return
        one = self.trials[number]
        place = records.trial_folder(self.folder, number)
        failed = storage.join(place, trial.FAILED)
        if not why and storage.exists(failed):
            why = storage.read_json(failed)["why"]
        if not why and not one.curve:
            return
        status = "failed" if why else "finished" if len(one.curve) >= self.settings.epochs else "stopped"
        seconds = time.monotonic() - self.began.get(number, time.monotonic())
        self.trials[number] = replace(one, status=status, why=why, seconds=seconds)  # type: ignore[arg-type]
        records.keep_result(self.folder, self.trials[number])
        storage.remove_folder(storage.join(place, trial.RUN))
        self.ended(self.trials[number])


_SEARCHES: dict[str, Search] = {}  # of this process: Tune copies and pickles what it is given, and a search is neither


class _Next(Searcher):
    def __init__(self, folder: str) -> None:
        super().__init__(metric="value", mode="max")
        self._folder = folder

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        number = _SEARCHES[self._folder].next()
        if number is None:
            return None
        return Searcher.FINISHED if number < 0 else {"number": number}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None: ...
    def save(self, checkpoint_path: str) -> None: ...
    def restore(self, checkpoint_path: str) -> None: ...


class _Stop(Stopper):
    def __init__(self, folder: str) -> None:
        self._folder = folder

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        if "refused" in result:
            error = trial.TakenOver if result["taken_over"] else InputError
            _SEARCHES[self._folder].refused = error(result["refused"])
            return True
        if "epoch" not in result:
            return False
        return _SEARCHES[self._folder].heard(result["config"]["number"], result["epoch"], result["value"])

    def stop_all(self) -> bool:
        return _SEARCHES[self._folder].refused is not None


class _Ends(Callback):
    def __init__(self, folder: str) -> None:
        self._folder = folder

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:
        _SEARCHES[self._folder].end(trial.config["number"])

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:
        error = trial.get_pickled_error() if hasattr(trial, "get_pickled_error") else None
        _SEARCHES[self._folder].end(trial.config["number"], f"{reason(error)} ({_RETRIES + 1} attempts)")

    def on_step_end(self, iteration: int, trials: list, **_: Any) -> None:
        _SEARCHES[self._folder].meanwhile(sum(one.status == one.RUNNING for one in trials))


def reason(error: BaseException | None) -> str:
    """Why a trial failed, in a line; `error` as Tune gives it, None: its process died."""
    cause = getattr(error, "cause", None) or error
    if cause is None:
        return "its process died"
    return (str(cause).strip().splitlines() or [type(cause).__name__])[-1]


def run(search: Search, hyperparameters: Callable[[Trial], Hyperparameters], data: str, fingerprint: str = "") -> None:
    """Run what is left of a search; all its trials have ended then, but for those that `until` left no time to begin.

    Ray must be connected. Raises InputError where a trial finds other data in the folder `data` than those of the
    `fingerprint`, or damaged ones, and TakenOver where another job goes on with it: no trial is tried again then, and
    those in hand are left to be gone on with.
    """
    settings, left = search.settings, sum(not one.ended for one in search.trials.values())
    left += max(0, settings.trials - len(search.trials))
    storage.remove_folder(storage.join(search.folder, _TUNE))  # of a search that was killed
    if not left:
        return
    for name, value in {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the job
        "TUNE_RESULT_BUFFER_LENGTH": "0",
        "TUNE_WARN_THRESHOLD_S": "60",
    }.items():
        os.environ.setdefault(name, value)
    _SEARCHES[search.folder] = search
    gpus, threads = settings.gpus_per_trial, settings.threads
    folder, metric, until = search.folder, settings.metric, search.until

    def train(config: dict[str, Any]) -> None:
        number = config["number"]
        place = records.trial_folder(folder, number)
        # Tune has the next trial ready before there is room for it: for this one there was none in time.
        if time.time() > until and not storage.exists(storage.join(place, trial.RUN)):
            return
        point = storage.read_json(storage.join(place, "trial.json"))
        torch.set_num_threads(threads)
        if gpus:
            torch.cuda.empty_cache()  # what the process's trial before took is free for those that share the GPU

        def tell(epoch: int, value: float) -> None:
            tune.report({"epoch": epoch, "value": value})

        given = hyperparameters(Trial(number, point["values"]))
        try:
            trial.run(given, data, place, metric, tell, "cuda" if gpus else "cpu", fingerprint)
        except (InputError, trial.TakenOver) as error:  # told, not raised: Tune would try it again
            taken_over = isinstance(error, trial.TakenOver)
            tune.report({"refused": str(error), "taken_over": taken_over, "value": 0.0})  # Tune wants a value

    resources = {"cpu": threads, **({"gpu": gpus} if gpus else {})}
    tuner = tune.Tuner(
        tune.with_resources(train, resources),
        tune_config=tune.TuneConfig(
            search_alg=_Next(folder),
            num_samples=left,
            max_concurrent_trials=settings.parallel or None,
            reuse_actors=True,  # a new process would take longer to start than many a trial takes
            metric="value",
            mode="max",
        ),
        run_config=tune.RunConfig(
            name=_TUNE,
            storage_path=folder,
            stop=_Stop(folder),
            callbacks=[_Ends(folder)],
            failure_config=tune.FailureConfig(max_failures=_RETRIES),
            verbose=0,
        ),
    )
    try:
        with contextlib.redirect_stdout(sys.stderr if settings.verbose else io.StringIO()):  # ours is for the result
            tuner.fit()
        storage.remove_folder(storage.join(folder, _TUNE))
    finally:
        del _SEARCHES[folder]
    if search.refused:
        raise search.refused
