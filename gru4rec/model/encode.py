"""Walking whole sessions through the network, without training: for evaluation and scoring."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gru4rec.model.network import GRU4Rec, forward, input_rows, output_of, zero_states
from gru4rec.sessions.prepared import Sessions

ROWS = 1024  # that go through the network at once: what they come to stays in the cache


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
    ended = _Ended(len(order))
    left = int(np.searchsorted(-lengths, 0, side="left"))  # sessions with a click more
    going_on = left + np.flatnonzero(node[left:])
    ended.add(order[going_on], node[going_on], states)
    click = 0
    while left:
        steps, node = np.unique(
            node[:left] * model.item_count + sessions.items[starts[:left] + click], return_inverse=True
        )
        states = _step(model, states, *np.divmod(steps, model.item_count), multiple)
        click += 1
        active, left = left, int(np.searchsorted(-lengths, -click, side="left"))
        ended.add(order[left:active], node[left:active], states)
    return ended.final(model, multiple)


def _step(model: GRU4Rec, states: list[Tensor], rows: np.ndarray, items: np.ndarray, multiple: int) -> list[Tensor]:
    """The states after a click on `items` [n] from the `rows` [n] of states, n rows each."""
    new = [torch.empty(len(rows), state.shape[1], device=model.device) for state in states]
    size = max(ROWS, multiple)
    for first in range(0, len(rows), size):
        part = slice(first, first + size)
        at, clicked = (_padded(torch.from_numpy(found[part]), multiple).to(model.device) for found in (rows, items))
        before = [state.index_select(0, at) for state in states]
        after = forward(model.hyperparameters, model.dense, input_rows(model, clicked), before)[0]
        for whole, found in zip(new, after, strict=True):
            whole[part] = found[: len(whole[part])]
    return new


def _padded(rows: Tensor, multiple: int) -> Tensor:
    """As many more rows 0 as make their number a multiple."""
    return torch.nn.functional.pad(rows, (0, -len(rows) % multiple))


class _Ended:
    """Gathers the sessions that have come to their end."""

    def __init__(self, sessions: int) -> None:
        self._of = np.full(sessions, -1)
        self._count = 0
        self._states: list[list[Tensor]] = []

    def add(self, sessions: np.ndarray, rows: np.ndarray, states: list[Tensor]) -> None:
        """They have come to these rows of states."""
        if len(sessions):
            distinct, of = np.unique(rows, return_inverse=True)
            self._of[sessions] = self._count + of
            self._count += len(distinct)
            at = torch.from_numpy(distinct).to(states[0].device)
            self._states.append([state.index_select(0, at) for state in states])

    def final(self, model: GRU4Rec, multiple: int) -> Final:
        settings = model.hyperparameters
        found = self._states or [zero_states(settings, 0, model.device)]
        states = [torch.cat(list(parts)) for parts in zip(*found, strict=True)]
        padded = [torch.nn.functional.pad(state, (0, 0, 0, -len(state) % multiple)) for state in states]
        return Final(self._of, output_of(settings, model.dense, padded)[: self._count], states)


@torch.inference_mode()
def final_states(model: GRU4Rec, sessions: Sessions) -> Tensor:
    """The network's output after the last click of each session, [sessions, D]; zeros for an empty session."""
    found = final(model, sessions)
    output = torch.zeros(sessions.count, model.hyperparameters.width, device=model.device)
    known = np.flatnonzero(found.of >= 0)
    rows = torch.from_numpy(found.of[known]).to(model.device)
    output[torch.from_numpy(known).to(model.device)] = found.output[rows]
    return output
