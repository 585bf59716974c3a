"""Kernels in parts on torch's threads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

numba = pytest.importorskip("numba")

from gru4rec.model import threads  # noqa: E402


@numba.njit(nogil=True)
def _count(times, parts, start, stop):
    parts[start] = stop
    for place in range(start, stop):
        times[place] += 1


@numba.njit(nogil=True)
def count(workers, times, parts):
    threads.shared(_count, workers, len(times), (times, parts))


@numba.njit(nogil=True)
def _starve(start, stop):
    if start > 0:
        np.empty(1 << 60)


@numba.njit(nogil=True)
def starve(workers):
    threads.shared(_starve, workers, 10, ())


@given(size=st.integers(0, 50), workers=st.integers(1, 7))
def test_every_place_is_in_one_part_and_parts_differ_by_one_at_most(size, workers):
    if not threads.AVAILABLE:
        workers = 1
    times, parts = np.zeros(size, np.int64), np.full(size + 1, -1)
    count(workers, times, parts)
    assert (times == 1).all()
    starts = np.flatnonzero(parts >= 0)
    sizes = parts[starts] - starts
    assert len(starts) <= workers
    if size >= workers:
        assert len(starts) == workers
        assert sizes.max() - sizes.min() <= 1


@pytest.mark.skipif(not threads.AVAILABLE, reason="torch has no OpenMP with the entries of GNU's")
def test_a_part_without_memory_is_an_error():
    starve(1)
    with pytest.raises(MemoryError):
        starve(2)
