"""Walking whole sessions through the network, without training: for evaluation and scoring."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gru4rec.model.network import GRU4Rec, forward, input_rows, output_of, zero_states
from gru4rec.sessions.prepared import Sessions

ROWS = 4096  # that go through the network at once


class Position(NamedTuple):
    """All sessions of a batch after their click number `click` (0 is the first)."""

    click: int
    rows: np.ndarray  # [n] int64: which sessions are this long, as positions in `Sessions`
    output: Tensor  # [n, D]: the network's output after that click, which scores the items


@torch.inference_mode()
def walk(model: GRU4Rec, sessions: Sessions, batch: int = ROWS) -> Iterator[Position]:
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


class Start(NamedTuple):
    """Where sessions go on from: session i from row `of[i]` of the states, or, where that is −1, from its beginning."""

    of: np.ndarray  # [sessions] int64
    states: list[Tensor]  # [m, S·H] of each layer


class Final(NamedTuple):
    """Sessions after their last clicks. Those that clicked the same share a row; row `of[i]` is session i's."""

    of: np.ndarray  # [sessions] int64; −1 for one that has no click and goes on from nothing
    output: Tensor  # [n, D]: the network's output, which scores the items
    states: list[Tensor]  # [n, S·H] of each layer


@torch.inference_mode()
def final(model: GRU4Rec, sessions: Sessions, start: Start | None = None, multiple: int = 1) -> Final:
    """Each session after its last click.

    Sessions that begin with the same clicks go through the network once, as far as they do. A session's clicks may be
    given at once, or later ones later, with the state that the first ones led to in `start`. With `multiple`, products
    are of multiples of so many rows, see scoring/steady.py. Item indices must lie in the model's catalogue.
    """
    lengths = sessions.lengths
    order = np.argsort(-lengths, kind="stable")
    lengths, starts = lengths[order], sessions.offsets[order]
    states = zero_states(model.hyperparameters, 1, model.device)
    node = np.zeros(len(order), np.int64)  # the row of `states` that each session has come to
    if start is not None:
        node = start.of[order] + 1
        states = [torch.cat([zero, given]) for zero, given in zip(states, start.states, strict=True)]
    found = _Ended(len(order))
    left = int(np.searchsorted(-lengths, 0, side="left"))  # sessions with a click more
    going_on = left + np.flatnonzero(node[left:])
    found.add(order[going_on], node[going_on], states, _outputs(model, states, multiple) if len(going_on) else None)
    click = 0
    while left:
        steps, node = np.unique(
            node[:left] * model.item_count + sessions.items[starts[:left] + click], return_inverse=True
        )
        states, output = _step(model, states, *np.divmod(steps, model.item_count), multiple)
        click += 1
        active, left = left, int(np.searchsorted(-lengths, -click, side="left"))
        found.add(order[left:active], node[left:active], states, output)
    return found.final(model)


def _step(
    model: GRU4Rec, states: list[Tensor], rows: np.ndarray, items: np.ndarray, multiple: int
) -> tuple[list[Tensor], Tensor]:
    """A click on `items` [n] from the `rows` [n] of states: new states and outputs, n rows each."""
    count = len(rows)
    new = zero_states(model.hyperparameters, count, model.device)
    output = torch.empty(count, model.hyperparameters.width, device=model.device)
    for first in range(0, count, ROWS):
        part = slice(first, min(first + ROWS, count))
        at, clicked = (_padded(torch.from_numpy(found[part]), multiple).to(model.device) for found in (rows, items))
        before = [state.index_select(0, at) for state in states]
        after, scored, _ = forward(model.hyperparameters, model.dense, input_rows(model, clicked), before)
        size = part.stop - part.start
        output[part] = scored[:size]
        for whole, found in zip(new, after, strict=True):
            whole[part] = found[:size]
    return new, output


def _padded(rows: Tensor, multiple: int) -> Tensor:
    """As many more rows 0 as make their number a multiple."""
    return torch.nn.functional.pad(rows, (0, -len(rows) % multiple))


def _outputs(model: GRU4Rec, states: list[Tensor], multiple: int) -> Tensor:
    """The output of each row of states [n, D]."""
    count = len(states[0])
    rows = _padded(torch.arange(count, device=model.device), multiple)
    return output_of(model.hyperparameters, model.dense, [state[rows] for state in states])[:count]


class _Ended:
    """Gathers the sessions that have come to their end."""

    def __init__(self, sessions: int) -> None:
        self._of = np.full(sessions, -1)
        self._count = 0
        self._outputs: list[Tensor] = []
        self._states: list[list[Tensor]] = []

    def add(self, sessions: np.ndarray, rows: np.ndarray, states: list[Tensor], output: Tensor | None) -> None:
        """They have come to these rows of states and output."""
        if not len(sessions) or output is None:
            return
        distinct, of = np.unique(rows, return_inverse=True)
        self._of[sessions] = self._count + of
        self._count += len(distinct)
        at = torch.from_numpy(distinct).to(output.device)
        self._outputs.append(output[at])
        self._states.append([state[at] for state in states])

    def final(self, model: GRU4Rec) -> Final:
        if not self._count:
            settings = model.hyperparameters
            states = zero_states(settings, 0, model.device)
            return Final(self._of, torch.zeros(0, settings.width, device=model.device), states)
        layers = [torch.cat(list(parts)) for parts in zip(*self._states, strict=True)]
        return Final(self._of, torch.cat(self._outputs), layers)


@torch.inference_mode()
def final_states(model: GRU4Rec, sessions: Sessions) -> Tensor:
    """The network's output after the last click of each session, [sessions, D]; zeros for an empty session."""
    found = final(model, sessions)
    output = torch.zeros(sessions.count, model.hyperparameters.width, device=model.device)
    known = np.flatnonzero(found.of >= 0)
    rows = torch.from_numpy(found.of[known]).to(model.device)
    output[torch.from_numpy(known).to(model.device)] = found.output[rows]
    return output
