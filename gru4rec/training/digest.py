"""A number that replicas of a model have in common, so that workers can tell each other whether theirs are equal."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

ROWS = 2048  # of each table whose turn comes after a block; even, so that two numbers lie aligned

_RUN = 64


def digest(dense: Tensor, tables: Sequence[Tensor], block: int | None = None) -> int:
    """An int64 of the bits of the dense weights [1, S, D] and of packed tables [V, S, D], state included; float32.

    Of whole tables, or of the rows whose turn comes at `block`: these cost the same for any catalogue, and every row's
    turn comes.
    """
    found = _sum(dense)
    for packed in tables:
        first = 0 if block is None else block * ROWS % len(packed) // 2 * 2
        found = found * 31 + _sum(packed if block is None else packed[first : first + ROWS])
    return int(np.array(found % 2**64, np.uint64).view(np.int64))


def _sum(packed: Tensor) -> int:
    """Of the bits, two numbers at a time, with a weight for their place in a run of so many."""
    flat = packed.reshape(-1)
    pairs = flat[: len(flat) // 2 * 2].view(torch.int64)
    whole = len(pairs) // _RUN * _RUN
    columns = pairs[:whole].view(-1, _RUN).sum(dim=0)
    rest = torch.cat([pairs[whole:], flat[len(pairs) * 2 :].view(torch.int32)])
    # Odd weights: no bit of a number is lost when a product leaves 64 bits.
    weights = torch.arange(1, 2 * max(_RUN, len(rest)), 2, device=flat.device)
    return int((columns * weights[:_RUN]).sum()) + 3 * int((rest * weights[: len(rest)]).sum())
