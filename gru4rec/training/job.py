"""The train job: data (simulated where none is given), training on Ray, MLflow run, registered version, a table."""

import uuid
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gru4rec import cli, config, on_ray, storage
from gru4rec.config import Train
from gru4rec.errors import InputError
from gru4rec.evaluation import baselines
from gru4rec.evaluation.report import comparison
from gru4rec.sessions.prepared import Prepared
from gru4rec.tracking import folder as model_folder
from gru4rec.tracking import registry, runs
from gru4rec.training.on_ray import News, Trained, fit, parameters
from gru4rec.training.warm_start import Overlap, check_architecture


def train(settings: Train) -> dict[str, Any]:
    """Run the job; the result has the keys of the job contract."""
    console = Console(stderr=True, highlight=False)
    # What is wrong with the data or the model is said before Ray starts.
    given = _opened(settings.data, settings) if settings.data else None
    old = _old_model(settings)
    with on_ray.connected(settings.verbose):
        prepared = given or _opened(_simulated(settings, console), settings)
        if old:
            _say_overlap(old, prepared, settings, console)
        splits = prepared.summary["splits"]
        console.print(
            f"train: {splits['train']['sessions']:,} sessions, {splits['train']['clicks']:,} clicks, "
            f"{len(prepared.items):,} items; {settings.workers} worker(s) of {settings.batch_size} lanes"
        )
        experiment = runs.connect(settings.tracking_uri, settings.experiment)
        run_id = runs.start_run(experiment, parameters(settings), prepared.folder, prepared.fingerprint, kind="train")
        status = "FAILED"
        try:
            place = storage.join(storage.absolute(settings.storage), "runs")
            transitions = splits["train"]["transitions"]
            start = _started(settings, old, storage.join(place, run_id))
            with Watcher(console, settings.epochs, transitions, run_id) as watcher:
                trained = fit(settings, prepared.folder, place, run_id, watcher, start)
            metrics = {**trained.metrics, "events_per_second": _speed(trained)}
            runs.log_metrics(run_id, metrics, step=settings.epochs)
            version = registry.register(
                run_id, trained.model_folder, settings.model_name, trained.metrics, prepared.fingerprint
            )
            if settings.model_out:
                kept, optimizer = (
                    model_folder.load(trained.model_folder),
                    model_folder.load_optimizer(trained.model_folder),
                )
                out = storage.absolute(settings.model_out)
                model_folder.save(kept.model, kept.items, out, kept.config, optimizer)
            status = "FINISHED"
        finally:
            runs.finish(run_id, status)
        others = _baselines(prepared, settings)
    _show(console, trained, others, settings, version)
    return {
        "run_id": run_id,
        "model_version": version,
        "loss": [epoch.loss for epoch in trained.epochs],
        "events": sum(epoch.events for epoch in trained.epochs),
        "events_per_second": _speed(trained),
        "best_epoch": trained.best_epoch,
        **trained.metrics,
        "predictions": trained.predictions,
        "baselines": others,
        "model": settings.model_out or trained.model_folder,
        "data": prepared.folder,
    }


def _simulated(settings: Train, console: Console) -> str:
    """Simulate a click log and prepare it, below `storage`; returns the prepared folder."""
    from gru4rec.sessions.prepare import prepare
    from gru4rec.sessions.simulate import simulate

    console.print("no --data given: simulating a click log")
    place = storage.join(storage.absolute(settings.storage), f"simulated-{uuid.uuid4().hex[:8]}")
    clicks = storage.join(place, "clicks")
    simulate(settings, clicks)
    data = storage.join(place, "prepared")
    wanted = {"clicks": [clicks], "out": data, "verbose": settings.verbose, "valid_days": min(settings.patience, 1)}
    prepare(cli.check(config.Prepare, wanted))
    return data


def _old_model(settings: Train) -> str:
    """The folder of the model to go on from; empty for none."""
    if not settings.warm_start:
        return ""
    uri, _ = registry.resolve(settings.warm_start, settings.tracking_uri)
    return registry.fetch(uri, settings.tracking_uri)


