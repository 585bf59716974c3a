"""A model's rank of every relevant item of a prepared split, also where the model's catalogue is another one.

All that are compared predict the same clicks: what a model does not know counts against it and is counted, never left
out. After clicks that it knows, it ranks by its scores; where it knows no click of a session yet, it ranks by the
clicks of its training, as its recommendations then are by popularity.

Shapes: P items of the prepared data, V of the model, T predictions, R relevant items (relevance.py).
"""

from typing import NamedTuple

import numpy as np
import torch

from gru4rec.evaluation import metrics
from gru4rec.evaluation.metrics import Ties
from gru4rec.evaluation.ranking import SCORES_AT_ONCE
from gru4rec.evaluation.relevance import Relevant, next_click
from gru4rec.model import encode
from gru4rec.model.encode import final_states
from gru4rec.model.network import GRU4Rec, scores
from gru4rec.scoring.recommend import select
from gru4rec.scoring.topk import best_items
from gru4rec.sessions.prepared import Sessions


class Ranked(NamedTuple):
    """Ranks of the relevant items [R] in their order; infinite for an unknown item."""

    ranks: np.ndarray  # [R] float64
    unknown: int  # relevant items that the model does not know
    unstarted: int  # predictions before which it knows none of the session's clicks


def in_catalogue(sessions: Sessions, index: np.ndarray) -> tuple[Sessions, np.ndarray]:
    """The sessions without clicks that the model does not know, in its index; and the known clicks before each place,
    [clicks + 1] int64, over all sessions. `index` as in `rank`.
    """
    clicked = index[sessions.items]
    known = clicked >= 0
    before = np.concatenate([[0], np.cumsum(known)])
    return Sessions(before[sessions.offsets], clicked[known].astype(np.int32)), before


@torch.inference_mode()
def rank(
    model: GRU4Rec,
    support: np.ndarray,
    sessions: Sessions,
    index: np.ndarray,
    ties: Ties = "conservative",
    relevant: Relevant | None = None,
) -> Ranked:
    """Rank the relevant items (by default: the next clicks) of `sessions`, which are of the prepared data.

    `index` [P] int64 is the model's index of each of its items, or -1; `support` [V] the model's training clicks.
    """
    at, of, wanted_items = relevant or next_click(sessions)
    kept, before = in_catalogue(sessions, index)
    session = np.searchsorted(sessions.offsets, at, side="right") - 1
    seen = before[at + 1] - kept.offsets[session]  # known clicks of the session so far, [T]
    targets = index[wanted_items]
    found = np.full(len(of), np.inf)
    predicted = targets >= 0
    unstarted = np.flatnonzero(predicted & (seen == 0)[of])
    if len(unstarted):
        by_support = torch.from_numpy(support.astype(np.float64))
        for item in np.unique(targets[unstarted]):  # few: one rank an item
            rank_of = metrics.ranks(by_support[None], torch.tensor([item]), ties)
            found[unstarted[targets[unstarted] == item]] = float(rank_of)
    started = np.flatnonzero(predicted & (seen > 0)[of])
    # Relevant items by (session, known clicks): several also where clicks that are not known lie between.
    longest = int(seen.max(initial=0)) + 1
    keys = (session * longest + seen)[of[started]]  # ascending
    rows_at_once = max(1, SCORES_AT_ONCE // model.item_count)
    block = torch.empty(rows_at_once, model.item_count, device=model.device)
    for position in encode.walk(model, kept):
        wanted = position.rows * longest + position.click + 1
        low, high = np.searchsorted(keys, wanted, side="left"), np.searchsorted(keys, wanted, side="right")
        counts = high - low
        rows = np.repeat(np.arange(len(wanted)), counts)
        which = started[np.repeat(low - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())]
        for first in range(0, len(rows), rows_at_once):
            part = slice(first, first + rows_at_once)
            output = position.output[torch.from_numpy(rows[part]).to(model.device)]
            following = torch.from_numpy(targets[which[part]]).to(model.device)
            found[which[part]] = metrics.ranks(scores(model, output, block), following, ties).double().cpu().numpy()
    return Ranked(found, int((~predicted).sum()), int((seen == 0).sum()))


@torch.inference_mode()
def lists(model: GRU4Rec, support: np.ndarray, sessions: Sessions, index: np.ndarray, k: int) -> np.ndarray:
    """The k best items after the last click of each session, [sessions, min(k, V)] int64, in the model's index.

    The most popular where the model knows no click of the session. `index` and `support` as in `rank`.
    """
    kept, _ = in_catalogue(sessions, index)
    width = min(k, model.item_count)
    found = np.tile(np.argsort(-support, kind="stable")[:width], (sessions.count, 1))
    rows = np.flatnonzero(kept.lengths)
    if len(rows):
        found[rows] = best_items(model, final_states(model, select(kept, rows)), k)[1].cpu().numpy()
    return found
