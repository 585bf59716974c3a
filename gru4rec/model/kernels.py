"""The parts of a step that move memory rather than multiply: fused where numba is at hand, plain torch elsewhere.

A step updates thousands of rows of the item table, each with its accumulator and velocity. Written with whole-tensor
operations that is a dozen passes over memory; fused it is one. The two forms differ in nothing but rounding: the fused
one divides by a square root where torch multiplies by its inverse.
"""

import numpy as np
import torch
from torch import Tensor

from gru4rec.config import Hyperparameters

EPSILON = 1e-6  # inside the square roots of Adagrad, as in the reference, RMSprop and Adadelta
ADAM_EPSILON = 1e-8  # beside Adam's

_SGD, _ADAGRAD, _RMSPROP, _ADADELTA, _ADAM = range(5)
_KINDS = {"sgd": _SGD, "adagrad": _ADAGRAD, "rmsprop": _RMSPROP, "adadelta": _ADADELTA, "adam": _ADAM}
_NO_COUNTS = np.zeros(1, np.int32)

_LINE = 16  # float32 numbers in a cache line of 64 bytes
_AHEAD = 2  # rows that are fetched ahead

try:
    import numba
    from llvmlite import ir
    from numba import types
    from numba.extending import intrinsic
except ImportError:
    numba = None  # type: ignore[assignment]

FUSED = numba is not None


def fits(tensor: Tensor) -> bool:
    """Whether the fused kernels can take a tensor: float32 on a CPU, numba at hand."""
    return FUSED and tensor.device.type == "cpu" and tensor.dtype == torch.float32


def gather(packed: Tensor, rows: Tensor, out: Tensor) -> None:
    """out [M, D] = the weights of `rows` in a packed table [V, S, D]."""
    if fits(packed):
        _gather(packed.numpy(), rows.numpy(), out.numpy())
    else:
        torch.index_select(packed[:, 0], 0, rows, out=out)


def update_rows(
    settings: Hyperparameters,
    packed: Tensor,
    updates: Tensor | None,
    rows: Tensor,
    gradient: Tensor,
    learning_rate: float,
) -> None:
    """A step of `optimizers.Optimizer` on `rows` [M] of a table that `fits`, in one pass; gradient [M, D]."""
    kind, decays = _KINDS[settings.optimizer], (settings.rho, settings.rho)
    if settings.optimizer == "adam":
        decays = settings.beta1, settings.beta2
    counts = _NO_COUNTS if updates is None else updates.numpy()
    _update_rows(
        kind, packed.numpy(), counts, rows.numpy(), gradient.numpy(), learning_rate, settings.momentum, *decays
    )


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

    @intrinsic
    def _prefetch(typing, array, place):
        """Fetch the cache line of place in a flat array ahead of its use: rows lie far apart, each a cache miss."""

        def generate(context, builder, signature, arguments):
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
            fetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
            line = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
            builder.call(fetch, [line, number(1), number(3), number(1)])  # for writing, to keep, data
            return context.get_dummy_value()

        return types.void(array, place), generate

    @numba.njit(cache=True, nogil=True)
    def _gather(packed, rows, out):
        flat, size, width = packed.reshape(-1), packed.shape[1] * packed.shape[2], packed.shape[2]
        last = len(rows) - _AHEAD
        for m in range(len(rows)):
            if m < last:
                ahead = rows[m + _AHEAD] * size
                for line in range(0, width, _LINE):
                    _prefetch(flat, ahead + line)  # type: ignore[call-arg]
            row = rows[m]
            for d in range(width):
                out[m, d] = packed[row, 0, d]

    @numba.njit(cache=True, nogil=True, error_model="numpy")
    def _update_rows(kind, packed, updates, rows, gradient, learning_rate, momentum, decay_first, decay_second):
        lr, mu = np.float32(learning_rate), np.float32(momentum)
        a, rest_a = np.float32(decay_first), np.float32(1 - decay_first)
        b, rest_b = np.float32(decay_second), np.float32(1 - decay_second)
        epsilon, adam_epsilon, zero = np.float32(EPSILON), np.float32(ADAM_EPSILON), np.float32(0)
        flat, size = packed.reshape(-1), packed.shape[1] * packed.shape[2]
        last = len(rows) - _AHEAD
        for m in range(len(rows)):
            if m < last:
                ahead = rows[m + _AHEAD] * size
                for line in range(0, size, _LINE):
                    _prefetch(flat, ahead + line)  # type: ignore[call-arg]
            row, g = packed[rows[m]], gradient[m]
            width = len(g)
            velocity = row[-1]
            if kind == _SGD:
                for d in range(width):
                    change = -lr * g[d]
                    if mu > zero:
                        change += mu * velocity[d]
                        velocity[d] = change
                    row[0, d] += change
            elif kind == _ADAGRAD:
                if mu > zero:
                    for d in range(width):
                        total = row[1, d] + g[d] * g[d]
                        row[1, d] = total
                        change = mu * velocity[d] - lr * g[d] / np.sqrt(total + epsilon)
                        velocity[d] = change
                        row[0, d] += change
                else:
                    for d in range(width):
                        total = row[1, d] + g[d] * g[d]
                        row[1, d] = total
                        row[0, d] -= lr * g[d] / np.sqrt(total + epsilon)
            elif kind == _RMSPROP:
                for d in range(width):
                    total = a * row[1, d] + rest_a * g[d] * g[d]
                    row[1, d] = total
                    change = -lr * g[d] / np.sqrt(total + epsilon)
                    if mu > zero:
                        change += mu * velocity[d]
                        velocity[d] = change
                    row[0, d] += change
            elif kind == _ADADELTA:
                for d in range(width):
                    total = a * row[1, d] + rest_a * g[d] * g[d]
                    delta = g[d] * np.sqrt(row[2, d] + epsilon) / np.sqrt(total + epsilon)
                    row[1, d], row[2, d] = total, b * row[2, d] + rest_b * delta * delta
                    change = -lr * delta
                    if mu > zero:
                        change += mu * velocity[d]
                        velocity[d] = change
                    row[0, d] += change
            else:
                updates[rows[m]] += 1
                count = updates[rows[m]]
                rate = np.float32(learning_rate / np.expm1(count * np.log(decay_first)))
                scale = np.float32(-1 / np.expm1(count * np.log(decay_second)))
                for d in range(width):
                    mean, square = a * row[1, d] + rest_a * g[d], b * row[2, d] + rest_b * g[d] * g[d]
                    row[1, d], row[2, d] = mean, square
                    change = rate * mean / (np.sqrt(square * scale) + adam_epsilon)
                    if mu > zero:
                        change += mu * velocity[d]
                        velocity[d] = change
                    row[0, d] += change
