"""Extra negatives: items drawn with probability ∝ support^alpha, in constant time each.

The draw of a block is a pure function of (seed, epoch, block), so that all workers have the same negatives without
talking to each other, and a resumed run has those of an uninterrupted one.
"""

from typing import NamedTuple

import numpy as np

from gru4rec.model import kernels


class AliasTable(NamedTuple):
    """Item i is drawn where i is picked uniformly and u < keep[i], else alias[i] (Walker's alias method)."""

    keep: np.ndarray  # [V] float64 in [0, 1]
    alias: np.ndarray  # [V] int32


def alias_table(weights: np.ndarray) -> AliasTable:
    """Alias table of `weights` [V] (not negative, at least one positive), built without a loop over the items.

    Items below the mean ("light") are filled up by items above it ("heavy") in one sweep: light item i is filled by
    the first heavy one whose excess, added up, still reaches beyond what the light ones before i took; a heavy item
    that gives more than it has is filled up in turn by the next.
    """
    share = np.asarray(weights, np.float64)
    share = share * (len(share) / share.sum())
    keep, alias = np.ones(len(share)), np.arange(len(share), dtype=np.int32)
    light, heavy = np.flatnonzero(share < 1), np.flatnonzero(share >= 1)
    if not len(light) or not len(heavy):
        return AliasTable(keep, alias)
    lack, excess = np.cumsum(1 - share[light]), np.cumsum(share[heavy] - 1)
    lack_before = np.concatenate([[0.0], lack[:-1]])
    # Rounding may leave the last light items beyond the total excess: the last heavy one takes them.
    giver = np.minimum(np.searchsorted(excess, lack_before, side="right"), len(heavy) - 1)
    keep[light], alias[light] = share[light], heavy[giver]
    given = np.searchsorted(giver, np.arange(len(heavy)), side="right")  # light items served so far
    owed = np.where(given > 0, lack[given - 1], 0.0) - excess
    keep[heavy[:-1]] = np.clip(1 - owed[:-1], 0.0, 1.0)
    alias[heavy[:-1]] = heavy[1:]
    return AliasTable(keep, alias)


def stream(seed: int, purpose: int, epoch: int, block: int, skip: int = 0) -> np.random.Generator:
    """Random numbers that depend on nothing but these numbers (Philox, Salmon et al., SC 2011).

    `purpose` keeps the uses apart; `skip` passes over so many 64-bit numbers (a multiple of 4), so that one worker's
    part of a draw can be made without making the parts before it.
    """
    if skip % 4:
        raise ValueError("skip must be a multiple of 4")
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[skip // 4, 0, block, epoch]))


def draw(table: AliasTable, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Items [shape] int32. One random number picks the item and, with its fraction, decides for it or its alias."""
    uniform = generator.random(shape)
    if kernels.FUSED:
        found = np.empty(shape, np.int32)
        kernels.compiled.pick(uniform.reshape(-1), table.keep, table.alias, found.reshape(-1))
        return found
    place = uniform * len(table.keep)
    item = place.astype(np.int32)
    np.minimum(item, len(table.keep) - 1, out=item)
    return np.where(place - item < table.keep[item], item, table.alias[item])
