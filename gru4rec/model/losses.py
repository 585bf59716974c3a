"""Ranking losses and their gradients with respect to the scores.

In training every lane's target is scored against the targets of all other lanes and against extra negatives that the
lanes share. The same item often stands among them several times. All its columns have the same score, so the losses
here take each distinct item once, with its multiplicity: exactly the sum over all columns, without scoring one twice.

Shapes: B lanes, M distinct items. `positive` [B] int64 is where each lane's target stands among the M; `weight` [B]
what a lane's loss counts: 1 / nominal batch size, and 0 once it has retired. Every loss returns Σ weight · loss and its
gradient [B, M] with respect to the scores; the scores may be overwritten.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gru4rec.model import kernels

_TINY = 1e-24  # inside the logarithm: no lane loses more than 55.3, and one that would has no gradient


def cross_entropy(logits: Tensor, positive: Tensor, weight: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of a softmax over the sampled items, with logQ correction (Hidasi & Karatzoglou 2018).

    `logits` [B, M]: score + log Σ exp(−correction), the sum over the item's columns (without correction: score + log
    multiplicity); overwritten with the gradient. `offset` [B]: what takes the positive's logit back to the score of
    the lane's own target column, subtracted from the loss's logit.

    loss_i = −log(p_i + 1e-24). The bound matters: a hidden state that is carried after dropout can grow by
    1 / (1 − dropout) a click for as long as the update gate keeps it, so that now and then a lane's scores are in the
    hundreds; unbounded, such lanes would drive the training.
    """
    at = positive.unsqueeze(1)
    own = logits.gather(1, at).squeeze(1) - offset
    top = logits.amax(dim=1, keepdim=True)
    mass = logits.sub_(top).exp_()
    total = mass.sum(dim=1)
    chance = torch.exp(own - top.squeeze(1)) / total
    loss = -torch.log(chance + _TINY)
    weight_of_gradient = weight * (chance / (chance + _TINY))
    gradient = mass.mul_((weight_of_gradient / total).unsqueeze(1))
    gradient.scatter_add_(1, at, -weight_of_gradient.unsqueeze(1))
    return torch.dot(weight, loss), gradient


def top1(scores: Tensor, positive: Tensor, weight: Tensor, multiplicity: Tensor) -> tuple[Tensor, Tensor]:
    """TOP1 with its score regularisation (Hidasi et al., ICLR 2016, section 3.1.3).

    loss_i = mean over the lane's negatives j of σ(r_j − r_i) + σ(r_j²). `multiplicity` [M]: columns of each item; a
    lane's own target column is not among its negatives.
    """
    at = positive.unsqueeze(1)
    share = _shares(_negatives(scores, at, multiplicity))
    worse, square = torch.sigmoid(scores - scores.gather(1, at)), torch.sigmoid(scores * scores)
    loss = (share * (worse + square)).sum(dim=1)
    slope = share * worse * (1.0 - worse)
    gradient = slope + share * square * (1.0 - square) * 2.0 * scores
    gradient.scatter_add_(1, at, -slope.sum(dim=1, keepdim=True))
    return torch.dot(weight, loss), gradient * weight.unsqueeze(1)


def bpr(scores: Tensor, positive: Tensor, weight: Tensor, multiplicity: Tensor) -> tuple[Tensor, Tensor]:
    """Bayesian personalised ranking (Hidasi et al., ICLR 2016, section 3.1.3).

    loss_i = −mean over the lane's negatives j of log σ(r_i − r_j). `multiplicity` as in `top1`.
    """
    at = positive.unsqueeze(1)
    share = _shares(_negatives(scores, at, multiplicity))
    lead = scores - scores.gather(1, at)
    loss = (share * F.softplus(lead)).sum(dim=1)
    gradient = share * torch.sigmoid(lead)
    gradient.scatter_add_(1, at, -gradient.sum(dim=1, keepdim=True))
    return torch.dot(weight, loss), gradient * weight.unsqueeze(1)


def top1_max(scores: Tensor, positive: Tensor, weight: Tensor, multiplicity: Tensor) -> tuple[Tensor, Tensor]:
    """TOP1-max (Hidasi & Karatzoglou 2018, section 3.2).

    loss_i = Σ_j s_j (σ(r_j − r_i) + σ(r_j²)), where s is the softmax over the lane's negatives. `multiplicity` as in
    `top1`.
    """
    at = positive.unsqueeze(1)
    s = _softmax(scores, _negatives(scores, at, multiplicity))
    worse, square = torch.sigmoid(scores - scores.gather(1, at)), torch.sigmoid(scores * scores)
    loss = (s * (worse + square)).sum(dim=1, keepdim=True)
    slope = s * worse * (1.0 - worse)
    gradient = s * (worse + square - loss) + slope + s * square * (1.0 - square) * 2.0 * scores
    gradient.scatter_add_(1, at, -slope.sum(dim=1, keepdim=True))
    return torch.dot(weight, loss.squeeze(1)), gradient * weight.unsqueeze(1)


def _negatives(scores: Tensor, at: Tensor, multiplicity: Tensor) -> Tensor:
    """Columns [B, M] that each item has among a lane's negatives: all but the lane's own target column."""
    return multiplicity.expand_as(scores).scatter_add(1, at, torch.full_like(scores[:, :1], -1.0))


def _shares(count: Tensor) -> Tensor:
    """Each negative's share in a mean over them [B, M]; 0 for a lane that has none."""
    return count / count.sum(dim=1, keepdim=True).clamp_min(1.0)


def _softmax(r: Tensor, count: Tensor) -> Tensor:
    """Softmax over a lane's negatives [B, M], each with its multiplicity; 0 for a lane that has none."""
    top = r.masked_fill(count <= 0, -torch.inf).amax(dim=1, keepdim=True)
    top = torch.where(torch.isinf(top), torch.zeros_like(top), top)
    s = count * torch.exp(torch.where(count > 0, r - top, torch.zeros_like(r)))
    return s / s.sum(dim=1, keepdim=True).clamp_min(torch.finfo(s.dtype).tiny)


def bpr_max(
    scores: Tensor, positive: Tensor, weight: Tensor, multiplicity: Tensor, bpreg: float, elu_param: float
) -> tuple[Tensor, Tensor]:
    """BPR-max with score regularisation (Hidasi & Karatzoglou 2018, section 3.3).

    loss_i = −log(Σ_j s_j σ(r_i − r_j) + 1e-24) + bpreg · Σ_j s_j r_j², where s is the softmax over the lane's negatives
    and r the scores after ELU with `elu_param` (0: linear). `multiplicity` [M]: columns of each item; a lane's own
    target column is not among its negatives.
    """
    if kernels.FUSED and scores.device.type == "cpu" and scores.dtype == torch.float32:
        return kernels.bpr_max(scores, positive, weight, multiplicity, bpreg, elu_param)
    r = F.elu(scores, alpha=elu_param) if elu_param > 0 else scores
    at = positive.unsqueeze(1)
    s = _softmax(r, _negatives(r, at, multiplicity))
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
    return torch.dot(weight, loss.squeeze(1)), gradient * weight.unsqueeze(1)
