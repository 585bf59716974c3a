"""The model card: what a model was trained on and with, how good it is, what it is for and what it cannot do.

It is written from what is known of data, settings and results alone: equal facts give equal bytes, whenever, wherever
and in how many attempts the model was trained. Names and ids may hold anything; they cannot break its Markdown.
"""

import datetime
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MODEL = "GRU4Rec"  # its name among the baselines
_METRICS = {"recall": "Recall", "mrr": "MRR", "ndcg": "NDCG"}
Span = tuple[datetime.datetime, datetime.datetime]


@dataclass(frozen=True)
class Facts:
    """What is known of a model."""

    model_name: str  # in the registry; "" for none
    data: str  # name of the prepared folder
    summary: Mapping[str, Any]  # its prepare.json
    spans: Mapping[str, Span]  # first and last click by split, where known
    items: int  # of the catalogue
    hyperparameters: Mapping[str, Any]
    training: Mapping[str, Any]  # other settings, and how training went
    metrics: Mapping[str, Mapping[str, float]]  # on the test split, by model, MODEL first
    intervals: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)  # [low, high] of 95 %
    predictions: int = 0
    sessions: int = 0  # that they are in
    example: Sequence[Any] = ()  # ids of a few items


def text(facts: Facts) -> str:
    """The card, in Markdown."""
    name = _escaped(facts.model_name or "model")
    parts = [
        f"# {MODEL} {name}",
        "A recurrent network over the clicks of one session, which scores every item of its catalogue as the next "
        "click (Hidasi et al., ICLR 2016 and CIKM 2018).",
        "## Intended use",
        "Lists of the most likely next items for anonymous visitors of the site whose log it was trained on: for the "
        "session at hand while it lasts, or for all sessions at once. It is not meant for decisions about persons, nor "
        "for another site, nor for a catalogue that has changed much since.",
        "## Data",
        *_data(facts),
        "## Metrics",
        *_metrics(facts),
        "## Limits",
        _limits(facts),
        "## Settings",
        _table(["setting", "value"], [[_escaped(key), _value(value)] for key, value in facts.hyperparameters.items()]),
        _table(["training", "value"], [[_escaped(key), _value(value)] for key, value in facts.training.items()]),
        "## How to use it",
        *_usage(facts),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def summary(facts: Facts) -> str:
    """The card in a paragraph, in Markdown."""
    train = facts.summary["splits"]["train"]
    until = f", until {_day(facts.spans['train'][1])}" if "train" in facts.spans else ""
    found = f"Trained on {_escaped(facts.data)}: {train['sessions']:,} sessions{until}; {facts.items:,} items."
    if facts.predictions:
        shown = [
            f"{metric_name(key)} {figure(facts, MODEL, key)}"
            for key in ("recall_at_20", "mrr_at_20")
            if key in facts.metrics[MODEL]
        ]
        found += f" Test split, {facts.predictions:,} predictions: {', '.join(shown)}."
    return found + " More in README.md beside the weights."


def _data(facts: Facts) -> list[str]:
    rows = []
    for split, counts in facts.summary["splits"].items():
        if counts.get("sessions"):
            days = [_day(moment) for moment in facts.spans[split]] if split in facts.spans else ["", ""]
            rows.append([split, f"{counts['sessions']:,}", f"{counts['clicks']:,}", *days])
    known = [f"Prepared data {_escaped(facts.data)}, {facts.items:,} items."]
    if "rows_in" in facts.summary:
        known.append(f"Of {facts.summary['rows_in']:,} rows, {facts.summary['rejected']:,} could not be read.")
    known.append(f"Fingerprint: {_escaped(facts.summary['fingerprint'])}")
    return [" ".join(known), _table(["split", "sessions", "clicks", "first click", "last click"], rows)]


def _metrics(facts: Facts) -> list[str]:
    if not facts.predictions:
        return ["The test split has nothing to predict: nothing was measured."]
    about = (
        f"Test split: {facts.predictions:,} predictions in {facts.sessions:,} sessions, each over the whole catalogue; "
        "items that score the same as the one that was clicked count against the model."
    )
    rows = [[metric_name(key), *(figure(facts, model, key) for model in facts.metrics)] for key in metric_keys(facts)]
    return [about, _table(["", *map(_escaped, facts.metrics)], rows), _about_intervals(facts)]


def _about_intervals(facts: Facts) -> str:
    if MODEL in facts.intervals:
        return (
            "In brackets: intervals of 95 %, drawn over sessions (bootstrap). They tell how far other sessions of the "
            "same days would move the figures, not what another seed or another month would do."
        )
    return f"No intervals for {MODEL}: ranking so many predictions once more would have taken too long."


def _limits(facts: Facts) -> str:
    until = f" until {_day(facts.spans['train'][1])}" if "train" in facts.spans else ""
    return "\n".join(
        f"* {line}"
        for line in (
            f"It recommends nothing but the {facts.items:,} items that it was trained on; clicks on others are left "
            "out of the session.",
            "A session without any known item gets the most popular items of the training data, and is marked as "
            "`fallback`.",
            f"It was trained on clicks{until}: what has become popular or has gone since is not known to it. Train "
            "again, or go on from it (`--warm-start`).",
            "It sees which items were clicked in which order: no times, no prices, no texts, no pictures, no users.",
            "It learns what was clicked, and so also what was shown: popular items come up more than others.",
            "The figures are of clicks in a log. What a list does to visitors, only a trial with them tells.",
        )
    )


def _usage(facts: Facts) -> list[str]:
    uri = f"models:/{_flat(facts.model_name)}/VERSION"
    clicked = json.dumps(list(facts.example))
    python = [
        "import mlflow, pandas",
        "",
        f"model = mlflow.pyfunc.load_model({json.dumps(uri)})",
        f'sessions = pandas.DataFrame({{"session_id": ["a"], "items": [{clicked}]}})',
        'model.predict(sessions, params={"k": 20, "exclude_seen": True})',
    ]
    request = json.dumps({"dataframe_records": [{"session_id": "a", "items": list(facts.example)}]})
    shell = [
        f"mlflow models serve -m {shlex.quote(uri)} -h 127.0.0.1 -p 5001 --env-manager local",
        f"curl -H 'Content-Type: application/json' -d {shlex.quote(request)} http://127.0.0.1:5001/invocations",
    ]
    score = "python jobs/score.py --model {} --sessions SESSIONS --out RECOMMENDATIONS"
    if not facts.model_name:
        return ["This folder is the model:", _code("bash", [score.format("FOLDER")])]
    return [
        "`VERSION` is the number that the registry gave it. In Python, on a server, and for many sessions at once:",
        _code("python", python),
        _code("bash", [*shell, score.format(shlex.quote(uri))]),
    ]


def metric_keys(facts: Facts) -> list[str]:
    """`recall_at_5`, `recall_at_20`, `mrr_at_5`, …: in the order of the card."""
    named = [key.partition("_at_") for key in facts.metrics[MODEL]]
    named.sort(key=lambda parts: (list(_METRICS).index(parts[0]), int(parts[2])))
    return ["".join(parts) for parts in named]


def figure(facts: Facts, model: str, key: str) -> str:
    """`0.7000 (0.6900–0.7100)`: a metric of a model with its interval, where there is one."""
    value, bounds = facts.metrics[model].get(key), facts.intervals.get(model, {}).get(key)
    interval = f" ({bounds[0]:.4f}–{bounds[1]:.4f})" if bounds else ""
    return f"{value:.4f}{interval}" if value is not None else ""


def metric_name(key: str) -> str:
    """`Recall@20` for `recall_at_20`."""
    name, _, cutoff = key.partition("_at_")
    return f"{_METRICS[name]}@{cutoff}"


def _day(moment: datetime.datetime) -> str:
    return moment.date().isoformat()


def _value(value: Any) -> str:
    shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return _escaped(shown) if shown else "none"


def _table(heading: list[str], rows: list[list[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) if rows else ""


def _code(language: str, lines: list[str]) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _flat(given: str) -> str:
    """On one line, and encodable: what ends a line, and what only controls a terminal, becomes a blank."""
    given = given.encode(errors="replace").decode()
    return re.sub(r"[\x00-\x20\x7f-\x9f\u2028\u2029]+", " ", given).strip()


def _escaped(given: str) -> str:
    """As Markdown that shows these letters and does nothing else, on one line."""
    return re.sub(r"([\\`*_\[\]<>#|~&$])", r"\\\1", _flat(given))
