"""The parts of a step that move memory rather than multiply: fused where numba is at hand, plain torch elsewhere.

A step updates thousands of rows of the item table, each with its accumulator and velocity. Written with whole-tensor
operations that is a dozen passes over memory; fused it is one. The two forms differ in nothing but rounding: the fused
one divides by a square root where torch multiplies by its inverse.
"""

import numpy as np
import torch
from torch import Tensor

EPSILON = 1e-6  # inside Adagrad's square root, as in the reference

try:
    import numba
except ImportError:
    numba = None  # type: ignore[assignment]

FUSED = numba is not None


def gather(table: Tensor, rows: Tensor, out: Tensor) -> None:
    """out [M, D] = table[rows]."""
    if FUSED and table.device.type == "cpu":
        _gather(table.numpy(), rows.numpy(), out.numpy())
    else:
        torch.index_select(table, 0, rows, out=out)


def adagrad_rows(
    table: Tensor,
    accumulator: Tensor,
    velocity: Tensor | None,
    rows: Tensor,
    gradient: Tensor,
    learning_rate: float,
    momentum: float,
) -> None:
    """Adagrad with momentum on `rows` [M] (distinct) of a table [V, D], in place; gradient [M, D].

    acc += g²; v = momentum · v − lr · g / sqrt(acc + 1e-6); p += v, on these rows alone.
    """
    if FUSED and table.device.type == "cpu":
        lr, mu = np.float32(learning_rate), np.float32(momentum)
        if velocity is None:
            _rows(table.numpy(), accumulator.numpy(), rows.numpy(), gradient.numpy(), lr)
        else:
            arrays = table.numpy(), accumulator.numpy(), velocity.numpy(), rows.numpy(), gradient.numpy()
            _rows_with_momentum(*arrays, lr, mu)
        return
    sums = accumulator.index_select(0, rows).addcmul_(gradient, gradient)
    accumulator.index_copy_(0, rows, sums)
    change = sums.add_(EPSILON).rsqrt_().mul_(gradient).mul_(-learning_rate)
    if velocity is not None:
        change.add_(velocity.index_select(0, rows), alpha=momentum)
        velocity.index_copy_(0, rows, change)
    table.index_add_(0, rows, change)


def adagrad(
    weight: Tensor,
    accumulator: Tensor,
    velocity: Tensor | None,
    gradient: Tensor,
    learning_rate: float,
    momentum: float,
) -> None:
    """The same on a whole weight of any shape."""
    if FUSED and weight.device.type == "cpu":
        flat = [None if t is None else t.view(1, -1).numpy() for t in (weight, accumulator, velocity, gradient)]
        first = np.zeros(1, np.int64)
        lr, mu = np.float32(learning_rate), np.float32(momentum)
        if flat[2] is None:
            _rows(flat[0], flat[1], first, flat[3], lr)
        else:
            _rows_with_momentum(flat[0], flat[1], flat[2], first, flat[3], lr, mu)
        return
    accumulator.addcmul_(gradient, gradient)
    change = gradient * torch.rsqrt(accumulator + EPSILON)
    if velocity is None:
        weight.add_(change, alpha=-learning_rate)
    else:
        velocity.mul_(momentum).add_(change, alpha=-learning_rate)
        weight.add_(velocity)


if FUSED:
    # No fastmath: every worker must round alike, so that replicas stay bit-identical.

    @numba.njit(cache=True, nogil=True)
    def _gather(table, rows, out):
        for m in range(len(rows)):
            row = rows[m]
            for d in range(table.shape[1]):
                out[m, d] = table[row, d]

    @numba.njit(cache=True, nogil=True, error_model="numpy")
    def _rows(table, accumulator, rows, gradient, lr):
        epsilon = np.float32(EPSILON)
        for m in range(len(rows)):
            row = rows[m]
            for d in range(table.shape[1]):
                g = gradient[m, d]
                total = accumulator[row, d] + g * g
                accumulator[row, d] = total
                table[row, d] -= lr * g / np.sqrt(total + epsilon)

    @numba.njit(cache=True, nogil=True, error_model="numpy")
    def _rows_with_momentum(table, accumulator, velocity, rows, gradient, lr, mu):
        epsilon = np.float32(EPSILON)
        for m in range(len(rows)):
            row = rows[m]
            for d in range(table.shape[1]):
                g = gradient[m, d]
                total = accumulator[row, d] + g * g
                accumulator[row, d] = total
                change = mu * velocity[row, d] - lr * g / np.sqrt(total + epsilon)
                velocity[row, d] = change
                table[row, d] += change
