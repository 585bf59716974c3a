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

from gru4rec.model import kernels
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
    offset: Tensor  # [N] float32: log_weight of the lane's target + logQ correction of its own column


class Layout:
    """Lays out the touched items of blocks; holds what depends on the catalogue alone.

    The logQ correction of a target's column is logq · log(support), that of an extra negative's logq · alpha ·
    log(support). `support` [V]: clicks of each item in the training split.
    """

    def __init__(self, support: np.ndarray, logq: float, alpha: float) -> None:
        self._correction = logq * np.log(np.maximum(support, 1).astype(np.float64))
        self._target_mass = np.exp(-self._correction)
        self._negative_mass = np.exp(-alpha * self._correction)
        self._scratch = np.full(len(support), -1, np.int32)

    def __call__(self, block: Block, negatives: np.ndarray, device: torch.device | str) -> list[Touched]:
        """The touched items of each step of a block of all lanes, [T, N], with its `negatives` [T, S]."""
        find = _find_fused if kernels.FUSED else _find
        steps, lanes = block.inputs.shape
        width = 2 * lanes + negatives.shape[1]
        items = np.zeros((steps, width), np.int64)
        counts = np.zeros((2, steps), np.int64)  # M and K of each step
        columns = np.zeros((2, steps, width), np.int32)  # as target, as extra negative
        places = np.zeros((2, steps, lanes), np.int64)  # of inputs and positives
        find(
            block.inputs,
            block.targets,
            block.active,
            negatives,
            self._scratch,
            items,
            counts,
            columns,
            places,
        )

        mass = columns[0] * self._target_mass[items] + columns[1] * self._negative_mass[items]
        log_weight = np.log(np.where(mass > 0, mass, 1.0))
        offset = np.take_along_axis(log_weight, places[1], axis=1) + self._correction[block.targets]
        on_device = [
            torch.from_numpy(array).to(device)
            for array in (
                items,
                places[0],
                places[1],
                columns.sum(axis=0, dtype=np.float32),
                log_weight.astype(np.float32),
                offset.astype(np.float32),
            )
        ]
        return [
            Touched(i[:m], k, x, y, n[:k], w[:k], o)
            for m, k, i, x, y, n, w, o in zip(*counts.tolist(), *map(torch.unbind, on_device), strict=True)
        ]


def _find(
    inputs: np.ndarray,
    targets: np.ndarray,
    active: np.ndarray,
    negatives: np.ndarray,
    scratch: np.ndarray,
    items: np.ndarray,
    counts: np.ndarray,
    columns: np.ndarray,
    places: np.ndarray,
) -> None:
    """Number the distinct items of each step: targets and extra negatives from 0, then those that are inputs only."""
    for step in range(len(inputs)):
        lanes = np.flatnonzero(active[step])
        parts = targets[step, lanes], negatives[step], inputs[step, lanes]
        found, first, place = np.unique(np.concatenate(parts), return_index=True, return_inverse=True)
        order = np.argsort(first)  # by first appearance
        number = np.empty(len(found), np.int64)
        number[order] = np.arange(len(found))
        place = number[place]
        ends = np.cumsum([len(part) for part in parts])
        scored = int(place[: ends[1]].max(initial=-1)) + 1
        counts[:, step] = len(found), scored
        items[step, : len(found)] = found[order]
        columns[0, step, :scored] = np.bincount(place[: ends[0]], minlength=scored)
        columns[1, step, :scored] = np.bincount(place[ends[0] : ends[1]], minlength=scored)
        places[0, step, lanes] = place[ends[1] :]
        places[1, step, lanes] = place[: ends[0]]


if kernels.FUSED:
    import numba

    @numba.njit(cache=True, nogil=True)
    def _find_fused(inputs, targets, active, negatives, scratch, items, counts, columns, places):
        """The same in one pass; `scratch` [V] int32 is −1 before and after."""
        steps, lanes = inputs.shape
        for step in range(steps):
            found = 0
            for lane in range(lanes):
                if active[step, lane]:
                    item = targets[step, lane]
                    if scratch[item] < 0:
                        scratch[item] = found
                        items[step, found] = item
                        found += 1
                    columns[0, step, scratch[item]] += 1
                    places[1, step, lane] = scratch[item]
            for sample in range(negatives.shape[1]):
                item = negatives[step, sample]
                if scratch[item] < 0:
                    scratch[item] = found
                    items[step, found] = item
                    found += 1
                columns[1, step, scratch[item]] += 1
            counts[1, step] = found
            for lane in range(lanes):
                if active[step, lane]:
                    item = inputs[step, lane]
                    if scratch[item] < 0:
                        scratch[item] = found
                        items[step, found] = item
                        found += 1
                    places[0, step, lane] = scratch[item]
            counts[0, step] = found
            for m in range(found):
                scratch[items[step, m]] = -1
