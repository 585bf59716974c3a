"""A training run's folder below `--storage`, by which a later command finds what an earlier one left.

RUN/run.json      the MLflow run, the data, and the settings: what is trained, and how
RUN/start/        the model to go on from, with `--warm-start`
RUN/result.json   once all is done: the job's result; run.json then says which name and folder the model got
and what `loop.py` keeps there
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from gru4rec import storage
from gru4rec.config import Hyperparameters, Simulation, Train
from gru4rec.errors import InputError

RUNS, RUN, RESULT, START = "runs", "run.json", "result.json", "start"

_HALF = re.compile(r".+\.[0-9a-f]{32}\.(tmp|old)")  # on its way to its name, or from it

# What is trained; a run is gone on with as it was begun.
_WHAT = [*(field.name for field in fields(Hyperparameters)), "sync_every", "warm_start"]
# How, and where to; the command that goes on may say otherwise. Where things are recorded (`tracking_uri`, `storage`)
# is not kept: it may hold credentials.
_HOW = [
    *("workers", "threads", "gpus", "cutoffs", "experiment", "model_name", "model_out"),
    *("checkpoint_minutes", "checkpoint_steps", "keep_checkpoints", "max_failures", "stall_timeout", "resize_seconds"),
    *(field.name for field in fields(Simulation)),
]


@dataclass(frozen=True)
class Run:
    """A run that has begun."""

    name: str
    folder: str
    run_id: str  # MLflow's
    data: str  # prepared folder
    data_fingerprint: str
    model_name: str = ""  # to register it as; of a finished run: as which it was, "" where it was not
    model_out: str = ""  # folder that gets the model too, as `_kept_path` has it

    @property
    def start(self) -> str:
        """Folder of the model to go on from."""
        return storage.join(self.folder, START)

    def result(self) -> dict[str, Any] | None:
        """What the finished run printed; None while it is not finished."""
        path = storage.join(self.folder, RESULT)
        return storage.read_json(path) if storage.exists(path) else None

    def finish(self, result: Mapping[str, Any], settings: Train) -> None:
        """Keep the result, and which name and folder the model got; remove what killed processes left half-written."""
        for name in filter(_HALF.fullmatch, storage.list_files(self.folder)):
            storage.remove_file(storage.join(self.folder, name))
        for name in filter(_HALF.fullmatch, storage.list_folders(self.folder)):
            storage.remove_folder(storage.join(self.folder, name))
        kept = storage.read_json(storage.join(self.folder, RUN))
        now = {"model_name": settings.model_name, "model_out": _kept_path(settings.model_out)}
        if kept["settings"] != kept["settings"] | now:  # the command that went on said otherwise
            storage.write_json(storage.join(self.folder, RUN), {**kept, "settings": kept["settings"] | now})
        storage.write_json(storage.join(self.folder, RESULT), result)

    def gets_another_folder(self, settings: Train) -> bool:
        """Whether `settings` ask a finished run for its model in a folder that it was not written to.

        Raises InputError where they ask for another name in the registry.
        """
        if settings.model_name != self.model_name:
            raise InputError(
                f"--model-name is {settings.model_name!r}, but run {self.name} is finished, with {self.model_name!r}: "
                "leave it as it was, or begin a run of another name"
            )
        return _kept_path(settings.model_out) not in ("", self.model_out)


def runs_in(place: str) -> str:
    """The folder of all runs below `--storage`."""
    return storage.join(storage.absolute(place), RUNS)


def begin(settings: Train, run_id: str, data: str, data_fingerprint: str) -> Run:
    """The folder of a new run: its name is `run_name`, or MLflow's run id."""
    name = settings.run_name or run_id
    out = _kept_path(settings.model_out)
    folder = storage.join(runs_in(settings.storage), name)
    run = Run(name, folder, run_id, data, data_fingerprint, settings.model_name, out)
    kept = dataclasses.asdict(settings)
    written = {
        "format": "gru4rec run",
        "run_id": run_id,
        "data": storage.shown(data),
        "data_fingerprint": data_fingerprint,
        "settings": {key: kept[key] for key in _WHAT + _HOW}
        | {"warm_start": storage.shown(settings.warm_start), "model_out": out},
    }
    storage.make_folder(run.folder)
    storage.write_json(storage.join(run.folder, RUN), written)
    return run


def _kept_path(path: str) -> str:
    return storage.shown(storage.absolute(path)) if path else ""


def find(settings: Train) -> Run | None:
    """The run that `settings` go on with; None where they begin a new one.

    Raises InputError where `--resume` names no run, or where they would train something else than was begun.
    """
    name = settings.resume or settings.run_name
    if not name:
        return None
    folder = storage.join(runs_in(settings.storage), name)
    if not settings.resume and not storage.exists(storage.join(folder, RUN)):
        return None
    kept = _read(settings.storage, name)
    # What the release that began the run did not keep was not settable then, and was as the default is.
    was = {field.name: _plain(field.default) for field in fields(Train)} | kept["settings"]
    now = dataclasses.asdict(settings) | {"warm_start": storage.shown(settings.warm_start)}
    for key in _WHAT:
        if _plain(now[key]) != was[key]:
            raise InputError(
                f"--{key.replace('_', '-')} is {now[key]}, but run {name} was begun with {was[key]}: "
                "leave the setting as it was, or begin a run of another name"
            )
    data = kept["data"]
    if settings.data:
        if storage.shown(storage.absolute(settings.data)) != data:
            raise InputError(
                f"--data is {storage.shown(settings.data)}, but run {name} was begun with {data}: "
                "leave it as it was, or begin a run of another name"
            )
        data = settings.data
    return Run(name, folder, kept["run_id"], data, kept["data_fingerprint"], was["model_name"], was["model_out"])


def settings_of(place: str, name: str) -> dict[str, Any]:
    """The settings that run `name` below the storage `place` was begun with. Raises InputError where there is none."""
    kept = _read(place, name)
    return kept["settings"] | {"data": kept["data"]}


def _read(place: str, name: str) -> dict[str, Any]:
    runs = runs_in(place)
    path = storage.join(runs, name, RUN)
    try:
        kept = storage.read_json(path)
    except FileNotFoundError as error:
        known = [found for found in storage.list_folders(runs) if storage.exists(storage.join(runs, found, RUN))]
        raise InputError(
            f"--resume {name}: there is no such run in {storage.shown(runs)}; there are: {' '.join(known) or 'none'}; "
            "runs lie below --storage"
        ) from error
    except ValueError as error:
        raise InputError(f"{storage.shown(path)}: not valid JSON: {error}") from error
    if not isinstance(kept, dict) or kept.get("format") != "gru4rec run":
        raise InputError(f"{storage.shown(path)}: does not describe a run")
    lacking = [key for key in ("run_id", "data", "data_fingerprint") if not isinstance(kept.get(key), str)]
    lacking += [] if isinstance(kept.get("settings"), dict) else ["settings"]
    if lacking:
        raise InputError(f"{storage.shown(path)}: is not whole: it has no {lacking[0]}; begin a run of another name")
    unknown = sorted(kept["settings"].keys() - {*_WHAT, *_HOW})
    if unknown:
        raise InputError(
            f"{storage.shown(path)}: has the setting {unknown[0]}, which this release does not know; go on with the "
            "release that began the run, or begin one of another name"
        )
    return kept


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
