"""Where prepare writes what nobody reads yet, and the one step by which that becomes the output.

A local OUT is written as its neighbour `OUT.<machine>-<random>.staging`, which takes the name OUT at the end
(`storage.publish`). On an object store, OUT holds one folder a version, `data-<random>`, and prepare.json names the one
to read: replacing that one object is the step. The version before is kept until the next prepare, so that jobs which
are reading it can end; how readers follow is told in `prepared`.

A prepare that is killed leaves its folder behind; the next one of the same OUT deletes it, but never that of a job
that is still running. On the same machine a lock tells, which ends with the process that holds it; otherwise, and on
object stores, a folder in which nothing has been written for a day counts as left behind.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pyarrow import fs

from gru4rec import storage
from gru4rec.errors import InputError
from gru4rec.sessions.prepared import SUMMARY
from gru4rec.sessions.summary import parsed

ABANDONED = 24 * 3600
"""Seconds without a write after which a folder whose job cannot be asked counts as left behind."""

_VERSION = re.compile(r"data-[0-9a-f]{8}")


class Staging(NamedTuple):
    """A folder to write to."""

    folder: str
    publish: Callable[[dict[str, Any]], None]  # with what prepare.json is to say


def free(out: str) -> bool:
    """Whether prepare may write `out`: absent, empty, or what prepare wrote, if only begun."""
    if storage.free_for(out, SUMMARY):
        return True
    if storage.is_local(out):
        return False
    held = [*storage.list_files(out), *storage.list_folders(out)]
    return bool(held) and all(_VERSION.fullmatch(name) for name in held)


def tidy(out: str) -> None:
    """Put right and delete what killed jobs left of `out`, as far as possible."""
    with contextlib.suppress(OSError):
        if storage.is_local(out):
            storage.recover(_real(out))
            _tidy_local(_real(out))
        else:
            _tidy_store(out)


def staged(out: str) -> contextlib.AbstractContextManager[Staging]:
    """A new folder to write to, which is gone after the block unless it was published."""
    return _local(_real(out)) if storage.is_local(out) else _in_store(out)


def _real(out: str) -> str:
    """Where a link is given, the folder is replaced and the link stays."""
    return os.path.realpath(storage.absolute(out))


@contextlib.contextmanager
def _local(out: str) -> Iterator[Staging]:
    folder, lock = "", None
    while lock is None:  # again where another job's tidying came between the two steps
        folder = f"{out}.{_machine()}-{uuid.uuid4().hex[:8]}.staging"
        os.makedirs(folder)
        lock = _locked(folder)
    try:

        def publish(summary: dict[str, Any]) -> None:
            storage.write_json(storage.join(folder, SUMMARY), summary)
            storage.publish(folder, out, last=SUMMARY)

        yield Staging(folder, publish)
    finally:
        try:
            storage.remove_folder(folder)
        finally:
            os.close(lock)


def _tidy_local(out: str) -> None:
    parent, name = os.path.split(out)
    form = re.compile(re.escape(name) + r"\.([0-9a-f]{8})-[0-9a-f]{8}\.staging")
    for entry in list(os.scandir(parent)):
        found = form.fullmatch(entry.name)
        if not found:
            continue
        if found[1] == _machine() and _has_locks(entry.path):
            lock = _locked(entry.path)
            if lock is None:
                continue
            os.close(lock)  # nobody else ever locks it again
        elif time.time() - _last_written(entry.path) <= ABANDONED:
            continue
        storage.remove_folder(entry.path)


@functools.cache
def _machine() -> str:
    """Tells running systems apart: locks say nothing about jobs of another, or from before a restart."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            name = file.read()
    except OSError:
        name = str(uuid.getnode())
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def _locked(folder: str) -> int | None:
    """A descriptor that holds the folder's lock until it is closed; None where another has it or the folder is gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(folder)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        return descriptor  # a file system without locks: age alone tells
    os.close(descriptor)
    return None


def _has_locks(folder: str) -> bool:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _last_written(folder: str) -> float:
    moments = [os.stat(folder).st_mtime]
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                moments.append(os.stat(os.path.join(place, name)).st_mtime)
    return max(moments)


@contextlib.contextmanager
def _in_store(out: str) -> Iterator[Staging]:
    name = f"data-{uuid.uuid4().hex[:8]}"
    folder = storage.join(out, name)
    storage.make_folder(folder)
    published = False

    def publish(summary: dict[str, Any]) -> None:
        nonlocal published
        before, long_before = _versions(out)
        published = True  # also where no answer comes: the object may be written all the same
        storage.write_json(storage.join(out, SUMMARY), {**summary, "data": name, "data_before": before})
        if long_before:
            with contextlib.suppress(OSError):
                storage.remove_folder(storage.join(out, long_before))

    try:
        yield Staging(folder, publish)
    finally:
        if not published:
            storage.remove_folder(folder)


def _versions(out: str) -> tuple[str, str]:
    """The folder that prepare.json names, and the one before it; "" for none."""
    try:
        summary = parsed(storage.read_bytes(storage.join(out, SUMMARY)))
    except FileNotFoundError:
        return "", ""
    except ValueError as error:
        raise InputError(
            f"{storage.shown(storage.join(out, SUMMARY))}: {error}; mend it or take it away, or give another --out"
        ) from error
    return summary.get("data", ""), summary.get("data_before", "")


def _tidy_store(out: str) -> None:
    used = _versions(out)
    for name in storage.list_folders(out):
        if not _VERSION.fullmatch(name) or name in used:
            continue
        filesystem, inner = storage.locate(storage.join(out, name))
        found = filesystem.get_file_info(fs.FileSelector(inner, recursive=True))
        written = [info.mtime.timestamp() for info in found if info.mtime]
        if written and time.time() - max(written) > ABANDONED:
            storage.remove_folder(storage.join(out, name))
