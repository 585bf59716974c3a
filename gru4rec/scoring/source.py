"""What is to be scored: finding the sessions, checking them, and cutting them into pieces.

A piece is a run of consecutive sessions, over file borders where need be. The cut depends on the input
alone, not on the machines, so the same input gives the same output files.
"""

import functools
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from gru4rec import storage
from gru4rec.errors import InputError
from gru4rec.sessions.catalogue import check_ids, is_list
from gru4rec.sessions.file_names import PACKED, PARQUET, UNPACK, visible
from gru4rec.sessions.prepared import SPLITS, SUMMARY, Prepared
from gru4rec.storage import shown

COLUMNS = ["session_id", "items"]
_CHUNK = 4 << 20  # bytes read at a time
SMALLEST_PIECE, LARGEST_PIECE, PIECES = 4096, 131_072, 64
ENTRIES = 1 << 24  # of all lists of a piece, at most: its texts must stay below 2 GiB


class Span(NamedTuple):
    """Rows `first … first + rows − 1` of one file."""

    path: str
    first: int
    rows: int
    stamp: str = ""  # of the file, when it was looked at first; "": whatever it is


class Source(NamedTuple):
    """Sessions to score."""

    path: str
    files: list[tuple[str, int]]  # path and rows, in order
    session_id: pa.DataType
    fingerprint: str
    digest: str  # of the bytes of all files, with their names
    prepared: pa.Table | None  # the items table that the clicks are indices of; None: clicks are item ids
    skipped: tuple[str, ...] = ()  # files that are no Parquet, each with the reason, where they are to be left out
    stamps: tuple[str, ...] = ()  # of each of `files`, before its content was read
    others: tuple[str, ...] = ()  # the rest of the folder, whose names end in none of PARQUET

    @property
    def count(self) -> int:  # type: ignore[override]
        """Files, the skipped among them."""
        return len(self.files) + len(self.skipped)

    @property
    def rows(self) -> int:
        return sum(rows for _, rows in self.files)


class Corrupt(InputError):
    """Bytes that can be read, and not understood."""


class _Footer(NamedTuple):
    rows: int
    schema: pa.Schema
    digest: bytes
    content: bytes
    stamp: str


def find(path: str, item_ids: pa.DataType, skip_corrupt: bool = False) -> Source:
    """The sessions at `path`: a split of a prepared folder, or Parquet with session_id and lists of item ids.

    `item_ids` is the type of the model's item ids. Footers are looked at; of the rest only the digest is taken. Raises
    InputError where there is nothing, a file is unreadable, a column is missing, or the ids cannot match; with
    `skip_corrupt`, files that are no Parquet are left out instead, if others are left. In a folder, files whose names
    end in none of PARQUET, in any case, are not looked at, and kept in `others`.
    """
    target = storage.absolute(path)
    parent, _, name = target.partition("?")[0].rpartition("/")
    options = target.partition("?")[1:] if "://" in target else ("", "")
    parent += "".join(options)
    prepared = None
    others: list[str] = []
    if name in SPLITS and storage.exists(storage.join(parent, SUMMARY)):
        prepared = Prepared(parent)  # which knows where a split lies
        prepared.verify_items()
        paths = prepared.files(name)
    elif not storage.exists(target):
        raise InputError(f"{shown(path)}: no such file or folder")
    elif storage.exists(storage.join(target, SUMMARY)):
        raise InputError(
            f"{shown(path)}: is a whole prepared folder; name the split: {shown(storage.join(path, 'test'))}"
        )
    else:
        paths, others = _parquet_files(target)
        if not paths:
            raise InputError(f"{shown(path)}: holds no Parquet file; known are files named {' '.join(PARQUET)}")
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(functools.partial(_footer_or_error, skip_corrupt=skip_corrupt), paths))
    skipped = [footer for footer in found if isinstance(footer, Corrupt)]
    left_out = [file for file, footer in zip(paths, found, strict=True) if isinstance(footer, Corrupt)]
    paths = [file for file, footer in zip(paths, found, strict=True) if isinstance(footer, _Footer)]
    footers = [footer for footer in found if isinstance(footer, _Footer)]
    if skipped and not footers:
        raise skipped[0]
    _check(paths, footers, pa.int32() if prepared else item_ids)
    _common_type(paths, footers, "items")  # a piece may be of several files
    digest, content = hashlib.sha256(), hashlib.sha256()
    for file, footer in zip(paths, footers, strict=True):
        digest.update(file.rpartition("/")[2].encode() + b"\0" + footer.digest)
        content.update(file.rpartition("/")[2].encode() + b"\0" + footer.content)
    for file in left_out:
        content.update(file.rpartition("/")[2].encode() + b"\0left out\0")
    if prepared:
        content.update(prepared.fingerprint.encode())  # of its items, which give the indices their meaning, as well
    return Source(
        path=path,
        files=[(file, footer.rows) for file, footer in zip(paths, footers, strict=True)],
        session_id=_common_session_id(paths, footers),
        fingerprint=f"{prepared.fingerprint}/{name}" if prepared else digest.hexdigest(),
        digest=content.hexdigest(),
        prepared=prepared.items if prepared else None,
        skipped=tuple(map(str, skipped)),
        stamps=tuple(footer.stamp for footer in footers),
        others=tuple(others),
    )


