"""The compare job: versions, folders and baselines on the same predictions; a table, a page, a decision."""

from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from gru4rec import outputs, storage
from gru4rec.config import Compare
from gru4rec.errors import GRU4RecError, InputError
from gru4rec.evaluation import contenders, decision, measure, pages, pieces
from gru4rec.evaluation.contenders import Opened
from gru4rec.evaluation.decision import Decision, Version
from gru4rec.evaluation.measure import Workers
from gru4rec.evaluation.per_session import METRICS
from gru4rec.evaluation.pieces import Piece
from gru4rec.evaluation.report import shown_metric
from gru4rec.evaluation.tally import Total, intervals
from gru4rec.sessions.prepared import Prepared
from gru4rec.tracking import registry, runs

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
CUTOFF = 20
_SHOWN = (f"recall_at_{CUTOFF}", f"mrr_at_{CUTOFF}")  # on the terminal, and what decides; the page has all


def compare(settings: Compare) -> dict[str, Any]:
    """Run the job. Without `--promote` nothing in the registry changes.

    Raises InputError for a model that does not exist, is named twice, or belongs to another registered model, and for a
    report that cannot be written, GRU4RecError for a store that cannot be opened: all before anything is measured.
    GRU4RecError also where another version has become the champion meanwhile: nothing changes then.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    prepared = Prepared(settings.data)
    prepared.verify_items()
    if not prepared.summary["splits"][settings.split]["transitions"]:
        remedy = "; prepare it with --valid-days" if settings.split == "valid" else ""
        raise InputError(f"{storage.shown(settings.data)}: the {settings.split} split has nothing to predict{remedy}")
    outputs.check_file("--report", settings.report)
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    cut = pieces.cut(prepared, settings.split)
    found = _opened(settings, prepared, cut)
    champion = _champion(settings, found)
    experiment = runs.connect(settings.tracking_uri, settings.experiment)
    asked = measure.question(prepared, settings.split, cut, [CUTOFF], "next", settings.ties)
    console.print(f"measuring {', '.join(one.label for one in found)}")
    measured = [one.contender for one in found]
    totals = measure.measure(measured, asked, cut, Workers(settings.workers), console.print, settings.verbose)
    metrics = {label: total.metrics([CUTOFF]) for label, total in totals.items()}
    decided = _decision(settings, prepared, found, champion, totals)
    first = next(iter(totals.values()))
    result = {
        "split": settings.split,
        "ties": settings.ties,
        "metric": settings.metric,
        "predictions": first.predictions,
        "sessions": first.sessions,
        "data_fingerprint": prepared.fingerprint,
        "metrics": metrics,
        "intervals": intervals(totals, [f"{name}_at_{CUTOFF}" for name in METRICS]),
        "unknown": {label: total.unknown for label, total in totals.items()},
        "details": {one.label: _details(one, totals[one.label]) for one in found},
        "champion": champion,
        "winner": decided.winner if decided else max(metrics, key=lambda label: metrics[label][settings.metric]),
        "tests": decided.tests if decided else {},
        "reasons": decided.reasons if decided else [],
        "promoted": bool(decided and decided.promote and settings.promote),
    }
    console.print(table(result))
    if settings.promote:
        _check_champion(settings, found, champion)
    _say(console, settings, decided)
    if settings.report:
        outputs.write_text(settings.report, pages.comparison(result, totals, asked.breakdowns))
        console.print(f"report: {storage.shown(settings.report)}")
    result["run_id"] = _record(settings, experiment, prepared, found, result)
    if decided and result["promoted"]:
        _promote(settings, found, decided, champion, result)
    elif decided and settings.promote:
        _challenge(settings, found, decided, champion, result)
    return result


def _opened(settings: Compare, prepared: Prepared, cut: list[Piece]) -> list[Opened]:
    timed, _ = pieces.read(cut[0])
    found = [contenders.model(uri, prepared, settings.tracking_uri, timed) for uri in settings.models]
    found += [contenders.baseline(name, prepared) for name in settings.baselines]
    labels = [one.label for one in found]
    for label in labels:
        if labels.count(label) > 1:
            raise InputError(f"--models: {label} is named twice; give each once (an alias is a version too)")
    names = {one.about.name for one in found if one.about.kind == "version"}
    if len(names) > 1:
        raise InputError(f"--models: versions of {' and '.join(sorted(names))}; compare those of one registered model")
    return found


def _champion(settings: Compare, found: list[Opened]) -> str:
    """The champion's label; "" where there is none, or no registered version is compared.

    Raises InputError where there is a champion and it is not among them.
    """
    versions = [one for one in found if one.about.kind == "version"]
    if not versions:
        return ""
    name = versions[0].about.name
    champion = registry.alias_of(name, CHAMPION, settings.tracking_uri)
    label = f"{name}/{champion}" if champion else ""
    if label and label not in {one.label for one in versions}:
        raise InputError(f"--models: the champion of {name}, version {champion}, must be among them: models:/{label}")
    return label


def _check_champion(settings: Compare, found: list[Opened], champion: str) -> None:
    """Raises GRU4RecError where the champion is no longer the version, by its label, that the others were tested
    against: another job, or a person who rolled back, has moved the alias meanwhile.
    """
    name = next((one.about.name for one in found if one.about.kind == "version"), "")
    version = registry.alias_of(name, CHAMPION, settings.tracking_uri) if name else ""
    now = f"{name}/{version}" if version else ""
    if now != champion:
        raise GRU4RecError(
            f"the champion of {name} was {champion or 'none'} when this comparison began and is {now or 'none'} now: "
            f"nothing was promoted; run again, with {f'models:/{now}' if now else 'the same versions'} among --models"
        )


def _decision(
    settings: Compare, prepared: Prepared, found: list[Opened], champion: str, totals: dict[str, Total]
) -> Decision | None:
    """The decision between registered versions; None where no version was compared."""
    versions = [one for one in found if one.about.kind == "version"]
    if not versions:
        return None
    asked = []
    for one in versions:
        total = totals[one.label]
        coverage = total.of_lists()[f"coverage_at_{CUTOFF}"]
        unknown = total.unknown / total.predictions
        about = one.about
        value = total.metric(settings.metric)
        asked.append(Version(one.label, value, about.fingerprint, unknown, coverage, about.latency_ms, about.size_mb))
    gains = {one.label: totals[one.label].sums[:, totals[one.label].column(settings.metric)] for one in versions}
    counts = totals[versions[0].label].counts
    return decision.decide(asked, champion, gains, counts, prepared.fingerprint, settings)


def _details(one: Opened, total: Total) -> dict[str, Any]:
    measured = {"latency_ms": one.about.latency_ms, "model_mb": one.about.size_mb}
    return {
        "kind": one.about.kind,
        "unknown_share": total.unknown / total.predictions,
        "unstarted": total.unstarted,
        **{name: value for name, value in measured.items() if not np.isnan(value)},
    }


def table(result: dict[str, Any]) -> Table:
    """Models by row, metrics with their intervals by column, the best by the metric that decides first."""
    title = f"{result['split']} split, {result['predictions']:,} predictions in {result['sessions']:,} sessions, "
    found = Table(title=title + f"{result['ties']} ties, 95 % intervals", title_justify="left")
    found.add_column("", no_wrap=True)
    decides = result["metric"]
    columns = [*_SHOWN, *([decides] if decides not in _SHOWN else [])]
    for key in columns:
        found.add_column(shown_metric(key), justify="right", no_wrap=True)
    for heading in ("coverage", "unknown", "ms", "MB"):
        found.add_column(heading, justify="right")
    metrics = result["metrics"]
    for label in sorted(metrics, key=lambda label: -metrics[label][decides]):
        cells = []
        for key in columns:
            low, high = result["intervals"][label][key]
            cells.append(f"{metrics[label][key]:.4f}\n{low:.4f}–{high:.4f}")
        about = result["details"][label]
        shown = f"{label} (champion)" if label == result["champion"] else label
        coverage = f"{metrics[label][f'coverage_at_{CUTOFF}']:.1%}"
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


def _record(settings: Compare, experiment: str, prepared: Prepared, found: list[Opened], result: dict[str, Any]) -> str:
    """An MLflow run with the figures, of each version also at its logged model, and the report; its id."""
    shown = {"models": [storage.shown(uri) for uri in settings.models], "baselines": list(settings.baselines)}
    parameters = {**shown, **{name: getattr(settings, name) for name in ("split", "ties", "metric", "margin", "level")}}
    run_id = runs.start_run(experiment, parameters, prepared.folder, prepared.fingerprint, kind="compare")
    with runs.ending(run_id):
        for one in found:
            figures = result["metrics"][one.label] | {
                name: value for name, value in result["details"][one.label].items() if isinstance(value, int | float)
            }
            runs.log_metrics(run_id, {f"{_key(one.label)}/{name}": value for name, value in figures.items()})
            if one.about.model_id:
                mine = {f"compare/{name}": value for name, value in figures.items()}
                data = prepared.folder, prepared.fingerprint
                runs.log_metrics(run_id, mine, model_id=one.about.model_id, data=data)
        runs.log_json(run_id, result, "comparison.json")
        if settings.report:
            runs.log_file(run_id, settings.report)
    return run_id


def _key(label: str) -> str:
    """The label in letters that MLflow takes for a metric's name."""
    return "".join(c if c.isalnum() or c in "_-. /" else "_" for c in label)


