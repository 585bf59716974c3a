"""The train job: data (simulated where none is given), training on Ray, MLflow run, registered version, a table."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from gru4rec import cli, config, on_ray, outputs, ray_metrics, storage
from gru4rec.config import Train
from gru4rec.errors import InputError
from gru4rec.evaluation.report import comparison
from gru4rec.sessions.prepared import REPORT, Prepared
from gru4rec.tracking import folder as model_folder
from gru4rec.tracking import model_card, registry, runs
from gru4rec.training import run_folder
from gru4rec.training.describe import describe
from gru4rec.training.loop import MODEL, TakenOver
from gru4rec.training.on_ray import fit, lacking, parameters
from gru4rec.training.progress import Finished
from gru4rec.training.record import record
from gru4rec.training.run_folder import Run
from gru4rec.training.warm_start import Overlap, check_architecture
from gru4rec.training.watcher import Watcher


def train(settings: Train) -> dict[str, Any]:
    """Run the job, or what is left of it.

    The result has, among others, `run_id`, `run` (its name), `model_version` ("" where it was not registered), `loss`
    by epoch, `events` (transitions trained, all epochs), `events_per_second`, `predictions`, and the metrics of the
    test split with their `intervals`. Raises InputError for settings, data and places that cannot be, before Ray starts
    as far as that can be told; GRU4RecError where training fails.
    """
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    # What is wrong with the settings, the data, the models' places or the MLflow store is said before Ray starts.
    begun = run_folder.find(settings)
    finished = begun.result() if begun else None
    data = begun.data if begun else settings.data
    if begun and (finished is None or storage.exists(data)):  # what is finished stays so when its data are gone
        Prepared(data).check_is(begun.data_fingerprint, f"run {begun.name}")
    if begun and finished is not None:
        return _finished(begun, finished, settings, console)
    given = _opened(data, settings) if data else None
    outputs.check_folder("--storage", settings.storage)
    if settings.model_out:
        outputs.check_folder("--model-out", settings.model_out)
        model_folder.check_free(settings.model_out)
    old = "" if begun else _old_model(settings)
    experiment = runs.connect(settings.tracking_uri, settings.experiment)
    with on_ray.connected(settings.verbose):
        lacking(settings)  # what no machine can do is refused before a run of it is begun
        prepared = given or _opened(_simulated(settings, console), settings)
        if old:
            _say_overlap(old, prepared, settings, console)
        splits = prepared.summary["splits"]
        console.print(
            f"train: {splits['train']['sessions']:,} sessions, {splits['train']['clicks']:,} clicks, "
            f"{len(prepared.items):,} items; {settings.workers} worker(s) of {settings.batch_size} lanes"
        )
        run = _begun(begun, settings, experiment, prepared, old)
        console.print(f"run {run.name}" + (": going on" if begun else f"; if it is interrupted: --resume {run.name}"))
        with runs.ending(run.run_id, left=(TakenOver,)):
            _log_report(run, prepared)
            transitions = splits["train"]["transitions"]
            told = ray_metrics.of_training(run.name, transitions)
            with Watcher(console, settings.epochs, transitions, run.run_id) as watcher:
                listeners = (watcher.show, watcher.record, told)
                trained = fit(settings, prepared, run.folder, listeners, run.start if settings.warm_start else "")
            model = storage.join(run.folder, MODEL)
            console.print("ranking the test split once more, for intervals and baselines")
            facts = describe(settings, prepared, trained, model)
            version = record(facts, trained, model, run.run_id)
            if settings.model_out:
                _copy(model, settings.model_out)
    others = {name: dict(found) for name, found in facts.metrics.items() if name != model_card.MODEL}
    _show(console, trained, others, settings, version)
    result = {
        "run_id": run.run_id,
        "run": run.name,
        "model_version": version,
        "loss": [done.epoch.loss for done in trained.epochs],
        "events": sum(done.epoch.events for done in trained.epochs),
        "events_per_second": _speed(trained),
        "best_epoch": trained.best_epoch,
        "workers": trained.workers,
        "exchange_bytes_per_step": trained.epochs[-1].workers[0].exchange_bytes,
        **trained.metrics,
        "intervals": _plain(facts.intervals.get(model_card.MODEL, {})),
        "predictions": trained.predictions,
        "baselines": others,
        "baseline_intervals": {name: _plain(facts.intervals.get(name, {})) for name in others},
        "model": storage.shown(settings.model_out or model),
        "data": storage.shown(prepared.folder),
    }
    run.finish(result, settings)
    return result


def _finished(run: Run, result: dict[str, Any], settings: Train, console: Console) -> dict[str, Any]:
    """The result of a finished run; its model goes to a `model_out` that it was not written to.

    Raises InputError where the run's model was registered under another name, or is no longer there.
    """
    if not run.gets_another_folder(settings):
        console.print(f"run {run.name} is finished: nothing to do")
        return result
    _copy(storage.join(run.folder, MODEL), settings.model_out)
    out = storage.shown(settings.model_out)
    console.print(f"run {run.name} is finished: its model is copied to {out}, nothing else to do")
    return {**result, "model": out}


def _copy(model: str, out: str) -> None:
    """Write the model folder, with the optimizer's state and the card, to the folder `out` too."""
    kept, optimizer = model_folder.load(model), model_folder.load_optimizer(model)
    target, card = storage.absolute(out), model_folder.read_card(model)
    model_folder.save(kept.model, kept.items, target, kept.config, optimizer, card)


