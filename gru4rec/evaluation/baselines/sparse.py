"""Sparse tables by item or session, and the few operations on them that the baselines share."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from gru4rec.evaluation.histories import spans
from gru4rec.sessions.prepared import Sessions

AT_ONCE = 8_000_000  # entries of an intermediate result (64 MB as int64)


class Rows(NamedTuple):
    """A sparse matrix by rows: row r has `values[offsets[r]:offsets[r + 1]]` in the columns of the same places."""

    offsets: np.ndarray  # [rows + 1] int64
    columns: np.ndarray  # [entries] int32, ascending within a row
    values: np.ndarray  # [entries]


def parts(costs: np.ndarray, most: int = AT_ONCE) -> Iterator[slice]:
    """Neighbouring elements whose costs add up to at most `most`; an element that costs more alone."""
    ends = np.cumsum(costs)
    first = 0
    while first < len(costs):
        spent = ends[first - 1] if first else 0
        after = max(first + 1, int(np.searchsorted(ends, spent + most, side="right")))
        yield slice(first, after)
        first = after


def distinct(sessions: Sessions, items: int) -> tuple[np.ndarray, np.ndarray]:
    """Session and item of each pair that occurs, however often: [pairs] int64 each, by session, then item."""
    owner = np.repeat(np.arange(sessions.count), sessions.lengths)
    pairs = np.unique(owner * items + sessions.items)
    return pairs // items, pairs % items


class Counted(NamedTuple):
    """Different keys, ascending, and of each how often it occurs and where first."""

    keys: np.ndarray  # [keys] int64
    counts: np.ndarray  # [keys] int64
    first: np.ndarray  # [keys] int64, place among all keys of all chunks


def count_keys(chunks: Iterable[np.ndarray]) -> Counted:
    """Count the int64 keys of all chunks.

    Memory goes with the number of different keys and the size of a chunk, not with the number of keys.
    """
    # Runs of different keys; the sizes at least double from last to first, so that each key is merged a logarithmic
    # number of times.
    none, begun = np.zeros(0, np.int64), 0
    runs = [Counted(none, none, none)]
    for chunk in chunks:
        keys, first, counts = np.unique(chunk, return_index=True, return_counts=True)
        runs.append(Counted(keys, counts, first + begun))
        begun += len(chunk)
        while len(runs) > 1 and len(runs[-2].keys) < 2 * len(runs[-1].keys):
            runs.append(_merged(runs.pop(), runs.pop()))
    while len(runs) > 1:
        runs.append(_merged(runs.pop(), runs.pop()))
    return runs[0]


def count_pairs(chunks: Iterable[np.ndarray], items: int) -> Rows:
    """How often each key before · items + after occurs in all chunks, as rows [items, items] of int64 counts."""
    keys, counts, _ = count_keys(chunks)
    return Rows(row_offsets(keys, items), (keys % items).astype(np.int32), counts)


def row_offsets(keys: np.ndarray, items: int) -> np.ndarray:
    """Where the row of each item begins and ends in ascending keys before · items + after, [items + 1] int64."""
    return np.searchsorted(keys, np.arange(items + 1) * items)


def _merged(one: Counted, other: Counted) -> Counted:
    keys = np.concatenate([one.keys, other.keys])
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    if not len(starts):
        return one
    counts = np.add.reduceat(np.concatenate([one.counts, other.counts])[order], starts)
    return Counted(keys[starts], counts, np.minimum.reduceat(np.concatenate([one.first, other.first])[order], starts))


def dense(table: Rows, which: np.ndarray, columns: int) -> np.ndarray:
    """Rows `which` of the table as a matrix [len(which), columns] float32, 0 where there is no entry."""
    starts = table.offsets[which]
    lengths = table.offsets[which + 1] - starts
    entries = spans(starts, lengths)
    block = np.zeros((len(which), columns), np.float32)
    block[np.repeat(np.arange(len(which)), lengths), table.columns[entries]] = table.values[entries]
    return block
