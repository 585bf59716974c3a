"""Checkpoints of a run: folders that are whole or do not count.

    PLACE/NAME/checkpoint.json   format, `about`, bytes and sha256 of every file, and sha256 of all this; it commits the
                                 checkpoint
    PLACE/NAME/FILE              what the writer keeps; FILE may lie in a folder: model/model.safetensors

PLACE is a local path or a URI and holds nothing else. NAMEs sort as they were made. One process writes to it,
any number read. On a local disk a checkpoint appears by one rename of a folder PLACE/NAME.….tmp; object stores
cannot rename, so checkpoint.json is written last there.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gru4rec import storage
from gru4rec.errors import GRU4RecError
from gru4rec.storage import join, shown

COMMIT = "checkpoint.json"
FORMAT = "gru4rec checkpoint"
FORMAT_VERSION = 1
_SELF = "sha256"

# Folders on their way: `tmp` is being written or removed; `old` makes room for a new one of its name, and still
# is that checkpoint where a kill came before the new one took the name.
_ASIDE = re.compile(r"(?P<name>.+)\.[0-9a-f]{32}\.(?P<why>tmp|old)")
_CHUNK = 1 << 20

_busy: set[str] = set()  # folders that a `save` of this process is working on


class Damaged(GRU4RecError):
    """A checkpoint cannot be used. The message names the file and what is wrong with it."""


class Content(NamedTuple):
    """What a file must be."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Loaded:
    """A checkpoint whose files were all found to be what was written."""

    name: str
    folder: str = field(repr=False)  # its path, to open what it holds: join(folder, "model"); may hold credentials
    about: dict[str, Any]
    files: dict[str, Content]

    def read(self, file: str) -> bytes:
        """The content of one of `files`, verified again. Raises Damaged."""
        path = join(self.folder, file)
        if file not in self.files:
            raise Damaged(f"{shown(path)}: is not part of this checkpoint; it has {' '.join(self.files)}")
        with _reading(path):
            content = storage.read_bytes(path)
        _check(path, Content(len(content), hashlib.sha256(content).hexdigest()), self.files[file])
        return content


def save(place: str, name: str, files: Mapping[str, Callable[[], bytes]], about: Mapping[str, Any]) -> None:
    """Make the checkpoint `name` of the contents of `files`; a checkpoint that had this name is replaced.

    The contents are made one after the other, never two at a time. `about` is JSON: what the writer wants known.
    When this returns, the checkpoint is on the disk or in the store. Whatever fails is raised (OSError, what a
    content's maker raises): then nothing of the checkpoint is left, as far as it can be removed, and earlier ones are
    as they were. On an object store, an earlier one of the same name is removed first. Raises ValueError for a name
    that no checkpoint or file can have, TypeError for an `about` that is not JSON.
    """
    if not name or "/" in name or name in (".", "..") or _ASIDE.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a checkpoint")
    wrong = [file for file in files if not _is_file_name(file)]
    if wrong:
        raise ValueError(f"{wrong[0]!r} cannot name a file of a checkpoint")
    about = json.loads(json.dumps(about))  # raises before anything is written; what the caller changes later is not in
    place = storage.absolute(place)
    local = storage.is_local(place)
    written = join(place, _aside(name, "tmp") if local else name)
    with _working_on(written):
        if not local:
            _remove(written)
        try:
            _write(written, files, about, local)
            if local:
                _put_in_place(place, written, name)
        except BaseException:
            with contextlib.suppress(Exception):  # what went wrong first is what is raised
                _remove(written)
            raise


def _write(folder: str, files: Mapping[str, Callable[[], bytes]], about: Mapping[str, Any], local: bool) -> None:
    """All files of a checkpoint, `COMMIT` last."""
    folders = [folder, *sorted({join(folder, file.split("/")[0]) for file in files if "/" in file})]
    if local:
        for path in folders:
            storage.make_folder(path)
    listed = {file: _write_one(join(folder, file), make)._asdict() for file, make in files.items()}
    commit = {"format": FORMAT, "format_version": FORMAT_VERSION, "about": about, "files": listed}
    storage.write_json(join(folder, COMMIT), commit | {_SELF: _digest(commit)})
    if local:
        for path in folders:
            storage.sync_folder(path)


def _digest(commit: Mapping[str, Any]) -> str:
    """Digest of what checkpoint.json says, apart from the digest itself."""
    said = {key: value for key, value in commit.items() if key != _SELF}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _write_one(path: str, make: Callable[[], bytes]) -> Content:
    """A function of its own, so that the content is let go before the next one is made."""
    content = make()
    storage.write_bytes(path, content)
    return Content(len(content), hashlib.sha256(content).hexdigest())


