"""The pages of an evaluation and of a comparison: metrics with intervals, differences, and where models differ."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gru4rec.evaluation import per_session
from gru4rec.evaluation.measure import CURVE
from gru4rec.evaluation.relevance import METRICS, SHOWN
from gru4rec.evaluation.report import shown_metric
from gru4rec.evaluation.tally import LIST, Breakdown, Total
from gru4rec.page import NUMBER, RAW, TEXT, Row, escaped, figure, svg, table
from gru4rec.page import page as whole_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CUTOFF = 20


def comparison(result: Mapping[str, Any], totals: Mapping[str, Total], breakdowns: Sequence[Breakdown]) -> str:
    """The page of a comparison, HTML; `result` as the compare job gives it, `totals` by label."""
    parts = [_heading("Comparison", result), _decision(result)]
    tests = [_tests(result)] if result["tests"] else []
    return whole_page("Comparison", [*parts, *_body(result, totals, breakdowns, tests)])


def evaluation(result: Mapping[str, Any], totals: Mapping[str, Total], breakdowns: Sequence[Breakdown]) -> str:
    """The page of an evaluation, HTML; `result` as the evaluate job gives it, `totals` by label."""
    return whole_page("Evaluation", [_heading("Evaluation", result), *_body(result, totals, breakdowns, [])])


def _heading(title: str, result: Mapping[str, Any]) -> str:
    what = (
        f"{result['predictions']:,} predictions in {result['sessions']:,} sessions of the {result['split']} split, "
        f"{result['ties']} ties. Fingerprint of the data: {result['data_fingerprint']}"
    )
    return f'<h1>{title}</h1>\n<p class="note">{escaped(what)}</p>'


def _body(
    result: Mapping[str, Any], totals: Mapping[str, Total], breakdowns: Sequence[Breakdown], tests: list[str]
) -> list[str]:
    decides = result.get("metric", f"mrr_at_{CUTOFF}")
    labels = sorted(totals, key=lambda label: -totals[label].metric(decides))
    parts = [_metrics(result, labels), figure("Metrics", _intervals(result, labels)), *tests]
    parts += [_lists(totals, labels), figure("Recall by cut-off", _recall(totals, labels))]
    first = 0
    for breakdown in breakdowns:
        parts.append(_breakdown(breakdown, first, totals, labels))
        first += len(breakdown.ranges)
    return parts


def _decision(result: Mapping[str, Any]) -> str:
    if not result["reasons"]:
        return ""
    word = "Promoted" if result["promoted"] else "Not promoted"
    return f"<p>{word}: {escaped('; '.join(result['reasons']))}.</p>"


def _metrics(result: Mapping[str, Any], labels: list[str]) -> str:
    shown = per_session.METRICS if result.get("relevant", "next") == "next" else METRICS
    rows: list[Row] = []
    for label in labels:
        cells = []
        for name in shown:
            low, high = result["intervals"][label][f"{name}_at_{CUTOFF}"]
            cells.append(f"{result['metrics'][label][f'{name}_at_{CUTOFF}']:.4f} ({low:.4f} to {high:.4f})")
        champion = label == result.get("champion")
        rows.append([f"{label} (champion)" if champion else label, *cells, result["unknown"][label]])
    columns = {"": RAW, **{f"{SHOWN[name]}@{CUTOFF}": NUMBER for name in shown}, "unknown": NUMBER}
    note = (
        "In brackets: 95 % intervals, drawn over sessions. Unknown: relevant items that the model does not know; they "
        "count against it."
    )
    return f'{table("metrics", columns, rows)}\n<p class="note">{note}</p>'


def _lists(totals: Mapping[str, Total], labels: list[str]) -> str:
    rows: list[Row] = []
    for label in labels:
        found = totals[label].of_lists()
        rows.append(
            [
                label,
                f"{found[f'coverage_at_{LIST}']:.2%}",
                f"{found[f'popularity_at_{LIST}']:.4f}",
                f"{found[f'novelty_at_{LIST}']:.2f}",
            ]
        )
    columns = {"": RAW, "coverage": NUMBER, "popularity": NUMBER, "novelty (bits)": NUMBER}
    note = (
        f"Lists of {LIST} after the last click of each session. Coverage: share of the catalogue that some list shows. "
        "Popularity: mean training clicks of what is shown, over those of the most clicked item. Novelty: mean of "
        "−log2 of an item's share of the training clicks."
    )
    return f'<h2>What the lists show</h2>\n{table("lists", columns, rows)}\n<p class="note">{note}</p>'


def _tests(result: Mapping[str, Any]) -> str:
    rows: list[Row] = [
        [label, f"{test['difference']:+.4f}", f"{test['low']:+.4f} to {test['high']:+.4f}", f"{test['p']:.3g}"]
        for label, test in result["tests"].items()
    ]
    columns = {"": RAW, "difference": NUMBER, "95 % interval": NUMBER, "p (corrected)": NUMBER}
    note = (
        f"Differences in {shown_metric(result['metric'])} to the champion, less the margin; one-sided randomisation "
        "test over sessions, Holm's correction."
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


def _recall(totals: Mapping[str, Total], labels: list[str]) -> str:
    def draw(drawn: "Figure") -> None:
        axes = drawn.subplots()
        for label in labels:
            axes.plot(CURVE, [totals[label].metric(f"recall_at_{k}") for k in CURVE], ".-", label=_short(label))
        axes.set_xscale("log")
        axes.set_xticks(CURVE, [str(k) for k in CURVE])
        axes.minorticks_off()
        axes.set_xlabel("cut-off")
        axes.set_ylabel("Recall")
        axes.legend()

    return svg("recall", "Recall of each model by cut-off", 3.2, draw)


def _short(label: str) -> str:
    """A label for a figure, which takes no markup: `$` would begin a formula."""
    return (label if len(label) <= 30 else "…" + label[-29:]).replace("$", r"\$")


def _breakdown(breakdown: Breakdown, first: int, totals: Mapping[str, Total], labels: list[str]) -> str:
    recall, mrr = (
        {label: totals[label].classes(f"{name}_at_{CUTOFF}") for label in labels} for name in ("recall", "mrr")
    )
    counts = totals[labels[0]].class_counts
    rows: list[Row] = []
    for place, shown in enumerate(breakdown.labels, start=first):
        if counts[place]:
            cells = [f"{recall[label][place]:.3f} / {mrr[label][place]:.3f}" for label in labels]
            rows.append([shown, int(counts[place]), *cells])
    columns = {breakdown.unit: TEXT, "predictions": NUMBER, **{_short(label): NUMBER for label in labels}}
    note = f'<p class="note">Recall@{CUTOFF} / MRR@{CUTOFF}</p>'
    return f"<h2>{breakdown.heading}</h2>\n{note}\n{table(breakdown.name, columns, rows)}"
