"""One step of a GRU layer and its gradient, in the form of cuDNN: the reset gate acts after the recurrent product.

    r = σ(W_r x + b_r + U_r h + c_r)      z = σ(W_z x + b_z + U_z h + c_z)
    n = tanh(W_n x + b_n + r ∘ (U_n h + c_n))
    h' = (1 − z) ∘ n + z ∘ h

The gradient is never carried to an earlier step (truncation after one step, as the reference trains), so that
`backward` returns none for h. Shapes: B lanes, D inputs, H units; W [3H, D], U [3H, H], b and c [3H].
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Weights(NamedTuple):
    """W, U, b, c of the equations above, gates in the order r, z, n; gradients come in the same form."""

    input: Tensor
    hidden: Tensor
    bias_input: Tensor
    bias_hidden: Tensor


class Saved(NamedTuple):
    """What the gradient needs of a forward step."""

    x: Tensor
    h: Tensor
    reset_update: Tensor
    candidate: Tensor
    recurrent: Tensor  # U_n h + c_n


def forward(weights: Weights, x: Tensor, h: Tensor) -> tuple[Tensor, Saved]:
    """New state [B, H] from x [B, D] and the old state h [B, H]."""
    units = h.shape[1]
    gates_x = torch.addmm(weights.bias_input, x, weights.input.t())
    gates_h = torch.addmm(weights.bias_hidden, h, weights.hidden.t())
    reset_update = torch.sigmoid(gates_x[:, : 2 * units] + gates_h[:, : 2 * units])
    recurrent = gates_h[:, 2 * units :]
    candidate = torch.tanh(gates_x[:, 2 * units :] + reset_update[:, :units] * recurrent)
    new = candidate + reset_update[:, units:] * (h - candidate)
    return new, Saved(x, h, reset_update, candidate, recurrent)


def backward(weights: Weights, saved: Saved, d_new: Tensor, out: Weights) -> Tensor:
    """Gradient with respect to x [B, D], from that of the new state [B, H]; those of the weights go to `out`."""
    units = saved.h.shape[1]
    reset, update = saved.reset_update[:, :units], saved.reset_update[:, units:]
    d_candidate = d_new * (1 - update) * (1 - saved.candidate * saved.candidate)
    d_update = d_new * (saved.h - saved.candidate) * update * (1 - update)
    d_reset = d_candidate * saved.recurrent * reset * (1 - reset)
    d_gates_x = torch.cat([d_reset, d_update, d_candidate], dim=1)
    d_gates_h = torch.cat([d_reset, d_update, d_candidate * reset], dim=1)
    torch.mm(d_gates_x.t(), saved.x, out=out.input)
    torch.mm(d_gates_h.t(), saved.h, out=out.hidden)
    torch.sum(d_gates_x, dim=0, out=out.bias_input)
    torch.sum(d_gates_h, dim=0, out=out.bias_hidden)
    return d_gates_x @ weights.input
