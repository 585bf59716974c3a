"""What the model card says of a finished training: the baselines beside the model, and intervals of all figures."""

import dataclasses

import numpy as np
import torch

from gru4rec import storage
from gru4rec.config import Train
from gru4rec.errors import InputError
from gru4rec.evaluation import baselines, model_ranks, per_session, significance
from gru4rec.evaluation.metrics import RankingMetrics
from gru4rec.sessions.prepared import SPLITS, Prepared, Sessions
from gru4rec.tracking import folder as model_folder
from gru4rec.tracking.model_card import MODEL, Facts
from gru4rec.training.progress import Finished

SCORES = 20_000_000_000
"""Predictions times items up to which intervals are drawn: less than two minutes of one core."""


def describe(settings: Train, prepared: Prepared, trained: Finished, folder: str) -> Facts:
    """What is known of the model in `folder`, which was trained with `settings` on `prepared`.

    Ranks the test split once more, unless that is too large (`SCORES`): then there are no intervals for the model.
    Raises InputError where the model was trained on other data than `prepared`.
    """
    loaded = model_folder.load(folder)
    if loaded.config.get("data_fingerprint") != prepared.fingerprint:
        raise InputError(
            f"{storage.shown(folder)}: was trained on other data than {storage.shown(prepared.folder)} "
            f"(fingerprint {str(loaded.config.get('data_fingerprint'))[:12]}…, there {prepared.fingerprint[:12]}…): "
            "begin a run of another name on these"
        )
    test, items = prepared.read("test"), len(prepared.items)
    ranks: dict[str, np.ndarray] = {}
    if test.transitions * items <= SCORES:
        ranked = model_ranks.rank(loaded.model, prepared.support, test, np.arange(items))
        ranks[MODEL] = ranked.ranks
    if test.transitions:
        train = prepared.read("train")
        ranks |= {name: baselines.ranks(name, train, test, items).numpy() for name in baselines.QUICK}
    cutoffs = sorted({*settings.cutoffs, 20})
    measured = {name: _metrics(of, cutoffs) for name, of in ranks.items() if name != MODEL}
    spans = {split: prepared.span(split) for split in SPLITS}
    return Facts(
        model_name=settings.model_name,
        data=storage.shown(prepared.folder).rstrip("/").rpartition("/")[2],
        summary=prepared.summary,
        spans={split: span for split, span in spans.items() if span},
        items=items,
        hyperparameters=dataclasses.asdict(loaded.model.hyperparameters),
        training={
            "workers": trained.workers,
            "sync_every": settings.sync_every,
            "warm_start": storage.shown(settings.warm_start),
            "epochs trained": len(trained.epochs),
            "epoch of these weights": trained.best_epoch,
            "loss of the last epoch": f"{trained.epochs[-1].epoch.loss:.4f}",
        },
        metrics={MODEL: trained.metrics, **measured},
        intervals=_intervals(ranks, test, cutoffs),
        predictions=trained.predictions,
        sessions=int((per_session.predictions(test) > 0).sum()),
        example=prepared.items["item_id"].slice(0, 2).to_pylist(),
    )


def _metrics(ranks: np.ndarray, cutoffs: list[int]) -> dict[str, float]:
    found = RankingMetrics(cutoffs)
    found.add(torch.from_numpy(ranks))
    return found.result()


def _intervals(
    ranks: dict[str, np.ndarray], test: Sessions, cutoffs: list[int]
) -> dict[str, dict[str, tuple[float, float]]]:
    """95 % interval of each metric by model, all drawn with the same sessions."""
    if not test.transitions:
        return {}
    counts = per_session.predictions(test)
    columns = [(name, metric, cutoff) for name in ranks for metric in per_session.METRICS for cutoff in cutoffs]
    sums = [per_session.sums(per_session.gains(ranks[name], metric, k), counts) for name, metric, k in columns]
    low, high = significance.interval(significance.drawn(np.column_stack(sums), counts))
    found: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in ranks}
    for place, (name, metric, cutoff) in enumerate(columns):
        found[name][f"{metric}_at_{cutoff}"] = float(low[place]), float(high[place])
    return found
