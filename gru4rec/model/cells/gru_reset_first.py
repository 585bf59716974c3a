"""GRU in its original form (Cho et al., EMNLP 2014): the reset gate acts before the recurrent product.

    r = σ(x_r + U_r h)      z = σ(x_z + U_z h)
    n = tanh(x_n + U_n (r ∘ h))
    h' = (1 − z) ∘ n + z ∘ h

where x_r, x_z, x_n are the input's part of the gates, in this order, with the only bias. Shapes: B lanes, H units;
U [3H, H].
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
    kept: Tensor  # r ∘ h


def forward(weights: Weights, gates_x: Tensor, state: Tensor) -> tuple[Tensor, Saved]:
    """New state [B, H] from the input's part of the gates [B, 3H] and the old state [B, H]."""
    h, units = state, state.shape[1]
    hidden = weights.weight_hidden
    reset_update = torch.sigmoid(torch.addmm(gates_x[:, : 2 * units], h, hidden[: 2 * units].t()))
    kept = reset_update[:, :units] * h
    candidate = torch.tanh(torch.addmm(gates_x[:, 2 * units :], kept, hidden[2 * units :].t()))
    new = candidate + reset_update[:, units:] * (h - candidate)
    return new, Saved(h, reset_update, candidate, kept)


def backward(weights: Weights, saved: Saved, d_output: Tensor, out: Weights) -> Tensor:
    """Gradient of the input's part of the gates [B, 3H] from that of the new state [B, H]; that of U goes to `out`."""
    units = saved.h.shape[1]
    reset, update = saved.reset_update[:, :units], saved.reset_update[:, units:]
    d_candidate = d_output * (1 - update) * (1 - saved.candidate * saved.candidate)
    d_update = d_output * (saved.h - saved.candidate) * update * (1 - update)
    d_reset = (d_candidate @ weights.weight_hidden[2 * units :]) * saved.h * reset * (1 - reset)
    d_gates_x = torch.cat([d_reset, d_update, d_candidate], dim=1)
    torch.mm(d_gates_x[:, : 2 * units].t(), saved.h, out=out.weight_hidden[: 2 * units])
    torch.mm(d_candidate.t(), saved.kept, out=out.weight_hidden[2 * units :])
    return d_gates_x
