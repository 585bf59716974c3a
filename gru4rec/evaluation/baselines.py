"""Baselines that a model has to beat, under the same ranking rules.

Both rank by counts, in which ties are frequent: the tie mode matters more to them than to a network.
"""

from collections.abc import Sequence

import numpy as np
import torch

from gru4rec.evaluation.metrics import RankingMetrics, Ties
from gru4rec.sessions.prepared import Sessions

NAMES = ("pop", "markov")


def transitions(sessions: Sessions) -> tuple[np.ndarray, np.ndarray]:
    """The clicks that have a next one and these next ones, [transitions] int32 each."""
    last = np.zeros(len(sessions.items), bool)
    last[sessions.offsets[1:][sessions.lengths > 0] - 1] = True
    at = np.flatnonzero(~last)
    return sessions.items[at], sessions.items[at + 1]


def evaluate(
    name: str,
    train: Sessions,
    test: Sessions,
    items: int,
    cutoffs: Sequence[int],
    ties: Ties = "conservative",
) -> RankingMetrics:
    """Metrics of a baseline learnt from `train` on the next clicks of `test`; `items` is the catalogue's size.

    `pop` scores an item by its clicks in `train`, `markov` by how often it followed the last click there (first-order
    Markov chain); what never followed scores 0.
    """
    given, following = transitions(test)
    if name == "pop":
        above, level = _popularity(train, following, items)
    elif name == "markov":
        above, level = _markov(train, given, following, items)
    else:
        raise ValueError(f"unknown baseline {name!r}; known are {', '.join(NAMES)}")
    rank = {"standard": above + 1.0, "conservative": above + level, "median": above + (level + 1) / 2}[ties]
    metrics = RankingMetrics(cutoffs)
    metrics.add(torch.from_numpy(np.asarray(rank, np.float64)))
    return metrics


def _popularity(train: Sessions, following: np.ndarray, items: int) -> tuple[np.ndarray, np.ndarray]:
    """Items that score above each target, and items that score the same (itself included)."""
    support = np.bincount(train.items, minlength=items)
    ordered = np.sort(support)
    own = support[following]
    after = np.searchsorted(ordered, own, side="right")
    return items - after, after - np.searchsorted(ordered, own, side="left")


def _markov(train: Sessions, given: np.ndarray, following: np.ndarray, items: int) -> tuple[np.ndarray, np.ndarray]:
    """The same among the successors of each last click."""
    before, after = transitions(train)
    pairs, counts = np.unique(before.astype(np.int64) * items + after, return_counts=True)
    # Within each last click by count: (last click, count) as one sorted key.
    base = int(counts.max(initial=0)) + 1
    keys = np.sort(pairs // items * base + counts)
    place = np.searchsorted(pairs, wanted := given.astype(np.int64) * items + following)
    seen = place < len(pairs)
    seen[seen] = pairs[place[seen]] == wanted[seen]
    own = np.zeros(len(given), np.int64)
    own[seen] = counts[place[seen]]
    block_end = np.searchsorted(keys, (given.astype(np.int64) + 1) * base)
    block_start = np.searchsorted(keys, given.astype(np.int64) * base)
    at = given.astype(np.int64) * base + own
    above = block_end - np.searchsorted(keys, at, side="right")
    level = np.searchsorted(keys, at, side="right") - np.searchsorted(keys, at, side="left")
    never = items - (block_end - block_start)  # items that score 0
    return above, np.where(own > 0, level, never)
