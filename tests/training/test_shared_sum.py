"""Sums through shared memory: right, the same bits on all, and no endless waiting."""

import errno
import itertools
import mmap
import os
import threading
import time

import numpy as np
import pytest
import summing
import torch
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st

from gru4rec.errors import GRU4RecError
from gru4rec.training import shared_sum
from gru4rec.training.shared_sum import SharedSum, possible

CAPACITY = 128
here = pytest.mark.skipif(not possible(), reason="memory is not shared so on this machine")


def crew(size: int, timeout: float = 30.0) -> list[SharedSum]:
    """The workers of one sum, for as many threads."""
    memory = mmap.mmap(-1, 64 * size + 4 * CAPACITY * (size + 1))
    return [SharedSum(memory, rank, size, CAPACITY, timeout) for rank in range(size)]


def at_once(tasks) -> list:
    """What each task gives, or the exception that it raises, all run side by side."""
    found: list = [None] * len(tasks)

    def run(place: int) -> None:
        try:
            found[place] = tasks[place]()
        except Exception as error:  # it is looked at where all have ended
            found[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@settings(max_examples=30)
@given(
    size=st.integers(1, 5),
    counts=st.lists(st.integers(0, CAPACITY), min_size=1, max_size=4),
    seed=st.integers(0, 2**32 - 1),
)
def test_sums_add_up_number_by_number_in_the_order_of_the_ranks(size, counts, seed):
    rng = np.random.default_rng(seed)
    given = [[rng.normal(0, 10, count).astype(np.float32) for count in counts] for _ in range(size)]
    members = crew(size)

    def worker(rank: int) -> list[np.ndarray]:
        values = [torch.from_numpy(part.copy()) for part in given[rank]]
        for part in values:
            members[rank].add(part)
        return [part.numpy() for part in values]

    found = at_once([lambda rank=rank: worker(rank) for rank in range(size)])
    for turn in range(len(counts)):
        wanted = list(itertools.accumulate(part[turn] for part in given))[-1]
        for parts in found:
            assert parts[turn].tobytes() == wanted.tobytes()


@pytest.mark.skipif(not shared_sum.AVERAGES, reason="numba is not installed")
@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(1, 5),
    width=st.integers(1, CAPACITY // 2),
    turns=st.lists(st.integers(0, 40), min_size=1, max_size=3),
    seed=st.integers(0, 2**32 - 1),
)
def test_averages_are_means_over_those_that_have_a_part_in_a_row(size, width, turns, seed):
    rng = np.random.default_rng(seed)
    tables = rng.normal(0, 10, (size, 40, width)).astype(np.float32)
    wanted = tables.copy()
    rounds = []
    for count in turns:
        rows = rng.permutation(40)[:count]
        own = rng.random((size, count)) < 0.6
        own[rng.integers(size, size=count), np.arange(count)] = True
        rounds.append((torch.from_numpy(rows), torch.from_numpy(own.sum(axis=0)), torch.from_numpy(own)))
        summed = list(itertools.accumulate(np.where(own[:, :, None], wanted[:, rows], np.float32(0))))[-1]
        wanted[:, rows] = summed / own.sum(axis=0).astype(np.float32)[:, None]
        wanted[:, 0] *= size  # a sum in between uses the same memory
        first = wanted[:, 0, : min(width, 9)]
        first[:] = list(itertools.accumulate(first))[-1]
    members = crew(size)

    def worker(rank: int) -> None:
        mine = torch.from_numpy(tables[rank])
        for rows, counts, own in rounds:
            members[rank].average(mine, rows, counts, own[rank])
            mine[0] *= size
            members[rank].add(mine[0, : min(width, 9)])

    assert at_once([lambda rank=rank: worker(rank) for rank in range(size)]) == [None] * size
    np.testing.assert_array_equal(tables, wanted)


def test_a_worker_that_does_not_come_is_an_error_that_names_it():
    began = time.monotonic()
    with pytest.raises(GRU4RecError, match=r"worker 1 has not come to a sum for 0\.2 s"):
        crew(2, timeout=0.2)[0].add(torch.ones(4))
    assert time.monotonic() - began < 5


def test_workers_that_bring_different_numbers_are_an_error():
    members = crew(2)
    found = at_once([lambda: members[0].add(torch.ones(4)), lambda: members[1].add(torch.ones(5))])
    assert all("different numbers of values to one sum: [4, 5]" in str(error) for error in found)


@here
def test_two_processes_share_memory_where_they_can_leave_nothing_and_notice_a_death(tmp_path):
    for name in ("of one machine", "of machine 0", "of machine 1"):
        (tmp_path / name).mkdir()
    with mp.get_context("spawn").Manager() as manager:
        results = manager.dict()
        started = mp.spawn(summing.member, (str(tmp_path), results), nprocs=2, join=False)
        for process in started.processes:
            process.join(60)
        with pytest.raises(mp.ProcessExitedException, match="SIGKILL"):
            started.join()
        found = dict(results)
    assert found["bytes 0"] == found["bytes 1"] == 4 * (10 + 5 + 1000 + 100_000 + 3)
    assert "worker 1 has not come" in found["error"]
    assert not list(tmp_path.rglob("gru4rec-*"))


@here
def test_no_room_for_the_memory_is_no_error_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert shared_sum._map(tmp_path / "memory", 4096, create=True) is None
    assert not list(tmp_path.iterdir())
