"""Which rows of the item table a step touches: each distinct item once, laid out a block ahead.

A step reads the rows of its inputs, targets and extra negatives and writes them back. Taking each distinct item once
means that gradients of a row that occurs several times are summed before the optimizer sees them (as they must be),
and that no item is scored twice.

Shapes: T steps, N lanes of all workers, S extra negatives, V items, M items touched by a step, K of them scored.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gru4rec.training.lanes import Block


@dataclass(frozen=True)
class Touched:
    """The items of one step; those that are scored (targets and extra negatives) first, input-only ones last."""

    items: Tensor  # [M] int64, distinct
    scored: int  # K: items[:K] are scored
    inputs: Tensor  # [N] int64: where each lane's input stands in `items` (0 for retired lanes)
    positives: Tensor  # [N] int64: where each lane's target stands in `items` (0 for retired lanes)
    multiplicity: Tensor  # [K] float32: columns that the item has among targets and extra negatives
    log_weight: Tensor  # [K] float32: log Σ exp(−logQ correction) over these columns
    correction: Tensor  # [N] float32: logQ correction of each lane's target


def lay_out(
    block: Block,
    negatives: np.ndarray,
    support: np.ndarray,
    logq: float,
    alpha: float,
    device: torch.device | str,
) -> list[Touched]:
    """The touched items of each step of a block of all lanes, [T, N], with its `negatives` [T, S].

    The logQ correction of a target's column is logq · log(support), that of an extra negative's logq · alpha ·
    log(support). `support` [V] must be positive for every item that occurs.
    """
    log_support = np.log(np.maximum(support, 1)).astype(np.float64) * logq
    return [
        _step(block, step, negatives[step], log_support, alpha, device) for step in range(len(block.inputs))
    ]


def _step(
    block: Block,
    step: int,
    negatives: np.ndarray,
    log_support: np.ndarray,
    alpha: float,
    device: torch.device | str,
) -> Touched:
    active = block.active[step]
    inputs, targets = block.inputs[step, active], block.targets[step, active]
    items, where = np.unique(np.concatenate([targets, negatives, inputs]), return_inverse=True)
    as_target = np.bincount(where[: len(targets)], minlength=len(items))
    as_negative = np.bincount(where[len(targets) : len(targets) + len(negatives)], minlength=len(items))
    scored = as_target + as_negative > 0
    order = np.argsort(~scored, kind="stable")
    place = np.empty(len(items), np.int64)
    place[order] = np.arange(len(items))
    items, count = items[order], int(scored.sum())
    as_target, as_negative = as_target[order[:count]], as_negative[order[:count]]
    support = log_support[items[:count]]

    def of_lanes(values: np.ndarray, kind: type) -> Tensor:
        full = np.zeros(len(active), kind)
        full[active] = values
        return torch.from_numpy(full).to(device)

    weight = as_target * np.exp(-support) + as_negative * np.exp(-alpha * support)
    return Touched(
        items=torch.from_numpy(items.astype(np.int64)).to(device),
        scored=count,
        inputs=of_lanes(place[where[len(where) - len(inputs) :]], np.int64),
        positives=of_lanes(place[where[: len(targets)]], np.int64),
        multiplicity=torch.from_numpy((as_target + as_negative).astype(np.float32)).to(device),
        log_weight=torch.from_numpy(np.log(weight).astype(np.float32)).to(device),
        correction=of_lanes(log_support[targets], np.float32),
    )
