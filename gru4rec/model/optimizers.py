"""Optimizers for the touched rows of a table, clipping, and the schedule of the learning rate.

g is the gradient of a step, summed over all occurrences, plus l2 · p; u the change of the weight p. With momentum
v = momentum · v + u, p += v; without, p += u.

- SGD: u = −lr · g
- Adagrad (Duchi et al., JMLR 2011): acc += g², u = −lr · g / sqrt(acc + 1e-6)
- RMSprop (Hinton 2012): acc = ρ · acc + (1 − ρ) · g², u as Adagrad's
- Adadelta (Zeiler 2012, algorithm 1): acc as RMSprop's, d = g · sqrt(acu + 1e-6) / sqrt(acc + 1e-6),
  acu = ρ · acu + (1 − ρ) · d², u = −lr · d
- Adam (Kingma & Ba, ICLR 2015, algorithm 1): m = β1 · m + (1 − β1) · g, s = β2 · s + (1 − β2) · g²,
  u = −lr · (m / (1 − β1ⁿ)) / (sqrt(s / (1 − β2ⁿ)) + 1e-8), n the row's updates so far

All state starts at 0. Rows that a step does not touch keep their weights and state as they are: with Adam and RMSprop,
means do not decay while a row rests, and the correction of Adam's bias goes by the row's own count.

Shapes: table [V, D], M touched rows. Nothing here waits for the device or makes a shape depend on data, so that a CUDA
graph can hold every step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gru4rec.config import Hyperparameters
from gru4rec.model import kernels, memory
from gru4rec.model.constants import ADAM_EPSILON, EPSILON

_MOMENTS = {
    "sgd": (),
    "adagrad": ("accumulator",),
    "rmsprop": ("accumulator",),
    "adadelta": ("accumulator", "accumulated_change"),
    "adam": ("mean", "square"),
}


def state_names(settings: Hyperparameters) -> tuple[str, ...]:
    """Names of the optimizer's tensors that have the weight's shape, in a fixed order."""
    return _MOMENTS[settings.optimizer] + (("velocity",) if settings.momentum > 0 else ())


@dataclass
class Optimizer:
    """A table and its optimizer's state, packed [V, S, D]: weights, then `state_names`; with Adam also `updates` [V].

    A row's weights and state lie side by side: one run of memory to fetch instead of one for each. A whole weight is a
    table of one row.
    """

    settings: Hyperparameters
    packed: Tensor
    updates: Tensor | None

    @classmethod
    def of(cls, settings: Hyperparameters, *columns: Tensor, spare: int = 0) -> "Optimizer":
        """For a copy of the `columns` [V, …] side by side, with `spare` rows of zeros more at the end."""
        rows, width = columns[0].shape[0], sum(part.shape[1] for part in columns)
        shape = rows + spare, 1 + len(state_names(settings)), width
        if kernels.fits(columns[0]):
            packed = torch.from_numpy(memory.zeros(shape, np.float32))
        else:
            packed = columns[0].new_zeros(shape)
        for part, place in zip(columns, packed[:rows, 0].split([part.shape[1] for part in columns], 1), strict=True):
            place.copy_(part)
        counts = settings.optimizer == "adam"
        return cls(settings, packed, packed.new_zeros(rows + spare, dtype=torch.int32) if counts else None)

    @property
    def weights(self) -> Tensor:
        """The table [V, D], a view."""
        return self.packed[:, 0]

    @property
    def width(self) -> int:
        """D."""
        return self.packed.shape[2]

    def states(self) -> dict[str, Tensor]:
        """The state by name, views: [V, D] each, and `updates` [V]."""
        found = {name: self.packed[:, place] for place, name in enumerate(state_names(self.settings), start=1)}
        return found if self.updates is None else {**found, "updates": self.updates}

    def step(self, rows: Tensor, gradient: Tensor, learning_rate: float | Tensor, width: int | None = None) -> None:
        """Update `rows` [M] int64 (distinct) in place; gradient [M, D].

        With `width`, their first so many columns alone. A tensor `learning_rate` has no dimension.
        """
        settings, width = self.settings, self.width if width is None else width
        if settings.l2 > 0:
            gradient = torch.add(gradient, self.weights.index_select(0, rows), alpha=settings.l2)
        if kernels.fits(self.packed):
            kernels.update_rows(settings, self.packed, self.updates, rows, gradient, width, float(learning_rate))
            return
        states = {name: state[:, :width] if state.dim() == 2 else state for name, state in self.states().items()}
        touched = {name: state.index_select(0, rows) for name, state in states.items()}
        change = _change(settings, touched, gradient[:, :width], learning_rate)
        for name, state in states.items():
            state.index_copy_(0, rows, touched[name])
        self.weights[:, :width].index_add_(0, rows, change)


def clip(gradients: Sequence[Tensor], limit: float) -> None:
    """Scale all gradients in place by min(1, limit / (norm + 1e-6)), norm their L2 norm together.

    (Pascanu et al., ICML 2013, algorithm 1.)
    """
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part) for part in gradients]))
    factor = torch.clamp(limit / (norm + 1e-6), max=1)
    for part in gradients:
        part.mul_(factor)


def learning_rate(settings: Hyperparameters, epoch: int) -> float:
    """The learning rate of `epoch` (from 0): from settings.learning_rate to lr_final times it in the last one."""
    done = epoch / (settings.epochs - 1) if settings.epochs > 1 else 0.0
    match settings.lr_schedule:
        case "constant":
            share = 1.0
        case "linear":
            share = 1 + (settings.lr_final - 1) * done
        case "exponential":
            share = settings.lr_final**done
        case "cosine":
            share = settings.lr_final + (1 - settings.lr_final) * (1 + math.cos(math.pi * done)) / 2
    return settings.learning_rate * share


def _change(settings: Hyperparameters, state: dict[str, Tensor], gradient: Tensor, rate: float | Tensor) -> Tensor:
    """What the step adds to the rows [M, D]; their state is updated in place."""
    rho = settings.rho
    match settings.optimizer:
        case "sgd":
            change = gradient.clone()
        case "adagrad":
            change = state["accumulator"].addcmul_(gradient, gradient).add(EPSILON).rsqrt_().mul_(gradient)
        case "rmsprop":
            squares = state["accumulator"].mul_(rho).addcmul_(gradient, gradient, value=1 - rho)
            change = squares.add(EPSILON).rsqrt_().mul_(gradient)
        case "adadelta":
            squares = state["accumulator"].mul_(rho).addcmul_(gradient, gradient, value=1 - rho)
            change = state["accumulated_change"].add(EPSILON).sqrt_().mul_(gradient)
            change.mul_(squares.add(EPSILON).rsqrt_())
            state["accumulated_change"].mul_(rho).addcmul_(change, change, value=1 - rho)
        case "adam":
            updates = state["updates"].add_(1).unsqueeze(1)
            mean = state["mean"].mul_(settings.beta1).add_(gradient, alpha=1 - settings.beta1)
            square = state["square"].mul_(settings.beta2).addcmul_(gradient, gradient, value=1 - settings.beta2)
            size = square.div(_seen(settings.beta2, updates)).sqrt_().add_(ADAM_EPSILON)
            change = mean.div(_seen(settings.beta1, updates)).div_(size)
    change.mul_(-rate)
    if settings.momentum > 0:
        change = state["velocity"].mul_(settings.momentum).add_(change)
    return change


def _seen(decay: float, updates: Tensor) -> Tensor:
    """1 − decayⁿ, as exact for n = 1 and a decay near 1 as elsewhere."""
    return torch.expm1(updates * (math.log(decay) if decay > 0 else -math.inf)).neg_()
