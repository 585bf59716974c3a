"""Which files a click log is made of, what their columns are, and how reading them is cut into tasks."""

import csv
import fnmatch
import itertools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from gru4rec import storage
from gru4rec.errors import InputError
from gru4rec.sessions import id_bytes
from gru4rec.sessions.file_names import PACKED, PARQUET, UNPACK, visible
from gru4rec.sessions.formats import Format

SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".dat": ",", ".inter": "\t"}
KNOWN = (*SEPARATORS, *PARQUET)
"""How the names of files end, in any case, that are read where a folder is given."""

BYTES_PER_ROW = 25  # of a click in text, at least
_BESIDE_IDS = 15  # bytes of a click in text that are not its ids: the time, separators
_HEAD = 2**12  # bytes at the beginning of a text that tell how it is written
READ_BYTES = 64 * 2**20
"""What one task reads, about: small enough to keep a few of them in a worker's memory as text, columns and
rows.
"""


@dataclass(frozen=True)
class Source:
    """One file of a log."""

    number: int  # place in the order of all files
    log: int  # 0: --clicks, 1: --test-clicks
    path: str
    size: int  # bytes
    separator: str  # "": Parquet
    columns: int  # in a row of text
    wanted: tuple[int, ...]  # places of the wanted columns
    id_types: tuple[pa.DataType | None, pa.DataType | None]  # of session and item; None: text, as yet untyped
    row_groups: tuple[int, ...] = ()  # rows of each row group
    header: bool = False  # the first line of the text is no row
    rows: bool = True  # it has more than a header
    id_bytes: float = 0.0  # of the ids of a row of Parquet, where they are text, about
    catalogue: str = ""  # items.parquet of the prepared folder that it is a file of, see `base`; "": it is a log's

    @property
    def weight(self) -> int:
        """Bytes of its rows as text, about: Parquet is packed, and its size says little about its rows."""
        a_row = max(BYTES_PER_ROW, _BESIDE_IDS + math.ceil(self.id_bytes))
        return self.size if self.separator else a_row * sum(self.row_groups)


class Piece(NamedTuple):
    """A part of a file: the lines that start in bytes [start, end) of a text, or row groups [start, end)."""

    source: Source
    start: int
    end: int


class Paths(NamedTuple):
    """The files that paths, folders and globs stand for, each once, sorted by name."""

    files: list[str]
    skipped: list[str]  # the others in the folders, whose names end in none of KNOWN


def paths_of(given: Sequence[str], flag: str) -> Paths:
    """What `given`, paths, folders and globs, stands for.

    Folders are searched to the bottom for files whose names end in one of KNOWN; names that start with `.` or `_` are
    none of a log's. Raises InputError where one of `given` stands for nothing, and for a folder with a compressed file.
    """
    found: set[str] = set()
    skipped: set[str] = set()
    for path in given:
        files, others = _expand(path, flag)
        found.update(files)
        skipped.update(others)
    return Paths(sorted(found), sorted(skipped - found))


def _expand(path: str, flag: str) -> tuple[list[str], list[str]]:
    """(files that are read, files that are not) of one path, folder or glob."""
    filesystem, inner = storage.locate(path)

    def outside(name: str) -> str:
        """The path or URI of a file whose path inside the file system is `name`."""
        if "://" not in path:
            return name
        uri, mark, options = path.partition("?")
        return uri.rstrip("/").removesuffix(inner) + name + mark + options

    try:
        info = filesystem.get_file_info(inner)
        if info.type == fs.FileType.File:
            return [storage.absolute(path)], []
        if info.type == fs.FileType.Directory:
            names = [name for name in _below(filesystem, inner) if visible(name[len(inner) :])]
            for name in names:
                if name.lower().endswith(PACKED):
                    raise InputError(f"{storage.shown(outside(name))}: {UNPACK}, or move it out of {flag}")
            known = [name for name in names if name.lower().endswith(KNOWN)]
            if not known:
                raise InputError(f"{flag} {path}: no click log in this folder; known are files named {' '.join(KNOWN)}")
            return [outside(name) for name in known], [outside(name) for name in sorted({*names} - {*known})]
        if any(mark in inner for mark in "*[?"):
            fixed = inner[: min(inner.find(mark) for mark in "*[?" if mark in inner)].rpartition("/")[0]
            names = [name for name in _below(filesystem, fixed) if _matches(name, inner)]
            if not names:
                raise InputError(f"{flag} {path}: no file matches")
            return [outside(name) for name in names], []
    except OSError as error:
        raise InputError(f"{flag} {path}: cannot be opened: {error}") from error
    raise InputError(f"{flag} {path}: no such file")


