"""Evaluation of a model on sessions: after each click but the last, the whole catalogue is ranked.

Shapes: V items of the catalogue, D size of an item row.
"""

from collections.abc import Sequence

import numpy as np
import torch

from gru4rec.evaluation.metrics import RankingMetrics, Ties, ranks
from gru4rec.model import encode
from gru4rec.model.network import GRU4Rec, scores
from gru4rec.sessions.prepared import Sessions

SCORES_AT_ONCE = 2_000_000  # numbers in one block of scores (8 MB): larger ones leave the cache


@torch.inference_mode()
def evaluate(
    model: GRU4Rec,
    sessions: Sessions,
    cutoffs: Sequence[int],
    ties: Ties = "conservative",
) -> RankingMetrics:
    """Ranks of all next clicks of `sessions`, whose item indices lie in the model's catalogue.

    Sessions of fewer than two clicks have nothing to predict. Each prediction counts the same.
    """
    metrics = RankingMetrics(cutoffs)
    rows_at_once = max(1, SCORES_AT_ONCE // model.item_count)
    lengths = sessions.lengths
    block = torch.empty(rows_at_once, model.item_count, device=model.device)  # fresh pages would cost a tenth more
    for position in encode.walk(model, sessions):
        more = np.flatnonzero(lengths[position.rows] > position.click + 1)
        if not len(more):
            continue
        output = position.output[: len(more)]  # rows are in order of length: those with a next click come first
        following = sessions.items[sessions.offsets[position.rows[more]] + position.click + 1]
        targets = torch.from_numpy(following.astype(np.int64)).to(model.device)
        for first in range(0, len(more), rows_at_once):
            part = slice(first, first + rows_at_once)
            metrics.add(ranks(scores(model, output[part], block), targets[part], ties))
    return metrics
