"""Which rows of the item tables a step touches: each distinct item once, laid out a block ahead.

A step reads the rows of its inputs, targets and extra negatives and writes them back. Taking each distinct item once
means that gradients of a row that occurs several times are summed before the optimizer sees them (as they must be),
and that no item is scored twice.

Shapes: T steps, N lanes of all workers, B of this one, S extra negatives, V items, M items touched by a step, K of them
scored, I distinct inputs.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gru4rec.config import Hyperparameters
from gru4rec.model import kernels, memory
from gru4rec.model.losses import Masked
from gru4rec.training.lanes import Block


@dataclass(frozen=True)
class Touched:
    """The items of one step.

    With a tied embedding, `items` holds those that are scored (targets and extra negatives) first, input-only ones
    last, and is `input_items` too; otherwise `items` are the scored ones alone (M = K) and the inputs are numbered by
    themselves, for they have a table of their own.
    """

    items: Tensor  # [M] int64, distinct
    scored: int  # K: items[:K] are scored
    input_items: Tensor  # [I] int64, distinct
    inputs: Tensor  # [B] int64: where each own lane's input stands in `input_items` (0 for retired lanes)
    positives: Tensor  # [B] int64: where each own lane's target stands in `items` (0 for retired lanes)
    multiplicity: Tensor  # [K] float32: columns that the item has among targets and extra negatives
    log_weight: Tensor  # [K] float32: log Σ exp(−logQ correction) over these columns
    offset: Tensor  # [B] float32: log_weight of the lane's target + logQ correction of its own column
    masked: Masked | None  # items that a lane's session has clicked already, where they are no negatives


class _Catalogue(NamedTuple):
    """What depends on the items alone, [V] each."""

    correction: np.ndarray  # float64: logQ correction of a target's column
    target_mass: np.ndarray  # float64: exp(−correction) of a target's column
    negative_mass: np.ndarray  # float64: the same of an extra negative's
    alone: np.ndarray  # float32: log_weight of an item that is one extra negative and no more, as most are


class _Laid(NamedTuple):
    """A block of steps, filled in place; entries past a step's counts are padding."""

    items: np.ndarray  # [T, N + S, + N with a tied embedding] int64
    input_items: np.ndarray  # [T, N] int64
    counts: np.ndarray  # [3, T] int64: M, K and I
    places: np.ndarray  # [2, T, N] int64: of inputs and positives
    multiplicity: np.ndarray  # [T, N + S] float32
    log_weight: np.ndarray  # [T, N + S] float32
    offset: np.ndarray  # [T, N] float32


