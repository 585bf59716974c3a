"""The page of a comparison: metrics with intervals, differences, and where models differ."""

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gru4rec.evaluation import per_session
from gru4rec.evaluation.histories import places
from gru4rec.page import NUMBER, RAW, TEXT, Row, escaped, figure, svg, table
from gru4rec.page import page as whole_page
from gru4rec.sessions.prepared import Prepared, Sessions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CUTOFF = 20
_CURVE = (1, 2, 3, 5, 10, 20, 50, 100)
_LENGTHS = ((2, 2), (3, 3), (4, 5), (6, 10), (11, 20), (21, None))
_POSITIONS = ((1, 1), (2, 2), (3, 4), (5, 9), (10, None))


def page(result: Mapping[str, Any], ranks: Mapping[str, np.ndarray], sessions: Sessions, prepared: Prepared) -> str:
    """The page as HTML; `ranks` [T] by label, `result` as the compare job gives it."""
    labels = sorted(ranks, key=lambda label: -result["metrics"][label][f"mrr_at_{CUTOFF}"])
    what = (
        f"{result['predictions']:,} predictions in {result['sessions']:,} sessions of the {result['split']} split, "
        f"{result['ties']} ties. Fingerprint of the data: {result['data_fingerprint']}"
    )
    parts = [f'<h1>Comparison</h1>\n<p class="note">{escaped(what)}</p>', _decision(result)]
    parts += [_metrics(result, labels), figure("Metrics", _intervals(result, labels))]
    if result["tests"]:
        parts.append(_tests(result))
    parts.append(figure("Recall by cut-off", _recall(ranks, labels)))
    for heading, name, classes in _classes(sessions, prepared):
        parts.append(_breakdown(heading, name, classes, ranks, labels))
    return whole_page("Comparison", parts)


def _decision(result: Mapping[str, Any]) -> str:
    if not result["reasons"]:
        return ""
    word = "Promoted" if result["promoted"] else "Not promoted"
    return f"<p>{word}: {escaped('; '.join(result['reasons']))}.</p>"


def _metrics(result: Mapping[str, Any], labels: list[str]) -> str:
    rows: list[Row] = []
    for label in labels:
        cells = []
        for name in per_session.METRICS:
            low, high = result["intervals"][label][f"{name}_at_{CUTOFF}"]
            cells.append(f"{result['metrics'][label][f'{name}_at_{CUTOFF}']:.4f} ({low:.4f} to {high:.4f})")
        about = result["details"][label]
        coverage = f"{about['coverage_at_20']:.2%}" if "coverage_at_20" in about else ""
        shown = f"{label} (champion)" if label == result["champion"] else label
        rows.append([shown, *cells, coverage, f"{about['unknown_share']:.2%}"])
    headings = {f"{name}@{CUTOFF}": NUMBER for name in ("Recall", "MRR", "NDCG")}
    columns = {"": RAW, **headings, "coverage": NUMBER, "unknown": NUMBER}
    note = (
        "In brackets: 95 % intervals, drawn over sessions. Coverage: items that some list of 20 shows, of the "
        "catalogue. Unknown: next clicks on items that the model does not know; they count against it."
    )
    return f'{table("metrics", columns, rows)}\n<p class="note">{note}</p>'


def _tests(result: Mapping[str, Any]) -> str:
    rows: list[Row] = [
        [label, f"{test['difference']:+.4f}", f"{test['low']:+.4f} to {test['high']:+.4f}", f"{test['p']:.3g}"]
        for label, test in result["tests"].items()
    ]
    columns = {"": RAW, "difference": NUMBER, "95 % interval": NUMBER, "p (corrected)": NUMBER}
    note = (
        "Differences to the champion, less the margin; one-sided randomisation test over sessions, Holm's correction."
    )
    return f'<h2>Against the champion</h2>\n{table("tests", columns, rows)}\n<p class="note">{note}</p>'


