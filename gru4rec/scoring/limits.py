"""Which items lists may show: files of item ids that are in stock, or out of it."""

import csv
import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gru4rec import storage
from gru4rec.errors import InputError
from gru4rec.sessions.catalogue import UNKNOWN, Catalogue, encoder, is_integer
from gru4rec.sessions.file_names import PARQUET
from gru4rec.storage import shown

COLUMN = "item_id"


class Limits(NamedTuple):
    """The items that lists may show, and what the files said."""

    items: np.ndarray | None  # [n] int64, ascending indices; None: all
    files: dict[str, dict[str, Any]]  # by option: path, ids, and how many of them the catalogue does not know


def limits(known: Catalogue, only: str, without: str) -> Limits:
    """The items of the file `only` (all, where that is ""), less those of the file `without`.

    Raises InputError where a file cannot be read, or no item is left.
    """
    files: dict[str, dict[str, Any]] = {}
    allowed = np.ones(len(known.ids), bool)
    for option, path in (("only_items", only), ("exclude_items", without)):
        if not path:
            continue
        index = encoder(known)(_checked(path, known))
        named = np.zeros(len(known.ids), bool)
        named[index[index != UNKNOWN]] = True
        allowed &= named if option == "only_items" else ~named
        unknown = int((index == UNKNOWN).sum())
        files[option] = {"path": shown(path), "ids": len(index), "unknown": unknown, "items": int(named.sum())}
    if not files:
        return Limits(None, files)
    if not allowed.any():
        options = " and ".join("--" + option.replace("_", "-") for option in files)
        raise InputError(f"{options}: no item of the model is left to recommend")
    return Limits(np.flatnonzero(allowed), files)


def _checked(path: str, known: Catalogue) -> pa.Array:
    """The ids in a file, in a type that the catalogue's encoder takes."""
    try:
        content = storage.read_bytes(storage.absolute(path))
    except (OSError, IsADirectoryError) as error:
        raise InputError(f"{shown(path)}: cannot be read: {error}") from error
    kind = shown(path).partition("?")[0].lower()
    try:
        if kind.endswith(PARQUET):
            table = pq.read_table(pa.BufferReader(content))
            if COLUMN not in table.column_names:
                raise InputError(f"has no column {COLUMN}; it has {' '.join(table.column_names)}")
            ids = table[COLUMN].combine_chunks()
            encoder(known)(ids[:0])  # of a type that can match?
            return ids
        text = content.decode("utf-8-sig")
        return _in_type(_column(text) if kind.endswith(".csv") else _lines(text), known.ids.type)
    except (InputError, UnicodeDecodeError, pa.ArrowException, OSError, csv.Error) as error:
        raise InputError(f"{shown(path)}: {error}") from error


def _column(text: str) -> list[str]:
    """The column item_id of a CSV file with a header."""
    rows = csv.reader(io.StringIO(text, newline=""))
    header = [name.strip() for name in next(rows, [])]
    if COLUMN not in header:
        raise InputError(f"has no column {COLUMN}; it has {' '.join(header) or 'none'}")
    at = header.index(COLUMN)
    return [row[at].strip() if at < len(row) else "" for row in rows if row]


def _lines(text: str) -> list[str]:
    """An id a line; a first line that says item_id is a header."""
    found = [line.strip() for line in text.splitlines() if line.strip()]
    return found[1:] if found[:1] == [COLUMN] else found


def _in_type(ids: Sequence[str], kind: pa.DataType) -> pa.Array:
    """Ids as text in the catalogue's type; null, which is unknown, for what is none."""
    if not is_integer(kind):
        return pa.array(ids, pa.string())
    numbers = [int(text) if re.fullmatch(r"-?[0-9]{1,20}", text) else None for text in ids]
    low, high, wide = (0, 2**64, pa.uint64()) if pa.types.is_uint64(kind) else (-(2**63), 2**63, pa.int64())
    return pa.array([n if n is not None and low <= n < high else None for n in numbers], wide)
