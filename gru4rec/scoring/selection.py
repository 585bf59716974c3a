# mypy: ignore-errors
"""The k best of rows of scores while these come in blocks of neighbouring items, compiled by numba.

A score that is not above the k-th best so far is only compared with it, sixteen at a time; few others are left, about
k · log(V / k) of V in random order, and each is put in its place among the best.
"""

import numba
import numpy as np

FIRST, AT_ONCE = 64, 1024  # scores that are compared before any is looked at, at first and later
WORD = 8  # comparisons that are looked at together


@numba.njit(cache=True, nogil=True)
def select(scores, first, k, values, places, counts):
    """Let the items `first`, `first` + 1, … with `scores` [B, n] compete for the k best of each row.

    `values` and `places` [B, k] hold the best so far, best first, equal scores in the order of the items; `counts` [B]
    how many they are. Blocks must come in the order of the items. Returns whether a score is NaN.
    """
    hit = np.empty(AT_ONCE, np.uint8)
    words = hit.view(np.uint64)
    nan = False
    for b in range(len(scores)):
        row, best, at = scores[b], values[b], places[b]
        count = counts[b]
        begun = 0
        while count < k and begun < len(row):
            score = row[begun]
            nan |= score != score
            _insert(best, at, count, score, first + begun)
            count += 1
            begun += 1
        counts[b] = count
        start, size = begun, FIRST if begun else AT_ONCE
        while start < len(row):
            part = row[start : start + size]
            words_of_part = -(-len(part) // WORD)
            limit = best[k - 1]
            for i in range(len(part)):
                hit[i] = not part[i] <= limit  # true for NaN, too
            hit[len(part) : words_of_part * WORD] = 0
            for word in range(words_of_part):
                if words[word]:
                    for i in range(word * WORD, word * WORD + WORD):
                        if hit[i]:
                            score = part[i]
                            if score > best[k - 1]:
                                _insert(best, at, k - 1, score, first + start + i)
                            nan |= score != score
            start += size
            size = min(2 * size, AT_ONCE)  # the limit rises fast at first
    return nan


@numba.njit(inline="always")
def _insert(best, at, last, score, place):
    """Put a score at its place among the first `last` of `best`; what then is behind it moves on by one."""
    i = last
    while i > 0 and best[i - 1] < score:
        best[i], at[i] = best[i - 1], at[i - 1]
        i -= 1
    best[i], at[i] = score, place
