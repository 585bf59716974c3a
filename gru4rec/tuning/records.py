"""The folder of a search: what it is, and each of its trials, in JSON; from it alone an interrupted search goes on.

STORAGE/searches/NAME/search.json            what is searched, and how
…/trials/00012/trial.json                    the point of a trial
…/trials/00012/curve.json                    the metric after each epoch so far
…/trials/00012/result.json                   how it ended; a trial without is run, or gone on with
…/trials/00012/run/                          its training, while it lasts
…/final/trial-00012/seed-20/                 the winner, trained on training and validation split
…/.lock, or …/_claims/                       one job at a time: see gru4rec/lock.py
…/report.html                                the search for people
…/result.json                                the result of the job, once all is done
"""

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any

from gru4rec import storage
from gru4rec.config import Tune
from gru4rec.errors import InputError
from gru4rec.tuning.space import hashable
from gru4rec.tuning.trials import Trial

SEARCHES, SEARCH, RESULT = "searches", "search.json", "result.json"
_FORMAT = "gru4rec search"
_HALF = re.compile(r".+\.[0-9a-f]{32}\.(tmp|old)")  # on its way to its name, or from it
# Settings that say what the search finds: they must not change while it goes on. More trials may be asked for, and
# other seeds after the first, with which the trials are trained.
_WHAT = ("space", "metric", "algorithm", "scheduler", "epochs", "grace", "search_seed")
# How it is run is kept too, or a search that was begun on GPUs would go on on CPUs; but not the tracking URI, which may
# hold a password.
_HOW = ("trials", "seeds", "model_name", "experiment", "hours", "parallel", "threads", "gpus_per_trial", "pack_gpus")


def folder_of(settings: Tune, name: str) -> str:
    return storage.join(storage.absolute(settings.storage), SEARCHES, name)


def begin(folder: str, settings: Tune, space: str, data: str, fingerprint: str, run_id: str) -> None:
    """Write down what is searched. `space` is the text of the space."""
    kept = dataclasses.asdict(settings)
    storage.make_folder(folder)
    storage.write_json(
        storage.join(folder, SEARCH),
        {
            "format": _FORMAT,
            "data": storage.shown(data),
            "data_fingerprint": fingerprint,
            "run_id": run_id,
            "space_text": space,
            "settings": {name: kept[name] for name in _WHAT + _HOW} | {"space": storage.shown(settings.space)},
        },
    )


def read(folder: str) -> dict[str, Any]:
    """search.json. Raises InputError where the folder holds no search."""
    try:
        found = storage.read_json(storage.join(folder, SEARCH))
    except FileNotFoundError as error:
        raise InputError(f"{storage.shown(folder)}: there is no such search") from error
    except ValueError as error:
        raise InputError(f"{storage.shown(folder)}: {SEARCH} is not valid JSON: {error}") from error
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise InputError(f"{storage.shown(folder)}: holds no search")
    # What an earlier version did not keep was not settable then; trials could be stopped after their first epoch.
    before = {one.name: one.default for one in dataclasses.fields(Tune) if one.name in _WHAT + _HOW} | {"grace": 1}
    return found | {"settings": before | {key: value for key, value in found["settings"].items() if key in before}}


def check(kept: Mapping[str, Any], settings: Tune, space: str, fingerprint: str) -> None:
    """Raises InputError where a search is to go on as something else than it was begun as."""
    now = dataclasses.asdict(settings)
    for name in _WHAT:
        if name != "space" and now[name] != kept["settings"][name]:
            raise InputError(
                f"--{name.replace('_', '-')} is {now[name]}, but the search was begun with {kept['settings'][name]}: "
                "leave it as it was, or begin a search of another name"
            )
    first = kept["settings"]["seeds"][0]
    if now["seeds"][0] != first:
        raise InputError(
            f"--seeds begins with {now['seeds'][0]}, but the search was begun with {first}, with which its trials are "
            "trained: leave the first as it was, or begin a search of another name"
        )
    if space != kept["space_text"]:
        raise InputError("--space has changed since the search was begun: begin a search of another name")
    if fingerprint != kept["data_fingerprint"]:
        raise InputError("--data is not what the search was begun with: begin a search of another name")


