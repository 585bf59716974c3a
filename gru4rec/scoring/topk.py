"""The k best items of every session, exactly, without sorting the catalogue.

Two stages: the maximum of every tile of neighbouring items, the k best tiles, then the k best items inside
them. An item outside the k best tiles has at least k items before it (the best of each of those tiles), so
nothing is lost; with ties between tiles broken by position, as between items, that holds for equal scores
too.

Shapes: B rows, V items, D size of an item row, S sessions.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gru4rec.model.network import GRU4Rec
from gru4rec.sessions.prepared import Sessions

TILE = 32  # items; about sqrt(V / k) for catalogues of tens of thousands, where both stages cost the same
SCORE_BYTES = {"cpu": 64 << 20, "cuda": 1 << 30}  # of one block of scores [B, V]
_LAST = 2**31 - 1


def _keys(scores: Tensor, places: Tensor) -> Tensor:
    """Integers in the order of (score, then lower place): the score's bits, monotone, over the place's."""
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 makes -0.0 equal to 0.0
    bits = bits ^ ((bits >> 31) & _LAST)
    return bits.long().bitwise_left_shift_(32).add_(_LAST - places)


def _places(keys: Tensor) -> Tensor:
    return _LAST - (keys & 0xFFFFFFFF)


def _values(keys: Tensor) -> Tensor:
    bits = (keys >> 32).int()
    return (bits ^ ((bits >> 31) & _LAST)).view(torch.float32)


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best items of each row of float32 `scores` [B, V]: their scores and indices, [B, min(k, V)] each.

    Best first; equal scores in the order of the index. −inf ranks last. Raises ValueError for NaN.
    """
    if scores.dtype != torch.float32 or scores.dim() != 2:
        raise ValueError(f"scores must be a float32 matrix, not {scores.dtype} {tuple(scores.shape)}")
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    rows, items = scores.shape
    tiles = items // TILE
    if tiles <= k:
        if scores.isnan().any():
            raise ValueError("scores contain NaN")
        keys = _keys(scores, torch.arange(items, device=scores.device))
    else:
        whole = scores[:, : tiles * TILE].unflatten(1, (tiles, TILE))
        rest = scores[:, tiles * TILE :]
        maxima = whole.amax(2)  # NaN where the tile has one
        if maxima.isnan().any() or rest.isnan().any():
            raise ValueError("scores contain NaN")
        order = torch.topk(_keys(maxima, torch.arange(tiles, device=scores.device)), k, sorted=False)
        best = order.indices
        inside = torch.arange(TILE, device=scores.device)
        candidates = whole[torch.arange(rows, device=scores.device)[:, None], best].flatten(1)
        keys = _keys(candidates, (best[:, :, None] * TILE + inside).flatten(1))
        if rest.shape[1]:
            keys = torch.cat([keys, _keys(rest, torch.arange(tiles * TILE, items, device=scores.device))], 1)
    keys = torch.topk(keys, min(k, items)).values
    return _values(keys), _places(keys)


@torch.inference_mode()
def best_items(
    model: GRU4Rec,
    output: Tensor,
    k: int,
    excluded: Sessions | None = None,
    block: int | None = None,
    banned: np.ndarray | None = None,
) -> tuple[Tensor, Tensor]:
    """The k best items of the catalogue for outputs of the network [S, D]: scores and indices, [S, min(k, V)] each.

    `excluded` lists for each row the items that must not appear, `banned` [n] those that must not in any: they rank
    last with score −inf, which only shows where fewer than k others are left. `block` is the number of rows scored at
    once (by default as many as fit the budget of bytes of the device). Raises ValueError where a score is not finite.
    """
    items = model.item_count
    if block is None:
        block = max(1, SCORE_BYTES.get(model.device.type, SCORE_BYTES["cpu"]) // (4 * items))
    block = max(1, min(block, output.shape[0]))
    scores = torch.empty(block, items, device=model.device)  # reused: fresh pages would cost as much again
    found: list[Sequence[Tensor]] = []
    for first in range(0, output.shape[0], block):
        given = output[first : first + block]
        part = torch.addmm(model.item_bias, given, model.item_table.t(), out=scores[: len(given)])
        if excluded is not None:
            start, end = excluded.offsets[first], excluded.offsets[first + len(given)]
            lengths = excluded.lengths[first : first + len(given)]
            rows = torch.from_numpy(np.repeat(np.arange(len(given)), lengths)).to(model.device)
            columns = torch.from_numpy(excluded.items[start:end].astype(np.int64)).to(model.device)
            part[rows, columns] = -torch.inf
        if banned is not None:
            part[:, torch.from_numpy(banned).to(model.device)] = -torch.inf
        found.append(top_k(part, k))
    if not found:
        empty = torch.empty(0, min(k, items), device=model.device)
        return empty, empty.long()
    values, indices = (torch.cat(list(parts)) for parts in zip(*found, strict=True))
    if (values == torch.inf).any():
        raise ValueError("a score is infinite")
    return values, indices
