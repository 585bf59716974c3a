"""What a prepared folder was made of: enough to know that doing it again would give the same."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pyarrow import fs

from gru4rec import config, storage
from gru4rec.errors import InputError
from gru4rec.sessions.prepared import Prepared

VERSION = 1
"""To be raised where the same files and settings give another folder than before."""

_NOT_IN_THE_FOLDER = {"clicks", "test_clicks", "out", "partitions", "force", "verbose", "debug"}
"""Settings that change nothing in it; which files --clicks stands for is looked up."""


def fingerprint(logs: Sequence[Sequence[str]], settings: config.Prepare) -> str:
    """Digest of the files of each log (path, size, and time of change or the store's ETag) and of the settings.

    Taken before the files are read: one that changes meanwhile makes the folder out of date.
    """
    kept = {name: value for name, value in dataclasses.asdict(settings).items() if name not in _NOT_IN_THE_FOLDER}
    with ThreadPoolExecutor(16) as pool:  # object stores answer slowly, and many at a time
        files = [list(pool.map(_state, log)) for log in logs]
    return hashlib.sha256(json.dumps([VERSION, kept, files], sort_keys=True).encode()).hexdigest()


def _state(path: str) -> list[Any]:
    filesystem, inner = storage.locate(path)
    try:
        if isinstance(filesystem, fs.LocalFileSystem):
            status = os.stat(inner)
            return [path, status.st_size, status.st_mtime_ns]
        info = filesystem.get_file_info(inner)
        with filesystem.open_input_stream(inner) as stream:
            about = stream.metadata() or {}
    except OSError as error:
        raise InputError(f"{storage.shown(path)}: cannot be read: {error}") from error
    tag = about.get("ETag") or about.get(b"ETag") or b""
    changed = tag.decode() if isinstance(tag, bytes) else tag
    return [storage.shown(path), info.size, changed or info.mtime_ns]


def already_prepared(out: str, made_of: str) -> dict[str, Any] | None:
    """What prepare.json of `out` says, where `out` is whole and made of `made_of`; None otherwise."""
    try:
        found = Prepared(out)
        if found.summary.get("made_of") != made_of:
            return None
        for split in found.summary["splits"]:
            found.shards(split)  # every file is there, and is Parquet
        return found.summary if found.items.num_rows == found.summary["items"] else None
    except InputError:
        return None
