"""First-order Markov chain: what followed the current item most often in training."""

from collections.abc import Callable

import numpy as np

from gru4rec.evaluation.baselines.histories import transitions
from gru4rec.evaluation.baselines.sparse import Rows, count_pairs, dense
from gru4rec.sessions.prepared import Sessions


def _successors(train: Sessions, items: int) -> Rows:
    before, after = transitions(train)
    return count_pairs([before.astype(np.int64) * items + after], items)


def learn(train: Sessions, items: int) -> Callable[[Sessions], np.ndarray]:
    """Scores an item by how often it was the next click after the current item; what never was scores 0."""
    successors = _successors(train, items)
    return lambda histories: dense(successors, histories.items[histories.offsets[1:] - 1], items)


def above_and_level(train: Sessions, test: Sessions, items: int) -> tuple[np.ndarray, np.ndarray]:
    """Items that score above the target of each prediction, and as much as it (itself included), [transitions] int64.

    Among the successors of each current item alone, without a score for each item.
    """
    given, following = transitions(test)
    offsets, successors, counts = _successors(train, items)
    rows = np.repeat(np.arange(items), np.diff(offsets))
    pairs, wanted = rows * items + successors, given.astype(np.int64) * items + following
    place = np.searchsorted(pairs, wanted)
    seen = place < len(pairs)
    seen[seen] = pairs[place[seen]] == wanted[seen]
    own = np.zeros(len(given), np.int64)
    own[seen] = counts[place[seen]]
    # Within each current item by count: (current item, count) as one sorted key.
    base = int(counts.max(initial=0)) + 1
    keys = np.sort(rows * base + counts)
    at = given.astype(np.int64) * base + own
    after = np.searchsorted(keys, at, side="right")
    above = offsets[given + 1] - after
    level = after - np.searchsorted(keys, at, side="left")
    never = items - (offsets[given + 1] - offsets[given])  # items that score 0
    return above, np.where(own > 0, level, never)
