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


def bpr_max(
    scores: Tensor, positive: Tensor, weight: Tensor, multiplicity: Tensor, bpreg: float, elu_param: float
) -> tuple[Tensor, Tensor]:
    """`losses.bpr_max` on a CPU in three passes over the scores [B, M], float32, which it overwrites.

    Exponentials are left to torch, whose are vectorised. Needs FUSED.
    """
    lanes = scores.shape[0]
    below = torch.exp(scores.clamp(max=0)) if elu_param > 0 else scores
    r, sums = torch.empty_like(scores), torch.empty(2, lanes)
    given = scores.numpy(), positive.numpy(), multiplicity.numpy()
    _activate(*given, below.numpy(), np.float32(elu_param), r.numpy(), sums[0].numpy())
    top, own = sums[0], r.gather(1, positive.unsqueeze(1)).squeeze(1)
    mass = torch.exp(r - top.unsqueeze(1))
    ahead = torch.exp(top - own).clamp_(max=1e30)  # σ(r_i − r_j) = 1 / (1 + mass_j · ahead_i)
    _bpr_max(*given, r.numpy(), mass.numpy(), ahead.numpy(), weight.numpy(), bpreg, elu_param, sums[1].numpy())
    return torch.dot(weight, sums[1]), scores


if FUSED:
    # Losses belong to a worker's own lanes: sums may be taken in any order.

    @numba.njit(cache=True, nogil=True, fastmath={"reassoc", "nsz", "contract"})
    def _activate(scores, positive, multiplicity, below, elu_param, r, top):
        """r = ELU(scores), and the largest r among each lane's negatives (0 where there is none)."""
        none = np.float32(-np.inf)
        for lane in range(scores.shape[0]):
            multiplicity[positive[lane]] -= 1  # a lane's own column is no negative of it; put back below
            best = none
            for m in range(scores.shape[1]):
                value = scores[lane, m]
                if elu_param > 0:
                    value = value if value > 0 else elu_param * (below[lane, m] - np.float32(1))
                r[lane, m] = value
                rival = value if multiplicity[m] > 0 else none
                best = rival if rival > best else best
            top[lane] = best if best > none else np.float32(0)
            multiplicity[positive[lane]] += 1

    @numba.njit(cache=True, nogil=True, fastmath={"reassoc", "nsz", "contract"}, error_model="numpy")
    def _bpr_max(scores, positive, multiplicity, r, mass, ahead, weight, bpreg, elu_param, losses):
        """Each lane's loss; the gradient of Σ weight · loss takes the place of the scores."""
        one, two = np.float32(1), np.float32(2)
        reg, alpha = np.float32(bpreg), np.float32(elu_param)
        for lane in range(scores.shape[0]):
            at, lead = positive[lane], ahead[lane]
            multiplicity[at] -= 1
            if multiplicity[at] == 0:
                mass[lane, at] = 0  # it may be beyond all bounds, and 0 · inf is not 0
            total = chance = square = slope = np.float32(0)
            for m in range(scores.shape[1]):
                s = multiplicity[m] * mass[lane, m]
                better = one / (one + mass[lane, m] * lead)
                total += s
                chance += s * better
                slope += s * better * (one - better)
                square += s * r[lane, m] * r[lane, m]
            inverse_total = one / total if total > 0 else np.float32(0)
            chance *= inverse_total
            square *= inverse_total
            slope *= inverse_total
            losses[lane] = reg * square - np.log(chance + 1e-24)
            pull = np.float32(1 / (chance + 1e-24))
            scale = weight[lane] * inverse_total
            for m in range(scores.shape[1]):
                s = multiplicity[m] * mass[lane, m] * scale
                better = one / (one + mass[lane, m] * lead)
                value = r[lane, m]
                ranking = pull * (better * (one - better) - better + chance)
                mass[lane, m] = s * (ranking + reg * (value * value - square + two * value))
            mass[lane, at] -= pull * slope * weight[lane]
            for m in range(scores.shape[1]):
                steepness = r[lane, m] + alpha if alpha > 0 and scores[lane, m] <= 0 else one
                scores[lane, m] = mass[lane, m] * steepness
            multiplicity[at] += 1

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