def _intervals(result: Mapping[str, Any], labels: list[str]) -> str:
    def draw(drawn: "Figure") -> None:
        panels = drawn.subplots(1, 2, sharey=True)
        places = np.arange(len(labels))[::-1]
        for axes, name in zip(panels, ("recall", "mrr"), strict=True):
            key = f"{name}_at_{CUTOFF}"
            values = np.array([result["metrics"][label][key] for label in labels])
            low, high = np.array([result["intervals"][label][key] for label in labels]).T
            axes.errorbar(values, places, xerr=[values - low, high - values], fmt="o", markersize=4, capsize=3)
            axes.set_title(f"{'Recall' if name == 'recall' else 'MRR'}@{CUTOFF}")
        panels[0].set_yticks(places, [_short(label) for label in labels])

    return svg("intervals", "Recall and MRR of each model with 95 % intervals", 1.2 + 0.3 * len(labels), draw)


def _recall(ranks: Mapping[str, np.ndarray], labels: list[str]) -> str:
    def draw(drawn: "Figure") -> None:
        axes = drawn.subplots()
        for label in labels:
            axes.plot(_CURVE, [(ranks[label] <= k).mean() for k in _CURVE], ".-", label=_short(label))
        axes.set_xscale("log")
        axes.set_xticks(_CURVE, [str(k) for k in _CURVE])
        axes.minorticks_off()
        axes.set_xlabel("cut-off")
        axes.set_ylabel("Recall")
        axes.legend()

    return svg("recall", "Recall of each model by cut-off", 3.2, draw)


def _short(label: str) -> str:
    """A label for a figure, which takes no markup: `$` would begin a formula."""
    return (label if len(label) <= 30 else "…" + label[-29:]).replace("$", r"\$")


def _classes(sessions: Sessions, prepared: Prepared) -> Iterator[tuple[str, str, list[tuple[str, np.ndarray]]]]:
    """(heading, name, [(class, which predictions [T] bool)]) of each breakdown."""
    at = places(sessions)
    session = np.searchsorted(sessions.offsets, at, side="right") - 1
    lengths = sessions.lengths[session]
    yield "By session length", "lengths", _ranges(lengths, _LENGTHS, "clicks")
    yield (
        "By position in the session",
        "positions",
        _ranges(at - sessions.offsets[session] + 1, _POSITIONS, "clicks seen"),
    )
    support = prepared.support[sessions.items[at + 1]]
    edges = [*np.unique(np.quantile(support, [0, 0.1, 0.25, 0.5, 0.75]).astype(np.int64)).tolist(), None]
    classes = [(int(low), None if high is None else int(high) - 1) for low, high in itertools.pairwise(edges)]
    yield "By popularity of the next item", "popularity", _ranges(support, classes, "training clicks")


def _ranges(values: np.ndarray, classes: Any, unit: str) -> list[tuple[str, np.ndarray]]:
    found = []
    for low, high in classes:
        inside = (values >= low) & (values <= (np.inf if high is None else high))
        name = f"{low} or more" if high is None else str(low) if high == low else f"{low} to {high}"
        found.append((f"{name} {unit}", inside))
    return found


def _breakdown(
    heading: str, name: str, classes: list[tuple[str, np.ndarray]], ranks: Mapping[str, np.ndarray], labels: list[str]
) -> str:
    rows: list[Row] = []
    for shown, inside in classes:
        if not inside.any():
            continue
        cells = []
        for label in labels:
            mine = ranks[label][inside]
            reciprocal = per_session.gains(mine, "mrr", CUTOFF).mean()
            cells.append(f"{(mine <= CUTOFF).mean():.3f} / {reciprocal:.3f}")
        rows.append([shown, int(inside.sum()), *cells])
    columns = {"": TEXT, "predictions": NUMBER, **dict.fromkeys(labels, NUMBER)}
    return f'<h2>{heading}</h2>\n<p class="note">Recall@{CUTOFF} / MRR@{CUTOFF}</p>\n{table(name, columns, rows)}'
