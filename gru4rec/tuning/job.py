"""The tune job: a search on the validation split; the winner trained anew, tested once, and registered."""

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from gru4rec import lock, on_ray, outputs, storage
from gru4rec.config import Hyperparameters, Tune
from gru4rec.errors import GRU4RecError, InputError
from gru4rec.sessions.prepared import Prepared
from gru4rec.tracking import registry, runs
from gru4rec.tuning import packing, records, space, tracked, trial, winner
from gru4rec.tuning import report as page
from gru4rec.tuning.space import Space
from gru4rec.tuning.trials import Trial, best

CANDIDATE = "candidate"  # alias of the version that a search registers


def tune(settings: Tune) -> dict[str, Any]:
    """Run the job, or what is left of it.

    Raises InputError for settings, data or a space that cannot be, and GRU4RecError where no trial has a value, or
    another job is at work on the same search.
    """
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    prepared, found, text = _checked(settings)
    outputs.check_folder("--storage", settings.storage)
    experiment = runs.connect(settings.tracking_uri, settings.experiment)
    begun = _begun(settings, prepared, text)
    if begun and (done := _done(*begun, settings, console)):
        return done
    with contextlib.ExitStack() as claim, contextlib.ExitStack() as connection:
        connection.enter_context(on_ray.connected(settings.verbose))
        _check_resources(settings)  # what cannot run leaves nothing behind
        folder, kept, check = _claimed(settings, experiment, prepared, text, claim)
        if done := _done(folder, kept, settings, console):  # by another job, since
            return done
        records.go_on(folder, kept, settings)
        trials = records.trials(folder)
        _say_begins(folder, trials, settings, console)
        runs.reopen(kept["run_id"])
        with runs.ending(kept["run_id"], left=(trial.TakenOver,)):
            settings = _packed(settings, found, prepared, console)
            first = _searched(settings, found, prepared, folder, kept["run_id"], trials, console)
            chosen, epochs = winning(found, first, settings)
            console.print(
                f"the best is trial {first.number}, {settings.metric} {first.value:.4f} on the validation split after "
                f"{epochs} epochs: training it on training and validation split, {len(settings.seeds)} seed(s)"
            )
            models = winner.train(
                first.number, chosen, settings.seeds, prepared, folder, settings, epochs, console.print
            )
            connection.close()
            console.print("testing, once")
            tested = winner.test(models, settings.seeds, prepared, console.print)
            result = _result(settings, _name(folder), trials, first, chosen, epochs, tested, prepared)
            console.print(_table(result))
            html = page.page(result, found, trials)
            check()
            storage.write_bytes(storage.join(folder, "report.html"), html.encode())
            result["model_version"] = _registered(settings, kept["run_id"], models[0], result, prepared)
            tracked.finish(kept["run_id"], result, html)
            result["run_id"] = kept["run_id"]
            result = json.loads(json.dumps(result, default=float))  # as whoever asks again will get it
            records.tidy(folder)
        storage.write_json(storage.join(folder, records.RESULT), result)  # last: where it is, nothing is left to do
    return result


def _name(folder: str) -> str:
    return folder.rstrip("/").rpartition("/")[2]


def _done(folder: str, kept: Mapping[str, Any], settings: Tune, console: Console) -> dict[str, Any] | None:
    """The result of a search that has nothing left to do, which is told; else None."""
    done = records.finished(folder, kept, settings)
    if done is not None:
        console.print(f"search {done['search']} is finished: nothing to do")
    return done


def _say_begins(folder: str, trials: Mapping[int, Trial], settings: Tune, console: Console) -> None:
    ended = sum(one.ended for one in trials.values())
    console.print(
        f"search {_name(folder)}: {settings.trials} trials of up to {settings.epochs} epochs, {settings.algorithm}"
        + (f"; going on after {ended}" if ended else f"; if it is interrupted: --resume {_name(folder)}")
    )


def _searched(
    settings: Tune,
    found: Space,
    prepared: Prepared,
    folder: str,
    run_id: str,
    trials: dict[int, Trial],
    console: Console,
) -> Trial:
    """Run the trials that are left; the best of all."""
    kept = tracked.Tracked(run_id)
    _make_good(folder, trials, kept)
    _search(settings, found, prepared, folder, trials, _Progress(console, settings, trials, kept))
    first = best(trials)
    if first is None:
        raise _without_value(trials, settings, _name(folder))
    return first


def _without_value(trials: Mapping[int, Trial], settings: Tune, name: str) -> GRU4RecError:
    """Why there is no best trial."""
    if not any(one.ended for one in trials.values()):
        return GRU4RecError(f"no trial was begun within --hours {settings.hours:g}: --resume {name} with more of them")
    why = next((one.why for one in trials.values() if one.why), "no trial came to the end of an epoch")
    return GRU4RecError(f"no trial has a value; the first one's reason: {why}")


