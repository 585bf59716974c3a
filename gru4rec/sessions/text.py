"""Lines of separated text → columns of bytes, row by row accurate and vectorised."""

import csv
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv

from gru4rec.errors import GRU4RecError

NEWLINE, RETURN, QUOTE = 10, 13, 34


class Parsed(NamedTuple):
    """The readable lines of a text, and those that are not."""

    fields: list[pa.Array]  # one binary array [rows] for each wanted column
    starts: np.ndarray  # [rows] int64, where the line starts in the text, in bytes
    numbers: np.ndarray  # [rows] int64, number of the line, from 0
    bad: dict[int, str]  # number of the line → what is wrong with it
    spans: np.ndarray  # [lines, 2] int64, start and end of every line in the text
    rows: int  # lines that are not blank


def parse(text: bytes, separator: str, columns: int, wanted: list[int]) -> Parsed:
    """Split `text` into lines and take the `wanted` columns (places from 0) of those with exactly `columns`
    columns.

    A line with a NUL byte, with a carriage return in its middle or with another number of columns is bad. A
    blank line is no row. A field may stand in double quotes, with the separator inside; a quoted field ends
    with its line.
    """
    data = np.frombuffer(text, np.uint8)
    spans = _lines(data)
    starts, ends = spans[:, 0], spans[:, 1]
    blank = ends == starts
    single = np.flatnonzero(ends - starts == 1)
    blank[single] = data[starts[single]] == RETURN
    found = _columns(_places(text, data, ord(separator)), starts, ends, columns)
    has_nul = _lines_with(_places(text, data, 0), starts)
    returns = _places(text, data, RETURN)
    returns = returns[returns < len(data) - 1]
    has_return = _lines_with(returns[data[returns + 1] != NEWLINE], starts)
    quoted = _lines_with(_places(text, data, QUOTE), starts) & ~blank & ~has_nul & ~has_return
    plain = ~blank & ~has_nul & ~has_return & ~quoted & (found == columns)

    numbers = np.flatnonzero(plain)
    fields = _split(_only(text, data, spans, plain), separator, columns, wanted, len(numbers))
    bad = {int(i): "a NUL byte" for i in np.flatnonzero(has_nul & ~blank)}
    bad |= {int(i): "a carriage return inside the row" for i in np.flatnonzero(has_return & ~has_nul & ~blank)}
    wrong = ~blank & ~has_nul & ~has_return & ~quoted & (found != columns)
    bad |= {int(i): f"{found[i]} columns instead of {columns}" for i in np.flatnonzero(wrong)}
    if quoted.any():
        lines, unquoted, failed = _unquote(text, spans, np.flatnonzero(quoted), separator, columns, wanted)
        order = np.argsort(np.concatenate([numbers, lines]), kind="stable")
        numbers = np.concatenate([numbers, lines])[order]
        fields = [pa.concat_arrays([a, b]).take(pa.array(order)) for a, b in zip(fields, unquoted, strict=True)]
        bad |= failed
    return Parsed(fields, starts[numbers], numbers, bad, spans, int((~blank).sum()))


def _lines(data: np.ndarray) -> np.ndarray:
    ends = np.flatnonzero(data == NEWLINE)
    if len(data) and (not len(ends) or ends[-1] != len(data) - 1):
        ends = np.append(ends, len(data))
    starts = np.concatenate([np.zeros(min(1, len(ends)), np.int64), ends[:-1] + 1])
    return np.stack([starts, ends], axis=1)


def _places(text: bytes, data: np.ndarray, byte: int) -> np.ndarray:
    """Where a byte stands in the text. A byte that is nowhere, as most are that are looked for, is soon found so."""
    return np.flatnonzero(data == byte) if byte in text else np.zeros(0, np.int64)


def _columns(separators: np.ndarray, starts: np.ndarray, ends: np.ndarray, columns: int) -> np.ndarray:
    """Columns of each line, [lines] int64; `columns`: as there should be."""
    each = columns - 1
    if each and len(separators) == each * len(ends):
        first, last = separators[::each], separators[each - 1 :: each]
        if (first >= starts).all() and (last < ends).all():
            return np.full(len(ends), columns)  # all lines are good, which is known sooner than what each has
    # Between two lines there is no separator.
    return np.diff(np.searchsorted(separators, ends), prepend=0) + 1


def _lines_with(positions: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Which lines hold at least one of the byte positions, [lines] bool."""
    marked = np.zeros(len(starts), bool)
    marked[np.searchsorted(starts, positions, side="right") - 1] = True
    return marked


def _only(text: bytes, data: np.ndarray, spans: np.ndarray, keep: np.ndarray) -> bytes:
    """The kept lines of the text."""
    if keep.all():
        return text
    lengths = np.minimum(spans[:, 1] + 1, len(data)) - spans[:, 0]
    return data[np.repeat(keep, lengths)].tobytes()


def _split(text: bytes, separator: str, columns: int, wanted: list[int], rows: int) -> list[pa.Array]:
    if not rows:
        return [pa.array([], pa.binary()) for _ in wanted]
    names = [str(place) for place in range(columns)]
    table = pyarrow.csv.read_csv(
        pa.BufferReader(text),
        pyarrow.csv.ReadOptions(column_names=names, use_threads=False, block_size=len(text) + 1),
        pyarrow.csv.ParseOptions(delimiter=separator, quote_char=False),
        pyarrow.csv.ConvertOptions(
            include_columns=[names[place] for place in dict.fromkeys(wanted)],
            column_types=dict.fromkeys(names, pa.binary()),
            check_utf8=False,
        ),
    )
    if table.num_rows != rows:
        raise GRU4RecError(f"{table.num_rows} rows came out of {rows} lines")
    return [table[names[place]].combine_chunks() for place in wanted]


def _unquote(
    text: bytes, spans: np.ndarray, lines: np.ndarray, separator: str, columns: int, wanted: list[int]
) -> tuple[np.ndarray, list[pa.Array], dict[int, str]]:
    """One by one, since few logs have quotes: (numbers of the readable lines, their fields, the others'
    faults).
    """
    good: list[int] = []
    values: list[list[bytes]] = [[] for _ in wanted]
    bad: dict[int, str] = {}
    limit = csv.field_size_limit(len(text) + 1)  # of the process: a long field is no fault
    try:
        for line in lines.tolist():
            start, end = spans[line]
            # Latin-1 maps every byte to one character and back: the bytes stay what they are.
            row = text[start:end].decode("latin-1").rstrip("\r")
            try:
                found = next(csv.reader([row], delimiter=separator, strict=True))
            except csv.Error as error:
                bad[line] = f"quotes that do not match ({error})"
                continue
            if len(found) != columns:
                bad[line] = f"{len(found)} columns instead of {columns}"
                continue
            good.append(line)
            for column, place in zip(values, wanted, strict=True):
                column.append(found[place].encode("latin-1"))
    finally:
        csv.field_size_limit(limit)
    return np.array(good, np.int64), [pa.array(column, pa.binary()) for column in values], bad