class Layout:
    """Lays out the touched items of blocks; holds what depends on the catalogue alone.

    The logQ correction of a target's column is logq · log(support), that of an extra negative's logq · alpha ·
    log(support). `support` [V]: clicks of each item in the training split.

    With `padded`, every step of a block has the same shapes, so that a CUDA graph can hold it: M, K and I are as
    large as they can be, and the places left over hold the item V, which is none (its multiplicity is 0 and its
    log_weight −∞; tables have a spare row for it).
    """

    def __init__(self, support: np.ndarray, settings: Hyperparameters, padded: bool = False) -> None:
        self._settings = settings
        self._padded = padded
        self._full = settings.loss == "full-cross-entropy"
        self._tied = settings.embedding == "tied"
        # Only the sampled cross-entropy weighs columns; elsewhere each counts as one.
        logq = settings.logq if settings.loss == "cross-entropy" else 0.0
        correction = logq * np.log(np.maximum(support, 1).astype(np.float64))
        by_item = (
            correction,
            np.exp(-correction),
            np.exp(-settings.sample_alpha * correction),
            (-settings.sample_alpha * correction).astype(np.float32),
        )
        self._catalogue = _Catalogue(*map(memory.placed, by_item))
        self._scratch = memory.placed(np.full(len(support), -1, np.int32))
        self._seen = _Seen([]) if settings.mask_seen else None

    def reset(self, clicked: list[np.ndarray]) -> None:
        """An epoch begins, or goes on where `clicked` is what each lane's session has clicked."""
        if self._seen:
            self._seen = _Seen(clicked)

    @property
    def clicked(self) -> list[np.ndarray]:
        """What each lane's session has clicked up to the last block laid out; empty where nobody asks."""
        return self._seen.before if self._seen else []

    def __call__(
        self, block: Block, negatives: np.ndarray, device: torch.device | str, own: slice = slice(None)
    ) -> list[Touched]:
        """The touched items of each step of a block of all lanes, [T, N], with its `negatives` [T, S].

        `own` are the B lanes whose losses are to be computed here; `masked` counts them from 0.
        """
        find = _find_fused if kernels.FUSED else _find
        steps, lanes = block.inputs.shape
        scored = len(self._scratch) if self._full else lanes + negatives.shape[1]
        none = len(self._scratch)
        laid = _Laid(
            np.full((steps, scored + lanes * self._tied), none, np.int64),
            np.full((steps, lanes), none, np.int64),
            np.zeros((3, steps), np.int64),
            np.zeros((2, steps, lanes), np.int64),
            np.zeros((steps, scored), np.float32),
            np.full((steps, scored), -np.inf, np.float32),
            np.zeros((steps, lanes), np.float32),
        )
        if self._full:
            self._all_items(block, laid)
        else:
            # Where input-only items begin: right after the scored ones, or after the room for as many as can be.
            first = -1 if not self._tied else scored if self._padded else 0
            find(block.inputs, block.targets, block.active, negatives, first, self._scratch, self._catalogue, laid)
        masked: list[Masked] | list[None] = [None] * steps
        if self._seen:
            masked = self._masked(self._seen(Block(*(part[:, own] for part in block))), laid, own, device)
        items, input_items, inputs, positives, multiplicity, log_weight, offset = (
            torch.from_numpy(array).to(device).unbind()
            for array in (
                laid.items,
                laid.input_items,
                *np.ascontiguousarray(laid.places[:, :, own]),
                laid.multiplicity,
                laid.log_weight,
                np.ascontiguousarray(laid.offset[:, own]),
            )
        )
        made = []
        for step, (m, k, i) in enumerate(laid.counts.T.tolist()):
            if self._padded:
                m, k, i = laid.items.shape[1], scored, lanes
            touched = items[step][:m]
            made.append(
                Touched(
                    touched,
                    k,
                    touched if self._tied else input_items[step][:i],
                    inputs[step],
                    positives[step],
                    multiplicity[step][:k],
                    log_weight[step][:k],
                    offset[step],
                    masked[step],
                )
            )
        return made

    def _all_items(self, block: Block, laid: _Laid) -> None:
        """Every item is scored, once; inputs and positives stand where their index says."""
        count = len(self._scratch)
        laid.items[:, :count] = np.arange(count)
        laid.counts[0] = laid.counts[1] = count
        laid.places[1] = block.targets
        laid.multiplicity[:], laid.log_weight[:] = 1, 0
        if self._tied:
            laid.places[0] = block.inputs
            return
        for step in range(len(block.inputs)):
            lanes = np.flatnonzero(block.active[step])
            found, laid.places[0, step, lanes] = np.unique(block.inputs[step, lanes], return_inverse=True)
            laid.input_items[step, : len(found)] = found
            laid.counts[2, step] = len(found)

    def _masked(
        self, clicks: list[tuple[np.ndarray, np.ndarray]], laid: _Laid, own: slice, device: torch.device | str
    ) -> list[Masked]:
        """Where the items that own lanes have clicked in their session stand among the scored ones of each step."""
        found = []
        for step, (lanes, clicked) in enumerate(clicks):
            scored = laid.items[step, : laid.counts[1, step]]
            self._scratch[scored] = np.arange(len(scored))
            places = self._scratch[clicked]
            self._scratch[scored] = -1
            counts = (places >= 0) & (places != laid.places[1, step, own][lanes])
            found.append(
                Masked(
                    torch.from_numpy(lanes[counts]).to(device),
                    torch.from_numpy(places[counts].astype(np.int64)).to(device),
                )
            )
        return found


class _Seen:
    """What each lane's session has clicked so far, over blocks."""

    def __init__(self, before: list[np.ndarray]) -> None:
        self.before = before  # clicks of each lane's session in earlier blocks; a new list with each block

    def __call__(self, block: Block) -> list[tuple[np.ndarray, np.ndarray]]:
        """(lanes [P], items [P]) of each step: every item that an active lane's session has clicked, inputs included.

        Each pair comes once.
        """
        steps, lanes = block.inputs.shape
        pairs: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(steps)]
        before = self.before or [np.zeros(0, np.int32)] * lanes
        self.before = []
        for lane in range(lanes):
            clicked = before[lane]
            for step in np.flatnonzero(block.active[:, lane]):
                if block.resets[step, lane]:
                    clicked = clicked[:0]
                clicked = np.union1d(clicked, block.inputs[step, lane : lane + 1])
                pairs[step].append((np.full(len(clicked), lane), clicked))
            self.before.append(clicked)
        nothing = (np.zeros(0, np.int64), np.zeros(0, np.int32))
        return [
            (np.concatenate([lane for lane, _ in step]), np.concatenate([items for _, items in step]))
            for step in ([nothing, *step] for step in pairs)
        ]


