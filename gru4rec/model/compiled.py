# mypy: ignore-errors
"""The fused kernels, compiled by numba; `kernels` is their front. Arrays are C-contiguous and float32 unless said.

What is summed over a worker's own lanes may be summed in any order (`_ANY_ORDER`): the sums go to all workers and come
back the same for each. The update of the rows, which every worker computes for itself, must round alike everywhere.

A kernel that takes `threads` is shared out between so many, by lanes or by rows: no number depends on how many.
"""

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gru4rec.model.constants import ADAM_EPSILON, EPSILON, OPTIMIZERS, TINY
from gru4rec.model.threads import shared

SGD, ADAGRAD, RMSPROP, ADADELTA, ADAM = range(len(OPTIMIZERS))

_ANY_ORDER = {"reassoc", "nsz", "contract"}
LINE = 16  # numbers in a cache line of 64 bytes
AHEAD = 4  # rows that are fetched ahead
_DRAWS_AHEAD = 16  # draws whose places in the alias table are fetched ahead
_TILE = 32  # lanes whose scores are worked on at once, so that they stay in the cache
_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)


@intrinsic
def prefetch(typing, array, place):
    """Fetch the cache line of place in a flat array ahead of its use: rows lie far apart, each a cache miss."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        fetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        line = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        builder.call(fetch, [line, number(0), number(2), number(1)])  # for reading, near, data
        return context.get_dummy_value()

    return types.void(array, place), generate


@intrinsic
def _from_bits(typing, bits):
    """The float32 that these 32 bits are."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@numba.njit(inline="always")
def _exp(x):
    """exp(x) to two units in the last place, in operations that compile to vector instructions.

    0 below −87.3, at most exp(88.3). x = n log 2 + r with |r| ≤ log(2)/2; exp(r) is its Taylor polynomial, fitted.
    """
    bounded = np.float32(88.3) if x > np.float32(88.3) else x
    n = np.floor(bounded * np.float32(1.44269504) + np.float32(0.5))
    r = bounded - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    y = np.float32(1.9875691500e-4)
    y = y * r + np.float32(1.3981999507e-3)
    y = y * r + np.float32(8.3334519073e-3)
    y = y * r + np.float32(4.1665795894e-2)
    y = y * r + np.float32(1.6666665459e-1)
    y = y * r + np.float32(5.0000001201e-1)
    y = y * r * r + r + _ONE
    power = _from_bits((np.int32(n) + np.int32(127)) << np.int32(23))
    return _ZERO if x < np.float32(-87.3) else y * power


@numba.njit(inline="always")
def _sigmoid(x):
    return _ONE / (_ONE + _exp(-x))


@numba.njit(inline="always")
def _tanh(x):
    return _TWO * _sigmoid(_TWO * x) - _ONE


@numba.njit(cache=True, nogil=True)
def gather(threads, packed, rows, out, last_column):
    """out [M, D] = the weights of `rows` [M] int64 in a packed table [V, S, D].

    `last_column` is added to the last number of the first so many rows.
    """
    shared(_gather, threads, len(rows), (packed, rows, out, last_column))


@numba.njit(cache=True, nogil=True)
def _gather(packed, rows, out, last_column, start, stop):
    flat, size, width = packed.reshape(-1), packed.shape[1] * packed.shape[2], packed.shape[2]
    last = stop - AHEAD
    for m in range(start, stop):
        if m < last:
            ahead = rows[m + AHEAD] * size
            for line in range(0, width, LINE):
                prefetch(flat, ahead + line)
        row = rows[m]
        for d in range(width):
            out[m, d] = packed[row, 0, d]
    for m in range(start, min(stop, len(last_column))):
        out[m, width - 1] += last_column[m]


@numba.njit(cache=True, nogil=True)
def take(rows, places, out):
    """out [B, D] = the first D numbers of the rows at `places` [B] int64."""
    for lane in range(len(places)):
        place = places[lane]
        for d in range(out.shape[1]):
            out[lane, d] = rows[place, d]


@numba.njit(cache=True, nogil=True)
def add_rows(out, first, places, rows):
    """Rows of `out` [M, D or more] from `first` on are zeroed; then rows [B, D] are added at `places` [B] int64."""
    out[first:] = 0
    for lane in range(len(places)):
        place = places[lane]
        for d in range(rows.shape[1]):
            out[place, d] += rows[lane, d]


@numba.njit(cache=True, nogil=True, fastmath=_ANY_ORDER)
def column_sums(matrix, out):
    """out [D] = the sums of the columns of a matrix [B, D]."""
    out[:] = 0
    for lane in range(len(matrix)):
        for d in range(len(out)):
            out[d] += matrix[lane, d]


@numba.njit(cache=True, nogil=True)
def pick(uniform, keep, alias, out):
    """Items by the alias method, see `negatives.draw`; `uniform` and `keep` are float64, `alias` and `out` int32."""
    count, last = len(keep), len(uniform) - _DRAWS_AHEAD
    for i in range(len(uniform)):
        if i < last:
            ahead = min(int(uniform[i + _DRAWS_AHEAD] * count), count - 1)
            prefetch(keep, ahead)
            prefetch(alias, ahead)
        place = uniform[i] * count
        item = min(int(place), count - 1)
        out[i] = item if place - item < keep[item] else alias[item]


