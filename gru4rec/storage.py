"""Paths that `pyarrow.fs` opens: local, `s3://`, `gs://`; and writing files that are whole or absent."""

import contextlib
import ctypes
import errno
import json
import os
import re
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from gru4rec.errors import InputError, masked


def locate(path: str) -> tuple[fs.FileSystem, str]:
    """The file system of `path` and the path inside it (absolute, where it is local).

    Raises InputError for a scheme that `pyarrow.fs` does not know.
    """
    if "://" not in path:
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(path))
    try:
        filesystem, inner = fs.FileSystem.from_uri(path)
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: cannot open this location: {error}") from error
    return filesystem, inner.rstrip("/")


def absolute(path: str) -> str:
    """`path` as workers on any node understand it: local paths absolute, URIs unchanged."""
    return join(path) if "://" in path else os.path.abspath(os.path.expanduser(path))


def join(path: str, *names: str) -> str:
    """`path/name/…`; the options of a URI (`s3://bucket/path?endpoint_override=…`) stay at its end."""
    options = ""
    if "://" in path:
        path, mark, options = path.partition("?")
        options = mark + options
    return "/".join([path.rstrip("/"), *names]) + options


def is_local(path: str) -> bool:
    return isinstance(locate(path)[0], fs.LocalFileSystem)


def publish(staging: str, out: str, last: str) -> None:
    """Make `staging`, a folder beside `out`, become `out`; what `out` held before is gone afterwards.

    Local: the two folders exchange their names in one step, where the system has such a step (Linux, on most
    file systems), so that at every moment `out` is the old folder or the new one; elsewhere by two renames,
    see `recover`. Object stores cannot rename a folder: there, its files are copied one by one, and the file
    `last`, by which readers know a whole folder, after all others.
    """
    filesystem, source = locate(staging)
    _, target = locate(out)
    if isinstance(filesystem, fs.LocalFileSystem):
        _replace(source, target)
        return
    remove_folder(out)
    filesystem.create_dir(target, recursive=True)
    found = filesystem.get_file_info(fs.FileSelector(source, recursive=True))
    names = [info.path[len(source) + 1 :] for info in found if info.type == fs.FileType.File]
    for name in sorted(names, key=lambda name: (name == last, name)):
        filesystem.copy_file(f"{source}/{name}", f"{target}/{name}")
    remove_folder(staging)


def _replace(source: str, target: str) -> None:
    retired = ""
    while True:  # again only where another job put a folder there meanwhile
        try:
            os.rename(source, target)  # nothing there, or an empty folder
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        if _exchange(source, target):
            retired = source
            break
        retired = f"{target}.{uuid.uuid4().hex}.old"
        os.rename(target, retired)
    with contextlib.suppress(OSError):  # the new folder is in its place: that is not undone by what is left over
        if os.path.islink(retired):
            os.unlink(retired)
        elif retired:
            remove_folder(retired)


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux


