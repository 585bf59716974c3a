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
from gru4rec.sessions.prepared import SPLITS, SUMMARY, Prepared
from gru4rec.storage import shown

COLUMNS = ["session_id", "items"]
_CHUNK = 4 << 20  # bytes read at a time
SMALLEST_PIECE, LARGEST_PIECE, PIECES = 4096, 131_072, 64


class Span(NamedTuple):
    """Rows `first … first + rows − 1` of one file."""

    path: str
    first: int
    rows: int


class Source(NamedTuple):
    """Sessions to score."""

    path: str
    files: list[tuple[str, int]]  # path and rows, in order
    session_id: pa.DataType
    fingerprint: str
    digest: str  # of the bytes of all files, with their names
    prepared: pa.Table | None  # the items table that the clicks are indices of; None: clicks are item ids

    @property
    def rows(self) -> int:
        return sum(rows for _, rows in self.files)


class _Footer(NamedTuple):
    rows: int
    schema: pa.Schema
    digest: bytes
    content: bytes


def find(path: str, item_ids: pa.DataType) -> Source:
    """The sessions at `path`: a split of a prepared folder, or Parquet with session_id and lists of item ids.

    `item_ids` is the type of the model's item ids. Footers are looked at; of the rest only the digest is taken. Raises
    InputError where there is nothing, a file is unreadable, a column is missing, or the ids cannot match.
    """
    target = storage.absolute(path)
    parent, _, name = target.partition("?")[0].rpartition("/")
    options = target.partition("?")[1:] if "://" in target else ("", "")
    parent += "".join(options)
    prepared = None
    if name in SPLITS and storage.exists(storage.join(parent, SUMMARY)):
        prepared = Prepared(parent)  # which knows where a split lies
        paths = prepared.files(name)
    elif not storage.exists(target):
        raise InputError(f"{shown(path)}: no such file or folder")
    elif storage.exists(storage.join(target, SUMMARY)):
        raise InputError(
            f"{shown(path)}: is a whole prepared folder; name the split: {shown(storage.join(path, 'test'))}"
        )
    else:
        paths = _parquet_files(target)
        if not paths:
            raise InputError(f"{shown(path)}: holds no Parquet file")
    with ThreadPoolExecutor(16) as pool:
        footers = list(pool.map(_footer, paths))
    _check(paths, footers, pa.int32() if prepared else item_ids)
    digest, content = hashlib.sha256(), hashlib.sha256()
    for file, footer in zip(paths, footers, strict=True):
        digest.update(file.rpartition("/")[2].encode() + b"\0" + footer.digest)
        content.update(file.rpartition("/")[2].encode() + b"\0" + footer.content)
    if prepared:
        content.update(prepared.fingerprint.encode())  # of its items, which give the indices their meaning, as well
    return Source(
        path=path,
        files=[(file, footer.rows) for file, footer in zip(paths, footers, strict=True)],
        session_id=_common_session_id(paths, footers),
        fingerprint=f"{prepared.fingerprint}/{name}" if prepared else digest.hexdigest(),
        digest=content.hexdigest(),
        prepared=prepared.items if prepared else None,
    )


def _parquet_files(target: str) -> list[str]:
    """The file itself, or all Parquet files in the folder and below it, in order of their paths."""
    filesystem, inner = storage.locate(target)
    if filesystem.get_file_info(inner).type == fs.FileType.File:
        return [target]
    found = []
    for info in filesystem.get_file_info(fs.FileSelector(inner, recursive=True)):
        relative = info.path[len(inner) :].strip("/")
        hidden = any(part[0] in "._" for part in relative.split("/"))
        if info.type == fs.FileType.File and relative.endswith(".parquet") and not hidden:
            found.append(relative)
    return [storage.join(target, relative) for relative in sorted(found)]


def _footer(path: str) -> _Footer:
    filesystem, inner = storage.locate(path)
    try:
        with filesystem.open_input_file(inner) as file:
            size = file.size()
            parquet = pq.ParquetFile(file)
            length = parquet.metadata.serialized_size
            tail = file.read_at(length + 8, max(0, size - length - 8))
            digest = hashlib.sha256(tail + str(size).encode()).digest()
            return _Footer(parquet.metadata.num_rows, parquet.schema_arrow, digest, _content(file))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{shown(path)}: not a readable Parquet file: {error}") from error


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
    schema = pa.schema([("session_id", pa.null())])
    for path, footer in zip(paths, footers, strict=True):
        field = footer.schema.field("session_id")
        try:
            schema = pa.unify_schemas([schema, pa.schema([field])], promote_options="permissive")
        except pa.ArrowException as error:
            found = schema.field("session_id").type
            raise InputError(
                f"{shown(path)}: session_id is {field.type}, in the files before {found}; convert one"
            ) from error
    kind = schema.field("session_id").type
    return pa.int64() if pa.types.is_null(kind) else kind


def pieces(source: Source, size: int | None = None) -> list[list[Span]]:
    """The sessions in pieces of `size` rows (the last may be shorter), in order.

    By default about 64 pieces, of 4,096 to 131,072 rows each.
    """
    if size is None:
        size = min(max(-(-source.rows // PIECES), SMALLEST_PIECE), LARGEST_PIECE)
    cut: list[list[Span]] = []
    room = 0
    for path, rows in source.files:
        first = 0
        while first < rows:
            if room == 0:
                cut.append([])
                room = size
            count = min(room, rows - first)
            cut[-1].append(Span(path, first, count))
            first, room = first + count, room - count
    return cut


def read(spans: Sequence[Span]) -> pa.Table:
    """session_id and items of the spans, in order. Raises InputError naming a file that cannot be read."""
    return pa.concat_tables([_read_span(span) for span in spans], promote_options="permissive")


def _read_span(span: Span) -> pa.Table:
    parts, start = [], 0
    for group, rows in enumerate(_group_rows(span.path)):
        first, end = max(span.first, start), min(span.first + span.rows, start + rows)
        if first < end:
            parts.append(_read_group(span.path, group).slice(first - start, end - first))
        start += rows
    found = pa.concat_tables(parts)
    if len(found) != span.rows:
        raise InputError(f"{shown(span.path)}: has changed since the job started")
    return found


@functools.lru_cache(maxsize=8)
def _group_rows(path: str) -> list[int]:
    filesystem, inner = storage.locate(path)
    try:
        with filesystem.open_input_file(inner) as file:
            metadata = pq.ParquetFile(file).metadata
            return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{shown(path)}: not a readable Parquet file: {error}") from error


@functools.lru_cache(maxsize=1)  # neighbouring pieces often lie in one large row group
def _read_group(path: str, group: int) -> pa.Table:
    filesystem, inner = storage.locate(path)
    try:
        with filesystem.open_input_file(inner) as file:
            return pq.ParquetFile(file).read_row_group(group, columns=COLUMNS)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{shown(path)}: row group {group} cannot be read: {error}") from error
