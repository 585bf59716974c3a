"""How fast evaluation ranks the whole catalogue, beside the matrix product that it cannot do without.

Both in turn, in one process: ranking every next click of a set of sessions, and as many rows of the product of outputs
and item table alone, in blocks of the same size, into memory that is used again.
"""

import statistics
import sys
import time
from typing import Any

import torch

from gru4rec.config import Hyperparameters
from gru4rec.evaluation import ranking
from gru4rec.model.network import GRU4Rec, initialise
from gru4rec.sessions.prepared import Sessions
from gru4rec.training.bench import sessions_like

ITEMS, PREDICTIONS = 17_376, 55_400  # as in the reference's evaluation


def run(repeats: int, threads: int, items: int = ITEMS, predictions: int = PREDICTIONS) -> dict[str, Any]:
    """Seconds of the evaluation and of the product, and the share of the bound that is reached; tells it on stderr."""
    torch.set_num_threads(threads)
    model = initialise(Hyperparameters(layers=(100,)), items)
    sessions = _cut(sessions_like(items, 1, 5 * predictions), predictions)
    evaluation, product = [], []
    _product(model, predictions)
    ranking.evaluate(model, _cut(sessions, 1000), (20,))
    for _ in range(repeats):
        began = time.perf_counter()
        found = ranking.evaluate(model, sessions, (20,))
        evaluation.append(time.perf_counter() - began)
        product.append(_product(model, found.predictions))
    shares = [bound / taken for bound, taken in zip(product, evaluation, strict=True)]
    result: dict[str, Any] = {
        "what": "evaluate",
        "items": items,
        "predictions": sessions.transitions,
        "units": 100,
        "threads": threads,
        "seconds": _spread(evaluation),
        "product_seconds": _spread(product),
        "share_of_bound": _spread(shares),
    }
    for name in ("seconds", "product_seconds", "share_of_bound"):
        shown = result[name]
        print(f"{name}: {shown['median']:.2f} ({shown['min']:.2f}–{shown['max']:.2f})", file=sys.stderr)
    return result


def _cut(sessions: Sessions, predictions: int) -> Sessions:
    """The first sessions that have about so many predictions."""
    count = int((sessions.lengths - 1).cumsum().searchsorted(predictions)) + 1
    return Sessions(sessions.offsets[: count + 1], sessions.items[: sessions.offsets[min(count, sessions.count)]])


@torch.inference_mode()
def _product(model: GRU4Rec, rows: int) -> float:
    """Seconds of the products alone."""
    at_once = max(1, ranking.SCORES_AT_ONCE // model.item_count)
    output, scores = torch.randn(at_once, model.item_table.shape[1]), torch.empty(at_once, model.item_count)
    began = time.perf_counter()
    for first in range(0, rows, at_once):
        count = min(at_once, rows - first)
        torch.addmm(model.item_bias, output[:count], model.item_table.t(), out=scores[:count])
    return time.perf_counter() - began


def _spread(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}
