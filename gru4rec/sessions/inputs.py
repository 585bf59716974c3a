"""What a prepared folder was made of: enough to know that doing it again would give the same."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from gru4rec import config, storage
from gru4rec.errors import InputError
from gru4rec.sessions import report
from gru4rec.sessions.prepared import FILES, REMEDY, Prepared

VERSION = 2
"""To be raised where the same files and settings give another folder than before."""

_NOT_IN_THE_FOLDER = {"clicks", "test_clicks", "base", "out", "partitions", "force", "verbose", "debug"}
"""Settings that change nothing in it; which files --clicks stands for, and what --base is made of, is looked up."""

_FILES = pa.schema([("log", pa.int8()), ("path", pa.string()), ("size", pa.int64()), ("changed", pa.string())])


class State(NamedTuple):
    """A file as it is now."""

    path: str
    size: int  # bytes
    changed: str  # time of the last change (ns), or the store's ETag


def states(logs: Sequence[Sequence[str]]) -> list[list[State]]:
    """The files of each log as they are; to be looked at before they are read: one that changes meanwhile makes what
    is made of them out of date.
    """
    with ThreadPoolExecutor(16) as pool:  # object stores answer slowly, and many at a time
        return [list(pool.map(_state, log)) for log in logs]


def fingerprint(files: Sequence[Sequence[State]], lineage: Sequence[str], settings: config.Prepare) -> str:
    """Digest of the files of each log, of the bases that gave the items their index, and of the settings."""
    kept = {name: value for name, value in dataclasses.asdict(settings).items() if name not in _NOT_IN_THE_FOLDER}
    return hashlib.sha256(json.dumps([VERSION, kept, files, lineage], sort_keys=True).encode()).hexdigest()


def write_files(files: Sequence[Sequence[State]], folder: str) -> None:
    """Keep in a prepared folder which files it is made of."""
    rows = [(log, *state) for log, states in enumerate(files) for state in states]
    columns = zip(*rows, strict=True) if rows else [[]] * len(_FILES)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _FILES, strict=True)]
    storage.write_parquet(storage.join(folder, FILES), pa.table(arrays, schema=_FILES))


def read_files(prepared: Prepared) -> list[list[State]] | None:
    """What `write_files` has kept; None where there is none of it. Raises InputError where it cannot be read."""
    path = storage.join(prepared.data, FILES)
    if not storage.exists(path):
        return None
    filesystem, inner = storage.locate(path)
    try:
        with filesystem.open_input_file(inner) as file:
            rows = pq.ParquetFile(file).read().to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{storage.shown(path)}: cannot be read: {error}") from error
    return [[State(row["path"], row["size"], row["changed"]) for row in rows if row["log"] == log] for log in range(2)]


def _state(path: str) -> State:
    filesystem, inner = storage.locate(path)
    try:
        if isinstance(filesystem, fs.LocalFileSystem):
            status = os.stat(inner)
            return State(path, status.st_size, str(status.st_mtime_ns))
        info = filesystem.get_file_info(inner)
        with filesystem.open_input_stream(inner) as stream:
            about = stream.metadata() or {}
    except OSError as error:
        raise InputError(f"{storage.shown(path)}: cannot be read: {error}") from error
    tag = about.get("ETag") or about.get(b"ETag") or b""
    changed = tag.decode() if isinstance(tag, bytes) else tag
    return State(storage.shown(path), info.size, changed or str(info.mtime_ns))


def already_prepared(out: str, made_of: str) -> dict[str, Any] | None:
    """What prepare.json of `out` says, where `out` is whole and made of `made_of`; None otherwise.

    All sessions and items are read. Says what is wrong with a folder of `made_of`.
    """
    try:
        found = Prepared(out)
    except InputError:
        return None
    if found.summary.get("made_of") != made_of:
        return None
    try:
        for split in found.summary["splits"]:
            found.verify(split)
        found.verify_items()
    except InputError as error:
        wrong = " ".join(str(error).removesuffix(f": {REMEDY}").split())  # Arrow's own words may have several lines
        report.say(f"{wrong}: preparing again")
        return None
    return found.summary
