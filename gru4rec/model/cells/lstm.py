"""LSTM (Hochreiter & Schmidhuber 1997) with forget gate (Gers et al. 2000), in the form of cuDNN.

    i = σ(x_i + U_i h + b_i)      f = σ(x_f + U_f h + b_f)      o = σ(x_o + U_o h + b_o)
    g = tanh(x_g + U_g h + b_g)
    c' = f ∘ c + i ∘ g            h' = o ∘ tanh(c')

where x_i, x_f, x_g, x_o are the input's part of the gates, in this order, and b is the bias. The state is h and c side
by side. Shapes: B lanes, H units; U [4H, H], b [4H].
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gru4rec.model import kernels
from gru4rec.model.cells.weights import Weights

GATES = 4
STATES = 2


class Saved(NamedTuple):
    """What the gradient needs of a forward step."""

    h: Tensor
    c: Tensor
    input_forget: Tensor
    candidate: Tensor  # g
    output: Tensor  # o
    squashed: Tensor  # tanh(c')


def forward(weights: Weights, gates_x: Tensor, state: Tensor) -> tuple[Tensor, Saved]:
    """New state [B, 2H] from the input's part of the gates [B, 4H] and the old state [B, 2H]."""
    units = state.shape[1] // 2
    h, c = state[:, :units], state[:, units:]
    gates = gates_x + torch.addmm(weights.bias_hidden, h, weights.weight_hidden.t())
    input_forget = torch.sigmoid(gates[:, : 2 * units])
    candidate = torch.tanh(gates[:, 2 * units : 3 * units])
    output = torch.sigmoid(gates[:, 3 * units :])
    cell = input_forget[:, units:] * c + input_forget[:, :units] * candidate
    squashed = torch.tanh(cell)
    return torch.cat([output * squashed, cell], dim=1), Saved(h, c, input_forget, candidate, output, squashed)


def backward(weights: Weights, saved: Saved, d_output: Tensor, out: Weights) -> Tensor:
    """Gradient of the input's part of the gates [B, 4H] from that of h' [B, H]; those of the weights go to `out`.

    c' has no other gradient than by h': what it does to later steps is cut off.
    """
    units = saved.h.shape[1]
    enter, forget = saved.input_forget[:, :units], saved.input_forget[:, units:]
    d_cell = d_output * saved.output * (1 - saved.squashed * saved.squashed)
    d_enter = d_cell * saved.candidate * enter * (1 - enter)
    d_forget = d_cell * saved.c * forget * (1 - forget)
    d_candidate = d_cell * enter * (1 - saved.candidate * saved.candidate)
    d_out = d_output * saved.squashed * saved.output * (1 - saved.output)
    d_gates = torch.cat([d_enter, d_forget, d_candidate, d_out], dim=1)
    torch.mm(d_gates.t(), saved.h, out=out.weight_hidden)
    kernels.column_sums(d_gates, out.bias_hidden)
    return d_gates
