"""What all cells share."""

from typing import Any, NamedTuple

from torch import Tensor


class Weights(NamedTuple):
    """U and c of a cell's equations; their gradients come in the same form."""

    weight_hidden: Tensor  # [G·H, H]
    bias_hidden: Tensor | Any  # [G·H]; None where the cell has none
