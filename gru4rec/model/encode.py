"""Walking whole sessions through the network, without training: for evaluation and scoring."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gru4rec.model.network import GRU4Rec, forward, input_rows, output_of, zero_states
from gru4rec.sessions.prepared import Sessions


class Position(NamedTuple):
    """All sessions of a batch after their click number `click` (0 is the first)."""

    click: int
    rows: np.ndarray  # [n] int64: which sessions are this long, as positions in `Sessions`
    output: Tensor  # [n, D]: the network's output after that click, which scores the items
    states: list[Tensor]  # [n, S·H] of each layer


@torch.inference_mode()
def walk(
    model: GRU4Rec,
    sessions: Sessions,
    batch: int = 4096,
    before: Sequence[Tensor] | None = None,
    multiple: int = 1,
) -> Iterator[Position]:
    """The outputs after each click of each session, click by click, over `batch` sessions at a time.

    Sessions are put in order of length, so that no step is spent on padding. `before` holds the state [sessions, S·H]
    of each layer that they start from (zeros, if it is not given). With `multiple`, products are of multiples of so
    many rows, see `steady`. Item indices must lie in the model's catalogue. Empty sessions do not appear.
    """
    order = np.argsort(-sessions.lengths, kind="stable")
    order = order[sessions.lengths[order] > 0]
    for first in range(0, len(order), batch):
        rows = order[first : first + batch]
        lengths, starts = sessions.lengths[rows], sessions.offsets[rows]
        states = zero_states(model.hyperparameters, _whole(len(rows), multiple), model.device)
        for state, given in zip(states, before or (), strict=False):
            state[: len(rows)] = given[torch.from_numpy(rows).to(model.device)]
        for click in range(int(lengths[0])):
            active = int(np.searchsorted(-lengths, -click, side="left"))
            clicked = np.zeros(_whole(active, multiple), np.int64)
            clicked[:active] = sessions.items[starts[:active] + click]
            x = input_rows(model, torch.from_numpy(clicked).to(model.device))
            # Rows beyond the active ones belong to nobody any more.
            states, output, _ = forward(model.hyperparameters, model.dense, x, [state[: len(x)] for state in states])
            yield Position(click, rows[:active], output[:active], [state[:active] for state in states])


def _whole(rows: int, multiple: int) -> int:
    return -(-rows // multiple) * multiple


class Final(NamedTuple):
    """Sessions after their last clicks."""

    output: Tensor  # [sessions, D]
    states: list[Tensor]  # [sessions, S·H] of each layer


@torch.inference_mode()
def final(
    model: GRU4Rec,
    sessions: Sessions,
    batch: int = 4096,
    before: Sequence[Tensor] | None = None,
    multiple: int = 1,
) -> Final:
    """Each session after its last click; an empty one as it is `before`, which without that are zeros.

    For `batch`, `before` and `multiple` see `walk`. A session's clicks may be given at once or, with the states that
    the first ones led to as `before`, one part after another.
    """
    count, lengths = sessions.count, sessions.lengths
    output = torch.zeros(count, model.hyperparameters.width, device=model.device)
    states = zero_states(model.hyperparameters, count, model.device)
    if before is not None and (empty := np.flatnonzero(lengths == 0)).size:
        at = torch.from_numpy(empty).to(model.device)
        ended = [state[at] for state in before]
        for state, given in zip(states, ended, strict=True):
            state[at] = given
        padded = [torch.nn.functional.pad(state, (0, 0, 0, _whole(len(at), multiple) - len(at))) for state in ended]
        output[at] = output_of(model.hyperparameters, model.dense, padded)[: len(at)]
    for position in walk(model, sessions, batch, before, multiple):
        done = lengths[position.rows] == position.click + 1
        if done.any():
            at = torch.from_numpy(np.flatnonzero(done)).to(model.device)
            rows = torch.from_numpy(position.rows[done]).to(model.device)
            output[rows] = position.output[at]
            for state, reached in zip(states, position.states, strict=True):
                state[rows] = reached[at]
    return Final(output, states)


def final_states(model: GRU4Rec, sessions: Sessions, batch: int = 4096, multiple: int = 1) -> Tensor:
    """The network's output after the last click of each session, [sessions, D]; zeros for an empty session."""
    return final(model, sessions, batch, multiple=multiple).output
