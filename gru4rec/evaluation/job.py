"""The evaluate job: a model and baselines on one split, in a table and as a result."""

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from rich.console import Console

from gru4rec.config import Evaluate
from gru4rec.errors import InputError
from gru4rec.evaluation import baselines, ranking
from gru4rec.evaluation.metrics import RankingMetrics
from gru4rec.evaluation.report import comparison
from gru4rec.scoring.recommend import select
from gru4rec.sessions.catalogue import catalogue, encoder
from gru4rec.sessions.prepared import Prepared, Sessions
from gru4rec.tracking import folder, registry


def evaluate(settings: Evaluate) -> dict[str, Any]:
    """Run the job. Clicks on items that the model does not know are dropped and counted, as in prepare."""
    if not settings.model and not settings.baselines:
        raise InputError("nothing to evaluate: give --model, --baselines, or both")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    prepared = Prepared(settings.data)
    sessions = prepared.read(settings.split)
    found: dict[str, RankingMetrics] = {}
    result: dict[str, Any] = {"split": settings.split, "ties": settings.ties, "unknown_clicks": 0}
    if settings.model:
        uri, version = registry.resolve(settings.model, settings.tracking_uri)
        loaded = folder.load(registry.fetch(uri, settings.tracking_uri))
        known, unknown = _in_catalogue(sessions, prepared, loaded)
        result |= {"model_version": version, "unknown_clicks": unknown}
        found[uri] = ranking.evaluate(loaded.model, known, settings.cutoffs, settings.ties)
    if settings.baselines:
        train = prepared.read("train")
        for name in settings.baselines:
            found[name] = baselines.evaluate(
                name, train, sessions, len(prepared.items), settings.cutoffs, settings.ties
            )
    _show(found, settings)
    predictions = {name: metrics.predictions for name, metrics in found.items()}
    metrics = {name: metrics.result() for name, metrics in found.items()}
    return {**result, "predictions": next(iter(predictions.values())), "metrics": metrics}


def _in_catalogue(sessions: Sessions, prepared: Prepared, loaded: folder.LoadedModel) -> tuple[Sessions, int]:
    """The sessions in the model's item index, without clicks that it does not know; and how many those are."""
    table = encoder(catalogue(loaded.items), prepared.items)
    index = table(pa.array(sessions.items, pa.int32()))
    known = index >= 0
    kept = np.concatenate([[0], np.cumsum(known)])[sessions.offsets]
    renamed = Sessions(kept, index[known].astype(np.int32))
    long_enough = np.flatnonzero(renamed.lengths >= 2)
    return select(renamed, long_enough), int((~known).sum())


def _show(found: dict[str, RankingMetrics], settings: Evaluate) -> None:
    predictions = next(iter(found.values())).predictions
    title = f"{settings.split} split, {predictions:,} predictions, {settings.ties} ties"
    metrics = {model: counted.result() for model, counted in found.items()}
    Console(stderr=True, highlight=False).print(comparison(title, metrics))
