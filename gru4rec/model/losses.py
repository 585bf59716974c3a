"""Ranking losses and their gradients with respect to the scores.

In training every lane's target is scored against the targets of all other lanes and against extra negatives that the
lanes share. The same item often stands among them several times. All its columns have the same score, so the losses
here take each distinct item once, with its multiplicity: exactly the sum over all columns, without scoring one twice.

Shapes: B lanes, M distinct items, P masked cells. `positive` [B] int64 is where each lane's target stands among the M;
`weight` [B] what a lane's loss counts: 1 / nominal batch size, and 0 once it has retired. Every loss works on r, the
scores after their activation, and returns Σ weight · loss and its gradient [B, M] with respect to r. A column-major
[B, M] (a transposed view) stays one.

`masked` are cells that do not count; with `mask_hits` nor do the columns of a lane's target other than its own one. A
lane that is left without a negative learns nothing.

Operations are in place wherever a tensor of this size is not needed again: new memory costs more than arithmetic.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gru4rec.config import Hyperparameters
from gru4rec.model import activations, kernels
from gru4rec.model.constants import TINY


class Masked(NamedTuple):
    """Cells (lane, place among the M items) that do not count for that lane; never a lane's own positive."""

    lanes: Tensor  # [P] int64
    places: Tensor  # [P] int64


def loss_and_gradient(
    settings: Hyperparameters,
    scores: Tensor,
    positive: Tensor,
    weight: Tensor,
    multiplicity: Tensor | None,
    log_weight: Tensor | None,
    offset: Tensor | None,
    masked: Masked | None = None,
    *,
    weighted: bool = False,
) -> tuple[Tensor, Tensor]:
    """The loss of `settings`, with its activation, and its gradient with respect to `scores` [B, M], overwritten.

    `multiplicity` [M] is for the pairwise losses, `log_weight` [M] (log Σ exp(−correction) over an item's columns) and
    `offset` [B] for the cross-entropies, as there; None: each item is one column, without correction. `weighted`:
    `log_weight` is in the scores already, as only a cross-entropy with linear activation can have it; raises
    ValueError otherwise.
    """
    activation = settings.activation
    softmax = settings.loss in ("cross-entropy", "full-cross-entropy")
    if weighted and not (softmax and activation == "linear"):
        raise ValueError(f"no weighted scores in {settings.loss} with activation {activation}")
    if masked is not None and not len(masked.lanes):
        masked = None
    if multiplicity is None:
        multiplicity = scores.new_ones(scores.shape[1])
    if _fits_kernel(settings, scores, masked):
        elu_param = settings.elu_param if activation == "elu" else 0.0
        return kernels.bpr_max(scores, positive, weight, multiplicity, settings.bpreg, elu_param)

    r = activations.forward(activation, scores, settings.elu_param, settings.leaky_slope)
    if softmax:
        logits = r if activation == "linear" else r.clone()  # overwritten, and r is needed on the way back
        if log_weight is not None and not weighted:
            logits.add_(log_weight)
        smoothing = settings.label_smoothing
        if kernels.fits(logits) and offset is not None and masked is None and not settings.mask_hits and not smoothing:
            loss, gradient = kernels.cross_entropy(logits, positive, weight, offset)
            return loss, activations.backward(activation, scores, r, gradient, settings.elu_param, settings.leaky_slope)
        loss, gradient = cross_entropy(logits, positive, weight, offset, masked, settings.mask_hits, smoothing)
    elif settings.loss == "bpr-max":
        loss, gradient = bpr_max(r, positive, weight, multiplicity, settings.bpreg, masked, settings.mask_hits)
    else:
        pairwise = {"top1": top1, "bpr": bpr, "top1-max": top1_max}[settings.loss]
        loss, gradient = pairwise(r, positive, weight, multiplicity, masked, settings.mask_hits)
    return loss, activations.backward(activation, scores, r, gradient, settings.elu_param, settings.leaky_slope)


def _fits_kernel(settings: Hyperparameters, scores: Tensor, masked: Masked | None) -> bool:
    """Whether the fused BPR-max does it; its ELU with a parameter of 0 is linear, not ReLU."""
    activation = settings.activation == "linear" or (settings.activation == "elu" and settings.elu_param > 0)
    plain = activation and masked is None and not settings.mask_hits
    return settings.loss == "bpr-max" and plain and kernels.fits(scores)


