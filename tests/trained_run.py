"""A training run in MLflow as the train job leaves it: by one worker in this process, without Ray."""

import dataclasses
import io

from rich.console import Console

from gru4rec import storage
from gru4rec.config import Hyperparameters, Train
from gru4rec.sessions.prepared import REPORT, Prepared
from gru4rec.tracking import runs
from gru4rec.training import loop
from gru4rec.training.describe import describe
from gru4rec.training.exchange import Alone
from gru4rec.training.notice_board import News
from gru4rec.training.on_ray import parameters
from gru4rec.training.progress import Finished
from gru4rec.training.record import record
from gru4rec.training.watcher import Watcher


class Told:
    """A listener that keeps the news and passes them on, as the notice board does."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher, self._news = watcher, News()

    def _tell(self, **changed) -> None:
        self._news = dataclasses.replace(self._news, **changed)
        self._watcher.show(self._news)
        self._watcher.record(self._news)

    def begins(self, done, checkpoint):
        self._tell(stage="training", epoch=len(done), done=tuple(done), workers=1)

    def progress(self, epoch, point):
        self._tell(stage="training", epoch=epoch, point=point)

    def epoch_done(self, number, done):
        self._tell(done=(*self._news.done[:number], done))

    def committed(self, checkpoint): ...

    def stage(self, name):
        self._tell(stage=name)

    def say(self, message):
        self._tell(said=(*self._news.said, message))


def hyperparameters(settings: Train) -> Hyperparameters:
    return Hyperparameters(**{of.name: getattr(settings, of.name) for of in dataclasses.fields(Hyperparameters)})


def trained_run(settings: Train, prepared: Prepared, place: str, store: str) -> tuple[str, str, Finished]:
    """A new run, trained in the folder `place` and registered: its id, the version, what training gave."""
    run_id = begin(settings, prepared, store)
    return run_id, *finish(settings, prepared, place, run_id)


def begin(settings: Train, prepared: Prepared, store: str) -> str:
    """A new run in MLflow, with the data report where there is one: its id."""
    experiment = runs.connect(store, settings.experiment)
    run_id = runs.start_run(
        experiment, parameters(settings), prepared.folder, prepared.fingerprint, name=settings.run_name or None
    )
    report = storage.join(prepared.data, REPORT)
    if storage.exists(report):
        runs.log_file(run_id, report)
    return run_id


def finish(settings: Train, prepared: Prepared, place: str, run_id: str) -> tuple[str, Finished]:
    """Do what is left of a run: the version, what training gave."""
    transitions = prepared.summary["splits"]["train"]["transitions"]
    plan = loop.Plan(place, cutoffs=tuple(sorted({*settings.cutoffs, 20})), checkpoint_steps=settings.checkpoint_steps)
    with Watcher(Console(file=io.StringIO()), settings.epochs, transitions, run_id) as watcher:
        finished = loop.Training(hyperparameters(settings), prepared, plan, Alone(), Told(watcher)).run()
    model = storage.join(place, loop.MODEL)
    version = record(describe(settings, prepared, finished, model), finished, model, run_id)
    runs.finish(run_id)
    return version, finished
