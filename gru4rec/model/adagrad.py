"""Adagrad with momentum, for whole weights and for the touched rows of a table.

As the reference has it: acc += g² (starting at 0); v = momentum · v − lr · g / sqrt(acc + 1e-6); p += v. In a table,
rows that a step does not touch keep their weights, accumulators and velocities as they are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gru4rec.model import kernels


@dataclass
class Adagrad:
    """State of the optimizer for one weight: `accumulator` and, with momentum, `velocity`, of the weight's shape."""

    learning_rate: float
    momentum: float
    accumulator: Tensor
    velocity: Tensor | None

    @classmethod
    def of(cls, weight: Tensor, learning_rate: float, momentum: float) -> "Adagrad":
        velocity = torch.zeros_like(weight) if momentum > 0 else None
        return cls(learning_rate, momentum, torch.zeros_like(weight), velocity)

    def step(self, weight: Tensor, gradient: Tensor) -> None:
        """Update the whole weight in place."""
        kernels.adagrad(weight, self.accumulator, self.velocity, gradient, self.learning_rate, self.momentum)

    def step_rows(self, table: Tensor, rows: Tensor, gradient: Tensor) -> None:
        """Update `rows` [M] (distinct) of a table [V, D] in place; gradient [M, D]."""
        kernels.adagrad_rows(table, self.accumulator, self.velocity, rows, gradient, self.learning_rate, self.momentum)