def _checked(settings: Tune) -> tuple[Prepared, Space, str]:
    """Data and space. Raises InputError where they cannot be searched."""
    if not settings.data:
        raise InputError("--data: is required")
    found, text = space.load(settings.space)
    prepared = Prepared(settings.data)
    for split in ("train", "valid", "test"):
        if not prepared.summary["splits"][split]["transitions"]:
            remedy = "; prepare it with --valid-days" if split == "valid" else ""
            raise InputError(f"{storage.shown(settings.data)}: the {split} split has nothing to predict{remedy}")
        prepared.verify(split)
    prepared.verify_items()
    return prepared, found, text


def _begun(settings: Tune, prepared: Prepared, text: str) -> tuple[str, dict[str, Any]] | None:
    """The folder and the search.json of the search to go on with; None for a new one."""
    name = settings.resume or settings.run_name
    folder = records.folder_of(settings, name)
    if not name or not storage.exists(storage.join(folder, records.SEARCH)):
        return None
    kept = records.read(folder)
    records.check(kept, settings, text, prepared.fingerprint)
    return folder, kept


def _claimed(
    settings: Tune, experiment: str, prepared: Prepared, text: str, claim: contextlib.ExitStack
) -> tuple[str, dict[str, Any], Callable[[], None]]:
    """The search's folder, in which no other job writes until `claim` ends, its search.json, and a check of the claim.

    A search that is new is begun. Raises GRU4RecError where another job is at work on it.
    """
    name = settings.resume or settings.run_name
    if not name:  # it is called as its MLflow run, so no other job knows of it
        folder, kept = _new(settings, experiment, prepared, text)
        return folder, kept, claim.enter_context(lock.held(folder))
    check = claim.enter_context(lock.held(records.folder_of(settings, name)))
    return *(_begun(settings, prepared, text) or _new(settings, experiment, prepared, text)), check


def _new(settings: Tune, experiment: str, prepared: Prepared, text: str) -> tuple[str, dict[str, Any]]:
    """The folder and the search.json of a search that is begun."""
    parameters = {
        key: getattr(settings, key)
        for key in ("space", "trials", "algorithm", "scheduler", "grace", "metric", "epochs", "search_seed", "seeds")
    } | {"space": storage.shown(settings.space)}
    data = prepared.folder, prepared.fingerprint
    run_id = runs.start_run(experiment, parameters, *data, kind="tune", name=settings.run_name or None)
    folder = records.folder_of(settings, settings.resume or settings.run_name or run_id)
    records.begin(folder, settings, text, *data, run_id)
    return folder, records.read(folder)


def _check_resources(settings: Tune) -> None:
    """Raises InputError for a trial that Ray could never start."""
    on_ray.check_one("threads", settings.threads, "CPU", "a trial", "give fewer")
    on_ray.check_one("gpus-per-trial", settings.gpus_per_trial, "GPU", "a trial", "give less, or 0 to train on CPUs")
    if settings.pack_gpus:
        packing.check_gpu()


def _packed(settings: Tune, found: Space, prepared: Prepared, console: Console) -> Tune:
    """With `pack_gpus`: the settings with the measured `gpus_per_trial`."""
    if not settings.pack_gpus:
        return settings
    highest = packing.largest(found, len(prepared.items), lambda values: _of_trial(found, Trial(0, values), settings))
    measured = packing.gpus_per_trial(settings, highest, prepared.folder, console.print)
    return dataclasses.replace(settings, gpus_per_trial=measured, pack_gpus=0)


def _make_good(folder: str, trials: Mapping[int, Trial], kept: "tracked.Tracked") -> None:
    """Do what is left to do for trials that have ended: the job may have been killed right after it wrote that down."""
    for one in trials.values():
        if one.ended:
            storage.remove_folder(storage.join(records.trial_folder(folder, one.number), trial.RUN))
            kept.trial(one)


def _search(
    settings: Tune, found: Space, prepared: Prepared, folder: str, trials: dict[int, Trial], progress: "_Progress"
) -> None:
    from gru4rec.tuning.search import Search, run

    def given(one: Trial) -> Hyperparameters:
        return _of_trial(found, one, settings)

    until = time.time() + (settings.hours * 3600 if settings.hours else math.inf)
    search = Search(folder, found, settings, trials, progress.ended, until, progress.meanwhile)
    run(search, given, prepared.folder, prepared.fingerprint)


def _of_trial(found: Space, one: Trial, settings: Tune) -> Hyperparameters:
    """Each epoch of a trial is validated."""
    return hyperparameters(found, one, settings, patience=settings.epochs, monitor=settings.metric)


def hyperparameters(found: Space, one: Trial, settings: Tune, **others: Any) -> Hyperparameters:
    """The hyperparameters of a trial; `epochs` are the search's unless they are given."""
    given = {"epochs": settings.epochs, "seed": settings.seeds[0], **others}
    return found.hyperparameters({key: value for key, value in one.values.items() if key not in given}, **given)


def winning(found: Space, one: Trial, settings: Tune) -> tuple[Hyperparameters, int]:
    """The hyperparameters with which a winner is trained anew, and how many epochs: up to its best.

    A schedule stays laid over the epochs of the trial: over the fewer, its learning rates would be others.
    """
    epochs = one.curve.index(max(one.curve)) + 1
    chosen = hyperparameters(found, one, settings)
    return (chosen if chosen.lr_schedule != "constant" else dataclasses.replace(chosen, epochs=epochs)), epochs