def cross_entropy(
    logits: Tensor,
    positive: Tensor,
    weight: Tensor,
    offset: Tensor | None,
    masked: Masked | None = None,
    mask_hits: bool = False,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of a softmax over the sampled items, with logQ correction (Hidasi & Karatzoglou 2018).

    `logits` [B, M]: r + log Σ exp(−correction), the sum over the item's columns (without correction: r + log
    multiplicity); overwritten with the gradient. `offset` [B]: what takes the positive's logit back to that of the
    lane's own target column, subtracted from the loss's logit; None: 0.

    loss_i = −log(p_i + 1e-24). The bound matters: a hidden state that is carried after dropout can grow by
    1 / (1 − dropout) a click for as long as the update gate keeps it, so that now and then a lane's scores are in the
    hundreds; unbounded, such lanes would drive the training.

    With `label_smoothing` ε (Szegedy et al., CVPR 2016, section 7): (1 − ε) loss_i − ε · mean of log(P_m + 1e-24) over
    the items that are not masked, P_m the probability of all columns of an item that count.
    """
    at = positive.unsqueeze(1)
    own = logits.gather(1, at).squeeze(1)
    if offset is not None:
        own = own - offset
    if mask_hits:
        logits.scatter_(1, at, own.unsqueeze(1))
    if masked is not None:
        logits[masked.lanes, masked.places] = -torch.inf
    counted = logits > -torch.inf if label_smoothing > 0 else None
    top = logits.amax(dim=1, keepdim=True)
    mass = logits.sub_(top).exp_()
    total = mass.sum(dim=1)
    chance = torch.exp(own - top.squeeze(1)) / total
    loss = -torch.log(chance + TINY)
    weight_of_gradient = weight * (chance / (chance + TINY))
    if counted is not None:
        weight_of_gradient = weight_of_gradient * (1.0 - label_smoothing)
        spread, gradient = _spread(mass / total.unsqueeze(1), weight * label_smoothing, counted)
        loss = (1.0 - label_smoothing) * loss + label_smoothing * spread
        gradient.addcmul_(mass, (weight_of_gradient / total).unsqueeze(1))
    else:
        gradient = mass.mul_((weight_of_gradient / total).unsqueeze(1))
    gradient.scatter_add_(1, at, -weight_of_gradient.unsqueeze(1))
    return torch.dot(weight, loss), gradient


def _spread(p: Tensor, weight: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """−mean over a lane's counted items of log(P_m + 1e-24) [B], and the gradient [B, M] of its sum by `weight` [B].

    `p` [B, M]: P_m, 0 where not `counted`; overwritten. With q_m = P_m / (P_m + 1e-24) the gradient is
    (P_m Σ q − q_m) / K.
    """
    bounded = p + TINY
    logs = torch.log(bounded).mul_(counted)
    count = counted.sum(dim=1)
    q = p / bounded
    gradient = p.mul_(q.sum(dim=1, keepdim=True)).sub_(q).mul_((weight / count).unsqueeze(1))
    return -logs.sum(dim=1) / count, gradient


def top1(
    r: Tensor,
    positive: Tensor,
    weight: Tensor,
    multiplicity: Tensor,
    masked: Masked | None = None,
    mask_hits: bool = False,
) -> tuple[Tensor, Tensor]:
    """TOP1 with its score regularisation (Hidasi et al., ICLR 2016, section 3.1.3).

    loss_i = mean over the lane's negatives j of σ(r_j − r_i) + σ(r_j²). `multiplicity` [M]: columns of each item; a
    lane's own target column is not among its negatives.
    """
    at = positive.unsqueeze(1)
    share = _shares(_negatives(r, at, multiplicity, masked, mask_hits))
    worse, square = (r - r.gather(1, at)).sigmoid_(), (r * r).sigmoid_()
    loss = (worse + square).mul_(share).sum(dim=1)
    slope = _slope_of_sigmoid_(worse).mul_(share)
    gradient = _slope_of_sigmoid_(square).mul_(share).mul_(r).mul_(2.0).add_(slope)
    gradient.scatter_add_(1, at, -slope.sum(dim=1, keepdim=True))
    return torch.dot(weight, loss), gradient.mul_(weight.unsqueeze(1))


def bpr(
    r: Tensor,
    positive: Tensor,
    weight: Tensor,
    multiplicity: Tensor,
    masked: Masked | None = None,
    mask_hits: bool = False,
) -> tuple[Tensor, Tensor]:
    """Bayesian personalised ranking (Hidasi et al., ICLR 2016, section 3.1.3).

    loss_i = −mean over the lane's negatives j of log σ(r_i − r_j). `multiplicity` as in `top1`.
    """
    at = positive.unsqueeze(1)
    share = _shares(_negatives(r, at, multiplicity, masked, mask_hits))
    lead = r - r.gather(1, at)
    loss = F.softplus(lead).mul_(share).sum(dim=1)
    gradient = lead.sigmoid_().mul_(share)
    gradient.scatter_add_(1, at, -gradient.sum(dim=1, keepdim=True))
    return torch.dot(weight, loss), gradient.mul_(weight.unsqueeze(1))


def top1_max(
    r: Tensor,
    positive: Tensor,
    weight: Tensor,
    multiplicity: Tensor,
    masked: Masked | None = None,
    mask_hits: bool = False,
) -> tuple[Tensor, Tensor]:
    """TOP1-max (Hidasi & Karatzoglou 2018, section 3.2).

    loss_i = Σ_j s_j (σ(r_j − r_i) + σ(r_j²)), where s is the softmax over the lane's negatives. `multiplicity` as in
    `top1`.
    """
    at = positive.unsqueeze(1)
    s = _softmax(r, _negatives(r, at, multiplicity, masked, mask_hits))
    worse, square = (r - r.gather(1, at)).sigmoid_(), (r * r).sigmoid_()
    value = worse + square
    loss = (s * value).sum(dim=1, keepdim=True)
    slope = _slope_of_sigmoid_(worse).mul_(s)
    gradient = value.sub_(loss).add_(_slope_of_sigmoid_(square).mul_(r), alpha=2.0).mul_(s).add_(slope)
    gradient.scatter_add_(1, at, -slope.sum(dim=1, keepdim=True))
    return torch.dot(weight, loss.squeeze(1)), gradient.mul_(weight.unsqueeze(1))


def bpr_max(
    r: Tensor,
    positive: Tensor,
    weight: Tensor,
    multiplicity: Tensor,
    bpreg: float,
    masked: Masked | None = None,
    mask_hits: bool = False,
) -> tuple[Tensor, Tensor]:
    """BPR-max with score regularisation (Hidasi & Karatzoglou 2018, section 3.3).

    loss_i = −log(Σ_j s_j σ(r_i − r_j) + 1e-24) + bpreg · Σ_j s_j r_j², where s is the softmax over the lane's
    negatives. `multiplicity` as in `top1`. The fused form, with ELU, is `kernels.bpr_max`.
    """
    at = positive.unsqueeze(1)
    s = _softmax(r, _negatives(r, at, multiplicity, masked, mask_hits))
    better = (r.gather(1, at) - r).sigmoid_()
    chance = (s * better).sum(dim=1, keepdim=True)
    square = (s * r).mul_(r).sum(dim=1, keepdim=True)
    loss = bpreg * square - torch.log(chance + TINY)

    # s_j · ((σ' − σ + chance) / chance + bpreg · (r_j² + 2 r_j − square)), σ of r_i − r_j
    inverse = 1.0 / (chance + TINY)
    away = chance - better
    slope = _slope_of_sigmoid_(better)
    gradient = away.add_(slope).mul_(inverse).add_((r + 2.0).mul_(r).sub_(square), alpha=bpreg).mul_(s)
    gradient.scatter_add_(1, at, -inverse * slope.mul_(s).sum(dim=1, keepdim=True))
    return torch.dot(weight, loss.squeeze(1)), gradient.mul_(weight.unsqueeze(1))


def _slope_of_sigmoid_(value: Tensor) -> Tensor:
    """σ' = σ − σ² where the σ stood."""
    return value.addcmul_(value, value, value=-1.0)


