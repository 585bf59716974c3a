"""A model's rank of every next click of a prepared split, also where the model's catalogue is another one.

All that are compared predict the same clicks: what a model does not know counts against it and is counted, never left
out. After clicks that it knows, it ranks by its scores; where it knows no click of a session yet, it ranks by the
clicks of its training, as its recommendations then are by popularity.

Shapes: P items of the prepared data, V of the model, T transitions of the sessions.
"""

from typing import NamedTuple

import numpy as np
import torch

from gru4rec.evaluation import metrics
from gru4rec.evaluation.baselines.histories import places
from gru4rec.evaluation.metrics import Ties
from gru4rec.evaluation.ranking import SCORES_AT_ONCE
from gru4rec.model import encode
from gru4rec.model.network import GRU4Rec, scores
from gru4rec.sessions.prepared import Sessions


class Ranked(NamedTuple):
    """Ranks of the next clicks [T], in the order of the sessions and of their clicks; infinite for an unknown item."""

    ranks: np.ndarray  # [T] float64
    unknown: int  # next clicks on items that the model does not know
    unstarted: int  # next clicks before which it knows none of the session's


@torch.inference_mode()
def rank(
    model: GRU4Rec, support: np.ndarray, sessions: Sessions, index: np.ndarray, ties: Ties = "conservative"
) -> Ranked:
    """Rank the next clicks of `sessions`, of the prepared data's items.

    `index` [P] int64 is the model's index of each of these, or -1; `support` [V] the model's training clicks.
    """
    clicked = index[sessions.items]
    known = clicked >= 0
    before = np.concatenate([[0], np.cumsum(known)])  # known clicks before each place, over all sessions
    kept = Sessions(before[sessions.offsets], clicked[known].astype(np.int32))
    at = places(sessions)
    session = np.searchsorted(sessions.offsets, at, side="right") - 1
    seen = before[at + 1] - kept.offsets[session]  # known clicks of the session so far
    targets = clicked[at + 1]
    found = np.full(len(at), np.inf)
    predicted = targets >= 0
    unstarted = np.flatnonzero(predicted & (seen == 0))
    if len(unstarted):
        by_support = torch.from_numpy(support.astype(np.float64))
        for place in np.unique(targets[unstarted]):  # few: one rank an item
            rank_of = metrics.ranks(by_support[None], torch.tensor([place]), ties)
            found[unstarted[targets[unstarted] == place]] = float(rank_of)
    started = np.flatnonzero(predicted & (seen > 0))
    # Transitions by (session, known clicks): several where clicks that are not known lie between.
    longest = int(seen.max(initial=0)) + 1
    keys = session[started] * longest + seen[started]  # ascending
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
