"""Walking whole sessions through the network, without training: for evaluation and scoring."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gru4rec.model.network import GRU4Rec, forward, input_rows, zero_states
from gru4rec.sessions.prepared import Sessions


class Position(NamedTuple):
    """All sessions of a batch after their click number `click` (0 is the first)."""

    click: int
    rows: np.ndarray  # [n] int64: which sessions are this long, as positions in `Sessions`
    output: Tensor  # [n, D]: the network's output after that click, which scores the items


@torch.inference_mode()
def walk(model: GRU4Rec, sessions: Sessions, batch: int = 4096) -> Iterator[Position]:
    """The outputs after each click of each session, click by click, over `batch` sessions at a time.

    Sessions are put in order of length, so that no step is spent on padding. Item indices must lie in the model's
    catalogue. Empty sessions do not appear.
    """
    order = np.argsort(-sessions.lengths, kind="stable")
    order = order[sessions.lengths[order] > 0]
    for first in range(0, len(order), batch):
        rows = order[first : first + batch]
        lengths, starts = sessions.lengths[rows], sessions.offsets[rows]
        states = zero_states(model.hyperparameters, len(rows), model.device)
        for click in range(int(lengths[0])):
            active = int(np.searchsorted(-lengths, -click, side="left"))
            clicked = torch.from_numpy(sessions.items[starts[:active] + click].astype(np.int64))
            x = input_rows(model, clicked.to(model.device))
            before = [state[:active] for state in states]
            states, output, _ = forward(model.hyperparameters, model.dense, x, before)
            yield Position(click, rows[:active], output)


@torch.inference_mode()
def final_states(model: GRU4Rec, sessions: Sessions, batch: int = 4096) -> Tensor:
    """The network's output after the last click of each session, [sessions, D]; zeros for an empty session."""
    final = torch.zeros(sessions.count, model.hyperparameters.width, device=model.device)
    lengths = sessions.lengths
    for position in walk(model, sessions, batch):
        done = lengths[position.rows] == position.click + 1
        if done.any():
            at = torch.from_numpy(np.flatnonzero(done)).to(model.device)
            final[torch.from_numpy(position.rows[done]).to(model.device)] = position.output[at]
    return final
