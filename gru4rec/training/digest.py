"""A number that replicas of a model have in common, so that workers can tell each other whether theirs are equal."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

ROWS = 2048  # of each table whose turn comes after a block


def digest(dense: Tensor, tables: Sequence[Tensor], block: int | None = None) -> int:
    """An int64 of the bits of the dense weights [1, S, D] and of packed tables [V, S, D], state included.

    Of whole tables, or of the rows whose turn comes at `block`: these cost the same for any catalogue, and every row's
    turn comes.
    """
    found = _sum(dense)
    for packed in tables:
        first = 0 if block is None else block * ROWS % len(packed)
        found = found * 31 + _sum(packed if block is None else packed[first : first + ROWS])
    return int(np.array(found % 2**64, np.uint64).view(np.int64))


def _sum(packed: Tensor) -> int:
    """Over the rows, with a weight for each of their numbers."""
    bits = packed.reshape(len(packed), -1).view(torch.int32)
    columns = bits.sum(dim=0, dtype=torch.int64)
    return int((columns * torch.arange(1, 2 * len(columns), 2, device=columns.device)).sum())