def _parquet_files(target: str) -> tuple[list[str], list[str]]:
    """(the file itself, or all Parquet files in the folder and below it; the other files there), in order of paths.

    Compressed files are among the first: they may hold sessions, and reading them says that they are compressed.
    """
    filesystem, inner = storage.locate(target)
    if filesystem.get_file_info(inner).type == fs.FileType.File:
        return [target], []
    found: list[str] = []
    others: list[str] = []
    for info in filesystem.get_file_info(fs.FileSelector(inner, recursive=True)):
        relative = info.path[len(inner) :].strip("/")
        if info.type == fs.FileType.File and visible(relative):
            (found if relative.lower().endswith(PARQUET + PACKED) else others).append(relative)
    return [storage.join(target, name) for name in sorted(found)], [storage.join(target, n) for n in sorted(others)]


def _footer_or_error(path: str, skip_corrupt: bool) -> _Footer | Corrupt:
    try:
        return _footer(path)
    except Corrupt as error:
        if skip_corrupt:
            return error
        raise


def _stamp(path: str) -> str:
    """What changes where a file is written anew."""
    filesystem, inner = storage.locate(path)
    found = filesystem.get_file_info(inner)
    return f"{found.size} {found.mtime_ns}"


def _footer(path: str) -> _Footer:
    filesystem, inner = storage.locate(path)
    if inner.lower().endswith(PACKED):
        raise Corrupt(f"{shown(path)}: {UNPACK}")
    try:
        stamp = _stamp(path)  # first: what is written from now on is noticed
        with filesystem.open_input_file(inner) as file:
            size = file.size()
            parquet = pq.ParquetFile(file)
            length = parquet.metadata.serialized_size
            tail = file.read_at(length + 8, max(0, size - length - 8))
            digest = hashlib.sha256(tail + str(size).encode()).digest()
            return _Footer(parquet.metadata.num_rows, parquet.schema_arrow, digest, _content(file), stamp)
    except (OSError, pa.ArrowException) as error:
        kind = Corrupt if _can_be_read(path, None) else InputError
        raise kind(
            f"{shown(path)}: not a readable Parquet file: {error}; of a log of clicks, make sessions with "
            "jobs/prepare.py or as the README does"
        ) from error


def _can_be_read(path: str, group: int | None) -> bool:
    """Whether the bytes of a row group, or the last of the file, come at all, so that they must be wrong."""
    filesystem, inner = storage.locate(path)
    try:
        with filesystem.open_input_file(inner) as file:
            if group is None:
                start = max(0, file.size() - _CHUNK)
                return len(file.read_at(file.size() - start, start)) == file.size() - start
            metadata = pq.ParquetFile(file).metadata.row_group(group)
            for number in range(metadata.num_columns):
                column = metadata.column(number)
                start = column.dictionary_page_offset or column.data_page_offset
                if len(file.read_at(column.total_compressed_size, start)) != column.total_compressed_size:
                    return False
            return True
    except (OSError, pa.ArrowException):
        return False


def _content(file: pa.NativeFile) -> bytes:
    found = hashlib.blake2b(digest_size=32)
    file.seek(0)
    while part := file.read(_CHUNK):
        found.update(part)
    return found.digest()


def _check(paths: Sequence[str], footers: Sequence[_Footer], item_ids: pa.DataType) -> None:
    for path, footer in zip(paths, footers, strict=True):
        for name in COLUMNS:
            if name not in footer.schema.names:
                raise InputError(
                    f"{shown(path)}: has no column {name}; it has {' '.join(footer.schema.names) or 'none'}"
                )
        kind = footer.schema.field("items").type
        if not is_list(kind):
            raise InputError(f"{shown(path)}: column items holds {kind}, not lists of item ids")
        try:
            check_ids(kind.value_type, item_ids)
        except InputError as error:
            raise InputError(f"{shown(path)}: {error}") from error


