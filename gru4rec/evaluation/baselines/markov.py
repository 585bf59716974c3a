"""First-order Markov chain: what followed the current item most often in training.

It is a list of successors, in which no two are equal: of those that followed as often, the one that did so first comes
first. What never followed comes after all of them, and there ties remain.
"""

from collections.abc import Callable, Iterator

import numpy as np

from gru4rec.evaluation.baselines.sparse import Rows, count_keys, dense, parts, row_offsets
from gru4rec.evaluation.histories import transitions
from gru4rec.sessions.prepared import Sessions


def _successors(train: Sessions, items: int) -> Rows:
    """Of each item its successors: the best has as many points as there are, the next one less, the last 1."""
    pairs, counts, first = count_keys(_keys(train, items))
    rows = pairs // items
    offsets = row_offsets(pairs, items)
    points = np.empty(len(pairs), np.int64)
    points[np.lexsort((first, -counts, rows))] = offsets[rows + 1] - np.arange(len(pairs))
    return Rows(offsets, (pairs % items).astype(np.int32), points)


def _keys(train: Sessions, items: int) -> Iterator[np.ndarray]:
    """before · items + after of each transition, in their order."""
    for part in parts(train.lengths):
        begin, end = train.offsets[part.start], train.offsets[part.stop]
        before, after = transitions(Sessions(train.offsets[part.start : part.stop + 1] - begin, train.items[begin:end]))
        yield before.astype(np.int64) * items + after


def learn(train: Sessions, items: int) -> Callable[[Sessions], np.ndarray]:
    """Scores an item by its place among the successors of the current item; what never was one scores 0."""
    successors = _successors(train, items)
    return lambda histories: dense(successors, histories.items[histories.offsets[1:] - 1], items)


def counted(train: Sessions, items: int) -> Callable[[Sessions], tuple[np.ndarray, np.ndarray]]:
    """From sessions to the items that score above the target of each prediction, and as much as it (itself included):
    [transitions] int64 each.

    Among the successors of each current item alone, without a score for each item.
    """
    offsets, successors, points = _successors(train, items)
    pairs = np.repeat(np.arange(items), np.diff(offsets)) * items + successors

    def above_and_level(test: Sessions) -> tuple[np.ndarray, np.ndarray]:
        given, following = transitions(test)
        wanted = given.astype(np.int64) * items + following
        place = np.searchsorted(pairs, wanted)
        seen = place < len(pairs)
        seen[seen] = pairs[place[seen]] == wanted[seen]
        above = offsets[given + 1] - offsets[given]
        level = items - above  # items that score 0
        above[seen] -= points[place[seen]]
        level[seen] = 1
        return above, level

    return above_and_level
