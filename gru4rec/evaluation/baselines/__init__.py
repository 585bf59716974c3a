"""Baselines that a model has to beat, all through one interface and under the same ranking rules.

A baseline learns from the training sessions and the size of the catalogue, and gives a scorer: histories in, a score
for every item of the catalogue out. A history is a session up to and including its current click, so that nothing later
can be used. README.md in the folder above defines each of them.

Shapes: B histories, V items of the catalogue.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from gru4rec.evaluation import metrics
from gru4rec.evaluation.baselines import bpr_mf, item_knn, markov, pop, s_pop, v_sknn
from gru4rec.evaluation.histories import histories, transitions
from gru4rec.evaluation.metrics import RankingMetrics, Ties
from gru4rec.evaluation.relevance import Relevant, next_click
from gru4rec.scoring.topk import top_k
from gru4rec.sessions.prepared import Sessions

__all__ = [
    "NAMES",
    "QUICK",
    "Counted",
    "Scorer",
    "best_items",
    "counted",
    "evaluate",
    "learn",
    "ranks",
    "ranks_of",
    "transitions",
]

Scorer = Callable[[Sessions], np.ndarray]
"""From histories of a click or more to the scores of all items, [B, V] float32, finite."""

Counted = Callable[[Sessions, Ties], np.ndarray]
"""From sessions to the rank of each next click, [transitions] float64."""

_LEARN: dict[str, Callable[[Sessions, int], Scorer]] = {
    "pop": pop.learn,
    "s-pop": s_pop.learn,
    "item-knn": item_knn.learn,
    "bpr-mf": bpr_mf.learn,
    "markov": markov.learn,
    "v-sknn": v_sknn.learn,
}
# Ranks that follow from counts, without a score for every item: seconds where catalogue and test set are large.
_COUNTED = {"pop": pop.counted, "markov": markov.counted}

NAMES = tuple(_LEARN)
QUICK = tuple(_COUNTED)
"""Those that take next to no time: train puts them beside every model."""

SCORES_AT_ONCE = 4_000_000  # numbers in one block of scores (16 MB)


def learn(name: str, train: Sessions, items: int) -> Scorer:
    """The scorer of a baseline learnt from `train`, whose sessions are in order of time; `items` is V.

    Raises ValueError for a name that is not in NAMES.
    """
    if name not in _LEARN:
        raise ValueError(f"unknown baseline {name!r}; known are {', '.join(NAMES)}")
    return _LEARN[name](train, items)


def ranks_of(
    scorer: Scorer,
    test: Sessions,
    items: int,
    ties: Ties = "conservative",
    scores_at_once: int = SCORES_AT_ONCE,
    relevant: Relevant | None = None,
) -> Tensor:
    """Rank of each relevant item (by default: of each next click) of `test` among all V `items`, [R] float64, in their
    order.

    Works in blocks of about `scores_at_once` scores, which bound its memory and do not change the ranks (but where two
    scores of bpr-mf differ by a rounding error: a matrix product of another shape may round otherwise).
    """
    at, of, wanted = relevant or next_click(test)
    found = torch.empty(len(of), dtype=torch.float64)
    rows_at_once = max(1, scores_at_once // items)
    for first in range(0, len(at), rows_at_once):
        scores = torch.from_numpy(scorer(histories(test, at[first : first + rows_at_once])))
        start, end = np.searchsorted(of, [first, first + len(scores)])
        for low in range(start, end, rows_at_once):
            part = slice(low, min(low + rows_at_once, end))
            rows, targets = torch.from_numpy(of[part] - first), torch.from_numpy(wanted[part].astype(np.int64))
            given = scores if relevant is None else scores[rows]
            found[part] = metrics.ranks(given, targets, ties).double()
    return found


def counted(name: str, train: Sessions, items: int) -> Counted | None:
    """Ranks by counts alone; None for a baseline that has to score all items."""
    if name not in _COUNTED:
        return None
    above_and_level = _COUNTED[name](train, items)

    def ranks(test: Sessions, ties: Ties) -> np.ndarray:
        above, level = (part.astype(np.float64) for part in above_and_level(test))
        return {"standard": above + 1, "conservative": above + level, "median": above + (level + 1) / 2}[ties]

    return ranks


def ranks(name: str, train: Sessions, test: Sessions, items: int, ties: Ties = "conservative") -> Tensor:
    """Learn a baseline from `train`, and rank each next click of `test` among all `items`: as `ranks_of`."""
    quick = counted(name, train, items)
    if quick is None:
        return ranks_of(learn(name, train, items), test, items, ties)
    return torch.from_numpy(quick(test, ties))


def evaluate(
    name: str,
    train: Sessions,
    test: Sessions,
    items: int,
    cutoffs: Sequence[int],
    ties: Ties = "conservative",
) -> RankingMetrics:
    """Metrics of a baseline learnt from `train` on the next clicks of `test`; `items` is the catalogue's size."""
    found = RankingMetrics(cutoffs)
    found.add(ranks(name, train, test, items, ties))
    return found


def best_items(
    scorer: Scorer, sessions: Sessions, items: int, k: int, scores_at_once: int = SCORES_AT_ONCE
) -> tuple[Tensor, Tensor]:
    """The k best of all V `items` after the last click of each session: scores and indices, [sessions, min(k, V)] each.

    Exact; best first, equal scores in the order of the index. Raises ValueError for a session without a click.
    """
    if (sessions.lengths < 1).any():
        raise ValueError("a session has no click")
    last = sessions.offsets[1:] - 1
    rows_at_once = max(1, scores_at_once // items)
    values, indices = [torch.empty(0, min(k, items))], [torch.empty(0, min(k, items), dtype=torch.int64)]
    for first in range(0, sessions.count, rows_at_once):
        block = scorer(histories(sessions, last[first : first + rows_at_once]))
        of_block = top_k(torch.from_numpy(block), k)
        values.append(of_block[0])
        indices.append(of_block[1])
    return torch.cat(values), torch.cat(indices)
