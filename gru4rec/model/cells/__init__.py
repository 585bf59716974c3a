"""Recurrent cells: one step of a layer and its gradient.

A cell starts from what its input gives the gates, not from the input itself: rows of a matrix product, or rows looked
up in a table (one-hot input). Of its weights it holds what concerns its own state. The gradient is never carried to an
earlier step (truncation after one step, as the reference trains), so that `backward` returns none for the old state.

Shapes: B lanes, H units, G gates, S states of a unit; U [G·H, H], c [G·H].
"""

from typing import Any, Protocol

from torch import Tensor

from gru4rec.model.cells import gru, gru_reset_first, lstm, rnn
from gru4rec.model.cells.weights import Weights

__all__ = ["CELLS", "Cell", "Weights", "gru_reset_first"]


class Cell(Protocol):
    """What each module of this package has."""

    GATES: int
    STATES: int

    def forward(self, weights: Weights, gates_x: Tensor, state: Tensor) -> tuple[Tensor, Any]:
        """New state [B, S·H], output first, from the input's part of the gates [B, G·H] and the old state.

        Also returns what `backward` needs.
        """
        ...

    def backward(self, weights: Weights, saved: Any, d_output: Tensor, out: Weights) -> Tensor:
        """Gradient of `gates_x` [B, G·H] from that of the output [B, H]; those of the weights go to `out`."""
        ...


CELLS: dict[str, Cell] = {"gru": gru, "lstm": lstm, "rnn": rnn}
"""The cells by their name in the settings."""
