"""How fast the engine alone scores, without Ray, files and lists of item ids: network and ranking, on any device."""

import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

from gru4rec.config import Hyperparameters
from gru4rec.model.encode import final
from gru4rec.model.network import GRU4Rec, initialise
from gru4rec.scoring import steady
from gru4rec.scoring.topk import best_items
from gru4rec.sessions.prepared import Sessions
from gru4rec.training.bench import sessions_like

UNITS, K, PIECE = 100, 20, 131_072  # sessions at a time, as in the job


def run(catalogues: Sequence[int], sessions: int, repeats: int, device: str) -> dict[str, Any]:
    """Sessions a second at each catalogue size; tells them on stderr."""
    rows = []
    for items in catalogues:
        model = initialise(Hyperparameters(layers=(UNITS,)), items, device)
        count = sessions or round(2e11 / items if device == "cuda" else 2e9 / items)
        drawn = sessions_like(items, 1, 5 * count)
        drawn = Sessions(drawn.offsets[: count + 1], drawn.items[: drawn.offsets[count]])
        _score(model, _part(drawn, 0, min(count, 10_000)))  # compiled code and memory are there afterwards
        speeds = []
        for _ in range(repeats):
            began = time.perf_counter()
            for first in range(0, count, PIECE):
                _score(model, _part(drawn, first, min(first + PIECE, count)))
            if device == "cuda":
                torch.cuda.synchronize()
            speeds.append(count / (time.perf_counter() - began))
        found = {"min": min(speeds), "median": statistics.median(speeds), "max": max(speeds)}
        rows.append({"items": items, "sessions": count, "clicks": len(drawn.items), "sessions_per_second": found})
        print(
            f"{items:,} items, {count:,} sessions: {found['median']:,.0f} sessions/s "
            f"({found['min']:,.0f}–{found['max']:,.0f})",
            file=sys.stderr,
            flush=True,
        )
    return {"what": "score, engine alone", "device": device, "units": UNITS, "top_k": K, "rows": rows}


def _part(sessions: Sessions, first: int, stop: int) -> Sessions:
    start, end = sessions.offsets[first], sessions.offsets[stop]
    return Sessions(sessions.offsets[first : stop + 1] - start, sessions.items[start:end])


def _score(model: GRU4Rec, sessions: Sessions) -> None:
    multiple = steady.rows(model)
    values, _ = best_items(model, final(model, sessions, None, multiple).output, K, multiple=multiple)
    values.cpu()
