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


def count_pairs(chunks: Iterable[np.ndarray], items: int) -> Rows:
    """How often each key before · items + after occurs in all chunks, as rows [items, items] of int64 counts.

    Memory goes with the number of different pairs and the size of a chunk, not with the number of keys.
    """
    # Runs of different keys, in order and with their counts; the sizes at least double from last to first, so that
    # each key is merged a logarithmic number of times.
    runs: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    for chunk in chunks:
        runs.append(np.unique(chunk, return_counts=True))
        while len(runs) > 1 and len(runs[-2][0]) < 2 * len(runs[-1][0]):
            runs.append(_merged(runs.pop(), runs.pop()))
    while len(runs) > 1:
        runs.append(_merged(runs.pop(), runs.pop()))
    keys, counts = runs[0]
    return Rows(np.searchsorted(keys, np.arange(items + 1) * items), (keys % items).astype(np.int32), counts)


def _merged(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    keys = np.concatenate([one[0], other[0]])
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    if not len(first):
        return one
    return keys[first], np.add.reduceat(np.concatenate([one[1], other[1]])[order], first)


def dense(table: Rows, which: np.ndarray, columns: int) -> np.ndarray:
    """Rows `which` of the table as a matrix [len(which), columns] float32, 0 where there is no entry."""
    starts = table.offsets[which]
    lengths = table.offsets[which + 1] - starts
    entries = spans(starts, lengths)
    block = np.zeros((len(which), columns), np.float32)
    block[np.repeat(np.arange(len(which)), lengths), table.columns[entries]] = table.values[entries]
    return block
