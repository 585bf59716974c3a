"""What data-parallel workers tell each other: the ids of a block ahead, and one sum a step.

Every worker knows the ids of all lanes, so that all have the same touched items and the same extra negatives; the sum
over the workers of the touched rows' gradients and of the dense ones is then all that a step needs. Each replica
applies the same update to the same sums and stays bit-identical to the others.
"""

from typing import Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from gru4rec.training.lanes import Block
from gru4rec.training.shared_sum import AVERAGES, SharedSum

_PIECE = 2**19  # numbers of an average that are exchanged at once: two halves, each a part of a core's cache


class Exchange(Protocol):
    """How one worker of `size` reaches the others, who all make the same calls; `rank` is its place among them."""

    rank: int
    size: int
    sent: int
    """Bytes that this worker has given to sums so far."""

    def gather(self, block: Block) -> Block:
        """The blocks [T, B] of all workers side by side, [T, size · B], in the order of the ranks."""
        ...

    def add(self, values: Tensor) -> None:
        """Replace `values` by their sum over all workers, the same bits on each."""
        ...

    def average(self, table: Tensor, rows: Tensor, counts: Tensor, own: Tensor) -> None:
        """Replace `rows` [U] of a float32 table [V, …] by their means over the workers that have a part in them.

        All bring the same rows; `counts` [U] int64: how many have a part in each, at least one; `own` [U] bool: whether
        this worker has.
        """
        ...

    def share(self, numbers: np.ndarray) -> np.ndarray:
        """The int64 `numbers` [n] of every worker, [size, n]."""
        ...

    def collect(self, content: bytes) -> list[bytes]:
        """The bytes of every worker, in the order of the ranks; their lengths may differ."""
        ...


class Alone:
    """One process, no exchange."""

    rank = 0
    size = 1
    sent = 0

    def gather(self, block: Block) -> Block:
        return block

    def add(self, values: Tensor) -> None:
        return

    def average(self, table: Tensor, rows: Tensor, counts: Tensor, own: Tensor) -> None:
        return

    def share(self, numbers: np.ndarray) -> np.ndarray:
        return numbers[None]

    def collect(self, content: bytes) -> list[bytes]:
        return [content]


class Collective:
    """Workers of a torch.distributed process group (gloo on CPUs, NCCL on GPUs).

    Sums of workers that compute on the CPUs of one machine go through memory that they share, which is found out at
    the first sum; `share_memory=False` keeps them from it. `timeout`: seconds that such a sum waits for the others
    before it raises GRU4RecError; torch.distributed has a timeout of its own.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        group: dist.ProcessGroup | None = None,
        share_memory: bool = True,
        timeout: float = 300.0,
    ) -> None:
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        self.sent = 0
        self._device = torch.device(device)
        self._group = group
        self._timeout = timeout
        self._may_share = share_memory and self._device.type == "cpu" and self.size > 1
        self._shared: SharedSum | None = None

    def gather(self, block: Block) -> Block:
        flags = block.resets + 2 * block.active.astype(np.int32)
        mine = torch.from_numpy(np.stack([block.inputs, block.targets, flags]).astype(np.int32))
        inputs, targets, flags = torch.cat(self._everyone(mine), dim=2).numpy()
        return Block(inputs, targets, (flags & 1).astype(bool), (flags & 2).astype(bool))

    def add(self, values: Tensor) -> None:
        """`values` is contiguous; float32 goes through shared memory where there is one."""
        self.sent += values.numel() * values.element_size()
        flat = values.view(-1)
        if flat.dtype != torch.float32 or not self._may_share:
            dist.all_reduce(values, group=self._group)
            return
        # Steps differ a little in size: some room for that.
        shared = self._memory(len(flat), len(flat) * 5 // 4)
        if shared is not None:
            shared.add(flat)
        else:
            dist.all_reduce(values, group=self._group)

    def average(self, table: Tensor, rows: Tensor, counts: Tensor, own: Tensor) -> None:
        table = table.view(len(table), -1)
        self.sent += len(rows) * table.shape[1] * table.element_size()
        needed = 2 * table.shape[1]
        shared = self._memory(needed, max(needed, _PIECE)) if self._may_share and AVERAGES else None
        if shared is not None:
            shared.average(table, rows, counts, own)
        else:
            summed = table.index_select(0, rows).mul_(own[:, None])
            dist.all_reduce(summed, group=self._group)
            table.index_copy_(0, rows, summed.div_(counts[:, None]))

    def _memory(self, needed: int, wanted: int) -> SharedSum | None:
        """Memory that the workers share, for so many numbers; None where they cannot.

        All ask for as many, so all come here at once.
        """
        if self._may_share and (self._shared is None or self._shared.capacity < needed):
            self._shared = SharedSum.open(wanted, self._timeout, self._group)
            self._may_share = self._shared is not None
        return self._shared

    def share(self, numbers: np.ndarray) -> np.ndarray:
        return torch.stack(self._everyone(torch.from_numpy(numbers))).numpy()

    def collect(self, content: bytes) -> list[bytes]:
        lengths = self.share(np.array([len(content)]))[:, 0]
        padded = np.zeros(max(int(lengths.max()), 1), np.uint8)
        padded[: len(content)] = np.frombuffer(content, np.uint8)
        found = self._everyone(torch.from_numpy(padded))
        return [part.numpy()[:length].tobytes() for part, length in zip(found, lengths, strict=True)]

    def _everyone(self, mine: Tensor) -> list[Tensor]:
        """The tensor of each worker, all of one shape, on the CPU."""
        mine = mine.to(self._device)
        found = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(found, mine, group=self._group)
        return [part.cpu() for part in found]
