"""Pieces of files → clicks, and the rows that could not be read."""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gru4rec import storage
from gru4rec.sessions import base, text, times
from gru4rec.sessions.formats import Format, one_column
from gru4rec.sessions.sources import Piece, Source

ROW_BITS = 40
"""A click's `position` is its file's number shifted by this, plus its place in the file: the order (file,
row).
"""

SHOWN = 200
"""Characters of a rejected row that are kept."""

LONGEST_ROW = 64 * 2**20
"""Bytes of a line beyond its piece after which it is given up: a file may be filled up with what is no text."""

REJECTED = pa.schema([("file", pa.string()), ("row", pa.int64()), ("reason", pa.string()), ("text", pa.string())])


class Clicks(NamedTuple):
    """What a piece of a file holds."""

    clicks: pa.Table  # log int8, session, item, time int64 (ms since 1970 UTC), position int64; see `schema`
    rejected: pa.Table  # REJECTED; row counts from the start of the piece, 1 is its first line or row
    left_out: int  # rows that are no clicks by the rule `only` of the form; nothing else in them is looked at
    rows: int  # len(clicks) + len(rejected) + left_out
    lines: int  # lines in the piece, header and blank ones included; rows for Parquet


def schema(types: list[pa.DataType], form: Format) -> pa.Schema:
    """Of clicks whose session and item ids have these types; `began` (ms) where the form has a column for it."""
    return pa.schema(
        [
            ("log", pa.int8()),
            ("session", types[0]),
            ("item", types[1]),
            ("time", pa.int64()),
            ("position", pa.int64()),
            *([("began", pa.int64())] if form.start else []),
        ]
    )


def read(piece: Piece, form: Format, types: list[pa.DataType]) -> Clicks:
    """Read one piece. Raises OSError or pa.ArrowException where the file itself cannot be read."""
    if piece.source.catalogue:
        return _read_base(piece, form, types)
    return _read_text(piece, form, types) if piece.source.separator else _read_parquet(piece, form, types)


def _bytes(piece: Piece) -> tuple[bytes, int, bytes]:
    """(the whole lines that start in the piece, where in the file they begin, beginning of one more that is longer
    than LONGEST_ROW and therefore not read to its end, else b"").
    """
    filesystem, inner = storage.locate(piece.source.path)
    with filesystem.open_input_file(inner) as file:
        before = min(1, piece.start)  # one byte more tells whether a line starts right at the piece
        file.seek(piece.start - before)
        found = file.read(piece.end - piece.start + before)
        skip = 0
        if before:
            skip = found.find(b"\n") + 1
            if not skip:
                return b"", piece.end, b""
        parts = [found]
        room = LONGEST_ROW
        while parts[-1] and b"\n" not in parts[-1][-1:]:
            if room <= 0:
                whole = b"".join(parts)
                last = whole.rfind(b"\n") + 1
                return whole[skip:last], piece.start - before + skip, whole[last : last + 4 * SHOWN]
            more = file.read(2**16)
            room -= len(more)
            line, newline, _ = more.partition(b"\n")
            parts.append(line + newline)
    return b"".join(parts)[skip:], piece.start - before + skip, b""


def _read_text(piece: Piece, form: Format, types: list[pa.DataType]) -> Clicks:
    source = piece.source
    content, offset, endless = _bytes(piece)
    skipped = 0
    if piece.start == 0:
        marks = len(b"\xef\xbb\xbf") if content.startswith(b"\xef\xbb\xbf") else 0
        skipped = content.find(b"\n") + 1 if source.header else marks
        if source.header and not skipped:
            skipped = len(content)
    header = int(source.header and piece.start == 0)
    content = content[skipped:]
    parsed = text.parse(content, source.separator, source.columns, list(source.wanted))
    chosen = _chosen(parsed.fields, form)
    numbers, starts = parsed.numbers[chosen], parsed.starts[chosen]
    found = _checked(_rows(parsed.fields, chosen), form, types)
    bad = parsed.bad | {int(numbers[i]): found.reasons[int(i)] for i in np.flatnonzero(~found.good)}
    lines = sorted(bad)
    shown = [content[start : min(end, start + 4 * SHOWN)] for start, end in parsed.spans[lines].tolist()]
    if endless:
        lines.append(len(parsed.spans))
        bad[len(parsed.spans)] = f"more than {LONGEST_ROW >> 20} MiB without a line end"
        shown.append(endless)
    raw = [row.decode("utf-8", "replace") for row in shown]
    rejected = _rejected(source, [i + 1 + header for i in lines], [bad[i] for i in lines], raw)
    clicks = _clicks(source, found, offset + skipped + starts, schema(types, form))
    more = int(bool(endless))
    return Clicks(clicks, rejected, int((~chosen).sum()), parsed.rows + more, len(parsed.spans) + more + header)


