"""The recommendations folder: which results it holds, and the one file that says which of them counts.

    OUT/manifest.json                      the result that counts: model, input, settings, files, totals, checks
    OUT/v7-1a2b3c4d/part-00000.parquet …   its parts: one row a session, in the order of the input
    OUT/v7-1a2b3c4d/states-00000.parquet … with --incremental: what the next night goes on from, see states.py
    OUT/v7-1a2b3c4d/exposure.parquet       item_id, lists: how many lists show the item, items that none shows left out
    OUT/v7-1a2b3c4d/manifest.json          its own copy of the manifest; copied over OUT/manifest.json, it counts again

With a date, all this lies in OUT/date=2026-11-22/. A result's folder is called by the model's version and the first
digits of its key, which stands for the model's weights and catalogue, the input's content and every setting that the
lists depend on. So what a killed run has left is known again, parts of two results can never mix, and replacing
manifest.json, one step on every storage, is all that publishing is: a reader who goes by it finds the old result or the
new one, whole.
"""

import contextlib
import datetime
import hashlib
import json
import re
import time
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from pyarrow import fs

from gru4rec import storage
from gru4rec.errors import GRU4RecError, InputError
from gru4rec.lock import CLAIMS, LOCK
from gru4rec.scoring import source as sources
from gru4rec.storage import shown
from gru4rec.tracking.folder import LoadedModel

MANIFEST = "manifest.json"
FORMAT = "gru4rec recommendations"
FORMAT_VERSION = 2

ABANDONED_S = 24 * 3600
"""Seconds without a write after which a result that was begun counts as left behind."""

_RESULT = re.compile(r"(v\d+|model)-[0-9a-f]{8}")
_DATE = re.compile(r"date=(\d{4}-\d{2}-\d{2})")
_HALF = re.compile(re.escape(MANIFEST) + r"\.[0-9a-f]{32}\.tmp")  # of a run that was killed while it wrote


def place(out: str, date: str) -> str:
    """The folder whose manifest.json counts: `out`, or the date's folder in it."""
    return storage.join(storage.absolute(out), *([f"date={date}"] if date else []))


def key(model: str, source: sources.Source, settings: Mapping[str, Any]) -> str:
    """What tells results apart, 64 hexadecimal digits: equal keys, equal lists. `model` is the model's digest."""
    cut = [sources.SMALLEST_PIECE, sources.LARGEST_PIECE, sources.PIECES, sources.ENTRIES]
    parts = {"model": model, "input": source.digest, "settings": dict(settings), "pieces": cut}
    return hashlib.sha256(json.dumps([FORMAT_VERSION, parts], sort_keys=True).encode()).hexdigest()


def model_digest(loaded: LoadedModel) -> str:
    """Digest of a model's weights, hyperparameters and catalogue."""
    found = hashlib.sha256(repr(loaded.model.hyperparameters).encode())
    for name, weight in loaded.model.tensors().items():
        found.update(name.encode())
        found.update(weight.cpu().contiguous().view(-1).numpy().view("u1").data)
    items = loaded.items.select(["item_id", "support"]).replace_schema_metadata(None).combine_chunks()
    with pa.ipc.new_stream(sink := pa.BufferOutputStream(), items.schema) as stream:
        stream.write_table(items)
    found.update(sink.getvalue())
    return found.hexdigest()


def result_name(version: str | None, key: str) -> str:
    return f"{f'v{version}' if version else 'model'}-{key[:8]}"


def check_out(out: str, date: str, sessions: str) -> None:
    """Raises InputError where `out` holds the input or lies in it, or holds anything but results of this job."""
    target = storage.absolute(out)
    (filesystem, inner), (source, lies) = storage.locate(target), storage.locate(storage.absolute(sessions))
    if filesystem == source and (f"{lies}/".startswith(f"{inner}/") or f"{inner}/".startswith(f"{lies}/")):
        raise InputError(f"--out {shown(out)}: holds the sessions to score, or lies among them; name another folder")
    for folder in dict.fromkeys([target, place(out, date)]):
        filesystem, inner = storage.locate(folder)
        if filesystem.get_file_info(inner).type == fs.FileType.File:
            raise InputError(f"--out {shown(out)}: is a file; name a folder")
        held = filesystem.get_file_info(fs.FileSelector(inner, allow_not_found=True))
        others = sorted(info.base_name for info in held if not _ours(info.base_name))
        if others:
            earlier = _format_version(folder) == 1
            what = "a result of an earlier release" if earlier else f"something else ({others[0]})"
            raise InputError(f"--out {shown(out)}: holds {what}; name a new folder")
    current(place(out, date))