def _common_session_id(paths: Sequence[str], footers: Sequence[_Footer]) -> pa.DataType:
    kind = _common_type(paths, footers, "session_id")
    whole = [pa.types.is_integer(footer.schema.field("session_id").type) for footer in footers]
    if pa.types.is_floating(kind) and any(whole):
        at = next(i for i, footer in enumerate(footers) if pa.types.is_floating(footer.schema.field("session_id").type))
        raise InputError(
            f"{shown(paths[at])}: session_id is {kind}, in {shown(paths[whole.index(True)])} a whole number, which a "
            "large one would not stay; convert one"
        )
    return pa.int64() if pa.types.is_null(kind) else kind


def _common_type(paths: Sequence[str], footers: Sequence[_Footer], column: str) -> pa.DataType:
    """The type that the column of all files can be read as. Raises InputError where there is none."""
    schema = pa.schema([(column, pa.null())])
    for path, footer in zip(paths, footers, strict=True):
        field = footer.schema.field(column)
        try:
            schema = pa.unify_schemas([schema, pa.schema([field])], promote_options="permissive")
        except pa.ArrowException as error:
            found = schema.field(column).type
            raise InputError(
                f"{shown(path)}: {column} is {field.type}, in the files before {found}; convert one"
            ) from error
    return schema.field(column).type


def pieces(source: Source, size: int | None = None, top_k: int = 20) -> list[list[Span]]:
    """The sessions in pieces of `size` rows (the last may be shorter), in order.

    By default about 64 pieces, of 4,096 to 131,072 rows each, and fewer for lists of more than 128 items.
    """
    if size is None:
        size = min(max(-(-source.rows // PIECES), SMALLEST_PIECE), LARGEST_PIECE, max(1, ENTRIES // top_k))
    cut: list[list[Span]] = []
    room = 0
    for (path, rows), stamp in zip(source.files, source.stamps or [""] * len(source.files), strict=True):
        first = 0
        while first < rows:
            if room == 0:
                cut.append([])
                room = size
            count = min(room, rows - first)
            cut[-1].append(Span(path, first, count, stamp))
            first, room = first + count, room - count
    return cut


class Read(NamedTuple):
    """What the spans of a piece hold."""

    sessions: pa.Table | None  # session_id and items, in order; None where nothing could be read
    rejected: int  # sessions that could not be read
    corrupt: tuple[str, ...]  # why, each with its file


class Reader:
    """Reads pieces; keeps what neighbouring ones have in common: footers, and the row group that was read last."""

    def __init__(self, skip_corrupt: bool = False) -> None:
        self._skip_corrupt = skip_corrupt
        self._groups: dict[str, list[int]] = {}
        self._last: tuple[str, int, pa.Table] | None = None

    def read(self, spans: Sequence[Span]) -> Read:
        """The sessions of the spans, in order.

        Raises InputError naming a file that cannot be read; with `skip_corrupt`, row groups whose bytes are wrong are
        left out and counted instead.
        """
        parts: list[pa.Table] = []
        rejected, corrupt = 0, []
        for span in spans:
            start = 0
            for group, rows in enumerate(self._group_rows(span.path)):
                first, end = max(span.first, start), min(span.first + span.rows, start + rows)
                start += rows
                if first >= end:
                    continue
                try:
                    parts.append(self._group(span.path, group).slice(first + rows - start, end - first))
                except Corrupt as error:
                    if not self._skip_corrupt:
                        raise
                    rejected += end - first
                    corrupt.append(str(error))
            # Looked at after it was read, so that nothing is made of a file that was changed meanwhile.
            if start < span.first + span.rows or (span.stamp and _stamp(span.path) != span.stamp):
                raise InputError(f"{shown(span.path)}: has changed since the job started; run the same command again")
        sessions = pa.concat_tables(parts, promote_options="permissive") if parts else None
        return Read(sessions, rejected, tuple(corrupt))

    def _group_rows(self, path: str) -> list[int]:
        if path not in self._groups:
            if len(self._groups) >= 8:
                self._groups.clear()
            filesystem, inner = storage.locate(path)
            try:
                with filesystem.open_input_file(inner) as file:
                    metadata = pq.ParquetFile(file).metadata
                    groups = range(metadata.num_row_groups)
                    self._groups[path] = [metadata.row_group(group).num_rows for group in groups]
            except (OSError, pa.ArrowException) as error:
                raise InputError(f"{shown(path)}: not a readable Parquet file: {error}") from error
        return self._groups[path]

    def _group(self, path: str, group: int) -> pa.Table:
        if self._last is None or self._last[:2] != (path, group):
            self._last = None  # one at a time in memory
            filesystem, inner = storage.locate(path)
            try:
                with filesystem.open_input_file(inner) as file:
                    self._last = (path, group, pq.ParquetFile(file).read_row_group(group, columns=COLUMNS))
            except (OSError, pa.ArrowException) as error:
                kind = Corrupt if _can_be_read(path, group) else InputError
                raise kind(f"{shown(path)}: row group {group} cannot be read: {error}") from error
        return self._last[2]
