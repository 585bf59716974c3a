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


class Exchange(Protocol):
    """How one worker of `size` reaches the others, who all make the same calls; `rank` is its place among them."""

    rank: int
    size: int

    def gather(self, block: Block) -> Block:
        """The blocks [T, B] of all workers side by side, [T, size · B], in the order of the ranks."""
        ...

    def add(self, values: Tensor) -> None:
        """Replace `values` by their sum over all workers, the same bits on each."""
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

    def gather(self, block: Block) -> Block:
        return block

    def add(self, values: Tensor) -> None:
        return

    def share(self, numbers: np.ndarray) -> np.ndarray:
        return numbers[None]

    def collect(self, content: bytes) -> list[bytes]:
        return [content]


class Collective:
    """Workers of a torch.distributed process group (gloo on CPUs, NCCL on GPUs)."""

    def __init__(self, device: torch.device | str = "cpu", group: dist.ProcessGroup | None = None) -> None:
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        self._device = device
        self._group = group

    def gather(self, block: Block) -> Block:
        flags = block.resets + 2 * block.active.astype(np.int32)
        mine = torch.from_numpy(np.stack([block.inputs, block.targets, flags]).astype(np.int32))
        inputs, targets, flags = torch.cat(self._everyone(mine), dim=2).numpy()
        return Block(inputs, targets, (flags & 1).astype(bool), (flags & 2).astype(bool))

    def add(self, values: Tensor) -> None:
        dist.all_reduce(values, group=self._group)

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
