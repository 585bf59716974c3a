"""The ablation job: losses × units and baselines, trained and ranked on one prepared folder: the papers' tables.

Each cell is a training of its own, alone on one CPU (or GPU), as a Ray task: as many at a time as the cluster has room
for. What comes back of a cell are its sums by session (tally.py): intervals are drawn with the same sessions for
all.
"""

import dataclasses
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from gru4rec import on_ray, outputs, storage
from gru4rec.config import PUBLISHED_LOSSES, Ablate, Hyperparameters
from gru4rec.errors import InputError
from gru4rec.evaluation import contenders, measure, pieces
from gru4rec.evaluation.contenders import Contender
from gru4rec.evaluation.tally import Total, intervals
from gru4rec.sessions.prepared import Prepared
from gru4rec.tracking import folder, runs

_NAMES = {"recall": "Recall", "mrr": "MRR", "ndcg": "NDCG", "coverage": "coverage"}
_CUTOFF = 20


def ablate(settings: Ablate) -> dict[str, Any]:
    """Run the job: the table on stderr, in `--out` as Markdown, and with the MLflow run.

    Raises InputError where the test split has nothing to predict or `out` cannot be written, GRU4RecError where the
    store cannot be opened: before anything is trained.
    """
    import ray

    prepared = Prepared(settings.data)
    prepared.verify_items()
    if not prepared.summary["splits"]["test"]["transitions"]:
        raise InputError(f"{storage.shown(settings.data)}: the test split has nothing to predict")
    outputs.check_file("--out", settings.out)
    experiment = runs.connect(settings.tracking_uri, settings.experiment)
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    cells = {f"{loss} {units}": cell(settings, loss, units) for loss in settings.losses for units in settings.units}
    found: dict[str, tuple[Total, float]] = {}
    with on_ray.connected(settings.verbose):
        on_ray.check_one("gpus", int(settings.gpus), "GPU", "a training", "leave it out to train on CPUs")
        device = {"num_gpus": 1} if settings.gpus else {}
        train = ray.remote(_trained).options(num_cpus=1, max_retries=settings.max_failures, **device)
        learn = ray.remote(_learnt).options(num_cpus=1)
        waiting = {train.remote(label, given, prepared.folder, settings.gpus): label for label, given in cells.items()}
        waiting |= {learn.remote(name, prepared.folder): name for name in settings.baselines}
        while waiting:
            (ready,), _ = ray.wait(list(waiting))
            label = waiting.pop(ready)
            found[label] = ray.get(ready)
            total, seconds = found[label]
            shown = ", ".join(f"{name} {total.metric(f'{name}_at_{_CUTOFF}'):.4f}" for name in ("recall", "mrr"))
            console.print(f"{label}: {shown} in {seconds:,.0f} s; {len(waiting)} to go")
    labels = [*settings.baselines, *cells]
    result = _result({label: found[label] for label in labels}, prepared)
    table = markdown(result)
    console.print(table)
    if settings.out:
        outputs.write_text(settings.out, table)
    result["run_id"] = _record(settings, experiment, prepared, result, table)
    return result


def cell(settings: Ablate, loss: str, units: int) -> Hyperparameters:
    """The settings of a cell: those published for the loss, with so many units and the job's epochs and seed."""
    given = {**PUBLISHED_LOSSES[loss], "loss": loss, "layers": (units,), "seed": settings.seed}
    return Hyperparameters(**{**given, "epochs": settings.epochs})


def _trained(label: str, settings: Hyperparameters, data: str, gpu: bool) -> tuple[Total, float]:
    """Task: train alone, measure on the test split."""
    from gru4rec.training.exchange import Alone
    from gru4rec.training.loop import MODEL, Plan, Training
    from gru4rec.training.progress import Quiet

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))
    prepared, device = Prepared(data), "cuda" if gpu else "cpu"
    with tempfile.TemporaryDirectory(prefix="gru4rec-ablation-") as place:
        plan = Plan(place, checkpoint_minutes=0, keep=1)
        done = Training(settings, prepared, plan, Alone(), Quiet(), device).run()
        loaded = folder.load(str(Path(place, MODEL)))
    model = contenders.Model(label, loaded.model, prepared.support, np.arange(len(prepared.items)))
    return _measured(model.ready(device), prepared), sum(one.epoch.seconds for one in done.epochs)


def _learnt(name: str, data: str) -> tuple[Total, float]:
    """Task: learn a baseline, measure on the test split."""
    began = time.perf_counter()
    prepared = Prepared(data)
    return _measured(contenders.baseline(name, prepared).contender, prepared), time.perf_counter() - began


def _measured(contender: Contender, prepared: Prepared) -> Total:
    cut = pieces.cut(prepared, "test")
    return measure.measure_here(contender, measure.question(prepared, "test", cut, [_CUTOFF]), cut)


def _result(found: Mapping[str, tuple[Total, float]], prepared: Prepared) -> dict[str, Any]:
    totals = {label: total for label, (total, _) in found.items()}
    drawn = intervals(totals, [f"{name}_at_{_CUTOFF}" for name in ("recall", "mrr", "ndcg")])
    rows = []
    for label, (total, seconds) in found.items():
        row: dict[str, Any] = {"model": label, "seconds": seconds, **total.metrics([_CUTOFF])}
        rows.append(row | {f"{key}_interval": interval for key, interval in drawn[label].items()})
    first = next(iter(totals.values()))
    return {
        "predictions": first.predictions,
        "sessions": first.sessions,
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
        f"| | {' | '.join(f'{shown}@{_CUTOFF}' for shown in _NAMES.values())} | seconds |",
        f"|---{'|---' * len(_NAMES)}|---|",
    ]
    for row in result["rows"]:
        cells = [_cell(row, f"{name}_at_{_CUTOFF}") for name in _NAMES]
        lines.append(f"| {row['model']} | {' | '.join(cells)} | {row['seconds']:,.0f} |")
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any], key: str) -> str:
    interval = row.get(f"{key}_interval")
    return f"{row[key]:.4f}" + (f" ({interval[0]:.4f}–{interval[1]:.4f})" if interval else "")


def _record(settings: Ablate, experiment: str, prepared: Prepared, result: dict[str, Any], table: str) -> str:
    """An MLflow run with the figures and the table; its id."""
    parameters = {name: value for name, value in dataclasses.asdict(settings).items() if name in _parameters()}
    run_id = runs.start_run(experiment, parameters, prepared.folder, prepared.fingerprint, kind="ablate")
    with runs.ending(run_id):
        for row in result["rows"]:
            label = row["model"].replace(" ", "-")
            runs.log_metrics(run_id, {f"{label}/{key}": row[key] for key in row if isinstance(row[key], float)})
        runs.log_text(run_id, table, "ablation.md")
    return run_id


def _parameters() -> Iterable[str]:
    return ("losses", "units", "baselines", "epochs", "seed")
