"""GRU4Rec's training written the obvious way, in float64 with autograd: what the engine is held against.

One column for each target and each extra negative, duplicates and all; sparse rows by dense gradients and a mask.
"""

import numpy as np
import torch
from torch import Tensor


def cross_entropy(scores: Tensor, correction: Tensor) -> Tensor:
    """scores [B, columns], lane i's target in column i; correction [columns]. Loss of each lane."""
    logits = scores - correction
    return -torch.log(torch.softmax(logits, dim=1).diagonal() + 1e-24)


def bpr_max(scores: Tensor, bpreg: float, elu_param: float) -> Tensor:
    r = torch.where(scores > 0, scores, elu_param * torch.expm1(scores)) if elu_param > 0 else scores
    lanes = len(r)
    negative = torch.ones_like(r)
    negative[torch.arange(lanes), torch.arange(lanes)] = 0
    weights = torch.exp(r) * negative
    weights = weights / weights.sum(dim=1, keepdim=True)
    better = torch.sigmoid(r.diagonal().unsqueeze(1) - r)
    return -torch.log((weights * better).sum(dim=1) + 1e-24) + bpreg * (weights * r**2).sum(dim=1)


def _negative(r: Tensor) -> Tensor:
    negative = torch.ones_like(r)
    negative[torch.arange(len(r)), torch.arange(len(r))] = 0
    return negative


def top1(r: Tensor) -> Tensor:
    negative = _negative(r)
    losses = torch.sigmoid(r - r.diagonal().unsqueeze(1)) + torch.sigmoid(r**2)
    return (negative * losses).sum(dim=1) / negative.sum(dim=1)


def bpr(r: Tensor) -> Tensor:
    negative = _negative(r)
    return -(negative * torch.log(torch.sigmoid(r.diagonal().unsqueeze(1) - r))).sum(dim=1) / negative.sum(dim=1)


def top1_max(r: Tensor) -> Tensor:
    weights = torch.exp(r) * _negative(r)
    weights = weights / weights.sum(dim=1, keepdim=True)
    return (weights * (torch.sigmoid(r - r.diagonal().unsqueeze(1)) + torch.sigmoid(r**2))).sum(dim=1)


class PlainTrainer:
    """One step at a time; `weights` by the engine's names, float64."""

    def __init__(self, settings, weights: dict[str, Tensor], support: np.ndarray) -> None:
        self.settings = settings
        self.weights = {name: weight.detach().double().clone() for name, weight in weights.items()}
        self.accumulators = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        self.velocities = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        self.log_support = torch.from_numpy(np.log(support.astype(np.float64)))
        self.hidden = None

    def loss(
        self, weights, inputs, targets, resets, extra, drop_embed=1.0, drop_hidden=None
    ) -> tuple[Tensor, list[Tensor]]:
        settings = self.settings
        old = self.hidden or [torch.zeros(len(inputs), units, dtype=torch.float64) for units in settings.layers]
        x, new = weights["item_table"][inputs] * drop_embed, []
        for layer, h in enumerate(old):
            names = ("weight_input", "weight_hidden", "bias_input", "bias_hidden")
            h = torch.where(resets.unsqueeze(1), 0.0, h)
            x = torch.gru_cell(x, h, *(weights[f"gru.{layer}.{name}"] for name in names))
            x = x * (drop_hidden[layer] if drop_hidden else 1.0)
            new.append(x.detach())
        columns = torch.cat([targets, extra])
        scores = x @ weights["item_table"][columns].t() + weights["item_bias"][columns]
        if settings.loss == "cross-entropy":
            scale = torch.cat([torch.ones(len(targets)), torch.full((len(extra),), settings.sample_alpha)])
            losses = cross_entropy(scores, settings.logq * scale * self.log_support[columns])
        elif settings.loss == "bpr-max":
            losses = bpr_max(scores, settings.bpreg, settings.elu_param)
        else:
            losses = {"top1": top1, "bpr": bpr, "top1-max": top1_max}[settings.loss](scores)
        return losses.sum() / settings.batch_size, new

    def step(self, inputs, targets, resets, extra, **drops) -> float:
        leaves = {name: weight.clone().requires_grad_() for name, weight in self.weights.items()}
        loss, self.hidden = self.loss(leaves, inputs, targets, resets, extra, **drops)
        gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        columns = torch.cat([targets, extra])
        for name, weight in self.weights.items():
            touched = torch.ones(len(weight), dtype=torch.bool)
            if name in ("item_table", "item_bias"):
                touched[:] = False
                touched[columns] = True
                if name == "item_table":
                    touched[inputs] = True
            g = gradients[name][touched]
            self.accumulators[name][touched] += g**2
            change = -self.settings.learning_rate * g / torch.sqrt(self.accumulators[name][touched] + 1e-6)
            change = change + self.settings.momentum * self.velocities[name][touched]
            self.velocities[name][touched] = change
            weight[touched] += change
        return float(loss.detach())