def _say_overlap(old: str, prepared: Prepared, settings: Train, console: Console) -> None:
    """Tell what a warm start keeps. Raises InputError where it cannot be."""
    loaded = model_folder.load(old)
    overlap = Overlap.of(prepared.items, loaded.items)
    check_architecture(loaded.model, settings)
    state = "and the optimizer's state" if model_folder.OPTIMIZER in storage.list_files(old) else "(no optimizer state)"
    console.print(
        f"going on from {storage.shown(settings.warm_start)}: {len(overlap.known):,} items keep their weights {state}, "
        f"{overlap.new:,} are new, {overlap.dropped:,} dropped"
    )


def _started(settings: Train, old: str, run: str) -> str:
    """The model to go on from, copied to where the workers of all nodes can read it."""
    if not old:
        return ""
    copy = storage.join(run, "start")
    kept = model_folder.load(old)
    model_folder.save(kept.model, kept.items, copy, kept.config, model_folder.load_optimizer(old))
    return copy


def _opened(data: str, settings: Train) -> Prepared:
    """The prepared folder. Raises InputError where a file of it is missing or damaged, or there is nothing to train."""
    prepared = Prepared(data)
    for split in ("train", "test", *(("valid",) if settings.patience else ())):
        prepared.shards(split)
    if settings.patience and not prepared.summary["splits"]["valid"]["transitions"]:
        raise InputError(f"--patience: {data} has no validation split; prepare it with --valid-days")
    if prepared.summary["splits"]["train"]["transitions"] == 0:
        raise InputError(f"{data}: no training session has two clicks or more")
    return prepared


def _speed(trained: Trained) -> float:
    """Transitions trained a second, over all epochs."""
    seconds = sum(epoch.seconds for epoch in trained.epochs)
    return sum(epoch.events for epoch in trained.epochs) / max(seconds, 1e-9)


def _baselines(prepared: Prepared, settings: Train) -> dict[str, dict[str, float]]:
    train_sessions, test = prepared.read("train"), prepared.read("test")
    if not test.transitions:
        return {}
    cutoffs = sorted({*settings.cutoffs, 20})
    return {
        name: baselines.evaluate(name, train_sessions, test, len(prepared.items), cutoffs).result()
        for name in baselines.NAMES
    }


class Watcher:
    """Shows the workers' progress (a bar on a terminal, else a line an epoch) and records each epoch in MLflow."""

    def __init__(self, console: Console, epochs: int, transitions: int, run_id: str) -> None:
        self._console, self._epochs, self._transitions, self._run_id = console, epochs, transitions, run_id
        self._logged = 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=epochs * transitions)

    def __enter__(self) -> "Watcher":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, news: News) -> None:
        training = news.stage == "training"
        described = f"epoch {news.epoch + 1}/{self._epochs} loss {news.loss:.4f}" if training else news.stage
        done = news.epoch * self._transitions + news.events
        self._bar.update(self._task, completed=done, description=described)
        for number in range(self._logged, len(news.epochs)):
            epoch = news.epochs[number]
            speed = epoch.events / epoch.seconds
            validated = news.validated[number]
            runs.log_epoch(self._run_id, number + 1, loss=epoch.loss, events_per_second=speed, **validated)
            shown = "".join(f"  {key} {value:.4f}" for key, value in validated.items() if not key.startswith("valid_n"))
            self._console.print(
                f"epoch {number + 1}/{self._epochs}  loss {epoch.loss:.4f}  {speed:,.0f} events/s  "
                f"{epoch.steps / epoch.seconds:,.0f} mini-batches/s  {epoch.seconds:.1f} s{shown}"
            )
        self._logged = max(self._logged, len(news.epochs))


def _show(
    console: Console, trained: Trained, others: dict[str, dict[str, float]], settings: Train, version: str
) -> None:
    if not trained.predictions:
        console.print("the test split has nothing to predict: no metrics")
        return
    title = f"test split, {trained.predictions:,} predictions over the whole catalogue"
    table = comparison(title, {"GRU4Rec": trained.metrics, **others})
    console.print(table)
    if version:
        console.print(f"registered as models:/{settings.model_name}/{version}; see it with: mlflow ui")
