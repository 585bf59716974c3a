"""Ranking metrics from the ranks of the items that were clicked next, one rank a prediction.

Recall@k is the share of predictions with rank <= k, MRR@k the mean of 1/rank and NDCG@k the mean of 1/log2(1 + rank)
where rank <= k (0 elsewhere): with one relevant item the ideal DCG is 1. All are means over predictions, never over
batches, so that they do not depend on how predictions were grouped.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from gru4rec.model import kernels

try:
    from gru4rec.evaluation import counting
except ImportError:  # no numba: plain torch counts
    counting = None  # type: ignore[assignment]

Ties = Literal["standard", "conservative", "median"]


def ranks(scores: Tensor, targets: Tensor, ties: Ties = "conservative") -> Tensor:
    """Rank of each row's target among all items, [B] (float64 for `median`, else int64); 1 is best.

    scores [B, V], targets [B] int64. Items that score the same as the target count for it (`standard`: 1 + items
    above), against it (`conservative`: items that score at least as much, itself included), or half (`median`: the
    mean of the two). A target whose score is not a number comes last.
    """
    own = scores.gather(1, targets.unsqueeze(1))
    above, level = _above_and_level(scores, targets, own)
    if ties == "standard":
        found = above + 1
    else:
        level = level.clamp_min(1)  # itself included, whatever its score: NaN equals nothing
        found = above + level if ties == "conservative" else above + (level + 1) / 2
    return torch.where(torch.isnan(own.squeeze(1)), torch.full_like(found, scores.shape[1]), found)


def _above_and_level(scores: Tensor, targets: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Items above each row's score `own` [B, 1], and those level with it, [B] int64 each."""
    if counting is None or not kernels.fits(scores) or not scores.is_contiguous():
        # int32 holds any count of items, and torch adds truth values up three times as fast in it as in int64.
        above, level = (found.sum(dim=1, dtype=torch.int32) for found in (scores > own, scores == own))
        return above.long(), level.long()
    above, level = torch.empty_like(targets), torch.empty_like(targets)
    given = scores.numpy(), targets.contiguous().numpy(), above.numpy(), level.numpy()
    counting.above_and_level(kernels.threads_for(scores.numel()), *given)
    return above, level


class RankingMetrics:
    """Adds up Recall, MRR and NDCG over any number of batches."""

    def __init__(self, cutoffs: Sequence[int]) -> None:
        """`cutoffs`: the values of k, at least 1 each."""
        if not cutoffs or min(cutoffs) < 1:
            raise ValueError(f"cut-offs must be at least 1, got {list(cutoffs)}")
        self.cutoffs = sorted(set(cutoffs))
        self.predictions = 0
        self.sums = torch.zeros(3, len(self.cutoffs), dtype=torch.float64)  # recall, mrr, ndcg by cut-off

    def add(self, rank: Tensor) -> None:
        """Count a batch of ranks [B]."""
        rank = rank.to("cpu", torch.float64)
        self.predictions += len(rank)
        for column, cutoff in enumerate(self.cutoffs):
            hit = rank[rank <= cutoff]
            self.sums[0, column] += len(hit)
            self.sums[1, column] += (1 / hit).sum()
            self.sums[2, column] += (1 / torch.log2(1 + hit)).sum()

    def state(self) -> Tensor:
        """What has been counted, [1 + 3 · cut-offs] float64; the states of several workers can be added."""
        return torch.cat([torch.tensor([float(self.predictions)], dtype=torch.float64), self.sums.reshape(-1)])

    def restore(self, state: Tensor) -> None:
        """Take over a (summed) state."""
        self.predictions = round(float(state[0]))
        self.sums = state[1:].to("cpu", torch.float64).view(3, -1).clone()

    def result(self) -> dict[str, float]:
        """`recall_at_5`, `mrr_at_5`, `ndcg_at_5`, … for each cut-off; 0 where nothing was predicted."""
        means = self.sums / max(self.predictions, 1)
        return {
            f"{name}_at_{cutoff}": float(means[row, column])
            for column, cutoff in enumerate(self.cutoffs)
            for row, name in enumerate(("recall", "mrr", "ndcg"))
        }