def _below(filesystem: fs.FileSystem, folder: str) -> list[str]:
    selector = fs.FileSelector(folder, recursive=True, allow_not_found=True)
    return [info.path for info in filesystem.get_file_info(selector) if info.type == fs.FileType.File]


def _matches(name: str, pattern: str) -> bool:
    """Glob match part by part, so that `*` does not cross a `/`."""
    a, b = name.split("/"), pattern.split("/")
    return len(a) == len(b) and all(fnmatch.fnmatchcase(x, y) for x, y in zip(a, b, strict=True))


def open_all(logs: Sequence[Sequence[str]], form: Format, flags: dict[str, str], first: int = 0) -> list[Source]:
    """Look into every file of every log: its header or schema, and how long ids are that Parquet has as text, not all
    of its rows. Numbers them from `first` on.

    `flags` names, for a column, the setting that chose it, for the message. A text file of 0 bytes is one without
    rows, as an hour without a click leaves it; an empty Parquet file would have a schema. Raises InputError for a
    file that cannot be read or lacks a column, and where all files of a log have 0 bytes.
    """
    named = [(log, path) for log, paths in enumerate(logs) for path in paths]
    with ThreadPoolExecutor(16) as pool:  # object stores answer slowly, and many at a time
        jobs = [pool.submit(_open, i, log, path, form, flags) for i, (log, path) in enumerate(named, first)]
        found = [job.result() for job in jobs]
    for log in range(len(logs)):
        mine = [source for source in found if source.log == log]
        if mine and not any(source.size for source in mine):
            raise InputError(
                f"{storage.shown(mine[0].path)}: is empty (0 bytes){', as all files are' * (len(mine) > 1)}"
            )
    return found


def _open(number: int, log: int, path: str, form: Format, flags: dict[str, str]) -> Source:
    filesystem, inner = storage.locate(path)
    name = inner.lower()
    if name.endswith(PACKED):
        raise InputError(f"{path}: {UNPACK}")
    try:
        size = filesystem.get_file_info(inner).size or 0
        if not size:
            if name.endswith(PARQUET):
                raise InputError(f"{path}: is empty (0 bytes), which no Parquet file is; remove it or write it again")
            return Source(number, log, path, 0, _separator(path, form), 0, (), (None, None), rows=False)
        with filesystem.open_input_file(inner) as file:
            if name.endswith(PARQUET):
                return _open_parquet(number, log, path, size, file, form, flags)
            return _open_text(number, log, path, size, file, form, flags)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def _open_parquet(
    number: int, log: int, path: str, size: int, file: pa.NativeFile, form: Format, flags: dict[str, str]
) -> Source:
    if form.columns:
        raise InputError(f"{path}: this format is text without a header, not Parquet; see --format columns")
    parquet = pq.ParquetFile(file)
    schema = parquet.schema_arrow
    wanted = _places(path, schema.names, form, flags, "")
    types = []
    for column in (form.session, form.item):
        kind = schema.field(column).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise InputError(f"{path}: column {column!r} has type {kind}; ids must be integers or text")
        types.append(kind if pa.types.is_integer(kind) else pa.string())
    if form.gap:
        types[0] = pa.string()  # the id of a session is made from the user's, as text
    groups = tuple(parquet.metadata.row_group(i).num_rows for i in range(parquet.metadata.num_row_groups))
    text = {column for column in (form.session, form.item) if not pa.types.is_integer(schema.field(column).type)}
    length = id_bytes.mean(file, parquet.metadata, sorted(text))
    kinds = types[0], types[1]
    return Source(
        number, log, path, size, "", len(schema), wanted, kinds, groups, rows=sum(groups) > 0, id_bytes=length
    )


