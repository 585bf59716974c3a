"""GRU (Cho et al., EMNLP 2014) in the form of cuDNN: the reset gate acts after the recurrent product.

    r = σ(x_r + U_r h + c_r)      z = σ(x_z + U_z h + c_z)
    n = tanh(x_n + r ∘ (U_n h + c_n))
    h' = (1 − z) ∘ n + z ∘ h

where x_r, x_z, x_n are the input's part of the gates, in this order. Shapes: B lanes, H units; U [3H, H], c [3H].
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gru4rec.model.cells.weights import Weights

GATES = 3
STATES = 1


class Saved(NamedTuple):
    """What the gradient needs of a forward step."""

    h: Tensor
    reset_update: Tensor
    candidate: Tensor
    recurrent: Tensor  # U_n h + c_n


def forward(weights: Weights, gates_x: Tensor, state: Tensor) -> tuple[Tensor, Saved]:
    """New state [B, H] from the input's part of the gates [B, 3H] and the old state [B, H]."""
    h, units = state, state.shape[1]
    gates_h = torch.addmm(weights.bias_hidden, h, weights.weight_hidden.t())
    reset_update = torch.sigmoid(gates_x[:, : 2 * units] + gates_h[:, : 2 * units])
    recurrent = gates_h[:, 2 * units :]
    candidate = torch.tanh(gates_x[:, 2 * units :] + reset_update[:, :units] * recurrent)
    new = candidate + reset_update[:, units:] * (h - candidate)
    return new, Saved(h, reset_update, candidate, recurrent)


def backward(weights: Weights, saved: Saved, d_output: Tensor, out: Weights) -> Tensor:
    """Gradient of the input's part of the gates [B, 3H] from that of the new state [B, H]; the weights' go to `out`."""
    units = saved.h.shape[1]
    reset, update = saved.reset_update[:, :units], saved.reset_update[:, units:]
    d_candidate = d_output * (1 - update) * (1 - saved.candidate * saved.candidate)
    d_update = d_output * (saved.h - saved.candidate) * update * (1 - update)
    d_reset = d_candidate * saved.recurrent * reset * (1 - reset)
    d_gates_x = torch.cat([d_reset, d_update, d_candidate], dim=1)
    d_gates_h = torch.cat([d_reset, d_update, d_candidate * reset], dim=1)
    torch.mm(d_gates_h.t(), saved.h, out=out.weight_hidden)
    torch.sum(d_gates_h, dim=0, out=out.bias_hidden)
    return d_gates_x
