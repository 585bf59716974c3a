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
from gru4rec.training.shared_sum import SharedSum


class Exchange(Protocol):
    """How one worker of `size` reaches the others; `rank` is its place among them."""

    rank: int
    size: int
    bytes: int
    """What this worker has given to sums so far."""

    def gather(self, block: Block) -> Block:
        """The blocks [T, B] of all workers side by side, [T, size · B], in the order of the ranks."""
        ...

    def add(self, values: Tensor) -> None:
        """Replace `values` by their sum over all workers, the same bits on each."""
        ...


class Alone:
    """One process, no exchange."""

    rank = 0
    size = 1
    bytes = 0

    def gather(self, block: Block) -> Block:
        return block

    def add(self, values: Tensor) -> None:
        return


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
        self.bytes = 0
        self._device = torch.device(device)
        self._group = group
        self._timeout = timeout
        self._may_share = share_memory and self._device.type == "cpu" and self.size > 1
        self._shared: SharedSum | None = None

    def gather(self, block: Block) -> Block:
        flags = block.resets + 2 * block.active.astype(np.int32)
        mine = torch.from_numpy(np.stack([block.inputs, block.targets, flags]).astype(np.int32)).to(self._device)
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(everyone, mine, group=self._group)
        inputs, targets, flags = torch.cat(everyone, dim=2).cpu().numpy()
        return Block(inputs, targets, (flags & 1).astype(bool), (flags & 2).astype(bool))

    def add(self, values: Tensor) -> None:
        """`values` [n], contiguous float32."""
        self.bytes += values.numel() * values.element_size()
        if self._may_share and (self._shared is None or self._shared.capacity < len(values)):
            # All bring as many values, so all come here at once. Steps differ a little in size: some room for that.
            self._shared = SharedSum.open(len(values) * 5 // 4, self._timeout, self._group)
            self._may_share = self._shared is not None
        if self._shared is not None:
            self._shared.add(values)
        else:
            dist.all_reduce(values, group=self._group)
