"""Adagrad with momentum, for whole matrices and for the touched rows of a table.

As the reference has it: acc += g² (starting at 0); v = momentum · v − lr · g / sqrt(acc + 1e-6); p += v. In a table,
rows that a step does not touch keep their weights, accumulators and velocities as they are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

EPSILON = 1e-6


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
        self.accumulator.addcmul_(gradient, gradient)
        change = gradient * torch.rsqrt(self.accumulator + EPSILON)
        if self.velocity is None:
            weight.add_(change, alpha=-self.learning_rate)
        else:
            self.velocity.mul_(self.momentum).add_(change, alpha=-self.learning_rate)
            weight.add_(self.velocity)

    def step_rows(self, table: Tensor, rows: Tensor, old: Tensor, gradient: Tensor) -> None:
        """Update `rows` [M] (distinct) of the table in place; `old` and `gradient` [M, …]: their values and gradients."""
        accumulator = self.accumulator.index_select(0, rows).addcmul_(gradient, gradient)
        self.accumulator.index_copy_(0, rows, accumulator)
        change = accumulator.add_(EPSILON).rsqrt_().mul_(gradient).mul_(-self.learning_rate)
        if self.velocity is not None:
            change.add_(self.velocity.index_select(0, rows), alpha=self.momentum)
            self.velocity.index_copy_(0, rows, change)
        table.index_copy_(0, rows, old + change)
