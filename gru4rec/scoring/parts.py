"""Part files: written whole or not at all, known again by a later run, and read back with every list checked.

A part's footer says which result it belongs to (the key), its number, and how many rows went in and were rejected; so
a run that goes on after another was killed keeps what fits and needs no list of what is done. Equal input gives equal
bytes.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gru4rec import storage
from gru4rec.sessions.catalogue import UNKNOWN, Encoder

PARTITION_ROWS = 5_000_000
FOOTER = b"gru4rec"
DAMAGED = (OSError, pa.ArrowException, ValueError, KeyError)  # what reading a file raises that is not as it was written


class Part(NamedTuple):
    """What one part file holds, and what is wrong with it."""

    name: str
    bytes: int
    rows: int
    rejected: int  # sessions of its piece that could not be read
    corrupt: tuple[str, ...]  # why
    fallback: int  # sessions with no known click
    listed: int  # items, over all lists
    short: int  # lists that are shorter than the longest possible
    unknown_clicks: int
    too_long: int  # lists that are longer than possible
    repeated: int  # entries that are in their list already
    unknown_items: int  # entries that are no item of the catalogue
    bad_scores: int  # scores that are not finite, above the one before, or lack their item
    first_wrong: str  # the first of those, for people; "" where all is well
    taken_over: int = 0  # lists of an earlier result, of sessions without a new click
    continued: int = 0  # sessions that went on from an earlier result's state
    unused: int = 0  # 1 where the earlier result could not be used, so that all were scored from their first click
    states_bytes: int = 0  # of the file of states beside it


def part_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def write_part(
    folder: str, number: int, table: pa.Table, key: str, rejected: int = 0, corrupt: Sequence[str] = ()
) -> str:
    """Write one part file, whole or not at all; writing it again replaces it. Returns its name."""
    footer = {"key": key, "piece": number, "rows": len(table), "rejected": rejected, "corrupt": list(corrupt)}
    sink = pa.BufferOutputStream()
    table = table.replace_schema_metadata({FOOTER: json.dumps(footer, sort_keys=True)})
    # Scores are hardly ever equal: a dictionary of them would be thrown away.
    few = ["items.list.element", "fallback", "unknown_clicks"]
    pq.write_table(table, sink, compression="zstd", compression_level=1, use_dictionary=few, write_page_checksum=True)
    storage.write_bytes(storage.join(folder, part_name(number)), sink.getvalue())
    return part_name(number)


def kept(folder: str, number: int, key: str, name: str = "") -> bool:
    """Whether the part is there, written whole for this key. Its content is not looked at.

    `name` is that of another file that belongs to it.
    """
    footer = read_footer(folder, name or part_name(number))
    return footer.get("key") == key and footer.get("piece") == number


def check_footer(parquet: pq.ParquetFile, key: str, number: int) -> None:
    """Raises OSError where an open file is not of part `number` of the result with this key."""
    footer = json.loads((parquet.metadata.metadata or {}).get(FOOTER, b"{}"))
    if footer.get("key") != key or footer.get("piece") != number:
        raise OSError("it is not of this result")


def read_footer(folder: str, name: str) -> dict[str, Any]:
    """What `write_part` noted in a part; {} where the file is absent or no part."""
    filesystem, inner = storage.locate(storage.join(folder, name))
    try:
        with filesystem.open_input_file(inner) as file:
            noted = (pq.ParquetFile(file).metadata.metadata or {}).get(FOOTER)
            return json.loads(noted) if noted else {}
    except DAMAGED:
        return {}


def verify(folder: str, name: str, longest: int, items: int, index_of: Encoder) -> tuple[Part, np.ndarray]:
    """Read a part back and check every list; also how many lists show each item, [items] int64.

    Checked: lists have at most `longest` items, which `index_of` finds in the catalogue, each once; as many scores,
    finite and not rising. Only a part of the file is in memory at a time. What is wrong is counted, not raised; OSError
    and pyarrow's errors are raised where the file cannot be read.
    """
    found = _Found(name, longest, items, index_of)
    filesystem, inner = storage.locate(storage.join(folder, name))
    with filesystem.open_input_file(inner) as file:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        noted = json.loads((parquet.metadata.metadata or {}).get(FOOTER, b"{}"))
        for batch in parquet.iter_batches(batch_size=65_536):  # of all columns: each byte is looked at
            found.add(batch)
        size = file.size()
    rejected, corrupt = noted.get("rejected", 0), tuple(noted.get("corrupt", ()))
    part = Part(name, size, rejected=rejected, corrupt=corrupt, **found.counts, first_wrong=found.first)
    return part, found.exposure


class _Found:
    """What is counted while a part is read back."""

    def __init__(self, name: str, longest: int, items: int, index_of: Encoder) -> None:
        self.counts = dict.fromkeys(("rows", "fallback", "listed", "short", "unknown_clicks"), 0)
        self.counts |= dict.fromkeys(("too_long", "repeated", "unknown_items", "bad_scores"), 0)
        self.exposure = np.zeros(items, np.int64)
        self.first = ""
        self._name, self._longest, self._index_of = name, longest, index_of

    def add(self, batch: pa.RecordBatch) -> None:
        first = self.counts["rows"]
        listed, scored = _lengths(batch["items"]), _lengths(batch["scores"])
        at = np.arange(first, first + len(batch))
        self._note("bad_scores", listed != scored, "items and scores differ in length", at)
        self._note("too_long", listed > self._longest, f"the list is longer than {self._longest}", at)
        self.counts["rows"] += len(batch)
        self.counts["fallback"] += pc.sum(batch["fallback"]).as_py() or 0
        self.counts["listed"] += int(listed.sum())
        self.counts["short"] += int((listed < self._longest).sum())
        self.counts["unknown_clicks"] += pc.sum(batch["unknown_clicks"]).as_py() or 0
        self._scores(batch["scores"], np.repeat(at, scored))
        self._items(batch["items"], np.repeat(at, listed))

    def _scores(self, column: pa.Array, row: np.ndarray) -> None:
        values = pc.list_flatten(column).to_numpy(zero_copy_only=False)
        self._note("bad_scores", ~np.isfinite(values), "a score is not finite", row)
        rising = (row[1:] == row[:-1]) & (values[1:] > values[:-1])
        self._note("bad_scores", rising, "the scores are not sorted", row[1:])

    def _items(self, column: pa.Array, row: np.ndarray) -> None:
        ids = pc.list_flatten(column).dictionary_encode()
        # Few different ids, so that looking them up costs nothing; a missing one is none of the catalogue.
        of_id = np.append(self._index_of(ids.dictionary), UNKNOWN)
        place = ids.indices.fill_null(len(ids.dictionary)).to_numpy(zero_copy_only=False)
        index = of_id[place]
        self._note("unknown_items", index == UNKNOWN, "an item is not in the catalogue", row)
        self.exposure += np.bincount(index[index != UNKNOWN], minlength=len(self.exposure))
        keys = np.sort((row - row[0] if len(row) else row) * len(of_id) + place)
        again = np.append(False, keys[1:] == keys[:-1])
        self._note("repeated", again, "an item is listed twice", keys // len(of_id) + (row[0] if len(row) else 0))

    def _note(self, what: str, wrong: np.ndarray, words: str, row: np.ndarray) -> None:
        """Count where `wrong` is true; entry i belongs to row `row[i]`."""
        if wrong.any():
            self.counts[what] += int(wrong.sum())
            self.first = self.first or f"{self._name}: row {row[int(np.argmax(wrong))]}: {words}"


def _lengths(column: pa.Array) -> np.ndarray:
    return pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)


def partitions(rows: int) -> int:
    """Into how many partitions `distinct_sessions` should cut so many rows, to hold few at a time."""
    return max(1, -(-rows // PARTITION_ROWS))


def distinct_sessions(folder: str, names: Sequence[str], partition: int = 0, of: int = 1) -> int:
    """Distinct session ids of the part files, counting only those that hash to `partition` of `of`.

    The counts of all partitions add up to the total. Each call reads the whole session_id column and holds
    8 bytes for each of its own rows. Ids are told apart by 64-bit hashes.
    """
    kept = []
    for name in names:
        filesystem, inner = storage.locate(storage.join(folder, name))
        with filesystem.open_input_file(inner) as file:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            for batch in parquet.iter_batches(batch_size=262_144, columns=["session_id"]):
                found = hashes(batch["session_id"])
                kept.append(np.unique(found[found % np.uint64(of) == partition]))
    return len(np.unique(np.concatenate(kept))) if kept else 0


def hashes(session_id: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A hash of each session id, [n] uint64; 0 for a missing one."""
    known = pc.is_valid(session_id).to_numpy(zero_copy_only=False) if session_id.null_count else slice(None)
    found = np.zeros(len(session_id), np.uint64)
    # Without the missing ones, beside which pandas would have whole numbers as floating ones.
    found[known] = pd.util.hash_array(session_id.drop_null().to_pandas().to_numpy(), categorize=False)
    return found