def _read_parquet(piece: Piece, form: Format, types: list[pa.DataType]) -> Clicks:
    source = piece.source
    filesystem, inner = storage.locate(source.path)
    with filesystem.open_input_file(inner) as file:
        names = list(dict.fromkeys(form.wanted))
        table = pq.ParquetFile(file).read_row_groups(range(piece.start, piece.end), columns=names)
    before = sum(source.row_groups[: piece.start])
    columns = [_plain(table[name], name) for name in form.wanted]
    chosen = _chosen(columns, form)
    rows = np.flatnonzero(chosen)
    found = _checked(_rows(columns, chosen), form, types)
    clicks = _clicks(source, found, before + rows, schema(types, form))
    bad = rows[~found.good]
    shown = table.select(names).take(pa.array(bad)).to_pylist()
    raw = [" ".join(str(value) for value in row.values()) for row in shown]
    # A row of Parquet is numbered in its piece, as a line is: the number of the first is added later.
    rejected = _rejected(source, (bad + 1).tolist(), [found.reasons[int(i)] for i in np.flatnonzero(~found.good)], raw)
    return Clicks(clicks, rejected, len(chosen) - len(rows), table.num_rows, table.num_rows)


def _read_base(piece: Piece, form: Format, types: list[pa.DataType]) -> Clicks:
    source = piece.source
    session, item, time = base.clicks(source, range(piece.start, piece.end), form)
    count = len(time)
    found = _Checked(session.cast(types[0]), item.cast(types[1]), time.to_numpy(), None, np.ones(count, bool), {})
    clicks = _clicks(source, found, sum(source.row_groups[: piece.start]) + np.arange(count), schema(types, form))
    return Clicks(clicks, REJECTED.empty_table(), 0, count, count)


def _plain(column: pa.ChunkedArray, name: str) -> pa.Array:
    """The column `name` as one array. Raises pa.ArrowInvalid where it has more text than an array holds."""
    try:
        found = column.chunk(0) if column.num_chunks == 1 else _joined(column)
        return found.dictionary_decode() if pa.types.is_dictionary(found.type) else found
    except pa.ArrowException as error:
        raise pa.ArrowInvalid(f"column {name!r}: {error}: write it with smaller row groups") from error


def _joined(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks or [pa.array([], column.type)])


def _chosen(columns: list[pa.Array], form: Format) -> np.ndarray:
    """Which rows are clicks by the rule `only` of the form, [rows] bool."""
    if form.only is None:
        return np.ones(len(columns[0]), bool)
    values = columns[-1]
    return pc.equal(values, pa.scalar(form.only[1]).cast(values.type)).fill_null(False).to_numpy(zero_copy_only=False)


def _rows(columns: list[pa.Array], keep: np.ndarray) -> list[pa.Array]:
    return columns if keep.all() else [column.filter(pa.array(keep)) for column in columns]


class _Checked(NamedTuple):
    """The wanted columns of some rows as what they mean."""

    session: pa.Array
    item: pa.Array
    time: np.ndarray  # ms
    began: np.ndarray | None  # ms; None: the form has no column for it
    good: np.ndarray  # [rows] bool
    reasons: dict[int, str]  # place of each row that is not good → what is wrong with it


def _checked(columns: list[pa.Array], form: Format, types: list[pa.DataType]) -> _Checked:
    session, session_ok = _ids(columns[0], types[0])
    item, item_ok = _ids(columns[1], types[1])
    clock = columns[2 : 2 + len(form.time)]
    ms, time_ok = form.clock(clock, form.time_unit)
    began, began_ok = None, np.ones(len(ms), bool)
    if form.start:
        began, began_ok = one_column(columns[2 + len(form.time) :], form.time_unit)
    good = session_ok & item_ok & time_ok & began_ok
    unread = np.flatnonzero(session_ok & item_ok & ~time_ok)
    others = {} if form.published else times.in_another_unit(clock[0].take(pa.array(unread)), form.time_unit)
    hints = {
        int(unread[i]): f" (with --time-unit {unit} it would be in {year})" for i, (unit, year) in others.items()
    }  # no exact date, so that reasons stay few enough to be counted
    reasons = {}
    for i in np.flatnonzero(~good).tolist():
        if not session_ok[i]:
            reasons[i] = "no readable session id"
        elif not item_ok[i]:
            reasons[i] = "no readable item id"
        elif not time_ok[i]:
            reasons[i] = "no readable time between 1970 and 9999" + hints.get(i, "")
        else:
            reasons[i] = "no readable start of the session between 1970 and 9999"
    return _Checked(session, item, ms, began, good, reasons)


def _clicks(source: Source, found: _Checked, place: np.ndarray, schema: pa.Schema) -> pa.Table:
    """The good rows as clicks; `place` [rows]: of each row in its file."""
    position = (source.number << ROW_BITS) + place.astype(np.int64)
    log = pa.array(np.full(len(place), source.log, np.int8))
    columns = [log, found.session, found.item, pa.array(found.time), pa.array(position)]
    if found.began is not None:
        columns.append(pa.array(found.began))
    clicks = pa.table(columns, schema=schema)
    return clicks if found.good.all() else clicks.filter(pa.array(found.good))


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
