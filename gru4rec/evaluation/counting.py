# mypy: ignore-errors
"""Items above and level with a score, counted in one pass where numba is at hand; `metrics.ranks` is its front.

Written with whole-tensor operations it is four passes over memory, and takes longer than the product that made the
scores.
"""

import numba
import numpy as np

from gru4rec.model.threads import shared


@numba.njit(cache=True, nogil=True)
def above_and_level(threads, scores, targets, above, level):
    """above [B] and level [B] = items of a row of float32 scores [B, V] above that of its target, and equal to it.

    All int64, `targets` [B] too. The target is level with itself; nothing is above or level with NaN.
    """
    shared(_above_and_level, threads, len(targets), (scores, targets, above, level))


@numba.njit(cache=True, nogil=True)
def _above_and_level(scores, targets, above, level, start, stop):
    for row in range(start, stop):
        own = scores[row, targets[row]]
        higher, equal = np.int32(0), np.int32(0)
        for item in range(scores.shape[1]):
            score = scores[row, item]
            higher += np.int32(score > own)
            equal += np.int32(score == own)
        above[row], level[row] = higher, equal
