"""The compare job: versions, folders and baselines on the same predictions; a table, a page, a decision."""

from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from gru4rec import storage
from gru4rec.config import Compare
from gru4rec.errors import InputError
from gru4rec.evaluation import compare_report, contenders, decision, per_session, significance
from gru4rec.evaluation.contenders import Contender
from gru4rec.evaluation.decision import Decision, Version
from gru4rec.evaluation.per_session import METRICS
from gru4rec.sessions.prepared import Prepared, Sessions
from gru4rec.tracking import registry, runs

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
CUTOFF = 20
_SHOWN = ("recall", "mrr")  # on the terminal; the page has all


def compare(settings: Compare) -> dict[str, Any]:
    """Run the job. Without `--promote` nothing in the registry changes.

    Raises InputError for a model that does not exist, is named twice, or belongs to another registered model.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    prepared = Prepared(settings.data)
    sessions = prepared.read(settings.split)
    if not sessions.transitions:
        raise InputError(f"{storage.shown(settings.data)}: the {settings.split} split has nothing to predict")
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    found = _measured(settings, prepared, sessions, console)
    counts = per_session.predictions(sessions)
    sums = {one.label: {name: _sums(one, name, counts) for name in METRICS} for one in found}
    intervals = _intervals(sums, counts)
    metrics = {
        label: {f"{name}_at_{CUTOFF}": float(of[name].sum() / counts.sum()) for name in METRICS}
        for label, of in sums.items()
    }
    decided, champion = _decision(settings, prepared, found, sums, metrics, counts)
    result = {
        "split": settings.split,
        "ties": settings.ties,
        "predictions": int(counts.sum()),
        "sessions": int((counts > 0).sum()),
        "data_fingerprint": prepared.fingerprint,
        "metrics": metrics,
        "intervals": intervals,
        "details": {one.label: _details(one, int(counts.sum())) for one in found},
        "champion": champion,
        "winner": decided.winner if decided else max(metrics, key=lambda label: metrics[label][settings.metric]),
        "tests": decided.tests if decided else {},
        "reasons": decided.reasons if decided else [],
        "promoted": bool(decided and decided.promote and settings.promote),
    }
    console.print(table(result))
    _say(console, settings, decided)
    if settings.report:
        ranks = {one.label: one.ranks for one in found}
        storage.write_bytes(settings.report, compare_report.page(result, ranks, sessions, prepared).encode())
        console.print(f"report: {storage.shown(settings.report)}")
    result["run_id"] = _record(settings, prepared, found, result)
    if decided and result["promoted"]:
        _promote(settings, found, decided, champion, result)
    elif decided and settings.promote:
        _challenge(found, decided, champion, result)
    return result


def _measured(settings: Compare, prepared: Prepared, sessions: Sessions, console: Console) -> list[Contender]:
    found: list[Contender] = []
    for uri in settings.models:
        console.print(f"measuring {storage.shown(uri)}")
        found.append(contenders.model(uri, prepared, sessions, settings))
    if settings.baselines:
        train = prepared.read("train")
        for name in settings.baselines:
            console.print(f"measuring {name}")
            found.append(contenders.baseline(name, prepared, train, sessions, settings))
    labels = [one.label for one in found]
    for label in labels:
        if labels.count(label) > 1:
            raise InputError(f"--models: {label} is named twice; give each once (an alias is a version too)")
    names = {one.name for one in found if one.kind == "version"}
    if len(names) > 1:
        raise InputError(f"--models: versions of {' and '.join(sorted(names))}; compare those of one registered model")
    return found


def _sums(one: Contender, metric: str, counts: np.ndarray) -> np.ndarray:
    return per_session.sums(per_session.gains(one.ranks, metric, CUTOFF), counts)


def _intervals(sums: dict[str, dict[str, np.ndarray]], counts: np.ndarray) -> dict[str, dict[str, list[float]]]:
    """95 % interval of each metric by model, all drawn with the same sessions."""
    columns = [(label, name) for label in sums for name in METRICS]
    drawn = significance.drawn(np.column_stack([sums[label][name] for label, name in columns]), counts)
    low, high = significance.interval(drawn)
    found: dict[str, dict[str, list[float]]] = {label: {} for label in sums}
    for place, (label, name) in enumerate(columns):
        found[label][f"{name}_at_{CUTOFF}"] = [float(low[place]), float(high[place])]
    return found


def _decision(
    settings: Compare,
    prepared: Prepared,
    found: list[Contender],
    sums: dict[str, dict[str, np.ndarray]],
    metrics: dict[str, dict[str, float]],
    counts: np.ndarray,
) -> tuple[Decision | None, str]:
    """The decision between registered versions, and the champion's label; None where no version was compared.

    Raises InputError where there is a champion and it was not compared.
    """
    versions = [one for one in found if one.kind == "version"]
    if not versions:
        return None, ""
    name = versions[0].name
    champion = registry.alias_of(name, CHAMPION, settings.tracking_uri)
    label = f"{name}/{champion}" if champion else ""
    if label and label not in {one.label for one in versions}:
        raise InputError(f"--models: the champion of {name}, version {champion}, must be among them: models:/{label}")
    total = int(counts.sum())
    asked = [
        Version(
            one.label,
            metrics[one.label][settings.metric],
            one.fingerprint,
            one.unknown / total,
            one.coverage,
            one.latency_ms,
            one.size_mb,
        )
        for one in versions
    ]
    metric = settings.metric.partition("_at_")[0]
    gains = {one.label: sums[one.label][metric] for one in versions}
    return decision.decide(asked, label, gains, counts, prepared.fingerprint, settings), label


def _details(one: Contender, total: int) -> dict[str, Any]:
    measured = {"coverage_at_20": one.coverage, "latency_ms": one.latency_ms, "model_mb": one.size_mb}
    return {
        "kind": one.kind,
        "unknown": one.unknown,
        "unknown_share": one.unknown / total,
        "unstarted": one.unstarted,
        **{name: value for name, value in measured.items() if not np.isnan(value)},
    }


def table(result: dict[str, Any]) -> Table:
    """Models by row, metrics with their intervals by column, the best first."""
    title = f"{result['split']} split, {result['predictions']:,} predictions in {result['sessions']:,} sessions, "
    found = Table(title=title + f"{result['ties']} ties, 95 % intervals", title_justify="left")
    found.add_column("", no_wrap=True)
    for name in _SHOWN:
        found.add_column(
            f"{name.capitalize() if name == 'recall' else name.upper()}@{CUTOFF}", justify="right", no_wrap=True
        )
    for heading in ("coverage", "unknown", "ms", "MB"):
        found.add_column(heading, justify="right")
    metrics = result["metrics"]
    for label in sorted(metrics, key=lambda label: -metrics[label][f"mrr_at_{CUTOFF}"]):
        cells = []
        for name in _SHOWN:
            low, high = result["intervals"][label][f"{name}_at_{CUTOFF}"]
            cells.append(f"{metrics[label][f'{name}_at_{CUTOFF}']:.4f}\n{low:.4f}–{high:.4f}")
        about = result["details"][label]
        shown = f"{label} (champion)" if label == result["champion"] else label
        coverage = f"{about['coverage_at_20']:.1%}" if "coverage_at_20" in about else ""
        others = [f"{about[name]:.2f}" if name in about else "" for name in ("latency_ms", "model_mb")]
        found.add_row(shown, *cells, coverage, f"{about['unknown_share']:.2%}", *others)
    return found


def _say(console: Console, settings: Compare, decided: Decision | None) -> None:
    if decided is None:
        console.print("no registered version among them: nothing to decide")
        return
    if decided.promote:
        done = "promoted" if settings.promote else "would be promoted (dry run; --promote does it)"
        console.print(f"{decided.winner}: {done}: {decided.reasons[0]}")
    else:
        console.print("not promoted: " + "; ".join(decided.reasons))


def _record(settings: Compare, prepared: Prepared, found: list[Contender], result: dict[str, Any]) -> str:
    """An MLflow run with the figures, of each version also at its logged model, and the report; its id."""
    experiment = runs.connect(settings.tracking_uri, settings.experiment)
    shown = {"models": [storage.shown(uri) for uri in settings.models], "baselines": list(settings.baselines)}
    parameters = {**shown, **{name: getattr(settings, name) for name in ("split", "ties", "metric", "margin", "level")}}
    run_id = runs.start_run(experiment, parameters, prepared.folder, prepared.fingerprint, kind="compare")
    status = "FAILED"
    try:
        for one in found:
            figures = result["metrics"][one.label] | {
                name: value for name, value in result["details"][one.label].items() if isinstance(value, int | float)
            }
            runs.log_metrics(run_id, {f"{_key(one.label)}/{name}": value for name, value in figures.items()})
            if one.model_id:
                mine = {f"compare/{name}": value for name, value in figures.items()}
                data = prepared.folder, prepared.fingerprint
                runs.log_metrics(run_id, mine, model_id=one.model_id, data=data)
        runs.log_json(run_id, result, "comparison.json")
        if settings.report:
            runs.log_file(run_id, settings.report)
        status = "FINISHED"
    finally:
        runs.finish(run_id, status)
    return run_id


def _key(label: str) -> str:
    """The label in letters that MLflow takes for a metric's name."""
    return "".join(c if c.isalnum() or c in "_-. /" else "_" for c in label)