def _find(
    inputs: np.ndarray,
    targets: np.ndarray,
    active: np.ndarray,
    negatives: np.ndarray,
    first_input: int,
    scratch: np.ndarray,
    catalogue: _Catalogue,
    laid: _Laid,
) -> None:
    """Number the distinct items of each step: targets and extra negatives from 0, then those that are inputs only.

    These begin at `first_input`, or after the scored ones if there are more; −1: inputs are numbered by themselves.
    """
    tied = first_input >= 0
    for step in range(len(inputs)):
        lanes = np.flatnonzero(active[step])
        parts = [targets[step, lanes], negatives[step], *([inputs[step, lanes]] if tied else [])]
        found, first, place = np.unique(np.concatenate(parts), return_index=True, return_inverse=True)
        order = np.argsort(first)  # by first appearance
        number = np.empty(len(found), np.int64)
        number[order] = np.arange(len(found))
        place = number[place]
        ends = np.cumsum([len(part) for part in parts])
        scored = int(place[: ends[1]].max(initial=-1)) + 1
        number = np.arange(len(found))
        number[scored:] += max(first_input - scored, 0)
        place = number[place]
        laid.counts[:2, step] = number.max(initial=-1) + 1, scored
        laid.items[step, number] = found[order]
        as_target = np.bincount(place[: ends[0]], minlength=scored)
        as_negative = np.bincount(place[ends[0] : ends[1]], minlength=scored)
        item = laid.items[step, :scored]
        mass = as_target * catalogue.target_mass[item] + as_negative * catalogue.negative_mass[item]
        laid.multiplicity[step, :scored] = as_target + as_negative
        laid.log_weight[step, :scored] = np.log(mass)
        laid.places[1, step, lanes] = place[: ends[0]]
        laid.offset[step, lanes] = np.log(mass)[place[: ends[0]]] + catalogue.correction[targets[step, lanes]]
        if tied:
            laid.places[0, step, lanes] = place[ends[1] :]
            continue
        found, laid.places[0, step, lanes] = np.unique(inputs[step, lanes], return_inverse=True)
        laid.input_items[step, : len(found)] = found
        laid.counts[2, step] = len(found)


if kernels.FUSED:
    import numba

    from gru4rec.model.compiled import prefetch

    _AHEAD = 16  # extra negatives that are fetched ahead

    @numba.njit(cache=True, nogil=True)
    def _find_fused(inputs, targets, active, negatives, first_input, scratch, catalogue, laid):
        """The same in one pass; `scratch` [V] int32 is −1 before and after."""
        steps, lanes = inputs.shape
        sampled = negatives.shape[1]
        as_target = np.zeros(laid.multiplicity.shape[1], np.int32)
        for step in range(steps):
            items, multiplicity, log_weight = laid.items[step], laid.multiplicity[step], laid.log_weight[step]
            found = 0
            for lane in range(lanes):
                if active[step, lane]:
                    item = targets[step, lane]
                    if scratch[item] < 0:
                        scratch[item] = found
                        items[found] = item
                        as_target[found] = 0
                        found += 1
                    place = scratch[item]
                    multiplicity[place] += 1
                    as_target[place] += 1
                    laid.places[1, step, lane] = place
            wanted = found  # items from here on are extra negatives alone
            for sample in range(sampled):
                if sample + _AHEAD < sampled:  # in a large catalogue each of these reads is a cache miss
                    prefetch(scratch, negatives[step, sample + _AHEAD])  # type: ignore[call-arg]
                    prefetch(catalogue.alone, negatives[step, sample + _AHEAD])
                item = negatives[step, sample]
                if scratch[item] < 0:
                    scratch[item] = found
                    items[found] = item
                    found += 1
                multiplicity[scratch[item]] += 1
            scored = found
            for place in range(scored):
                item = items[place]
                if place < wanted:
                    mass = as_target[place] * catalogue.target_mass[item]
                    mass += (multiplicity[place] - as_target[place]) * catalogue.negative_mass[item]
                    log_weight[place] = np.log(mass)
                elif multiplicity[place] == 1:
                    log_weight[place] = catalogue.alone[item]
                else:
                    log_weight[place] = np.log(multiplicity[place] * catalogue.negative_mass[item])
            for lane in range(lanes):
                if active[step, lane]:
                    place = laid.places[1, step, lane]
                    laid.offset[step, lane] = log_weight[place] + catalogue.correction[targets[step, lane]]
            if first_input < 0:
                for place in range(scored):
                    scratch[items[place]] = -1
                items, found = laid.input_items[step], 0
            first = found = max(found, first_input)
            for lane in range(lanes):
                if active[step, lane]:
                    item = inputs[step, lane]
                    if scratch[item] < 0:
                        scratch[item] = found
                        items[found] = item
                        found += 1
                    laid.places[0, step, lane] = scratch[item]
            for place in range(first, found):
                scratch[items[place]] = -1
            if first_input >= 0:
                for place in range(scored):
                    scratch[items[place]] = -1
            laid.counts[0, step] = found if first_input >= 0 else scored
            laid.counts[1, step] = scored
            laid.counts[2, step] = 0 if first_input >= 0 else found
