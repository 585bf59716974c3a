"""What counts as relevant after a click, and what the ranks of it are worth.

Either the next click alone (`next_click`: what GRU4Rec is trained on, one relevant item a prediction), or every item
that the session still clicks (`rest`: what a list of recommendations is for; Ludewig & Jannach, UMUAI 2018, section
3.2).

Shapes: T predictions (clicks that have a next one), R relevant items over all of them, K cut-offs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gru4rec.evaluation.histories import places, spans
from gru4rec.sessions.prepared import Sessions

METRICS = ("recall", "mrr", "ndcg", "map", "hit_rate")
SHOWN = dict(zip(METRICS, ("Recall", "MRR", "NDCG", "MAP", "Hit rate"), strict=True))
"""Their names for people."""


class Relevant(NamedTuple):
    """Relevant items by prediction."""

    at: np.ndarray  # [T] int64: where in `Sessions.items` the click lies after which is predicted
    of: np.ndarray  # [R] int64: which prediction it is, ascending
    items: np.ndarray  # [R] int32


def next_click(sessions: Sessions) -> Relevant:
    """The item of the next click, one a prediction."""
    at = places(sessions)
    return Relevant(at, np.arange(len(at)), sessions.items[at + 1])


def rest(sessions: Sessions) -> Relevant:
    """The items of all later clicks of the session, each once; in the order in which they come."""
    at = places(sessions)
    session = np.repeat(np.arange(sessions.count), sessions.lengths)
    before = _click_before(session, sessions.items)
    # A click is the first on its item after each click from the one on the same item before it, or the session's first.
    first = np.maximum(before, sessions.offsets[session])
    counts = np.arange(len(session)) - first
    after = spans(first, counts)
    clicks = np.repeat(np.arange(len(session)), counts)
    order = np.argsort(after, kind="stable")
    return Relevant(at, np.searchsorted(at, after[order]), sessions.items[clicks[order]])


def _click_before(session: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Of each click the place of the click before it on the same item in its session, [clicks] int64; -1 for none."""
    order = np.lexsort((items, session))
    same = (np.diff(session[order]) == 0) & (np.diff(items[order]) == 0)
    found = np.full(len(items), -1)
    found[order[1:][same]] = order[:-1][same]
    return found


def gains(ranks: np.ndarray, relevant: Relevant, cutoffs: Sequence[int]) -> np.ndarray:
    """What each prediction adds to each metric at each cut-off, [T, len(METRICS), K] float64.

    `ranks` [R] are those of the relevant items, infinite where an item cannot be recommended. Let a prediction have m
    relevant items, and place_j be the j-th best rank of them, but at least j: where ties leave two at one rank, a list
    would still show one after the other. With hits the j with place_j <= k:

    * Recall@k: hits / m. Hit rate@k: 1 where there is a hit.
    * MRR@k: 1 / place_1 where that is a hit.
    * MAP@k, of the average precision: sum over hits of (j / place_j) / min(m, k).
    * NDCG@k: sum over hits of 1 / log2(1 + place_j), divided by that of places 1 … min(m, k).

    With one relevant item, hit rate is Recall and MAP is MRR.
    """
    count = len(relevant.at)
    order = np.lexsort((ranks, relevant.of))
    of, sizes = relevant.of, np.bincount(relevant.of, minlength=count)
    number = np.arange(len(ranks)) - (np.cumsum(sizes) - sizes)[of] + 1
    place = np.maximum(ranks[order], number)
    discounts = np.concatenate([[0.0], np.cumsum(1 / np.log2(1 + np.arange(1, max(cutoffs, default=1) + 1)))])
    found = np.zeros((count, len(METRICS), len(cutoffs)))
    for column, k in enumerate(cutoffs):
        hit = place <= k
        whose, places_, numbers = of[hit], place[hit], number[hit]
        hits = np.bincount(whose, minlength=count)
        best = numbers == 1
        most = np.minimum(sizes, k)
        found[:, 0, column] = hits / sizes
        found[whose[best], 1, column] = 1 / places_[best]
        found[:, 2, column] = np.bincount(whose, 1 / np.log2(1 + places_), count) / discounts[most]
        found[:, 3, column] = np.bincount(whose, numbers / places_, count) / most
        found[:, 4, column] = hits > 0
    return found
