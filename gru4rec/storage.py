"""Paths that `pyarrow.fs` opens: local, `s3://`, `gs://`; and writing files that are whole or absent."""

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from gru4rec.errors import InputError


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

    Local: two renames, so that a reader sees the old folder or the new one. Object stores cannot rename a
    folder: there, its files are copied one by one, and the file `last`, by which readers know a whole
    folder, after all others.
    """
    filesystem, source = locate(staging)
    _, target = locate(out)
    if isinstance(filesystem, fs.LocalFileSystem):
        retired = f"{target}.{uuid.uuid4().hex}.old"
        if os.path.lexists(target):
            os.rename(target, retired)
        os.rename(source, target)
        remove_folder(retired)
        return
    remove_folder(out)
    filesystem.create_dir(target, recursive=True)
    found = filesystem.get_file_info(fs.FileSelector(source, recursive=True))
    names = [info.path[len(source) + 1 :] for info in found if info.type == fs.FileType.File]
    for name in sorted(names, key=lambda name: (name == last, name)):
        filesystem.copy_file(f"{source}/{name}", f"{target}/{name}")
    remove_folder(staging)


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
    scheme, mark, rest = path.partition("://")
    if not mark:
        return path
    place, slash, inner = rest.partition("/")
    return scheme + mark + place.rpartition("@")[2] + slash + inner


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
    with filesystem.open_output_stream(inner) as stream:
        stream.write(content)


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