@numba.njit(cache=True, nogil=True)
def gru_forward(threads, gates_x, gates_h, h, new):
    """The gates r, z, n take the place of gates_x [B, 3H]; `new` [B, H] is the new state. See `cells.gru`."""
    shared(_gru_forward, threads, len(h), (gates_x, gates_h, h, new))


@numba.njit(cache=True, nogil=True, fastmath=_ANY_ORDER, error_model="numpy")
def _gru_forward(gates_x, gates_h, h, new, start, stop):
    units = h.shape[1]
    for lane in range(start, stop):
        x, u, old, out = gates_x[lane], gates_h[lane], h[lane], new[lane]
        for i in range(2 * units):
            x[i] = _sigmoid(x[i] + u[i])
        for i in range(units):
            n = _tanh(x[2 * units + i] + x[i] * u[2 * units + i])
            x[2 * units + i] = n
            out[i] = n + x[units + i] * (old[i] - n)


@numba.njit(cache=True, nogil=True)
def gru_backward(threads, d_new, gates, gates_h, h, d_gates_x, d_gates_h):
    """From the gradient of the new state [B, H] those of what the gates summed, [B, 3H] each; `gates` are r, z, n."""
    shared(_gru_backward, threads, len(h), (d_new, gates, gates_h, h, d_gates_x, d_gates_h))


@numba.njit(cache=True, nogil=True, fastmath=_ANY_ORDER, error_model="numpy")
def _gru_backward(d_new, gates, gates_h, h, d_gates_x, d_gates_h, start, stop):
    units = h.shape[1]
    for lane in range(start, stop):
        g, u, old, slope = gates[lane], gates_h[lane], h[lane], d_new[lane]
        d_x, d_h = d_gates_x[lane], d_gates_h[lane]
        for i in range(units):
            r, z, n = g[i], g[units + i], g[2 * units + i]
            d_n = slope[i] * (_ONE - z) * (_ONE - n * n)
            d_z = slope[i] * (old[i] - n) * z * (_ONE - z)
            d_r = d_n * u[2 * units + i] * r * (_ONE - r)
            d_x[i] = d_r
            d_h[i] = d_r
            d_x[units + i] = d_z
            d_h[units + i] = d_z
            d_x[2 * units + i] = d_n
            d_h[2 * units + i] = d_n * r


@numba.njit(cache=True, nogil=True)
def cross_entropy(threads, logits, positive, weight, offset):
    """Σ weight · loss; its gradient takes the place of the logits [M, B].

    See `losses.cross_entropy`. `offset` is overwritten.
    """
    losses = np.empty(len(weight))
    shared(_cross_entropy, threads, len(weight), (logits, positive, weight, offset, losses))
    return losses.sum()


@numba.njit(cache=True, nogil=True, fastmath=_ANY_ORDER, error_model="numpy")
def _cross_entropy(logits, positive, weight, offset, losses, start, stop):
    items = len(logits)
    top, total = np.empty(_TILE, np.float32), np.empty(_TILE, np.float32)
    for first in range(start, stop, _TILE):
        size = min(_TILE, stop - first)
        top[:] = -np.inf
        total[:] = 0
        for m in range(items):
            row = logits[m, first : first + size]
            for lane in range(size):
                top[lane] = row[lane] if row[lane] > top[lane] else top[lane]
        for lane in range(size):  # offset is from here on the log-probability of the lane's own column, less log total
            offset[first + lane] = logits[positive[first + lane], first + lane] - offset[first + lane] - top[lane]
        for m in range(items):
            row = logits[m, first : first + size]
            for lane in range(size):
                mass = _exp(row[lane] - top[lane])
                row[lane] = mass
                total[lane] += mass
        for lane in range(size):
            counts = np.float64(weight[first + lane])
            chance = np.exp(np.float64(offset[first + lane])) / np.float64(total[lane])
            losses[first + lane] = -counts * np.log(chance + TINY)
            counts *= chance / (chance + TINY)
            top[lane] = counts / np.float64(total[lane])
            offset[first + lane] = counts
        for m in range(items):
            row = logits[m, first : first + size]
            for lane in range(size):
                row[lane] *= top[lane]
        for lane in range(first, first + size):
            logits[positive[lane], lane] -= offset[lane]


@numba.njit(cache=True, nogil=True)
def bpr_max(threads, scores, positive, weight, multiplicity, bpreg, elu_param):
    """Σ weight · loss, with ELU (0: linear); its gradient takes the place of the scores [M, B].

    See `losses.bpr_max`. `positive` [B] int32. σ(r_i − r_j) = 1 / (1 + mass_j · ahead_i), mass_j = exp(r_j − top_i),
    ahead_i = exp(top_i − r_i).
    """
    losses = np.empty(len(weight))
    shared(_bpr_max, threads, len(weight), (scores, positive, weight, multiplicity, bpreg, elu_param, losses))
    return losses.sum()