def go_on(folder: str, kept: Mapping[str, Any], settings: Tune) -> None:
    """Write down what the search is now asked for, so that it goes on as that: more trials, other seeds or name."""
    old = kept["settings"]
    new = old | {
        "trials": max(old["trials"], settings.trials),
        "seeds": list(settings.seeds),
        "model_name": settings.model_name,
    }
    if new != old:
        storage.write_json(storage.join(folder, SEARCH), {**kept, "settings": new})


def finished(folder: str, kept: Mapping[str, Any], settings: Tune) -> dict[str, Any] | None:
    """The result of a search that has nothing left to do of what it is asked for; else None."""
    if not storage.exists(storage.join(folder, RESULT)):
        return None
    done = storage.read_json(storage.join(folder, RESULT))
    of = {name: done.get(name, kept["settings"][name]) for name in ("seeds", "model_name")}
    same = tuple(of["seeds"]) == settings.seeds and of["model_name"] == settings.model_name
    return done if same and done["trials"] >= settings.trials else None


def settings_of(place: str, name: str) -> dict[str, Any]:
    """The settings that search `name` below the storage `place` was begun with. Raises InputError without it."""
    folder = storage.join(storage.absolute(place), SEARCHES)
    if not storage.exists(storage.join(folder, name, SEARCH)):
        known = [one for one in storage.list_folders(folder) if storage.exists(storage.join(folder, one, SEARCH))]
        there = " ".join(known) or "none"
        raise InputError(
            f"--resume {name}: there is no such search in {storage.shown(folder)}; there are: {there}; "
            "searches lie below --storage"
        )
    kept = read(storage.join(folder, name))
    return kept["settings"] | {"data": kept["data"], "run_name": name}


def trial_folder(folder: str, number: int) -> str:
    return storage.join(folder, "trials", f"{number:05d}")


def trials(folder: str) -> dict[int, Trial]:
    """All trials by number, in its order."""
    found = {}
    for name in storage.list_folders(storage.join(folder, "trials")):
        place = storage.join(folder, "trials", name)
        point = _json(place, "trial.json")
        if point is None:  # its job was killed before it was written down
            continue
        curve, result = _json(place, "curve.json") or {}, _json(place, "result.json") or {}
        found[point["number"]] = Trial(
            number=point["number"],
            values={key: hashable(value) for key, value in point["values"].items()},
            curve=tuple(result.get("curve", curve.get("curve", ()))),
            status=result.get("status", "running"),
            why=result.get("why", ""),
            seconds=result.get("seconds", 0.0),
        )
    return dict(sorted(found.items()))


def _json(folder: str, name: str) -> Any:
    try:
        return storage.read_json(storage.join(folder, name))
    except FileNotFoundError:
        return None


def keep_point(folder: str, trial: Trial) -> None:
    place = trial_folder(folder, trial.number)
    storage.make_folder(place)
    storage.write_json(storage.join(place, "trial.json"), {"number": trial.number, "values": dict(trial.values)})


def keep_curve(place: str, curve: list[float]) -> None:
    """`place` is the trial's folder."""
    storage.write_json(storage.join(place, "curve.json"), {"curve": curve})


def keep_result(folder: str, trial: Trial) -> None:
    content = {"status": trial.status, "curve": list(trial.curve), "why": trial.why, "seconds": trial.seconds}
    storage.write_json(storage.join(trial_folder(folder, trial.number), RESULT), content)


def tidy(folder: str) -> None:
    """Remove what killed processes have left half-written. On an object store there is no such thing."""
    if not storage.is_local(folder):
        return
    for place, folders, files in os.walk(storage.locate(folder)[1]):
        for name in filter(_HALF.fullmatch, files):
            os.unlink(os.path.join(place, name))
        for name in list(filter(_HALF.fullmatch, folders)):
            folders.remove(name)
            storage.remove_folder(os.path.join(place, name))