def _negatives(r: Tensor, at: Tensor, multiplicity: Tensor, masked: Masked | None, mask_hits: bool) -> Tensor:
    """Columns [B, M] that each item has among a lane's negatives: all but its own target column and what is masked."""
    count = torch.empty_like(r).copy_(multiplicity)
    if mask_hits:
        count.scatter_(1, at, 0.0)
    else:
        count.scatter_add_(1, at, torch.full_like(r[:, :1], -1.0))
    if masked is not None:
        count[masked.lanes, masked.places] = 0
    return count


def _shares(count: Tensor) -> Tensor:
    """Each negative's share in a mean over them [B, M], in place of the counts; 0 for a lane that has none."""
    return count.div_(count.sum(dim=1, keepdim=True).clamp_min(1.0))


def _softmax(r: Tensor, count: Tensor) -> Tensor:
    """Softmax over a lane's negatives [B, M], each with its multiplicity; 0 for a lane that has none."""
    rival = torch.where(count > 0, r, -torch.inf)  # keeps the strides, as masked_fill does not
    top = rival.amax(dim=1, keepdim=True)
    top.masked_fill_(torch.isinf(top), 0.0)
    s = rival.sub_(top).exp_().mul_(count)
    return s.div_(s.sum(dim=1, keepdim=True).clamp_min(torch.finfo(s.dtype).tiny))
