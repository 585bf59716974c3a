"""Whether a session's figures depend on the sessions beside it.

Libraries choose the way they multiply by the shapes, so that a row's sums may be rounded otherwise in a batch of three
than in one of thousands; few do so from some number of rows on. Where batches are multiples of `rows`, they do not, as
far as `steady` can see; then a session that is scored with others, on another night, or a few clicks at a time, gets
the same list to the last bit.
"""

import numpy as np
import torch

from gru4rec.model.encode import Start, final
from gru4rec.model.network import GRU4Rec, forward, input_rows, zero_states
from gru4rec.scoring.topk import COLUMNS, SCORE_BYTES, Assortment, best_items
from gru4rec.sessions.prepared import Sessions

_BEST = 20  # items of each list that is compared
_ROWS = {"cpu": 64, "cuda": 4096}
_TIMES = (1, 2, 3, 5, 16)  # so many multiples are compared with all rows at once


def rows(model: GRU4Rec) -> int:
    """Of how many rows batches should be multiples."""
    if model.device.type == "cpu":
        return _ROWS["cpu"]
    # Of a large catalogue, 4,096 rows of scores would not fit the block; the same for it on every night.
    fit = SCORE_BYTES["cuda"] // (4 * model.item_count)
    return max(64, min(_ROWS["cuda"], 1 << max(0, fit.bit_length() - 1)))


@torch.inference_mode()
def steady(model: GRU4Rec, within: Assortment) -> bool:
    """Whether rows come to the same bits in batches of any multiple of `rows`, as tried on this machine.

    Both the network and the ranking of items are tried, and clicks given at once or one after another.
    """
    settings, multiple = model.hyperparameters, rows(model)
    most = multiple * max(_TIMES)
    generator = torch.Generator().manual_seed(0)
    items = torch.randint(model.item_count, (most,), generator=generator).to(model.device)
    states = [torch.rand(state.shape, generator=generator).to(model.device) for state in zero_states(settings, most)]
    starts = {0, (len(within.table) - 1) // COLUMNS * COLUMNS}  # of the first block of items, and of the last one
    blocks = [
        Assortment(None, within.table[at : at + COLUMNS], within.bias[at : at + COLUMNS]) for at in sorted(starts)
    ]

    def figures(first: int, count: int) -> list[torch.Tensor]:
        part = slice(first, first + count)
        new, output, _ = forward(settings, model.dense, input_rows(model, items[part]), [one[part] for one in states])
        ranked = [best_items(model, output, _BEST, within=block, multiple=multiple) for block in blocks]
        return [*new, *(values for values, _ in ranked)]

    whole = figures(0, most)
    for times in _TIMES:
        for first in (0, most - times * multiple):
            found = figures(first, times * multiple)
            if not all(torch.equal(one[first : first + len(two)], two) for one, two in zip(whole, found, strict=True)):
                return False
    return _in_parts(model, items.cpu().numpy(), multiple)


def _in_parts(model: GRU4Rec, items: np.ndarray, multiple: int) -> bool:
    """Whether two sessions come to the same with all clicks at once and with the last ones given later."""
    items = items[:12].astype(np.int32)
    at_once = final(model, Sessions(np.array([0, 5, 12]), items), multiple=multiple)
    begun = final(model, Sessions(np.array([0, 5, 7]), items[:7]), multiple=multiple)
    ended = final(model, Sessions(np.array([0, 0, 5]), items[7:]), Start(begun.of, begun.states), multiple)
    pairs = zip([at_once.output, *at_once.states], [ended.output, *ended.states], strict=True)
    return all(torch.equal(one[at_once.of], two[ended.of]) for one, two in pairs)