def _put_in_place(place: str, written: str, name: str) -> None:
    """Rename the folder `written`, complete on the local disk, to the name of its checkpoint."""
    source, target = storage.locate(written)[1], storage.locate(join(place, name))[1]
    if not os.path.lexists(target):
        os.rename(source, target)
    else:
        retired = storage.locate(join(place, _aside(name, "old")))[1]
        os.rename(target, retired)
        try:
            os.rename(source, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.rename(retired, target)
            raise
    storage.sync_folder(place)
    for folder in storage.list_folders(place):
        parts = _ASIDE.fullmatch(folder)
        if parts and parts["name"] == name and parts["why"] == "old":
            with contextlib.suppress(OSError):  # the new one counts; `prune` tries again
                storage.remove_folder(join(place, folder))


def committed(place: str) -> list[str]:
    """Names of the checkpoints in `place`, in order; [] where it is absent. Their files are not looked at."""
    names = []
    for name, folder in _folders(storage.list_folders(place)).items():
        with contextlib.suppress(Damaged):
            _read_commit(join(place, folder))
            names.append(name)
    return names


def load(place: str, name: str) -> Loaded:
    """The checkpoint `name`, every file of it verified.

    Raises Damaged naming the file that is missing or not what was written; OSError where the storage fails.
    """
    place = storage.absolute(place)
    folder = join(place, _folders(storage.list_folders(place)).get(name, name))
    return _verified(folder, name, *_read_commit(folder))


def newest(place: str, wanted: Callable[[dict[str, Any]], bool], damaged: Callable[[Damaged], None]) -> Loaded | None:
    """The newest checkpoint that is whole and whose `about` is `wanted`; None where there is none.

    Every damaged one on the way is told to `damaged` and passed over. A storage that fails is no damage: that raises
    OSError, so that an outage does not send a run back to its beginning.
    """
    place = storage.absolute(place)
    for name, folder in reversed(_folders(storage.list_folders(place)).items()):
        path = join(place, folder)
        try:
            about, files = _read_commit(path)
            if wanted(about):
                return _verified(path, name, about, files)
        except Damaged as error:
            damaged(error)
    return None


def kept(whole: Sequence[tuple[str, Mapping[str, Any]]], n: int) -> set[str]:
    """The checkpoints to keep of `whole`, (name, about) in order.

    They are the `n` newest, and the `n` newest of those made between epochs (about["block"] == 0).
    """
    between = [name for name, about in whole if about.get("block") == 0]
    return {name for name, _ in whole[-n:]} | set(between[-n:])


def prune(place: str, n: int) -> None:
    """Remove the checkpoints that are not `kept`, oldest first, and what earlier processes left unfinished.

    Damaged ones (judged by checkpoint.json and the sizes of the files) do not count among the n; they go once n whole
    ones are newer. Folders without a checkpoint.json go at once, except those that this process is writing.
    """
    if n < 1:
        raise ValueError(f"{n} checkpoints to keep; at least 1")
    place = storage.absolute(place)
    listed = storage.list_folders(place)
    found = _folders(listed)
    commits = storage.sizes(place, [f"{folder}/{COMMIT}" for folder in found.values()])
    found = {name: folder for (name, folder), size in zip(found.items(), commits, strict=True) if size is not None}
    for folder in listed:
        if folder not in found.values() and not _is_in_use(join(place, folder)):
            _remove(join(place, folder))
    whole, damaged = [], []
    for name, folder in found.items():
        try:
            about, files = _read_commit(join(place, folder))
            _check_sizes(join(place, folder), files)
            whole.append((name, about))
        except Damaged:
            damaged.append(name)
    keep = kept(whole, n) | {name for name in damaged if sum(other > name for other, _ in whole) < n}
    for name, folder in found.items():
        if name not in keep:
            _remove(join(place, folder))


def _is_in_use(folder: str) -> bool:
    """Whether a folder that was not committed a moment ago is being written by this process, or is committed by now."""
    if storage.locate(folder)[1] in _busy:
        return True
    name = os.path.basename(storage.locate(folder)[1])
    return not _ASIDE.fullmatch(name) and storage.exists(join(folder, COMMIT))


def _remove(folder: str) -> None:
    """Remove a checkpoint so that, wherever this is interrupted, what is left does not look committed."""
    if not storage.is_local(folder):
        with contextlib.suppress(FileNotFoundError):
            storage.remove_file(join(folder, COMMIT))
        storage.remove_folder(folder)
        return
    place, name = os.path.split(storage.locate(folder)[1])
    parts = _ASIDE.fullmatch(name)
    with contextlib.suppress(FileNotFoundError):  # there is nothing to remove
        if not parts or parts["why"] != "tmp":
            aside = _aside(name, "tmp")
            os.rename(os.path.join(place, name), os.path.join(place, aside))
            storage.sync_folder(place)
            name = aside
        storage.remove_folder(os.path.join(place, name))


def _aside(name: str, why: str) -> str:
    return f"{name}.{uuid.uuid4().hex}.{why}"


def _is_file_name(file: str) -> bool:
    """Whether a checkpoint may hold it: a name, or a folder's and a name."""
    parts = file.split("/")
    return len(parts) <= 2 and parts[0] != COMMIT and not {"", ".", ".."} & set(parts)


@contextlib.contextmanager
def _working_on(folder: str) -> Iterator[None]:
    inner = storage.locate(folder)[1]
    _busy.add(inner)
    try:
        yield
    finally:
        _busy.discard(inner)


def _folders(listed: Sequence[str]) -> dict[str, str]:
    """The folder of each checkpoint by its name, in order of the names: all but staged ones, of those in a place."""
    folders = {folder: folder for folder in listed if not _ASIDE.fullmatch(folder)}
    for folder in listed:
        parts = _ASIDE.fullmatch(folder)
        if parts and parts["why"] == "old":
            folders.setdefault(parts["name"], folder)
    return dict(sorted(folders.items()))


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    """Turns what a file that is missing or cannot be read raises into Damaged."""
    try:
        yield
    except FileNotFoundError as error:
        raise Damaged(f"{shown(path)}: is missing") from error
    except OSError as error:
        if error.errno == errno.EIO:
            raise Damaged(f"{shown(path)}: cannot be read: {error}") from error
        raise


def _read_commit(folder: str) -> tuple[dict[str, Any], dict[str, Content]]:
    """`about` and the files that a checkpoint must have. Raises Damaged."""
    path = join(folder, COMMIT)
    with _reading(path):
        text = storage.read_bytes(path)
    try:
        commit = json.loads(text)
    except ValueError as error:
        raise Damaged(f"{shown(path)}: not valid JSON: {error}") from error
    if not isinstance(commit, dict) or commit.get("format") != FORMAT:
        raise Damaged(f"{shown(path)}: does not describe a {FORMAT}")
    if commit.get("format_version") != FORMAT_VERSION:
        raise Damaged(
            f"{shown(path)}: format version {commit.get('format_version')} is not {FORMAT_VERSION}; "
            "use the release that wrote it"
        )
    if commit.get(_SELF) != _digest(commit):
        raise Damaged(
            f"{shown(path)}: is not what was written: sha256 {_digest(commit)} instead of {commit.get(_SELF)}"
        )
    about, listed = commit.get("about"), commit.get("files")
    if not isinstance(about, dict) or not isinstance(listed, dict):
        raise Damaged(f"{shown(path)}: has no about or no files")
    files = {}
    for file, content in listed.items():
        try:
            files[file] = Content(**content)
        except TypeError as error:
            raise Damaged(f"{shown(path)}: does not say what {file!r} must be") from error
        if not _is_file_name(file):
            raise Damaged(f"{shown(path)}: {file!r} cannot be a file of a checkpoint")
    return about, files


def _check_sizes(folder: str, files: Mapping[str, Content]) -> None:
    for (file, content), size in zip(files.items(), storage.sizes(folder, list(files)), strict=True):
        path = join(folder, file)
        if size is None:
            raise Damaged(f"{shown(path)}: is missing")
        if size != content.bytes:
            raise Damaged(f"{shown(path)}: has {size} bytes instead of {content.bytes}")


def _verified(folder: str, name: str, about: dict[str, Any], files: dict[str, Content]) -> Loaded:
    """The checkpoint, once sizes and digests of all files are as they must be; raises Damaged where one is not."""
    _check_sizes(folder, files)
    for file, content in files.items():
        path = join(folder, file)
        filesystem, inner = storage.locate(path)
        digest, read = hashlib.sha256(), 0
        with _reading(path), filesystem.open_input_stream(inner) as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                read += len(chunk)
        _check(path, Content(read, digest.hexdigest()), content)
    return Loaded(name, folder, about, files)


def _check(path: str, found: Content, content: Content) -> None:
    if found.bytes != content.bytes:
        raise Damaged(f"{shown(path)}: has {found.bytes} bytes instead of {content.bytes}")
    if found.sha256 != content.sha256:
        raise Damaged(f"{shown(path)}: is not what was written: sha256 {found.sha256} instead of {content.sha256}")