@numba.njit(cache=True, nogil=True, fastmath=_ANY_ORDER, error_model="numpy")
def _bpr_max(scores, positive, weight, multiplicity, bpreg, elu_param, losses, start, stop):
    items = len(scores)
    reg, alpha, none = np.float32(bpreg), np.float32(elu_param), np.float32(-np.inf)
    masses = np.empty((items, _TILE), np.float32)
    top, ahead, total, chance, square, slope = np.empty((6, _TILE), np.float32)
    for first in range(start, stop, _TILE):
        size = min(_TILE, stop - first)
        own = positive[first : first + size]
        top[:] = none
        total[:] = chance[:] = square[:] = slope[:] = 0
        for m in range(items):
            row, columns = scores[m, first : first + size], multiplicity[m]
            if alpha > _ZERO:
                for lane in range(size):
                    value = row[lane]
                    below = alpha * (_exp(value if value < _ZERO else _ZERO) - _ONE)
                    row[lane] = below if value <= _ZERO else value
            for lane in range(size):
                count = columns - (_ONE if own[lane] == m else _ZERO)  # its own column is no negative of a lane
                rival = row[lane] if count > _ZERO else none
                top[lane] = rival if rival > top[lane] else top[lane]
        for lane in range(size):
            top[lane] = top[lane] if top[lane] > none else _ZERO
            lead = np.float64(top[lane]) - np.float64(scores[own[lane], first + lane])
            ahead[lane] = np.exp(min(lead, 69.0))
        for m in range(items):
            row, mass, columns = scores[m, first : first + size], masses[m], multiplicity[m]
            for lane in range(size):
                mass[lane] = _exp(row[lane] - top[lane])
                count = columns - (_ONE if own[lane] == m else _ZERO)
                s = count * mass[lane]
                better = _ONE / (_ONE + mass[lane] * ahead[lane])
                total[lane] += s
                chance[lane] += s * better
                slope[lane] += s * better * (_ONE - better)
                square[lane] += s * row[lane] * row[lane]
        for lane in range(size):
            counts = np.float64(weight[first + lane])
            inverse = 1 / np.float64(total[lane]) if total[lane] != 0 else 0.0
            chance[lane] *= inverse
            square[lane] *= inverse
            losses[first + lane] = counts * (reg * square[lane] - np.log(chance[lane] + TINY))
            total[lane] = inverse * counts
            slope[lane] *= inverse * counts / (chance[lane] + TINY)
            top[lane] = 1 / (chance[lane] + TINY)
        for m in range(items):
            row, mass, columns = scores[m, first : first + size], masses[m], multiplicity[m]
            for lane in range(size):
                value = row[lane]
                count = columns - (_ONE if own[lane] == m else _ZERO)
                better = _ONE / (_ONE + mass[lane] * ahead[lane])
                ranking = top[lane] * (better * (_ONE - better) - better + chance[lane])
                change = ranking + reg * (value * value - square[lane] + _TWO * value)
                change *= count * mass[lane] * total[lane]
                change -= slope[lane] if own[lane] == m else _ZERO
                row[lane] = change * (value + alpha if alpha > _ZERO and value <= _ZERO else _ONE)


@numba.njit(cache=True, nogil=True)
def update_rows(threads, kind, packed, updates, rows, gradient, width, learning_rate, momentum, *decays):
    """One step of an optimizer on the first `width` columns of `rows` of a packed table."""
    given = (kind, packed, updates, rows, gradient, width, learning_rate, momentum, *decays)
    shared(_update_rows, threads, len(rows), given)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _update_rows(
    kind,
    packed,
    updates,
    rows,
    gradient,
    width,
    learning_rate,
    momentum,
    decay_first,
    decay_second,
    start,
    stop,
):
    lr, mu = np.float32(learning_rate), np.float32(momentum)
    a, rest_a = np.float32(decay_first), np.float32(1 - decay_first)
    b, rest_b = np.float32(decay_second), np.float32(1 - decay_second)
    epsilon, adam_epsilon, zero = np.float32(EPSILON), np.float32(ADAM_EPSILON), np.float32(0)
    flat, size = packed.reshape(-1), packed.shape[1] * packed.shape[2]
    last = stop - AHEAD
    for m in range(start, stop):
        if m < last:
            ahead = rows[m + AHEAD] * size
            for line in range(0, size, LINE):
                prefetch(flat, ahead + line)  # type: ignore[call-arg]
        row, g = packed[rows[m]], gradient[m]
        velocity = row[-1]
        if kind == SGD:
            for d in range(width):
                change = -lr * g[d]
                if mu > zero:
                    change += mu * velocity[d]
                    velocity[d] = change
                row[0, d] += change
        elif kind == ADAGRAD:
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
        elif kind == RMSPROP:
            for d in range(width):
                total = a * row[1, d] + rest_a * g[d] * g[d]
                row[1, d] = total
                change = -lr * g[d] / np.sqrt(total + epsilon)
                if mu > zero:
                    change += mu * velocity[d]
                    velocity[d] = change
                row[0, d] += change
        elif kind == ADADELTA:
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