def _begun(begun: Run | None, settings: Train, experiment: str, prepared: Prepared, old: str) -> Run:
    """The run to go on with, open in MLflow; a new one where none was begun."""
    if begun:
        runs.reopen(begun.run_id)
        return begun
    run_id = runs.start_run(
        experiment,
        parameters(settings),
        prepared.folder,
        prepared.fingerprint,
        kind="train",
        name=settings.run_name or None,
    )
    with runs.failing(run_id):
        return _in_folder(settings, run_id, prepared, old)


def _in_folder(settings: Train, run_id: str, prepared: Prepared, old: str) -> Run:
    """The folder of a new run, and in it the model to go on from, where there is one."""
    # The model to go on from is copied to where the workers of all nodes can read it.
    if old:
        kept, place = model_folder.load(old), run_folder.runs_in(settings.storage)
        start = storage.join(place, settings.run_name or run_id, run_folder.START)
        model_folder.save(kept.model, kept.items, start, kept.config, model_folder.load_optimizer(old))
    return run_folder.begin(settings, run_id, prepared.folder, prepared.fingerprint)


def _log_report(run: Run, prepared: Prepared) -> None:
    """Keep the data report with the run in MLflow, where prepare wrote one."""
    path = storage.join(prepared.data, REPORT)
    if storage.exists(path):
        runs.log_file(run.run_id, path)


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
    return registry.fetch(uri, settings.tracking_uri, optimizer=True)


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


def _plain(intervals: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Intervals by metric, as JSON brings them back."""
    return {key: list(bounds) for key, bounds in intervals.items()}


def _speed(trained: Finished) -> float:
    """Transitions trained a second, over all epochs."""
    seconds = sum(done.epoch.seconds for done in trained.epochs)
    return sum(done.epoch.events for done in trained.epochs) / max(seconds, 1e-9)


def _show(
    console: Console, trained: Finished, others: dict[str, dict[str, float]], settings: Train, version: str
) -> None:
    if trained.predictions:
        title = f"test split, {trained.predictions:,} predictions over the whole catalogue"
        console.print(comparison(title, {"GRU4Rec": trained.metrics, **others}))
    else:
        console.print("the test split has nothing to predict: no metrics")
    if version:
        console.print(f"registered as models:/{settings.model_name}/{version}; see it with: mlflow ui")
