"""The ablation job: losses × units and baselines, trained and ranked on one prepared folder: the papers' tables.

Each cell is a training of its own, alone on one CPU (or GPU), as a Ray task: as many at a time as the cluster has room
for. What comes back of a cell is what each test session adds to each metric, so that intervals can be drawn with the
same sessions for all.
"""

import dataclasses
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from gru4rec import on_ray, storage
from gru4rec.config import PUBLISHED_LOSSES, Ablate, Hyperparameters
from gru4rec.errors import InputError
from gru4rec.evaluation import baselines, model_ranks, per_session, significance
from gru4rec.evaluation.per_session import METRICS
from gru4rec.sessions.prepared import Prepared
from gru4rec.tracking import folder, runs

CUTOFF = 20

Gains = np.ndarray  # [sessions, metrics] float64


def ablate(settings: Ablate) -> dict[str, Any]:
    """Run the job: the table on stderr, in `--out` as Markdown, and with the MLflow run.

    Raises InputError where the test split has nothing to predict.
    """
    import ray

    prepared = Prepared(settings.data)
    counts = per_session.predictions(prepared.read("test"))
    if not counts.sum():
        raise InputError(f"{storage.shown(settings.data)}: the test split has nothing to predict")
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    cells = {f"{loss} {units}": cell(settings, loss, units) for loss in settings.losses for units in settings.units}
    found: dict[str, tuple[Gains, float]] = {}
    with on_ray.connected(settings.verbose):
        device = {"num_gpus": 1} if settings.gpus else {}
        train = ray.remote(_trained).options(num_cpus=1, max_retries=settings.max_failures, **device)
        learn = ray.remote(_learnt).options(num_cpus=1)
        waiting = {train.remote(given, prepared.folder, settings.gpus): label for label, given in cells.items()}
        waiting |= {learn.remote(name, prepared.folder): name for name in settings.baselines}
        while waiting:
            (ready,), _ = ray.wait(list(waiting))
            label = waiting.pop(ready)
            found[label] = ray.get(ready)
            gains, seconds = found[label]
            shown = ", ".join(f"{name} {gains[:, i].sum() / counts.sum():.4f}" for i, name in enumerate(METRICS))
            console.print(f"{label}: {shown} in {seconds:,.0f} s; {len(waiting)} to go")
    labels = [*settings.baselines, *cells]
    result = _result(labels, found, counts, prepared)
    table = markdown(result)
    console.print(table)
    if settings.out:
        storage.write_bytes(settings.out, table.encode())
    result["run_id"] = _record(settings, prepared, result, table)
    return result


def cell(settings: Ablate, loss: str, units: int) -> Hyperparameters:
    """The settings of a cell: those published for the loss, with so many units and the job's epochs and seed."""
    given = {**PUBLISHED_LOSSES[loss], "loss": loss, "layers": (units,), "seed": settings.seed}
    return Hyperparameters(**{**given, "epochs": settings.epochs})


def _trained(settings: Hyperparameters, data: str, gpu: bool) -> tuple[Gains, float]:
    """Task: train alone, rank the test split."""
    from gru4rec.training.exchange import Alone
    from gru4rec.training.loop import MODEL, Plan, Training

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))
    prepared = Prepared(data)
    with tempfile.TemporaryDirectory(prefix="gru4rec-ablation-") as place:
        plan = Plan(place, checkpoint_minutes=0, keep=1)
        done = Training(settings, prepared, plan, Alone(), _Quiet(), "cuda" if gpu else "cpu").run()
        loaded = folder.load(str(Path(place, MODEL)))
    ranked = model_ranks.rank(loaded.model, prepared.support, prepared.read("test"), np.arange(len(prepared.items)))
    return _gains(ranked.ranks, prepared), sum(one.epoch.seconds for one in done.epochs)


def _learnt(name: str, data: str) -> tuple[Gains, float]:
    """Task: learn a baseline, rank the test split."""
    began = time.perf_counter()
    prepared = Prepared(data)
    ranks = baselines.ranks(name, prepared.read("train"), prepared.read("test"), len(prepared.items))
    return _gains(np.asarray(ranks, np.float64), prepared), time.perf_counter() - began


def _gains(ranks: np.ndarray, prepared: Prepared) -> Gains:
    counts = per_session.predictions(prepared.read("test"))
    return np.column_stack([per_session.sums(per_session.gains(ranks, name, CUTOFF), counts) for name in METRICS])


class _Quiet:
    """A listener to whom nothing is news."""

    def begins(self, *_: Any) -> None: ...
    def progress(self, *_: Any) -> None: ...
    def epoch_done(self, *_: Any) -> None: ...
    def committed(self, *_: Any) -> None: ...
    def stage(self, *_: Any) -> None: ...
    def say(self, *_: Any) -> None: ...


def _result(
    labels: Sequence[str], found: dict[str, tuple[Gains, float]], counts: np.ndarray, prepared: Prepared
) -> dict[str, Any]:
    drawn = significance.drawn(np.column_stack([found[label][0] for label in labels]), counts)
    low, high = significance.interval(drawn)
    rows = []
    for place, label in enumerate(labels):
        gains, seconds = found[label]
        row: dict[str, Any] = {"model": label, "seconds": seconds}
        for column, name in enumerate(METRICS):
            at = place * len(METRICS) + column
            row[f"{name}_at_{CUTOFF}"] = float(gains[:, column].sum() / counts.sum())
            row[f"{name}_at_{CUTOFF}_interval"] = [float(low[at]), float(high[at])]
        rows.append(row)
    return {
        "predictions": int(counts.sum()),
        "sessions": int((counts > 0).sum()),
        "items": len(prepared.items),
        "data_fingerprint": prepared.fingerprint,
        "rows": rows,
    }


def markdown(result: dict[str, Any]) -> str:
    """The table as Markdown."""
    lines = [
        f"{result['predictions']:,} predictions in {result['sessions']:,} sessions over {result['items']:,} items, "
        "ties against; in brackets 95 % intervals",
        "",
        f"| | Recall@{CUTOFF} | MRR@{CUTOFF} | NDCG@{CUTOFF} | seconds |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        cells = []
        for name in METRICS:
            low, high = row[f"{name}_at_{CUTOFF}_interval"]
            cells.append(f"{row[f'{name}_at_{CUTOFF}']:.4f} ({low:.4f}–{high:.4f})")
        lines.append(f"| {row['model']} | {' | '.join(cells)} | {row['seconds']:,.0f} |")
    return "\n".join(lines) + "\n"


def _record(settings: Ablate, prepared: Prepared, result: dict[str, Any], table: str) -> str:
    """An MLflow run with the figures and the table; its id."""
    experiment = runs.connect(settings.tracking_uri, settings.experiment)
    parameters = {name: value for name, value in dataclasses.asdict(settings).items() if name in _parameters()}
    run_id = runs.start_run(experiment, parameters, prepared.folder, prepared.fingerprint, kind="ablate")
    for row in result["rows"]:
        label = row["model"].replace(" ", "-")
        runs.log_metrics(run_id, {f"{label}/{key}": row[key] for key in row if isinstance(row[key], float)})
    runs.log_text(run_id, table, "ablation.md")
    runs.finish(run_id)
    return run_id


def _parameters() -> Iterable[str]:
    return ("losses", "units", "baselines", "epochs", "seed")