def _exchange(one: str, other: str) -> bool:
    """Let two names of one file system change places in one step; False where the system cannot do that."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), one)


def recover(out: str) -> None:
    """Put right what a job left that was killed within `publish`, where that takes two renames.

    The earlier folder, moved aside, gets its name back where `out` is missing, and is deleted where the new
    one had taken its place. Only local folders; readers never do this, since a reader may not write.
    """
    if not is_local(out):
        return
    target = locate(out)[1]
    parent, name = os.path.split(target)
    form = re.compile(re.escape(name) + r"\.[0-9a-f]{32}\.old")
    with contextlib.suppress(FileNotFoundError):
        for retired in sorted(entry.path for entry in os.scandir(parent) if form.fullmatch(entry.name)):
            if os.path.lexists(target):
                remove_folder(retired)
            else:
                os.rename(retired, target)


def exists(path: str) -> bool:
    filesystem, inner = locate(path)
    return filesystem.get_file_info(inner).type != fs.FileType.NotFound


def free_for(folder: str, mark: str) -> bool:
    """Whether a job may write `folder`: absent, empty, or its own earlier result, known by the file `mark`
    in it.
    """
    filesystem, inner = locate(folder)
    if filesystem.get_file_info(inner).type == fs.FileType.File:
        return False
    found = filesystem.get_file_info(fs.FileSelector(inner, allow_not_found=True))
    return not found or mark in {info.base_name for info in found}


def beside(folder: str, ending: str) -> str:
    """The neighbour of `folder` that is called the same with `ending` after it."""
    path, query, options = folder.partition("?") if "://" in folder else (folder, "", "")
    return path.rstrip("/") + ending + query + options


def shown(path: str) -> str:
    """`path` as it may be printed and stored: without the credentials of a URI such as
    s3://key:secret@bucket.
    """
    return masked(path, "")


def remove_file(path: str) -> None:
    filesystem, inner = locate(path)
    filesystem.delete_file(inner)


def list_files(folder: str, suffix: str = "") -> list[str]:
    """Names (not paths) of the files directly in `folder`, sorted; [] where the folder is absent."""
    filesystem, inner = locate(folder)
    found = filesystem.get_file_info(fs.FileSelector(inner, allow_not_found=True))
    return sorted(f.base_name for f in found if f.type == fs.FileType.File and f.base_name.endswith(suffix))


def list_folders(folder: str) -> list[str]:
    """Names (not paths) of the folders directly in `folder`, sorted; [] where it is absent."""
    filesystem, inner = locate(folder)
    found = filesystem.get_file_info(fs.FileSelector(inner, allow_not_found=True))
    return sorted(f.base_name for f in found if f.type == fs.FileType.Directory)


def sizes(folder: str, names: Sequence[str]) -> list[int | None]:
    """Bytes of each file `folder/name`; None where there is no such file."""
    filesystem, inner = locate(folder)
    found = filesystem.get_file_info([f"{inner}/{name}" for name in names])
    return [info.size if info.type == fs.FileType.File else None for info in found]


def sync_folder(folder: str) -> None:
    """Have the names in a local folder on the disk when this returns: a rename survives a power cut."""
    descriptor = os.open(locate(folder)[1], os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot do this to folders; they write names through.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: str) -> None:
    filesystem, inner = locate(folder)
    filesystem.create_dir(inner, recursive=True)


def remove_folder(folder: str) -> None:
    """Delete `folder` and what is in it; nothing happens where it is absent."""
    filesystem, inner = locate(folder)
    if filesystem.get_file_info(inner).type == fs.FileType.Directory:
        filesystem.delete_dir(inner)


def write_bytes(path: str, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    Local files are renamed into place; object stores show an object only once it is complete.
    """
    filesystem, inner = locate(path)
    if isinstance(filesystem, fs.LocalFileSystem):
        staged = f"{inner}.{uuid.uuid4().hex}.tmp"
        try:
            with open(staged, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(staged, inner)
        except BaseException:
            with contextlib.suppress(OSError):  # what went wrong first is what is raised
                os.unlink(staged)
            raise
        return

    def put() -> None:
        with filesystem.open_output_stream(inner) as stream:
            stream.write(content)

    # A stream that an interrupt leaves is closed, which makes an object of what was written so far, even of nothing.
    # The main thread alone is interrupted; here it waits until all is written.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(put).result()


def read_stamped(path: str) -> tuple[bytes, tuple[int, int] | None]:
    """(content of a file, what `stamp` said of it then); FileNotFoundError where there is none."""
    if not is_local(path):
        return read_bytes(path), None
    with open(locate(path)[1], "rb") as file:
        status = os.fstat(file.fileno())
        return file.read(), (status.st_ino, status.st_mtime_ns)


def stamp(path: str) -> tuple[int, int] | None:
    """Tells a local file from one that takes its name later; None for an absent one and on object stores."""
    try:
        status = os.stat(locate(path)[1]) if is_local(path) else None
    except FileNotFoundError:
        return None
    return (status.st_ino, status.st_mtime_ns) if status else None


def write_parquet(path: str, table: pa.Table) -> None:
    """Write a table as one Parquet file."""
    filesystem, inner = locate(path)
    with filesystem.open_output_stream(inner) as stream:
        pq.write_table(table, stream)


def read_bytes(path: str) -> bytes:
    """The content of a file; FileNotFoundError where there is none."""
    filesystem, inner = locate(path)
    with filesystem.open_input_file(inner) as file:  # knows its size: read at once, not gathered from pieces
        return file.read()


def write_json(path: str, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: str) -> Any:
    return json.loads(read_bytes(path))
