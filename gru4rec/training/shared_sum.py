"""The sum over workers that share a machine, through memory that all of them map.

A sum of a megabyte takes gloo milliseconds on one machine, as much as half a training step: it goes through sockets,
and threads that wait for the CPUs on which the workers compute. Through shared memory it takes as long as two copies.
Each worker sums one slice of all, in the order of the ranks, and all read that one result: the same bits on each, and
the same in every run.
"""

import mmap
import os
import platform
import secrets
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from gru4rec.errors import GRU4RecError

try:
    from gru4rec.training import mean_rows
except ImportError:  # no numba
    mean_rows = None  # type: ignore[assignment]

AVERAGES = mean_rows is not None
"""Whether `SharedSum.average` can be called."""

_FOLDER = Path("/dev/shm")  # noqa: S108
_LINE = 64  # bytes of a cache line: what workers write lies on lines of their own
_FLOATS = _LINE // 4
_SPIN = 2e-3  # seconds of waiting in which the CPU is only offered to others; workers keep step, most waits are shorter
_SLEEP = 1e-4  # seconds between looks after that


def possible() -> bool:
    """Whether this machine can share memory so: Linux, and stores that others see in the order they were made."""
    return platform.machine() in ("x86_64", "AMD64") and _FOLDER.is_dir()


