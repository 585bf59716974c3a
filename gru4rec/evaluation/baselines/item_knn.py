"""Item-KNN: the items most similar to the current one (Hidasi et al., ICLR 2016, section 4).

Items i and j that stand together in c_ij sessions, and in n_i and n_j at all, have the similarity

    c_ij / ((n_i + λ)^α · (n_j + λ)^(1 − α))

With α = 1/2 and λ = 0 that is the cosine of the paper: co-occurrences over the square root of the product of the
numbers of sessions. The paper regularises it "to avoid coincidental high similarities of rarely visited items" and
does not say how; λ, as many sessions added to each item, is the usual damping (Davidson et al., RecSys 2010, normalise
co-visitation counts in the same way). n_i is the same for all candidates j: it does not change their order, so α below
1/2 takes more from popular candidates, and above 1/2 less.
"""

from collections.abc import Callable, Iterator

import numpy as np

from gru4rec.evaluation.baselines.sparse import Rows, count_pairs, dense, distinct, parts
from gru4rec.evaluation.histories import spans
from gru4rec.sessions.prepared import Sessions


def learn(train: Sessions, items: int, damping: float = 20.0, alpha: float = 0.5) -> Callable[[Sessions], np.ndarray]:
    """Scores an item by its similarity to the current one; `damping` is λ, in sessions.

    The current item itself, and what never stood in a session with it, scores 0.
    """
    session, item = distinct(train, items)
    occurs = np.bincount(item, minlength=items) + damping
    together = count_pairs(_pairs(session, item, train.count, items), items)
    of = np.repeat(np.arange(items), np.diff(together.offsets))
    norm = occurs[of] ** alpha * occurs[together.columns] ** (1 - alpha)
    similar = Rows(together.offsets, together.columns, (together.values / norm).astype(np.float32))
    return lambda histories: dense(similar, histories.items[histories.offsets[1:] - 1], items)


def _pairs(session: np.ndarray, item: np.ndarray, sessions: int, items: int) -> Iterator[np.ndarray]:
    """Keys i · items + j of every two different items of a session, in parts."""
    lengths = np.bincount(session, minlength=sessions)
    starts = (np.cumsum(lengths) - lengths)[session]
    lengths = lengths[session]
    for part in parts(lengths):
        one = np.repeat(item[part], lengths[part])
        other = item[spans(starts[part], lengths[part])]
        yield (one * items + other)[one != other]