def _promote(
    settings: Compare, found: list[Contender], decided: Decision, champion: str, result: dict[str, Any]
) -> None:
    by_label = {one.label: one for one in found}
    winner = by_label[decided.winner]
    _note(winner, "promoted to champion", decided, result)
    registry.set_alias(winner.name, winner.version, CHAMPION)
    if champion:
        registry.set_alias(winner.name, by_label[champion].version, PREVIOUS)
        _note(by_label[champion], f"replaced as champion by version {winner.version}", decided, result)
    if registry.alias_of(winner.name, CHALLENGER, settings.tracking_uri) == winner.version:
        registry.remove_alias(winner.name, CHALLENGER)


def _challenge(found: list[Contender], decided: Decision, champion: str, result: dict[str, Any]) -> None:
    """The best version that is not the champion becomes the challenger, and is told why it is no more than that."""
    versions = [one for one in found if one.kind == "version" and one.label != champion]
    metrics = result["metrics"]
    if versions:
        best = max(versions, key=lambda one: metrics[one.label][f"mrr_at_{CUTOFF}"])
        registry.set_alias(best.name, best.version, CHALLENGER)
        _note(best, "not promoted", decided, result)


def _note(one: Contender, what: str, decided: Decision, result: dict[str, Any]) -> None:
    reasons = "; ".join(decided.reasons)
    tags = {
        "compare.decision": what,
        "compare.reasons": reasons,
        "compare.run_id": result["run_id"],
        "compare.data_fingerprint": result["data_fingerprint"],
        **{f"compare.{name}": f"{value:.6f}" for name, value in result["metrics"][one.label].items()},
    }
    registry.note(one.name, one.version, tags, f"{what}: {reasons} (run {result['run_id']})")
