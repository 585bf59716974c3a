"""How sessions are laid out in files and logical shards: pure functions of counts, so that nothing else
matters.
"""

import numpy as np

BINS = 2**16
"""Bins of start times in which clicks are counted to find where one file ends and the next begins."""

CLICKS_PER_FILE = 4_000_000
CLICKS_PER_ROW_GROUP = 100_000
"""Of the splits that are not trained on, whose row groups are no logical shards."""


def bin_of(start: np.ndarray, earliest: int, latest: int) -> np.ndarray:
    """Bin of start times (ms) between the earliest and the latest, [sessions] int64 in 0…BINS−1.

    What is later is in the last bin: a session whose first clicks have gone can start after all others.
    """
    width = (latest - earliest) // BINS + 1
    return np.minimum((start - earliest) // width, BINS - 1)


def edges(clicks: np.ndarray, files: int, shards: int) -> np.ndarray:
    """Bins at which a new file begins; ascending, at most `files` − 1 of them.

    `clicks` [BINS] counts the clicks of the sessions that start in each bin. Files are near-equal in
    clicks, and begin where one of `shards` equal parts of the clicks begins, so that shards of different
    files are near-equal too. A bin is never cut: sessions with one start stay together, and the files are
    in order of start.
    """
    shards = max(shards, files)
    before = np.cumsum(clicks)
    wanted = before[-1] * (shards * np.arange(1, files) // files) // shards
    found = np.unique(np.searchsorted(before, wanted, side="left") + 1)
    last = int(np.flatnonzero(clicks)[-1]) if before[-1] else 0
    return found[found <= last]


def file_of(bins: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """File of each session, from its bin; [sessions] int64."""
    return np.searchsorted(edges, bins, side="right")


def files_for(clicks: int) -> int:
    """How many files hold so many clicks."""
    return max(1, -(-clicks // CLICKS_PER_FILE))


def allot(clicks: np.ndarray, shards: int) -> np.ndarray:
    """Shards of each file, [files] int64, in proportion to its clicks; at least one where there are clicks.

    Their sum is `shards` unless there are more files than that.
    """
    total = int(clicks.sum())
    if not total:
        return np.zeros(len(clicks), np.int64)
    ends = np.concatenate([[0], np.cumsum(clicks)])
    marks = (2 * ends * shards + total) // (2 * total)
    return np.maximum(np.diff(marks), (clicks > 0).astype(np.int64))


def shard_of(lengths: np.ndarray, shards: int) -> np.ndarray:
    """Shard of each session, from their lengths in order; [sessions] int64, ascending from 0 without a gap.

    A session goes where its middle click falls when the clicks are cut into `shards` equal parts, so that a
    shard differs from an equal part by no more than the longest session. Fewer shards where a part is left
    without one.
    """
    total = int(lengths.sum())
    if not total:
        return np.zeros(len(lengths), np.int64)
    shards = max(1, min(shards, len(lengths)))
    before = np.cumsum(lengths) - lengths
    shard = (2 * before + lengths) * shards // (2 * total)
    return np.unique(np.minimum(shard, shards - 1), return_inverse=True)[1]