def _ours(name: str) -> bool:
    return name in (MANIFEST, LOCK, CLAIMS) or any(form.fullmatch(name) for form in (_RESULT, _DATE, _HALF))


def _format_version(folder: str) -> int:
    try:
        found = storage.read_json(storage.join(folder, MANIFEST))
        return found["format_version"] if found["format"] == FORMAT else 0
    except (OSError, ValueError, TypeError, KeyError):
        return 0


def current(folder: str) -> dict[str, Any] | None:
    """The manifest of the result that counts in `folder`; None where none does.

    Raises InputError for a manifest.json that is not this job's, or of another format version.
    """
    path = storage.join(folder, MANIFEST)
    try:
        found = storage.read_json(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"{shown(path)}: not valid JSON: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InputError(f"{shown(path)}: is not the manifest of a result; name a new folder")
    if found.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{shown(path)}: format version {found.get('format_version')} is not {FORMAT_VERSION}; name a new folder"
        )
    return found


def whole(folder: str, content: Mapping[str, Any]) -> bool:
    """Whether every file that the manifest lists is there, as large as it says."""
    files = [*content["files"], *filter(None, [content.get("exposure")])]
    return storage.sizes(folder, [file["name"] for file in files]) == [file["bytes"] for file in files]


def publish(folder: str, name: str, content: Mapping[str, Any]) -> None:
    """Make the result `name` the one that counts in `folder`, in one step. Raises GRU4RecError where it is not whole.

    Where no answer comes (an object store), the step may have been done or not; either way what counts is whole.
    """
    if not whole(folder, content):
        raise GRU4RecError(f"{shown(storage.join(folder, name))}: a file is gone; run the same command again")
    storage.write_json(storage.join(folder, name, MANIFEST), content)
    if storage.is_local(folder):
        storage.sync_folder(storage.join(folder, name))
        storage.sync_folder(folder)
    storage.write_json(storage.join(folder, MANIFEST), content)
    if storage.is_local(folder):
        storage.sync_folder(folder)


def prune(folder: str, keep: int) -> list[str]:
    """Delete results, but the newest `keep` that were published and the one that counts; the names of the deleted.

    What was begun and not published goes once nothing has been written to it for a day: the lock must be held, but no
    result may depend on that. What cannot be deleted stays for the next time.
    """
    counts = current(folder)
    moments = {}
    for name in filter(_RESULT.fullmatch, storage.list_folders(folder)):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            moments[name] = storage.read_json(storage.join(folder, name, MANIFEST))["published"]
    newest = sorted(moments, key=lambda name: (moments[name], name), reverse=True)
    pointed = [counts["result"]] if counts else []
    kept = {*pointed, *[name for name in newest if name not in pointed][: keep - len(pointed)]}
    gone = []
    for name in filter(_RESULT.fullmatch, storage.list_folders(folder)):
        if name not in kept and (name in moments or _abandoned(storage.join(folder, name))):
            with contextlib.suppress(OSError):
                storage.remove_folder(storage.join(folder, name))
                gone.append(name)
    for name in filter(_HALF.fullmatch, storage.list_files(folder)):
        with contextlib.suppress(OSError):
            storage.remove_file(storage.join(folder, name))
    return gone


def _abandoned(folder: str) -> bool:
    filesystem, inner = storage.locate(folder)
    found = filesystem.get_file_info([inner]) + filesystem.get_file_info(fs.FileSelector(inner))
    written = [info.mtime.timestamp() for info in found if info.mtime]
    return time.time() - max(written, default=0.0) > ABANDONED_S


def nights(out: str, before: str, count: int) -> list[dict[str, Any]]:
    """Manifests of the last `count` dates before `before` (YYYY-MM-DD) that have a result, newest first.

    What cannot be read as one is no result.
    """
    target = storage.absolute(out)
    found: list[dict[str, Any]] = []
    for name in sorted(storage.list_folders(target), reverse=True):
        match = _DATE.fullmatch(name)
        if match and match[1] < before and len(found) < count:
            with contextlib.suppress(InputError):
                content = current(storage.join(target, name))
                if content:
                    found.append(content)
    return found


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
