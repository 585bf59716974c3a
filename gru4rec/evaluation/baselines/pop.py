"""POP: the items that were clicked most often in training, the same for every session (Hidasi et al., ICLR 2016,
section 4).
"""

from collections.abc import Callable

import numpy as np

from gru4rec.evaluation.histories import transitions
from gru4rec.sessions.prepared import Sessions


def levels(train: Sessions, items: int) -> np.ndarray:
    """Items by clicks in `train`, [items] int64: 0 for the fewest that an item has, 1 for the next more, and so on.

    In the order of the supports, yet small enough to be exact in float32 for any log.
    """
    return np.unique(np.bincount(train.items, minlength=items), return_inverse=True)[1]


def learn(train: Sessions, items: int) -> Callable[[Sessions], np.ndarray]:
    """Scores an item by its place among the supports (`levels`)."""
    scores = levels(train, items).astype(np.float32)
    return lambda histories: np.tile(scores, (histories.count, 1))


def counted(train: Sessions, items: int) -> Callable[[Sessions], tuple[np.ndarray, np.ndarray]]:
    """From sessions to the items that score above the target of each prediction, and as much as it (itself included):
    [transitions] int64 each.

    From the sorted supports, without a score for each item.
    """
    support = np.bincount(train.items, minlength=items)
    ordered = np.sort(support)

    def above_and_level(test: Sessions) -> tuple[np.ndarray, np.ndarray]:
        own = support[transitions(test)[1]]
        after = np.searchsorted(ordered, own, side="right")
        return items - after, after - np.searchsorted(ordered, own, side="left")

    return above_and_level
