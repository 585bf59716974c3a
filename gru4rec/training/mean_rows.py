# mypy: ignore-errors
"""The kernels of `shared_sum.SharedSum.average`, compiled by numba: a mean of rows in one pass over each table."""

import numba
import numpy as np

from gru4rec.model.compiled import AHEAD, LINE, prefetch

ZERO = np.float32(0)


@numba.njit(cache=True, nogil=True)
def bring_rows(table, rows, own, start, stop, out):
    """out [M · D] = `rows` [M] of a table [V, D] one after another, zeros where `own` [M] is not set.

    Those from `start` to `stop` are left out.
    """
    flat, width = table.reshape(-1), table.shape[1]
    for m in range(len(rows)):
        if start <= m < stop:
            continue
        if m + AHEAD < len(rows):
            ahead = rows[m + AHEAD] * width
            for line in range(0, width, LINE):
                prefetch(flat, ahead + line)
        to, row = m * width, rows[m]
        if own[m]:
            for d in range(width):
                out[to + d] = table[row, d]
        else:
            for d in range(width):
                out[to + d] = ZERO


@numba.njit(cache=True, nogil=True)
def mean_rows(brought, rank, table, rows, own, counts, start, stop, out):
    """out [M · D] from row `start` to `stop` = the sum of what all ranks brought, [R][M · D], over `counts` [M].

    What `rank` brings of these is still in its table, see `bring_rows`.
    """
    flat, width = table.reshape(-1), table.shape[1]
    for m in range(start, stop):
        if m + AHEAD < stop:
            ahead = rows[m + AHEAD] * width
            for line in range(0, width, LINE):
                prefetch(flat, ahead + line)
        to, row, count = m * width, rows[m], np.float32(counts[m])
        for d in range(width):
            out[to + d] = ZERO
        for other in range(len(brought)):
            if other != rank:
                for d in range(width):
                    out[to + d] += brought[other, to + d]
            elif own[m]:
                for d in range(width):
                    out[to + d] += table[row, d]
        for d in range(width):
            out[to + d] /= count


@numba.njit(cache=True, nogil=True)
def put_rows(table, rows, found):
    """`rows` [M] of a table [V, D] = found [M · D]."""
    width = table.shape[1]
    for m in range(len(rows)):
        row, start = rows[m], m * width
        for d in range(width):
            table[row, d] = found[start + d]
