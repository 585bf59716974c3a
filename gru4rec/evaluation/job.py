"""The evaluate job: a model and baselines on one split; a table, a page, an MLflow run, and what each session gave."""

import contextlib
import uuid
from typing import Any

import torch
from rich.console import Console

from gru4rec import outputs, storage
from gru4rec.config import Evaluate
from gru4rec.errors import InputError
from gru4rec.evaluation import contenders, measure, pages, pieces
from gru4rec.evaluation.contenders import Opened
from gru4rec.evaluation.measure import Question, Workers
from gru4rec.evaluation.relevance import METRICS
from gru4rec.evaluation.report import comparison, with_intervals
from gru4rec.evaluation.tally import Total, intervals
from gru4rec.sessions.prepared import Prepared
from gru4rec.tracking import registry, runs

RESULT = "evaluation.json"
PAGE = "evaluation.html"


def evaluate(settings: Evaluate) -> dict[str, Any]:
    """Run the job. What a model does not know counts against it, and is counted.

    Raises InputError where there is nothing to evaluate or to predict, and for an `out` that holds something else or a
    `report` that cannot be written, GRU4RecError for a store that cannot be opened: all before anything is measured.
    """
    if not settings.model and not settings.baselines:
        raise InputError("nothing to evaluate: give --model, --baselines, or both")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    prepared = Prepared(settings.data)
    prepared.verify_items()
    if not prepared.summary["splits"][settings.split]["transitions"]:
        remedy = "; prepare it with --valid-days" if settings.split == "valid" else ""
        raise InputError(f"{storage.shown(settings.data)}: the {settings.split} split has nothing to predict{remedy}")
    if settings.out and not storage.free_for(settings.out, RESULT):
        raise InputError(f"--out {storage.shown(settings.out)}: holds something else; name a new folder")
    outputs.check_folder("--out", settings.out)
    outputs.check_file("--report", settings.report)
    cut = pieces.cut(prepared, settings.split)
    opened: list[Opened] = []
    if settings.model:
        uri, _ = registry.resolve(settings.model, settings.tracking_uri)
        opened.append(contenders.model(uri, prepared, settings.tracking_uri, label=storage.shown(uri)))
    opened += [contenders.baseline(name, prepared) for name in settings.baselines]
    experiment = runs.connect(settings.tracking_uri, settings.experiment)
    staging = storage.beside(storage.absolute(settings.out), f".{uuid.uuid4().hex[:8]}.staging") if settings.out else ""
    asked = measure.question(
        prepared, settings.split, cut, settings.cutoffs, settings.relevant, settings.ties, out=staging
    )
    workers = Workers(settings.workers, settings.gpus_per_worker)
    try:
        totals = measure.measure(
            [one.contender for one in opened], asked, cut, workers, console.print, settings.verbose
        )
        result = _result(settings, prepared, opened, asked, totals)
        if staging:
            storage.write_json(storage.join(staging, RESULT), result | {"breakdowns": breakdowns(asked, totals)})
            storage.publish(staging, storage.absolute(settings.out), RESULT)
    except BaseException:
        if staging:
            with contextlib.suppress(OSError):
                storage.remove_folder(staging)
        raise
    _show(console, settings, result)
    _say_unknown(console, result)
    result["run_id"] = _record(settings, experiment, prepared, opened, asked, totals, result)
    return result


def _result(
    settings: Evaluate, prepared: Prepared, opened: list[Opened], asked: Question, totals: dict[str, Total]
) -> dict[str, Any]:
    cutoffs = sorted({*settings.cutoffs, 20})  # 20 is what the page and other jobs go by
    first = next(iter(totals.values()))
    metrics = {label: total.metrics(cutoffs) for label, total in totals.items()}
    keys = [f"{name}_at_{k}" for k in cutoffs for name in METRICS]
    return {
        "split": settings.split,
        "ties": settings.ties,
        "relevant": settings.relevant,
        "predictions": first.predictions,
        "sessions": first.sessions,
        "data_fingerprint": prepared.fingerprint,
        "model_version": opened[0].about.version or None,
        "metrics": metrics,
        "intervals": intervals(totals, keys),
        "unknown": {label: total.unknown for label, total in totals.items()},
        "unstarted": {label: total.unstarted for label, total in totals.items()},
        **({"out": storage.shown(settings.out)} if settings.out else {}),
    }


