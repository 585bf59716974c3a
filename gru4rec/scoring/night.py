"""The MLflow run that records a result: its counts, its gates, and how the last nights have drifted.

Figures have the same names every night, so that MLflow lines the nights up. A tracking server that cannot be reached
takes no result away: that is said, and the next run of the same command records what is missing.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gru4rec import page, storage
from gru4rec.config import Score
from gru4rec.errors import masked
from gru4rec.scoring import manifest
from gru4rec.tracking import runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NIGHTS = 30  # on the page
MARK = "run.json"  # in a result's folder: it was recorded
PAGE = "nights.html"
_NO_PARAMETERS = ("verbose", "debug", "tracking_uri", "experiment")


def record(settings: Score, content: Mapping[str, Any], measured: Mapping[str, float], failed: str = "") -> str:
    """Record a published result, or with `failed`, why it was not; the run's id, "" where it cannot be recorded.

    `content` is the manifest, `measured` what only this run knows, such as its throughput.
    """
    if not settings.experiment:
        return ""
    try:
        return _record(settings, content, measured, failed)
    except Exception as error:  # MLflow lets those of the database and of the network through
        said = masked(" ".join(str(error).split()))
        print(f"WARNING: the result is not recorded in MLflow: {said}", file=sys.stderr, flush=True)
        return ""


def recorded(settings: Score, content: Mapping[str, Any]) -> bool:
    """Whether a result that counts was recorded, as far as its folder says."""
    place = manifest.place(settings.out, settings.date)
    return not settings.experiment or storage.exists(storage.join(place, content["result"], MARK))


def metrics(content: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a result by their names in MLflow."""
    totals, sessions = content["totals"], content["totals"]["sessions"]
    found = {name: float(totals[name]) for name in ("sessions", "rejected", "items_shown", "unknown_clicks")}
    found["seconds"] = content["seconds"]
    if sessions:
        found["fallback_share"] = totals["fallback"] / sessions
        found["mean_list_length"] = totals["listed"] / sessions
    for check in content["checks"]:
        if check["figure"] is not None:
            found[f"gate_{check['gate']}"] = float(check["figure"])
    found["gates_failed"] = float(sum(not check["passed"] for check in content["checks"]))
    return found


def _record(settings: Score, content: Mapping[str, Any], measured: Mapping[str, float], failed: str) -> str:
    experiment = runs.connect(settings.tracking_uri, settings.experiment)
    place = manifest.place(settings.out, settings.date)
    tags = {
        "date": settings.date,
        "result": content["result"],
        "score_key": content["key"],
        "model_version": content["model"]["version"] or "",
        "gates_failed": " ".join(check["gate"] for check in content["checks"] if not check["passed"]),
        "error": failed[:5000],
    }
    given = {name: value for name, value in dataclasses.asdict(settings).items() if name not in _NO_PARAMETERS}
    shown = {name: storage.shown(value) if isinstance(value, str) else value for name, value in given.items()}
    run_id = runs.start_run(
        experiment,
        {**shown, "model": content["model"]["uri"]},
        settings.sessions,
        content["input"]["fingerprint"],
        kind="score",
        tags=tags,
        name=f"score {settings.date}".strip(),
    )
    with runs.ending(run_id, "FAILED" if failed else "FINISHED"):
        runs.log_metrics(run_id, {**metrics(content), **measured})
        runs.log_json(run_id, content, manifest.MANIFEST)
        if settings.date:
            before = manifest.nights(settings.out, settings.date, NIGHTS - 1)
            runs.log_text(run_id, drift([*reversed(before), content]), PAGE)
    if not failed:
        storage.write_json(storage.join(place, content["result"], MARK), {"run_id": run_id})
    return run_id


def drift(nights: Sequence[Mapping[str, Any]]) -> str:
    """A page on results of several dates, oldest first: figures over the nights, and a table."""
    dates = [night["date"] for night in nights]
    found = [metrics(night) for night in nights]

    def over(name: str) -> list[float]:
        return [night.get(name, float("nan")) for night in found]

    figures = [
        ("Sessions", "sessions", [("all", over("sessions")), ("rejected", over("rejected"))]),
        ("Share of fallback lists", "fallback", [("fallback", over("fallback_share"))]),
        ("Items on any list", "coverage", [("items", over("items_shown"))]),
        (
            "What the lists show, beside the night before",
            "overlap",
            [("overlap", over("gate_overlap_with_yesterday")), ("coverage", over("gate_coverage_to_yesterday"))],
        ),
    ]
    drawn = [
        page.figure(heading, page.svg(name, heading, 2.2, _lines(dates, lines))) for heading, name, lines in figures
    ]
    columns = {"date": page.TEXT, "result": page.TEXT, "sessions": page.NUMBER, "rejected": page.NUMBER}
    columns |= {"fallback lists": page.NUMBER, "items shown": page.NUMBER, "overlap": page.NUMBER, "gates": page.TEXT}
    rows = [_row(night, figure) for night, figure in zip(nights, found, strict=True)]
    title = "Scoring, night by night"
    return page.page(title, [f"<h1>{title}</h1>", page.table("nights", columns, rows), *drawn])


def _row(night: Mapping[str, Any], figures: Mapping[str, float]) -> list[Any]:
    totals, overlap = night["totals"], figures.get("gate_overlap_with_yesterday")
    failed = [check["gate"] for check in night["checks"] if not check["passed"]]
    return [
        night["date"],
        night["result"],
        totals["sessions"],
        totals["rejected"],
        page.share(totals["fallback"], totals["sessions"]),
        totals["items_shown"],
        "–" if overlap is None else f"{overlap:.3f}",
        "failed: " + " ".join(failed) if failed else "passed",
    ]


def _lines(dates: Sequence[str], lines: Sequence[tuple[str, Sequence[float]]]) -> Callable[["Figure"], None]:
    def draw(figure: "Figure") -> None:
        axes: Axes = figure.subplots()
        for name, values in lines:
            axes.plot(range(len(dates)), values, marker="o", markersize=3, label=name)
        axes.set_ylim(bottom=0)
        every = -(-len(dates) // 8)
        axes.set_xticks(range(0, len(dates), every), dates[::every])
        if len(lines) > 1:
            axes.legend()

    return draw
