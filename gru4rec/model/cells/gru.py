"""GRU (Cho et al., EMNLP 2014) in the form of cuDNN: the reset gate acts after the recurrent product.

    r = σ(x_r + U_r h + c_r)      z = σ(x_z + U_z h + c_z)
    n = tanh(x_n + r ∘ (U_n h + c_n))
    h' = (1 − z) ∘ n + z ∘ h

where x_r, x_z, x_n are the input's part of the gates, in this order. Shapes: B lanes, H units; U [3H, H], c [3H].
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gru4rec.model import kernels
from gru4rec.model.cells.weights import Weights

GATES = 3
STATES = 1


class Saved(NamedTuple):
    """What the gradient needs of a forward step."""

    h: Tensor
    gates: Tensor  # r, z, n [B, 3H]
    gates_h: Tensor  # U h + c [B, 3H]


def forward(weights: Weights, gates_x: Tensor, state: Tensor) -> tuple[Tensor, Saved]:
    """New state [B, H] from the input's part of the gates [B, 3H], overwritten, and the old state [B, H]."""
    h, units = state, state.shape[1]
    gates_h = torch.addmm(weights.bias_hidden, h, weights.weight_hidden.t())
    if kernels.fits(h):
        return kernels.gru_forward(gates_x, gates_h, h), Saved(h, gates_x, gates_h)
    reset, update, candidate = gates_x.split(units, dim=1)
    gates_x[:, : 2 * units].add_(gates_h[:, : 2 * units]).sigmoid_()
    candidate.addcmul_(reset, gates_h[:, 2 * units :]).tanh_()
    return candidate + update * (h - candidate), Saved(h, gates_x, gates_h)


def backward(weights: Weights, saved: Saved, d_output: Tensor, out: Weights) -> Tensor:
    """Gradient of the input's part of the gates [B, 3H] from that of the new state [B, H]; the weights' go to `out`."""
    if kernels.fits(d_output):
        d_gates_x, d_gates_h = kernels.gru_backward(d_output, saved.gates, saved.gates_h, saved.h)
    else:
        units = saved.h.shape[1]
        reset, update, candidate = saved.gates.split(units, dim=1)
        d_candidate = d_output * (1 - update) * (1 - candidate * candidate)
        d_update = d_output * (saved.h - candidate) * update * (1 - update)
        d_reset = d_candidate * saved.gates_h[:, 2 * units :] * reset * (1 - reset)
        d_gates_x = torch.cat([d_reset, d_update, d_candidate], dim=1)
        d_gates_h = torch.cat([d_reset, d_update, d_candidate * reset], dim=1)
    torch.mm(d_gates_h.t(), saved.h, out=out.weight_hidden)
    kernels.column_sums(d_gates_h, out.bias_hidden)
    return d_gates_x
