"""Ranking losses and their gradients with respect to the scores.

In training every lane's target is scored against the targets of all other lanes and against extra negatives that the
lanes share. The same item often stands among them several times. All its columns have the same score, so the losses
here take each distinct item once, with its multiplicity: exactly the sum over all columns, without scoring one twice.

Shapes: B lanes, M distinct items. `scores` [B, M]; `positive` [B] int64, where each lane's target stands among the M;
`active` [B], 1 for lanes that count and 0 for retired ones. Every loss returns each lane's loss [B] and the
gradient of their sum [B, M], both 0 for retired lanes; the caller divides by the nominal batch size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_TINY = 1e-24  # inside the logarithm of BPR-max, as in the reference


def cross_entropy(
    scores: Tensor, positive: Tensor, active: Tensor, log_weight: Tensor, correction: Tensor
) -> tuple:
    """Cross-entropy of a softmax over the sampled items, with logQ correction (Hidasi & Karatzoglou 2018).

    `log_weight` [M]: log of the sum, over the item's columns, of exp(−correction of the column); without correction
    the log of its multiplicity. `correction` [B]: what is subtracted from the lane's own target column.
    """
    shifted = scores + log_weight
    normaliser = torch.logsumexp(shifted, dim=1, keepdim=True)
    gradient = torch.exp(shifted - normaliser)
    at = positive.unsqueeze(1)
    loss = (normaliser - scores.gather(1, at)).squeeze(1) + correction
    gradient.scatter_add_(1, at, torch.full_like(normaliser, -1.0))
    return loss * active, gradient.mul_(active.unsqueeze(1))


def bpr_max(
    scores: Tensor, positive: Tensor, active: Tensor, multiplicity: Tensor, bpreg: float, elu_param: float
) -> tuple:
    """BPR-max with score regularisation (Hidasi & Karatzoglou 2018, section 3.3).

    loss_i = −log(Σ_j s_j σ(r_i − r_j) + 1e-24) + bpreg · Σ_j s_j r_j², where s is the softmax over the lane's negatives
    and r the scores after ELU with `elu_param` (0: linear). `multiplicity` [M]: columns of each item; a lane's own
    target column is not among its negatives.
    """
    r = F.elu(scores, alpha=elu_param) if elu_param > 0 else scores
    at = positive.unsqueeze(1)
    count = multiplicity.expand_as(r).scatter_add(1, at, torch.full_like(r[:, :1], -1.0))
    top = r.masked_fill(count <= 0, -torch.inf).amax(dim=1, keepdim=True)
    top = torch.where(torch.isinf(top), torch.zeros_like(top), top)  # a lane without negatives
    s = count * torch.exp(torch.where(count > 0, r - top, torch.zeros_like(r)))
    s = s / s.sum(dim=1, keepdim=True).clamp_min(torch.finfo(s.dtype).tiny)

    better = torch.sigmoid(r.gather(1, at) - r)
    chance = (s * better).sum(dim=1, keepdim=True)
    square = (s * r * r).sum(dim=1, keepdim=True)
    loss = bpreg * square - torch.log(chance + _TINY)

    inverse = 1.0 / (chance + _TINY)
    slope = s * better * (1.0 - better)
    gradient = inverse * (slope - s * (better - chance)) + bpreg * s * (r * r - square + 2.0 * r)
    gradient.scatter_add_(1, at, -inverse * slope.sum(dim=1, keepdim=True))
    if elu_param > 0:
        gradient = gradient * torch.where(scores > 0, torch.ones_like(r), r + elu_param)
    return loss.squeeze(1) * active, gradient * active.unsqueeze(1)
