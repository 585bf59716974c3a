"""Vanilla RNN (Elman 1990).

    h' = tanh(x + U h + c)

where x is the input's part. Shapes: B lanes, H units; U [H, H], c [H].
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gru4rec.model import kernels
from gru4rec.model.cells.weights import Weights

GATES = 1
STATES = 1


class Saved(NamedTuple):
    """What the gradient needs of a forward step."""

    h: Tensor
    new: Tensor


def forward(weights: Weights, gates_x: Tensor, state: Tensor) -> tuple[Tensor, Saved]:
    """New state [B, H] from the input's part [B, H] and the old state [B, H]."""
    new = torch.tanh(gates_x + torch.addmm(weights.bias_hidden, state, weights.weight_hidden.t()))
    return new, Saved(state, new)


def backward(weights: Weights, saved: Saved, d_output: Tensor, out: Weights) -> Tensor:
    """Gradient of the input's part [B, H] from that of the new state [B, H]; those of the weights go to `out`."""
    d_gates = d_output * (1 - saved.new * saved.new)
    torch.mm(d_gates.t(), saved.h, out=out.weight_hidden)
    kernels.column_sums(d_gates, out.bias_hidden)
    return d_gates
