"""V-SKNN: the items of the past sessions most similar to the session so far (Ludewig & Jannach, UMUAI 2018).

Let the session so far have l clicks, and p_i be the place (1…l) of the last click on item i in it.

1. Candidates are the m most recent training sessions that share an item with it.
2. The similarity of a candidate n is the dot product of its set of items with the session's weights, which decay
   linearly from 1 at the current click: sim(n) = sum of p_i / l over the items i that they share.
3. Neighbours are the k candidates of the highest similarity, the more recent first among equals.
4. An item i scores log(N / n_i) · the sum of sim(n) · match(n) over the neighbours n that have it. match(n) = p_j / l
   of the latest click that the neighbour shares with the session (the weight that the same paper gives S-SKNN), and
   the logarithm, of all N training sessions over the n_i that have the item, is the inverse document frequency that
   came with the method's later studies (Ludewig et al., UMUAI 2021; Kersbergen et al., SIGMOD 2022).

Similarities are not divided by the lengths of the sessions, and items of the session so far are scored like all others.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gru4rec.evaluation.baselines.sparse import distinct, parts
from gru4rec.evaluation.histories import spans
from gru4rec.sessions.prepared import Sessions


class _Index(NamedTuple):
    """Which sessions an item stands in, the most recent last, and which items a session has, each once."""

    item_offsets: np.ndarray  # [items + 1] int64
    sessions: np.ndarray  # [pairs] int32
    session_offsets: np.ndarray  # [sessions + 1] int64
    items: np.ndarray  # [pairs] int32


def learn(train: Sessions, items: int, neighbours: int = 100, recent: int = 1000) -> Callable[[Sessions], np.ndarray]:
    """Scores as above, with k = `neighbours` and m = `recent`; of two sessions of `train` the later is the more recent.

    What no neighbour has scores 0.
    """
    session, item = distinct(train, items)
    support = np.bincount(item, minlength=items)
    rarity = np.log(max(train.count, 1) / np.maximum(support, 1))
    index = _Index(
        _offsets(item, items),
        session[np.argsort(item, kind="stable")].astype(np.int32),
        _offsets(session, train.count),
        item.astype(np.int32),
    )

    def score(histories: Sessions) -> np.ndarray:
        scores = np.empty((histories.count, items), np.float32)
        entries = np.minimum(np.diff(index.item_offsets), recent)[histories.items]
        costs = np.diff(np.concatenate([[0], np.cumsum(entries)])[histories.offsets])
        for part in parts(costs):
            row, near, weight = _neighbours(index, histories, part, neighbours, recent)
            starts = index.session_offsets[near]
            lengths = index.session_offsets[near + 1] - starts
            summed = np.zeros((part.stop - part.start) * items)
            for some in parts(lengths):
                has = index.items[spans(starts[some], lengths[some])]
                where = np.repeat(row[some] * items, lengths[some]) + has
                np.add.at(summed, where, np.repeat(weight[some], lengths[some]) * rarity[has])
            scores[part] = summed.reshape(-1, items)
        return scores

    return score


def _offsets(row_of_each: np.ndarray, rows: int) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.bincount(row_of_each, minlength=rows))])


def _neighbours(
    index: _Index, histories: Sessions, part: slice, most: int, recent: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The neighbours of some histories: history (from 0 in the part), session and sim · match, [neighbours] each."""
    items, all_sessions = len(index.item_offsets) - 1, max(1, len(index.session_offsets) - 1)
    lengths = histories.lengths[part]
    clicks = histories.items[histories.offsets[part.start] : histories.offsets[part.stop]]
    # The last click on each item of a history: the first one from behind.
    keys = np.repeat(np.arange(len(lengths)), lengths) * items + clicks
    place = spans(np.ones(len(lengths), np.int64), lengths)
    keys, behind = np.unique(keys[::-1], return_index=True)
    place = place[::-1][behind]
    # All sessions of each item that can be among the m most recent of all items together: its own m most recent.
    ends = index.item_offsets[keys % items + 1]
    entries = np.minimum(ends - index.item_offsets[keys % items], recent)
    found = index.sessions[spans(ends - entries, entries)]
    # Sorted as one number (history, session, place), equal sessions are neighbours and their latest place comes last.
    bits = int(lengths.max(initial=0)).bit_length()
    order = np.sort(((np.repeat(keys // items * all_sessions, entries) + found) << bits) | np.repeat(place, entries))
    pair, shared = order >> bits, order & ((1 << bits) - 1)
    first = np.flatnonzero(np.diff(pair, prepend=-1))
    if not len(first):
        return first, first, np.zeros(0)
    similar = np.add.reduceat(shared, first)
    match = shared[np.append(first[1:], len(shared)) - 1]
    row, session = np.divmod(pair[first], all_sessions)
    # Age 0 is the most recent candidate of the history. Sorted as (history, −similarity, age), the best come first.
    end = np.cumsum(np.bincount(row, minlength=len(lengths)))
    age = end[row] - 1 - np.arange(len(row))
    young = age < recent
    top = int(similar.max())
    order = np.sort(((row * (top + 1) + top - similar) * recent + age)[young])
    row = order // recent // (top + 1)
    start = np.searchsorted(row, np.arange(len(lengths)))
    best = np.arange(len(row)) - start[row] < most
    row = row[best]
    chosen = end[row] - 1 - order[best] % recent
    return row, session[chosen], similar[chosen] * match[chosen] / lengths[row] ** 2
