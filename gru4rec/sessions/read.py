"""Pieces of files → clicks, and the rows that could not be read."""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gru4rec import storage
from gru4rec.sessions import text
from gru4rec.sessions.formats import Format
from gru4rec.sessions.sources import Piece, Source

ROW_BITS = 40
"""A click's `position` is its file's number shifted by this, plus its place in the file: the order (file,
row).
"""

SHOWN = 200
"""Characters of a rejected row that are kept."""

REJECTED = pa.schema([("file", pa.string()), ("row", pa.int64()), ("reason", pa.string()), ("text", pa.string())])


class Clicks(NamedTuple):
    """What a piece of a file holds."""

    clicks: pa.Table  # log int8, session, item, time int64 (ms since 1970 UTC), position int64
    rejected: pa.Table  # REJECTED; row counts from the start of the piece, 1 is its first line or row
    rows: int  # len(clicks) + len(rejected)
    lines: int  # lines in the piece, header and blank ones included; rows for Parquet


def schema(types: list[pa.DataType]) -> pa.Schema:
    """Of clicks whose session and item ids have these types."""
    return pa.schema(
        [
            ("log", pa.int8()),
            ("session", types[0]),
            ("item", types[1]),
            ("time", pa.int64()),
            ("position", pa.int64()),
        ]
    )


def read(piece: Piece, form: Format, types: list[pa.DataType]) -> Clicks:
    """Read one piece. Raises OSError or pa.ArrowException where the file itself cannot be read."""
    return _read_text(piece, form, types) if piece.source.separator else _read_parquet(piece, form, types)


def _bytes(piece: Piece) -> tuple[bytes, int]:
    """The whole lines that start in the piece, and where in the file they begin."""
    filesystem, inner = storage.locate(piece.source.path)
    with filesystem.open_input_file(inner) as file:
        before = min(1, piece.start)  # one byte more tells whether a line starts right at the piece
        file.seek(piece.start - before)
        found = file.read(piece.end - piece.start + before)
        parts = [found]
        while parts[-1] and b"\n" not in parts[-1][-1:]:
            more = file.read(2**16)
            line, newline, _ = more.partition(b"\n")
            parts.append(line + newline)
    whole = b"".join(parts)
    skip = 0
    if before:
        skip = found.find(b"\n") + 1
        if not skip:
            return b"", piece.end
    return whole[skip:], piece.start - before + skip


def _read_text(piece: Piece, form: Format, types: list[pa.DataType]) -> Clicks:
    source = piece.source
    content, offset = _bytes(piece)
    skipped = 0
    if piece.start == 0:
        marks = len(b"\xef\xbb\xbf") if content.startswith(b"\xef\xbb\xbf") else 0
        skipped = content.find(b"\n") + 1 if source.header else marks
        if source.header and not skipped:
            skipped = len(content)
    header = int(source.header and piece.start == 0)
    content = content[skipped:]
    parsed = text.parse(content, source.separator, source.columns, list(source.wanted))
    session, item, ms, reasons = _checked(parsed.fields, form, types)
    good = np.array([reason == "" for reason in reasons]) if reasons is not None else np.ones(len(ms), bool)
    bad = dict(parsed.bad)
    if reasons is not None:
        bad |= {int(parsed.numbers[i]): reasons[i] for i in np.flatnonzero(~good)}
    lines = sorted(bad)
    raw = [content[parsed.spans[i, 0] : parsed.spans[i, 1]][: 4 * SHOWN].decode("utf-8", "replace") for i in lines]
    rejected = _rejected(source, [i + 1 + header for i in lines], [bad[i] for i in lines], raw)
    clicks = _clicks(source, session, item, ms, offset + skipped + parsed.starts, types)
    keep = pa.array(good)
    return Clicks(clicks.filter(keep), rejected, parsed.rows, len(parsed.spans) + header)


def _read_parquet(piece: Piece, form: Format, types: list[pa.DataType]) -> Clicks:
    source = piece.source
    filesystem, inner = storage.locate(source.path)
    with filesystem.open_input_file(inner) as file:
        table = pq.ParquetFile(file).read_row_groups(range(piece.start, piece.end), columns=list(form.wanted))
    before = sum(source.row_groups[: piece.start])
    columns = [_plain(table[name]) for name in form.wanted]
    session, item, ms, reasons = _checked(columns, form, types)
    rows = np.arange(before, before + table.num_rows)
    clicks = _clicks(source, session, item, ms, rows, types)
    if reasons is None:
        return Clicks(clicks, REJECTED.empty_table(), table.num_rows, table.num_rows)
    good = np.array([reason == "" for reason in reasons])
    bad = np.flatnonzero(~good)
    shown = table.take(pa.array(bad)).to_pylist()
    raw = [" ".join(str(value) for value in row.values()) for row in shown]
    # A row of Parquet is numbered in its piece, as a line is: the number of the first is added later.
    rejected = _rejected(source, (bad + 1).tolist(), [reasons[i] for i in bad], raw)
    return Clicks(clicks.filter(pa.array(good)), rejected, table.num_rows, table.num_rows)


def _plain(column: pa.ChunkedArray) -> pa.Array:
    found = column.combine_chunks()
    found = pa.concat_arrays(found.chunks) if isinstance(found, pa.ChunkedArray) else found
    return found.dictionary_decode() if pa.types.is_dictionary(found.type) else found


def _clicks(
    source: Source,
    session: pa.Array,
    item: pa.Array,
    ms: np.ndarray,
    place: np.ndarray,
    types: list[pa.DataType],
) -> pa.Table:
    position = (source.number << ROW_BITS) + place.astype(np.int64)
    log = pa.array(np.full(len(ms), source.log, np.int8))
    return pa.table([log, session, item, pa.array(ms), pa.array(position)], schema=schema(types))


def _checked(
    columns: list[pa.Array], form: Format, types: list[pa.DataType]
) -> tuple[pa.Array, pa.Array, np.ndarray, list[str] | None]:
    """(session ids, item ids, ms, what is wrong with each row, "" for nothing; None where all are good)."""
    session, session_ok = _ids(columns[0], types[0])
    item, item_ok = _ids(columns[1], types[1])
    ms, time_ok = form.clock(columns[2:], form.time_unit)
    good = session_ok & item_ok & time_ok
    if good.all():
        return session, item, ms, None
    reasons = [""] * len(ms)
    for i in np.flatnonzero(~good):
        if not session_ok[i]:
            reasons[i] = "no readable session id"
        elif not item_ok[i]:
            reasons[i] = "no readable item id"
        else:
            reasons[i] = "no readable time between 1970 and 9999"
    return session, item, ms, reasons


def _ids(column: pa.Array, kind: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    """Ids in type `kind`, and which are there: not null, not empty, valid UTF-8 without NUL."""
    if pa.types.is_integer(column.type):
        return column.cast(kind), column.is_valid().to_numpy(zero_copy_only=False)
    try:
        found = column.cast(pa.string())
    except pa.ArrowInvalid:
        found = pa.array([_decoded(value) for value in column.to_pylist()], pa.string())
    found = found.fill_null("")
    ok = (pc.binary_length(found).to_numpy() > 0) & ~pc.match_substring(found, "\0").to_numpy(zero_copy_only=False)
    return found, ok


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _rejected(source: Source, rows: list[int], reasons: list[str], raw: list[str]) -> pa.Table:
    columns: list[Any] = [
        [storage.shown(source.path)] * len(rows),
        rows,
        reasons,
        [value.rstrip("\r")[:SHOWN] for value in raw],
    ]
    return pa.table(dict(zip(REJECTED.names, columns, strict=True)), schema=REJECTED)