class SharedSum:
    """Sums of up to `capacity` float32 numbers over the workers of a process group that share a machine.

    Make it with `open`. Memory: a counter line a worker, then a part a worker and the result, [size + 1, capacity].
    """

    def __init__(self, memory: mmap.mmap, rank: int, size: int, capacity: int, timeout: float) -> None:
        self.capacity = capacity
        self._rank, self._size, self._timeout = rank, size, timeout
        self._turn = 0
        # [size, 8] int64: how often the worker has come to a meeting, how many numbers it brings, nothing.
        self._counters = np.frombuffer(memory, np.int64, size * _LINE // 8).reshape(size, -1)
        self._numbers = torch.frombuffer(memory, dtype=torch.float32, offset=size * _LINE).view(size + 1, capacity)
        *self._parts, self._result = self._numbers.unbind()

    @classmethod
    def open(cls, capacity: int, timeout: float, group: dist.ProcessGroup | None = None) -> "SharedSum | None":
        """Memory for at least `capacity` numbers, by all workers at once; None, for all, where one cannot map it.

        That is so where they are on several machines, or where the memory that may be shared is too small. A meeting
        waits `timeout` seconds for the others.
        """
        rank, size = dist.get_rank(group), dist.get_world_size(group)
        capacity = -(-capacity // _FLOATS) * _FLOATS
        length = size * _LINE + (size + 1) * capacity * 4
        # No other machine has a file of this name, and no process a reason to guess it.
        key = torch.tensor(list(secrets.token_bytes(16)), dtype=torch.uint8)
        mapped = _map(_path(key), length, create=True) if rank == 0 else None
        try:
            dist.broadcast(key, group=group, group_src=0)
            mapped = mapped if rank == 0 else _map(_path(key), length, create=False)
            everyone = torch.tensor(int(mapped is not None))
            dist.all_reduce(everyone, dist.ReduceOp.MIN, group=group)
        finally:
            if rank == 0:
                _path(key).unlink(missing_ok=True)  # the memory stays as long as one maps it, and goes with the last
        if mapped is None or not everyone.item():
            return None
        return cls(mapped, rank, size, capacity, timeout)

    def add(self, values: Tensor) -> None:
        """Replace `values` [n], contiguous float32, by their sum over all workers; each brings as many.

        Raises GRU4RecError where another worker does not come within the timeout, or brings another number of values.
        """
        count = len(values)
        self._counters[self._rank, 1] = count
        step = -(-count // self._size // _FLOATS) * _FLOATS
        start, end = min(self._rank * step, count), min((self._rank + 1) * step, count)
        mine = self._parts[self._rank]
        mine[:start].copy_(values[:start])  # what the others sum
        mine[end:count].copy_(values[end:])
        self._meet()
        self._check(count)
        total = self._result[start:end]
        first, *rest = [(values if rank == self._rank else part)[start:end] for rank, part in enumerate(self._parts)]
        total.copy_(first) if not rest else torch.add(first, rest[0], out=total)
        for part in rest[1:]:
            total.add_(part)
        # The next turn's parts are written after this meeting, when all have read this turn's; the next results after
        # the next turn's first one, when all have read this turn's.
        self._meet()
        values.copy_(self._result[:count])

    def average(self, table: Tensor, rows: Tensor, counts: Tensor, own: Tensor) -> None:
        """Replace `rows` [U] int64 of a table [V, D] by their means over the workers that have a part in them.

        `counts` [U]: how many these are; `own` [U] bool: whether this worker is one. All bring the same rows; a row
        must fit half of the capacity. Raises GRU4RecError as `add` does.

        Rows go in pieces that stay in the cache. What is brought and its means lie in two halves by turns, so that
        all meet once a piece: none writes what another may still read.
        """
        half, width, places = self.capacity // 2, table.shape[1], rows.numpy()
        memory, numbers = self._numbers.numpy(), table.numpy()
        each = half // width
        starts = range(0, len(rows), each)

        def piece(number: int) -> tuple[slice, slice, tuple[int, int]]:
            """Piece `number`: its rows, its half of the memory, and which of its rows this worker sums."""
            count = min(each, len(rows) - starts[number])
            share = count * self._rank // self._size, count * (self._rank + 1) // self._size
            first = half * (number % 2)
            return slice(starts[number], starts[number] + count), slice(first, first + half), share

        def bring(number: int) -> None:
            of, within, share = piece(number)
            mean_rows.bring_rows(numbers, places[of], present[of], *share, memory[self._rank, within])

        if not len(rows):
            return
        self._counters[self._rank, 1] = len(rows)
        present, divisors = own.numpy(), counts.numpy()
        for number in range(-1, len(starts)):
            if number >= 0:
                of, within, share = piece(number)
                given = numbers, places[of], present[of], divisors[of]
                mean_rows.mean_rows(memory, within.start, self._rank, *given, *share)
            if number + 1 < len(starts):
                bring(number + 1)
            self._meet()
            if number < 0:
                self._check(len(rows))
            else:
                mean_rows.put_rows(numbers, places[of], memory[self._size, within])

    def _check(self, count: int) -> None:
        brought = self._counters[:, 1]
        if (brought != count).any():
            raise GRU4RecError(f"workers bring different numbers of values to one sum: {brought.tolist()}")

    def _meet(self) -> None:
        """Wait until all have come as often as this worker."""
        self._turn += 1
        self._counters[self._rank, 0] = self._turn
        for rank in range(self._size):
            if self._counters[rank, 0] < self._turn:
                self._wait(rank)

    def _wait(self, rank: int) -> None:
        began = time.monotonic()
        while self._counters[rank, 0] < self._turn:
            waited = time.monotonic() - began
            if waited > self._timeout:
                raise GRU4RecError(
                    f"worker {rank} has not come to a sum for {self._timeout:g} s: it has died or is stalled; "
                    "see its own messages"
                )
            if waited < _SPIN:
                os.sched_yield()
            else:
                time.sleep(_SLEEP)


def _path(key: Tensor) -> Path:
    return _FOLDER / f"gru4rec-{bytes(key.tolist()).hex()}"


def _map(path: Path, length: int, create: bool) -> mmap.mmap | None:
    """The file's memory; None where it is not there or there is no room for it."""
    if not possible():
        return None
    try:
        handle = os.open(path, os.O_RDWR | (os.O_CREAT | os.O_EXCL if create else 0), 0o600)
        try:
            if create:
                os.posix_fallocate(handle, 0, length)  # reserved here, or a later write would kill the process
            return mmap.mmap(handle, length)
        finally:
            os.close(handle)
    except OSError:
        if create:
            path.unlink(missing_ok=True)
        return None
