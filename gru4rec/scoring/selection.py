# mypy: ignore-errors
"""The k best of rows of scores while these come in blocks of neighbouring items, compiled by numba.

A score that is not above the k-th best so far is only compared with it, sixteen at a time. So that few others are left,
a row begins with a bound that at least k of its scores reach: the k-th highest of maxima of as many scores each.
"""

import numba
import numpy as np

CHUNK = 64  # scores that are compared before any is looked at
_LOWEST = np.float32(-np.inf)


@numba.njit(cache=True, nogil=True)
def select(scores, bias, first, k, values, places, counts):
    """Let the items `first`, `first` + 1, … with `scores` [B, n] + `bias` [n] compete for the k best of each row.

    `values` and `places` [B, k] hold the best so far, best first, equal scores in the order of the items; `counts` [B]
    how many they are. Blocks must come in the order of the items. Returns whether a score is NaN.
    """
    highest, tops = np.empty(k, np.float32), np.empty(CHUNK, np.float32)
    nan = False
    for b in range(len(scores)):
        row, best, at = scores[b], values[b], places[b]
        count, start = counts[b], 0
        limit = best[k - 1] if count == k else _LOWEST
        if count == 0 and k < CHUNK <= len(row):
            limit = _reached_by(row, bias, k, highest, tops)
        if limit == _LOWEST:
            while count < k and start < len(row):
                score = row[start] + bias[start]
                nan |= score != score
                _insert(best, at, count, score, first + start)
                count += 1
                start += 1
            limit = best[k - 1]
        while start < len(row):
            part, added = row[start : start + CHUNK], bias[start : start + CHUNK]
            hits = np.int32(1)
            if len(part) == CHUNK:
                hits = np.int32(0)
                for i in range(CHUNK):
                    hits += np.int32(not part[i] + added[i] <= limit)  # true for NaN, too
            if hits:
                for i in range(len(part)):
                    score = part[i] + added[i]
                    if not score <= limit:
                        nan |= score != score
                        if score > limit:
                            _insert(best, at, min(count, k - 1), score, first + start + i)
                            count = min(count + 1, k)
                            if count == k:
                                limit = best[k - 1]
            start += CHUNK
        counts[b] = count
    return nan


@numba.njit(inline="always")
def _reached_by(row, bias, k, highest, tops):
    """The number below the k-th highest of the maxima of the scores `CHUNK` apart: at least k scores are above it.

    Any number where there is a NaN, which `select` finds whatever the bound.
    """
    for i in range(CHUNK):
        tops[i] = row[i] + bias[i]
    for start in range(CHUNK, len(row) - CHUNK + 1, CHUNK):
        part, added = row[start : start + CHUNK], bias[start : start + CHUNK]
        for i in range(CHUNK):
            score = part[i] + added[i]
            tops[i] = score if score > tops[i] else tops[i]
    count = 0
    for top in tops:
        if count < k or top > highest[k - 1]:
            i = min(count, k - 1)
            while i > 0 and highest[i - 1] < top:
                highest[i] = highest[i - 1]
                i -= 1
            highest[i] = top
            count = min(count + 1, k)
    return np.nextafter(highest[k - 1], _LOWEST)


@numba.njit(inline="always")
def _insert(best, at, last, score, place):
    """Put a score at its place among the first `last` of `best`; what then is behind it moves on by one."""
    i = last
    while i > 0 and best[i - 1] < score:
        best[i], at[i] = best[i - 1], at[i - 1]
        i -= 1
    best[i], at[i] = score, place
