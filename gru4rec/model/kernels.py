"""The parts of a step that move memory or call many small operations: fused where numba is at hand.

A step updates thousands of rows of the item table, each with its accumulator and velocity. Written with whole-tensor
operations that is a dozen passes over memory; fused it is one. A GRU step of 32 lanes is fifty calls of a few
microseconds for work of as many nanoseconds; fused it is two. The forms differ in nothing but rounding.
"""

import numpy as np
import torch
from torch import Tensor

from gru4rec.config import Hyperparameters
from gru4rec.model.constants import OPTIMIZERS

try:
    from gru4rec.model import compiled, threads
except ImportError:  # no numba: plain torch does it all
    compiled = None  # type: ignore[assignment]

FUSED = compiled is not None

_WORTH = 2_000  # numbers for which another thread is worth its call
_NO_COUNTS, _NOTHING = np.zeros(1, np.int32), np.zeros(0, np.float32)


def fits(tensor: Tensor) -> bool:
    """Whether the fused kernels can take a tensor: float32 on a CPU, numba at hand."""
    return FUSED and tensor.device.type == "cpu" and tensor.dtype == torch.float32


def threads_for(size: int) -> int:
    """How many threads work on so many numbers: as many as torch may use, where that is worth it."""
    return max(1, min(torch.get_num_threads(), size // _WORTH)) if threads.AVAILABLE else 1


def gather(packed: Tensor, rows: Tensor, out: Tensor, last_column: Tensor | None = None) -> None:
    """out [M, D] = the weights of `rows` in a packed table [V, S, D].

    `last_column` [K] is added to the last number of the first K rows.
    """
    if fits(packed):
        table, places, found = packed.numpy(), rows.numpy(), out.numpy()
        added = _NOTHING if last_column is None else last_column.numpy()
        compiled.gather(threads_for(out.numel()), table, places, found, added)
        return
    torch.index_select(packed[:, 0], 0, rows, out=out)
    if last_column is not None:
        out[: len(last_column), -1].add_(last_column)


def take(rows: Tensor, places: Tensor, width: int) -> Tensor:
    """The first `width` numbers of the rows at `places` [B], [B, width]."""
    if not fits(rows):
        return rows[:, :width].index_select(0, places)
    out = torch.empty(len(places), width)
    compiled.take(rows.numpy(), places.numpy(), out.numpy())
    return out


def add_rows(out: Tensor, first: int, places: Tensor, rows: Tensor) -> None:
    """Zero the rows of `out` [M, D or more] from `first` on, then add rows [B, D] at `places` [B]."""
    if fits(out):
        compiled.add_rows(out.numpy(), first, places.numpy(), rows.numpy())
        return
    out[first:] = 0
    out[:, : rows.shape[1]].index_add_(0, places, rows)


def column_sums(matrix: Tensor, out: Tensor) -> None:
    """out [D] = the sums of the columns of a matrix [B, D]."""
    if fits(matrix):
        compiled.column_sums(matrix.numpy(), out.numpy())
    else:
        torch.sum(matrix, dim=0, out=out)


def update_rows(
    settings: Hyperparameters,
    packed: Tensor,
    updates: Tensor | None,
    rows: Tensor,
    gradient: Tensor,
    width: int,
    learning_rate: float,
) -> None:
    """A step of `optimizers.Optimizer` on `rows` [M] of a table that `fits`, in one pass; gradient [M, D].

    Only the first `width` columns change.
    """
    kind, decays = OPTIMIZERS.index(settings.optimizer), (settings.rho, settings.rho)
    if settings.optimizer == "adam":
        decays = settings.beta1, settings.beta2
    counts = _NO_COUNTS if updates is None else updates.numpy()
    table, places, slopes = packed.numpy(), rows.numpy(), gradient.numpy()
    numbers = width, learning_rate, settings.momentum, *decays
    compiled.update_rows(threads_for(slopes.size), kind, table, counts, places, slopes, *numbers)


def gru_forward(gates_x: Tensor, gates_h: Tensor, h: Tensor) -> Tensor:
    """The new state [B, H] of `cells.gru`, from the two parts of the gates [B, 3H]; gates_x becomes r, z, n."""
    new = torch.empty_like(h)
    compiled.gru_forward(threads_for(gates_x.numel()), gates_x.numpy(), gates_h.numpy(), h.numpy(), new.numpy())
    return new


def gru_backward(d_new: Tensor, gates: Tensor, gates_h: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of the two parts of the gates, [B, 3H] each, from that of the new state [B, H]."""
    d_gates_x, d_gates_h = torch.empty_like(gates), torch.empty_like(gates)
    given = d_new.numpy(), gates.numpy(), gates_h.numpy(), h.numpy()
    compiled.gru_backward(threads_for(gates.numel()), *given, d_gates_x.numpy(), d_gates_h.numpy())
    return d_gates_x, d_gates_h


def cross_entropy(logits: Tensor, positive: Tensor, weight: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """`losses.cross_entropy` of logits [B, M], best column-major; without smoothing or masks."""
    by_item = logits.t().contiguous()
    given = by_item.numpy(), positive.numpy(), weight.numpy(), offset.clone().numpy()
    loss = compiled.cross_entropy(threads_for(logits.numel()), *given)
    return torch.from_numpy(np.array(loss, np.float32)), by_item.t()


def bpr_max(
    scores: Tensor, positive: Tensor, weight: Tensor, multiplicity: Tensor, bpreg: float, elu_param: float
) -> tuple[Tensor, Tensor]:
    """`losses.bpr_max` of scores [B, M] before the activation, ELU (0: linear), best column-major; without masks."""
    by_item = scores.t().contiguous()
    given = by_item.numpy(), positive.to(torch.int32).numpy(), weight.numpy(), multiplicity.numpy(), bpreg, elu_param
    loss = compiled.bpr_max(threads_for(scores.numel()), *given)
    return torch.from_numpy(np.array(loss, np.float32)), by_item.t()
