"""Whether one model is better than another: confidence intervals and paired tests over sessions.

The predictions of one session depend on one another, sessions do not: so sessions are what is drawn and exchanged,
never single predictions (cluster bootstrap; Davison & Hinkley 1997, section 3.8). A metric is a sum over predictions
divided by their number, here by session: Σ s / Σ n. All models are drawn with the same sessions, which is what makes
differences between them precise.

More than `GROUPS` sessions are put into so many groups at random, which are then drawn in their place: the time does
not grow with the sessions, and intervals stay right, for groups too are independent and alike.

Shapes: S sessions (or groups), C columns (a metric of a model each), R draws.
"""

from typing import NamedTuple

import numpy as np

GROUPS = 10_000
DRAWS = 5_000
_BATCH = 250  # draws at a time


class Test(NamedTuple):
    """Whether a column is higher than another."""

    difference: float
    low: float
    high: float
    p: float  # of the difference, or a larger one, where none is; one-sided


def group_of(first: int, count: int, sessions: int, seed: int = 0) -> np.ndarray:
    """The group of sessions number first … first + count − 1 of so many `sessions` in all, [count] int64.

    At random, yet of the number alone, so that parts of the sessions can be put into groups each by itself (splitmix64:
    Steele, Lea & Flood, OOPSLA 2014).
    """
    number = np.arange(first, first + count, dtype=np.uint64)
    if sessions <= GROUPS:
        return number.astype(np.int64)
    mixed = (number + np.uint64(seed + 1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) % np.uint64(GROUPS)).astype(np.int64)


def grouped(sums: np.ndarray, counts: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(sums [S, C], counts [S]) of at most GROUPS groups of sessions."""
    if len(counts) <= GROUPS:
        return sums, counts
    group = group_of(0, len(counts), len(counts), seed)
    return summed(group, sums, GROUPS), np.bincount(group, counts, GROUPS)


def summed(group: np.ndarray, values: np.ndarray, groups: int) -> np.ndarray:
    """Rows of `values` [n, C] added up by their `group` [n], [groups, C] float64."""
    return np.stack([np.bincount(group, column, groups) for column in values.T], axis=1)


def drawn(sums: np.ndarray, counts: np.ndarray, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Metrics of as many sessions drawn with replacement, [R, C], the same for all columns (Efron 1979).

    `sums` [S, C] are what each session adds to each column, `counts` [S] its predictions, at least one in all.
    """
    sums, counts = grouped(sums, counts, seed)
    size = len(counts)
    every = np.column_stack([counts, sums]).astype(np.float64)
    rng = np.random.default_rng([seed, 1])
    found = np.empty((draws, sums.shape[1]))
    for first in range(0, draws, _BATCH):
        rows = min(_BATCH, draws - first)
        cells = rng.integers(0, size, (rows, size), dtype=np.int32) + np.arange(rows, dtype=np.int32)[:, None] * size
        times = np.bincount(cells.ravel(), minlength=rows * size).reshape(rows, size)
        totals = times.astype(np.float64) @ every
        found[first : first + rows] = totals[:, 1:] / np.maximum(totals[:, :1], 1)
    return found


def interval(draws: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of the percentile interval of each column of `drawn` metrics, [C] each."""
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(draws, [tail, 100 - tail], axis=0)
    return low, high


def better(
    sums: np.ndarray, other: np.ndarray, counts: np.ndarray, margin: float = 0.0, draws: int = DRAWS, seed: int = 0
) -> Test:
    """Whether a model with `sums` [S] beats the one with `other` [S] by more than `margin`, a share of the latter's.

    The difference is that of the metrics, less the margin. Its p value is that of the paired randomisation test
    (Fisher 1935; for retrieval: Smucker, Allan & Carterette, CIKM 2007): were there no difference, each session's two
    results might as well be exchanged. The interval, of 95 %, is drawn as in `drawn`.
    """
    asked = other * (1 + margin)
    low, high = interval(drawn((sums - asked)[:, None], counts, draws, seed))
    gain, total = grouped((sums - asked)[:, None], counts, seed)
    signed = gain[:, 0]
    rng = np.random.default_rng([seed, 2])
    at_least = 0
    for first in range(0, draws, _BATCH):
        rows = min(_BATCH, draws - first)
        bits = np.unpackbits(rng.integers(0, 256, (rows, -(-len(signed) // 8)), dtype=np.uint8), axis=1)
        exchanged = signed.sum() - 2 * (bits[:, : len(signed)].astype(np.float64) @ signed)
        # Sums of the same numbers in another order differ in their last bits: those count as equal, against the model.
        at_least += int((exchanged >= signed.sum() - 1e-9 * np.abs(signed).sum()).sum())
    difference = float(signed.sum() / max(total.sum(), 1))
    return Test(difference, float(low[0]), float(high[0]), (1 + at_least) / (1 + draws))


def holm(p: np.ndarray) -> np.ndarray:
    """p values corrected for so many tests at once, [n]: the chance of one false finding or more stays below the level.

    (Holm, Scandinavian Journal of Statistics 1979.)
    """
    order = np.argsort(p, kind="stable")
    scaled = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    found = np.empty(len(p))
    found[order] = np.minimum(scaled, 1)
    return found
