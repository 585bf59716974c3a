"""The k best items of every session, exactly, without sorting the catalogue.

On a CPU, where numba is at hand, a scan that keeps the k best so far (selection.py), over blocks of the catalogue that
fit the cache, so that no row of scores is ever held whole. Elsewhere two stages: the maximum of every tile of
neighbouring items, the k best tiles, then the k best items inside them. An item outside the k best tiles has at least k
items before it (the best of each of those tiles), so nothing is lost; with ties between tiles broken by position, as
between items, that holds for equal scores too.

Shapes: B rows, V items, D size of an item row, S sessions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gru4rec.model.kernels import fits
from gru4rec.model.network import GRU4Rec
from gru4rec.sessions.prepared import Sessions

try:
    from gru4rec.scoring.selection import select
except ImportError:  # no numba: the two stages
    select = None  # type: ignore[assignment]

TILE = 32  # items; about sqrt(V / k) for catalogues of tens of thousands, where both stages cost the same
SCORE_BYTES = {"cpu": 64 << 20, "cuda": 1 << 30}  # of one block of scores [B, V]
CACHE_BYTES, COLUMNS = 4 << 20, 4096  # of a block of scores, and its items at most, where they are scanned
LONGEST = 256  # lists that the scan is for: it moves what is behind a new entry
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


class Assortment(NamedTuple):
    """The items that lists may show, in order of their indices; `table` and `bias` are their rows, n of them."""

    items: np.ndarray | None  # [n] int64: index of each; None: the whole catalogue
    table: Tensor  # [n, D]
    bias: Tensor  # [n]

    def places(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where `items` [m] stand in it, and which of them do, [m] bool."""
        if self.items is None:
            return items, np.ones(len(items), bool)
        at = np.minimum(np.searchsorted(self.items, items), len(self.items) - 1)
        return at, self.items[at] == items


def assortment(model: GRU4Rec, items: np.ndarray | None = None) -> Assortment:
    """That of `items` [n], ascending indices (their rows are copied), or all. Raises ValueError for no item."""
    if items is None:
        return Assortment(None, model.item_table, model.item_bias)
    if not len(items):
        raise ValueError("an assortment needs an item")
    at = torch.from_numpy(items).to(model.device)
    return Assortment(items, model.item_table.index_select(0, at), model.item_bias.index_select(0, at))


@torch.inference_mode()
def best_items(
    model: GRU4Rec,
    output: Tensor,
    k: int,
    excluded: Sessions | None = None,
    block: int | None = None,
    banned: np.ndarray | None = None,
    within: Assortment | None = None,
    multiple: int = 1,
) -> tuple[Tensor, Tensor]:
    """The k best items for outputs of the network [S, D]: scores and indices, [S, min(k, n)] each.

    Of the catalogue, or of the n items `within`. `excluded` lists for each row the items that must not appear, `banned`
    [m] those that must not in any: they rank last with score −inf, which only shows where fewer than k others are left.
    `block` is the number of rows scored at once (by default as many as fit the cache, or the device); with `multiple`,
    products are of multiples of so many rows, see `steady`. Raises ValueError where a score is not finite.
    """
    within = within or assortment(model)
    count = len(within.table)
    k = min(k, count)
    fused = select is not None and fits(output) and k <= LONGEST
    columns = min(count, COLUMNS) if fused else count
    bias = within.bias.contiguous().numpy() if fused else np.zeros(0, np.float32)
    if block is None:
        budget = CACHE_BYTES if fused else SCORE_BYTES.get(model.device.type, SCORE_BYTES["cpu"])
        block = max(1, budget // (4 * columns))
    block = max(1, min(block, output.shape[0]))
    block = -(-block // multiple) * multiple if block < multiple else block // multiple * multiple
    space = torch.empty(block * columns, device=model.device)  # reused: fresh pages would cost as much again
    found: list[Sequence[Tensor]] = []
    for first in range(0, output.shape[0], block):
        given = output[first : first + block]
        rows = len(given)
        out = _outside(within, excluded, banned, first, rows)
        if rows % multiple:
            given = torch.nn.functional.pad(given, (0, 0, 0, -rows % multiple))
        if not fused:
            part = torch.addmm(within.bias, given, within.table.t(), out=space[: len(given) * count].view(-1, count))
            part = part[:rows]
            _ban(part, out, 0)
            found.append(top_k(part, k))
            continue
        values, places = torch.empty(rows, k), torch.empty(rows, k, dtype=torch.int64)
        counts, nan = np.zeros(rows, np.int64), False
        for start in range(0, count, columns):
            stop = min(start + columns, count)
            part = space[: len(given) * (stop - start)].view(len(given), -1)
            torch.mm(given, within.table[start:stop].t(), out=part)  # with the bias, it would take a seventh longer
            part = part[:rows]
            _ban(part, out, start)
            nan |= select(part.numpy(), bias[start:stop], start, k, values.numpy(), places.numpy(), counts)
        if nan:
            raise ValueError("scores contain NaN")
        found.append((values, places))
    if not found:
        empty = torch.empty(0, k, device=model.device)
        return empty, empty.long()
    values, indices = (torch.cat(list(parts)) for parts in zip(*found, strict=True))
    if (values == torch.inf).any():
        raise ValueError("a score is infinite")
    if within.items is not None:
        indices = torch.from_numpy(within.items).to(indices.device)[indices]
    return values, indices


class _Outside(NamedTuple):
    """Places of an assortment that a block of rows must not show."""

    rows: np.ndarray  # [m] int64
    columns: np.ndarray  # [m] int64, of one row each
    all_rows: np.ndarray  # [n] int64: columns of every row


def _outside(
    within: Assortment, excluded: Sessions | None, banned: np.ndarray | None, first: int, rows: int
) -> _Outside | None:
    if excluded is None and banned is None:
        return None
    nothing = np.zeros(0, np.int64)
    row, column, everywhere = nothing, nothing, nothing
    if excluded is not None:
        start, end = excluded.offsets[first], excluded.offsets[first + rows]
        column, there = within.places(excluded.items[start:end].astype(np.int64))
        row = np.repeat(np.arange(rows), excluded.lengths[first : first + rows])[there]
        column = column[there]
    if banned is not None:
        everywhere, there = within.places(banned.astype(np.int64))
        everywhere = everywhere[there]
    return _Outside(row, column, everywhere)


def _ban(scores: Tensor, outside: _Outside | None, start: int) -> None:
    """Make the scores of what must not be shown −inf; their first column is place `start` of the assortment."""
    if outside is None:
        return
    stop = start + scores.shape[1]
    here = (outside.columns >= start) & (outside.columns < stop)
    places = (outside.rows[here], outside.columns[here] - start)
    scores[tuple(torch.from_numpy(at).to(scores.device) for at in places)] = -torch.inf
    everywhere = outside.all_rows[(outside.all_rows >= start) & (outside.all_rows < stop)] - start
    if len(everywhere):
        scores[:, torch.from_numpy(everywhere).to(scores.device)] = -torch.inf