def _promote(settings: Compare, found: list[Opened], decided: Decision, champion: str, result: dict[str, Any]) -> None:
    by_label = {one.label: one for one in found}
    winner = by_label[decided.winner]
    _check_champion(settings, found, champion)  # once more: recording takes its time
    _note(winner, "promoted to champion", decided, result)
    if champion:  # first, so that whoever is killed in between leaves a champion to be replaced and no wrong way back
        registry.set_alias(winner.about.name, by_label[champion].about.version, PREVIOUS)
    registry.set_alias(winner.about.name, winner.about.version, CHAMPION)
    if champion:
        _note(by_label[champion], f"replaced as champion by version {winner.about.version}", decided, result)
    if registry.alias_of(winner.about.name, CHALLENGER, settings.tracking_uri) == winner.about.version:
        registry.remove_alias(winner.about.name, CHALLENGER)


def _challenge(
    settings: Compare, found: list[Opened], decided: Decision, champion: str, result: dict[str, Any]
) -> None:
    """The version that is best by the metric and not the champion becomes the challenger, and is told why no more."""
    versions = [one for one in found if one.about.kind == "version" and one.label != champion]
    metrics = result["metrics"]
    if versions:
        best = max(versions, key=lambda one: metrics[one.label][settings.metric])
        registry.set_alias(best.about.name, best.about.version, CHALLENGER)
        _note(best, "not promoted", decided, result)


def _note(one: Opened, what: str, decided: Decision, result: dict[str, Any]) -> None:
    reasons = "; ".join(decided.reasons)
    tags = {
        "compare.decision": what,
        "compare.reasons": reasons,
        "compare.run_id": result["run_id"],
        "compare.data_fingerprint": result["data_fingerprint"],
        **{f"compare.{name}": f"{value:.6f}" for name, value in result["metrics"][one.label].items()},
    }
    registry.note(one.about.name, one.about.version, tags, f"{what}: {reasons} (run {result['run_id']})")
