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
def mean_rows(memory, first, rank, table, rows, own, counts, start, stop):
    """memory [R + 1, …], from number `first` on: the last row = the sum of the R others, of each row over its `counts`.

    They hold `rows` [M] of the tables [V, D] of all ranks, one after another; only `start` to `stop` are summed. What
    `rank` has of these is still in its own table, see `bring_rows`.
    """
    flat, width, ranks = table.reshape(-1), table.shape[1], len(memory) - 1
    for m in range(start, stop):
        if m + AHEAD < stop:
            ahead = rows[m + AHEAD] * width
            for line in range(0, width, LINE):
                prefetch(flat, ahead + line)
        begin, row = first + m * width, rows[m]
        total = memory[ranks, begin : begin + width]
        begun = False
        for other in range(ranks):
            if other == rank and not own[m]:
                continue
            source = table[row] if other == rank else memory[other, begin : begin + width]
            if begun:
                for d in range(width):
                    total[d] += source[d]
            else:
                for d in range(width):
                    total[d] = source[d]
                begun = True
        if counts[m] > 1:
            count = np.float32(counts[m])
            for d in range(width):
                total[d] /= count


@numba.njit(cache=True, nogil=True)
def put_rows(table, rows, found):
    """`rows` [M] of a table [V, D] = found [M · D]."""
    width = table.shape[1]
    for m in range(len(rows)):
        row, start = rows[m], m * width
        for d in range(width):
            table[row, d] = found[start + d]