def _show(console: Console, settings: Evaluate, result: dict[str, Any]) -> None:
    metrics = {label: dict(of) for label, of in result["metrics"].items()}
    if settings.relevant == "next":  # with one relevant item, hit rate is Recall and MAP is MRR: not shown twice
        doubled = ("map_at_", "hit_rate_at_")
        metrics = {label: {k: v for k, v in of.items() if not k.startswith(doubled)} for label, of in metrics.items()}
    title = f"{settings.split} split, {result['predictions']:,} predictions, {settings.ties} ties"
    main = [f"{name}_at_20" for name in ("recall", "mrr", "ndcg")]
    console.print(with_intervals(f"{title}, 95 % intervals", metrics, result["intervals"], main))
    others = {label: {k: v for k, v in of.items() if k not in main} for label, of in metrics.items()}
    console.print(comparison("other figures", others))


def breakdowns(asked: Question, totals: dict[str, Total]) -> dict[str, list[dict[str, Any]]]:
    """Metrics at 20 by class of each breakdown: class, predictions, and `LABEL` with recall and mrr."""
    found: dict[str, list[dict[str, Any]]] = {}
    first = 0
    counts = next(iter(totals.values())).class_counts
    by_class = {
        label: {key: total.classes(key) for key in ("recall_at_20", "mrr_at_20")} for label, total in totals.items()
    }
    for breakdown in asked.breakdowns:
        found[breakdown.name] = [
            {
                "class": f"{shown} {breakdown.unit}",
                "predictions": int(counts[place]),
                **{label: {key: float(values[place]) for key, values in of.items()} for label, of in by_class.items()},
            }
            for place, shown in enumerate(breakdown.labels, start=first)
            if counts[place]
        ]
        first += len(breakdown.ranges)
    return found


def _say_unknown(console: Console, result: dict[str, Any]) -> None:
    for label, count in result["unknown"].items():
        if count or result["unstarted"][label]:
            console.print(
                f"{label}: {count:,} items to be predicted are not in its catalogue, which counts against it; before "
                f"{result['unstarted'][label]:,} predictions it knows no click of the session and ranks by popularity"
            )


def _record(
    settings: Evaluate,
    experiment: str,
    prepared: Prepared,
    opened: list[Opened],
    asked: Question,
    totals: dict[str, Total],
    result: dict[str, Any],
) -> str:
    """An MLflow run with the figures, of a registered version also at its logged model, and the page; its id.

    The model's metrics have the names that its training gave them; a baseline's stand below its name.
    """
    parameters = {
        "model": storage.shown(settings.model),
        **{name: getattr(settings, name) for name in ("baselines", "split", "ties", "relevant", "cutoffs")},
    }
    run_id = runs.start_run(experiment, parameters, prepared.folder, prepared.fingerprint, kind="evaluate")
    with runs.ending(run_id):
        for one in opened:
            figures = result["metrics"][one.label]
            baseline = one.about.kind == "baseline"
            runs.log_metrics(run_id, {f"{one.label}/{key}" if baseline else key: figures[key] for key in figures})
            if one.about.model_id:
                mine = {f"evaluate/{key}": value for key, value in figures.items()}
                data = prepared.folder, prepared.fingerprint
                runs.log_metrics(run_id, mine, model_id=one.about.model_id, data=data)
        runs.log_json(run_id, result | {"breakdowns": breakdowns(asked, totals)}, RESULT)
        page = pages.evaluation(result, totals, asked.breakdowns)
        runs.log_text(run_id, page, PAGE)
        if settings.report:
            outputs.write_text(settings.report, page)
    return run_id
