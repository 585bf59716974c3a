"""S-POP: the items of the session so far, by their clicks in it, then all others by popularity (Hidasi et al., ICLR
2016, section 4). Ties within the session are broken by popularity, too.
"""

from collections.abc import Callable

import numpy as np

from gru4rec.evaluation.baselines.pop import levels
from gru4rec.sessions.prepared import Sessions


def learn(train: Sessions, items: int) -> Callable[[Sessions], np.ndarray]:
    """Scores an item by L · clicks in the session so far + its place among the L different supports.

    That is the order of (clicks in the session, support), in whole numbers, which float32 holds exactly to 2^24:
    more than a hundred clicks on one item where there are a hundred thousand different supports.
    """
    popular = levels(train, items).astype(np.float32)
    step = popular.max(initial=0) + 1

    def score(histories: Sessions) -> np.ndarray:
        scores = np.tile(popular, (histories.count, 1))
        rows = np.repeat(np.arange(histories.count), histories.lengths)
        np.add.at(scores, (rows, histories.items), step)
        return scores

    return score