def _open_text(
    number: int, log: int, path: str, size: int, file: pa.NativeFile, form: Format, flags: dict[str, str]
) -> Source:
    separator = _separator(path, form)
    first = file.read(min(size, _HEAD if form.columns else 2**20))
    if _is_utf16(first[:_HEAD]):
        raise InputError(f"{path}: is text in UTF-16; write it in UTF-8")
    if form.columns:
        names, lines = list(form.columns), 1
    else:
        line, _, rest = first.partition(b"\n")
        names = _names(path, line, separator)
        lines = 1 if rest.strip() or len(first) < size else 0
    wanted = _places(path, names, form, flags, separator)
    return Source(
        number,
        log,
        path,
        size,
        separator,
        len(names),
        wanted,
        (None, None),
        header=not form.columns,
        rows=lines > 0,
    )


def _is_utf16(head: bytes) -> bool:
    """Whether a text that begins so is in UTF-16: by its mark, or without one by NULs at every other place."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    even, odd = (places.count(0) > len(places) / 2 for places in (head[::2], head[1::2]))
    return even != odd


def _names(path: str, line: bytes, separator: str) -> list[str]:
    text = line.decode("utf-8", "replace").removeprefix("\ufeff").rstrip("\r")
    if "\r" in text:
        raise InputError(f"{path}: the header has a carriage return inside; write lines that end with a newline")
    try:
        return next(csv.reader([text], delimiter=separator), [])
    except csv.Error as error:
        raise InputError(f"{path}: the first line is no header: {error}") from error


def _separator(path: str, form: Format) -> str:
    suffix = next((s for s in SEPARATORS if storage.locate(path)[1].lower().endswith(s)), ".csv")
    return form.separator or SEPARATORS[suffix]


def _places(path: str, names: list[str], form: Format, flags: dict[str, str], separator: str) -> tuple[int, ...]:
    for column in form.wanted:
        if column not in names:
            shown = ", ".join(repr(name[:60]) for name in names[:30])
            see = "" if form.published else ", see --separator"
            hint = f" (read with separator {separator!r}{see})" if separator and len(names) == 1 else ""
            chosen = f"; choose another with {flags[column]}" if column in flags else ""
            if flags.get(column) == "--session-column":
                chosen += ", or cut sessions from a column of users with --user-column and --session-gap"
            raise InputError(f"{path}: no column {column!r}; it has {shown}{hint}{chosen}")
        if names.count(column) > 1:
            raise InputError(f"{path}: has column {column!r} twice; give each a name of its own")
    return tuple(names.index(column) for column in form.wanted)


def pieces(sources: Sequence[Source], read_bytes: int = READ_BYTES) -> list[list[Piece]]:
    """What each task reads: every row of every file in exactly one piece, about `read_bytes` a task."""
    reads: list[list[Piece]] = []
    room = 0
    for source in sources:
        units = source.row_groups if not source.separator else (source.size,)
        count = len(source.row_groups) if not source.separator else source.size
        cuts = max(1, -(-source.weight // read_bytes))
        edges = [count * i // cuts for i in range(cuts + 1)] if sum(units) else []
        for start, end in itertools.pairwise(edges):
            if start == end:
                continue
            size = source.weight // cuts
            if not reads or size > room:
                reads.append([])
                room = read_bytes
            reads[-1].append(Piece(source, start, end))
            room -= size
    return reads


def carried_types(sources: Sequence[Source]) -> list[pa.DataType]:
    """Type in which session and item ids are read: that of the Parquet files where all agree, int64 where all are
    integers that it holds, else text.
    """
    types: list[pa.DataType] = []
    for place in (0, 1):
        found = {source.id_types[place] for source in sources}
        integers = {kind for kind in found if kind is not None and pa.types.is_integer(kind)}
        if integers != found or (pa.uint64() in found and len(found) > 1):
            types.append(pa.string())
        else:
            types.append(found.pop() if len(found) == 1 else pa.int64())
    return types


def may_be_integers(sources: Sequence[Source]) -> list[bool]:
    """Whether session and item ids, read as text, become integers if all of them are: not where Parquet has
    text.
    """
    return [
        any(source.id_types[place] is None for source in sources)
        and not any(source.id_types[place] == pa.string() for source in sources)
        for place in (0, 1)
    ]