class _Progress:
    """Tells a person of each trial that ends, and MLflow too; a person also how it goes, every `every_s` seconds."""

    def __init__(
        self,
        console: Console,
        settings: Tune,
        trials: Mapping[int, Trial],
        kept: "tracked.Tracked",
        every_s: float = 60.0,
    ) -> None:
        self._console, self._settings, self._trials, self._kept = console, settings, trials, kept
        self._began, self._before = time.monotonic(), sum(one.ended for one in trials.values())
        self._every_s, self._line_at = every_s, self._began + every_s

    def ended(self, one: Trial) -> None:
        self._kept.trial(one)
        shown = f"{one.value:.4f}" if one.value is not None else one.why
        self._say(f"trial {one.number} {one.status} after {len(one.curve)} epochs: {shown}  |  ")

    def meanwhile(self, in_hand: int) -> None:
        if time.monotonic() >= self._line_at:
            self._say(f"{in_hand} in hand, ")

    def _say(self, news: str) -> None:
        """A line that begins with the news, and how far the search is."""
        ended = sum(other.ended for other in self._trials.values())
        first, now = best(self._trials), time.monotonic()
        self._line_at = now + self._every_s
        self._console.print(
            f"{news}{ended} of {self._settings.trials} done, best "
            + (f"{first.value:.4f} (trial {first.number})" if first else "none")
            + _left(self._settings, ended, ended - self._before, now - self._began)
        )


def _left(settings: Tune, ended: int, of_these: int, spent: float) -> str:
    """What is left of a search, to be shown; `of_these` of its trials that have ended took `spent` seconds."""
    if ended >= settings.trials:
        return ""
    hours = settings.hours * 3600 - spent if settings.hours else math.inf
    if hours <= 0:
        return ", no more are begun"
    if not of_these:
        return ""
    return f", about {math.ceil(min(spent / of_these * (settings.trials - ended), hours) / 60)} min left"


def _result(
    settings: Tune,
    name: str,
    trials: Mapping[int, Trial],
    first: Trial,
    chosen: Hyperparameters,
    epochs: int,
    tested: Mapping[str, Any],
    prepared: Prepared,
) -> dict[str, Any]:
    counted = {status: sum(one.status == status for one in trials.values()) for status in ("stopped", "failed")}
    return {
        "search": name,
        "best": {
            "trial": first.number,
            "settings": {**first.values, "epochs": epochs},
            "metric": settings.metric,
            "value": first.value,
        },
        "trials": sum(one.ended for one in trials.values()),
        **counted,
        "epochs": sum(len(one.curve) for one in trials.values()),
        "seeds": list(settings.seeds),
        "model_name": settings.model_name,
        "test": dict(tested),
        "hyperparameters": dataclasses.asdict(chosen),
        "data": storage.shown(prepared.folder),
        "data_fingerprint": prepared.fingerprint,
    }


def _table(result: Mapping[str, Any]) -> Table:
    tested = result["test"]
    found = Table(title=f"test split, {tested['predictions']:,} predictions, 95 % intervals", title_justify="left")
    found.add_column("")
    for heading in ("Recall@20", "MRR@20", "NDCG@20"):
        found.add_column(heading, justify="right")
    for label, metrics in tested["metrics"].items():
        cells = []
        for key, value in metrics.items():
            low, high = tested["intervals"][label][key]
            cells.append(f"{value:.4f}\n{low:.4f}–{high:.4f}")
        found.add_row(label, *cells)
    if len(tested["metrics"]) > 2:
        deviation = tested["deviation"]
        found.add_row(
            "mean of seeds", *(f"{value:.4f} ± {deviation[key]:.4f}" for key, value in tested["mean"].items())
        )
    return found


def _registered(settings: Tune, run_id: str, model: str, result: Mapping[str, Any], prepared: Prepared) -> str:
    """Register the model of the first seed (not of the one that tests best), as the candidate; its version.

    Called again for the same winner of the search `run_id`, it does what is left to do.
    """
    label = f"seed {settings.seeds[0]}"
    metrics = result["test"]["metrics"][label]
    chosen = ", ".join(f"{key} {value}" for key, value in result["best"]["settings"].items())
    description = (
        f"The best of {result['trials']} trials of search {result['search']} (trial {result['best']['trial']}: "
        f"{chosen}), trained on training and validation split. Test split: Recall@20 {metrics['recall_at_20']:.4f}, "
        f"MRR@20 {metrics['mrr_at_20']:.4f}."
    )
    of_winner = tracked.run_of_winner(run_id, result, prepared)
    version = registry.register(
        of_winner,
        model,
        settings.model_name,
        metrics,
        prepared.fingerprint,
        tags={"search": result["search"], tracked.SEARCH: run_id, tracked.TRIAL: str(result["best"]["trial"])},
        description=description,
    )
    if version:
        registry.set_alias(settings.model_name, version, CANDIDATE)
    runs.finish(of_winner)
    return version
