"""The page of a search: its best points, how it came to them, and what mattered."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gru4rec.page import NUMBER, RAW, TEXT, Row, escaped, figure, svg, table
from gru4rec.page import page as whole_page
from gru4rec.tuning.algorithms import study_of
from gru4rec.tuning.space import Dimension, Space
from gru4rec.tuning.trials import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 15  # trials in the table
_LEAST = 10  # trials with a value, below which importances say nothing


def page(result: Mapping[str, Any], space: Space, trials: Mapping[int, Trial]) -> str:
    """The page as HTML; `result` as the job gives it."""
    best = result["best"]
    about = (
        f"{result['trials']:,} trials, {result['stopped']:,} of them stopped early, {result['failed']:,} failed; "
        f"{result['epochs']:,} epochs in all. Best: trial {best['trial']}, {best['metric']} {best['value']:.4f} on the "
        f"validation split after {best['settings']['epochs']} epochs. Fingerprint of the data: "
        f"{result['data_fingerprint']}"
    )
    parts = [f'<h1>Search {escaped(result["search"])}</h1>\n<p class="note">{escaped(about)}</p>', _tested(result)]
    valued = [one for one in trials.values() if one.value is not None]
    parts += [figure("Best so far", _so_far(valued)), _table(valued, space)]
    parts.append(figure("Trials, a line each; the darker the better", _parallel(valued, space)))
    weights = importances(space, trials)
    if weights:
        parts.append(figure("How much each parameter mattered", _bars(weights)))
    failed = [one for one in trials.values() if one.status == "failed"]
    if failed:
        rows: list[Row] = [[one.number, str(dict(one.values)), one.why] for one in failed]
        parts.append("<h2>Failed trials</h2>\n" + table("failed", {"trial": NUMBER, "point": RAW, "why": RAW}, rows))
    return whole_page("Search", parts)


def importances(space: Space, trials: Mapping[int, Trial]) -> dict[str, float]:
    """The share of each parameter in what made trials differ, highest first (fANOVA: Hutter et al., ICML 2014).

    {} where there are too few trials to say, or too few that differ.
    """
    ended = {number: one for number, one in trials.items() if one.ended}
    values = [one.value for one in ended.values() if one.value is not None]
    if len(values) < _LEAST or len(set(values)) < 2:
        return {}
    import optuna

    optuna.logging.set_verbosity(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        try:
            return dict(optuna.importance.get_param_importances(study_of(space, ended), evaluator=evaluator))
        except RuntimeError:  # the trials that it draws, or trees that it grows, do not differ
            return {}


def _tested(result: Mapping[str, Any]) -> str:
    tested = result["test"]
    rows: list[Row] = []
    for label, metrics in tested["metrics"].items():
        cells = []
        for key, value in metrics.items():
            low, high = tested["intervals"][label][key]
            cells.append(f"{value:.4f} ({low:.4f} to {high:.4f})")
        rows.append([label, *cells])
    mean, deviation = tested["mean"], tested["deviation"]
    rows.append(["mean of seeds", *(f"{mean[key]:.4f} ± {deviation[key]:.4f}" for key in mean)])
    columns = {"": TEXT, "Recall@20": NUMBER, "MRR@20": NUMBER, "NDCG@20": NUMBER}
    note = (
        f"The best point, trained on training and validation split; {tested['predictions']:,} predictions, ranked "
        "once, after the search. In brackets: 95 % intervals, drawn over sessions; ±: standard deviation over seeds."
    )
    return f'<h2>Test split</h2>\n{table("test", columns, rows)}\n<p class="note">{note}</p>'


def _table(valued: Sequence[Trial], space: Space) -> str:
    names = [dimension.name for dimension in space.dimensions]
    rows: list[Row] = []
    for one in sorted(valued, key=lambda one: (-(one.value or 0), one.number))[:_SHOWN]:
        values = [_plain(one.values.get(name, "")) for name in names]
        rows.append([one.number, f"{one.value:.4f}", f"{len(one.curve)} ({one.status})", *values])
    columns = {"trial": NUMBER, "value": NUMBER, "epochs": TEXT, **dict.fromkeys(names, NUMBER)}
    return f"<h2>The best trials</h2>\n{table('trials', columns, rows)}"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _so_far(valued: Sequence[Trial]) -> str:
    def draw(drawn: "Figure") -> None:
        axes = drawn.subplots()
        numbers = [one.number for one in valued]
        values = np.array([one.value for one in valued], float)
        axes.plot(numbers, values, ".", color="#999999", label="trial")
        axes.step(numbers, np.maximum.accumulate(values), where="post", color="#0072b2", label="best so far")
        axes.set_xlabel("trial")
        axes.set_ylabel("validation")
        low, high = np.quantile(values, [0.1, 1])
        axes.set_ylim(low - 0.1 * (high - low + 1e-6), high + 0.1 * (high - low + 1e-6))
        axes.legend()

    return svg("so-far", "Validation metric of each trial, and the best so far", 3.2, draw)


def _parallel(valued: Sequence[Trial], space: Space) -> str:
    dimensions = space.dimensions
    order = sorted(valued, key=lambda one: one.value or 0)

    def draw(drawn: "Figure") -> None:
        axes = drawn.subplots()
        for rank, one in enumerate(order):
            at = [(x, _height(d, one.values[d.name])) for x, d in enumerate(dimensions) if d.name in one.values]
            shade = rank / max(len(order) - 1, 1)
            axes.plot(*zip(*at, strict=True), color=(0, 0.27, 0.55), alpha=0.06 + 0.7 * shade**4, linewidth=1)
        axes.set_xticks(range(len(dimensions)), [d.name.replace("_", "\n") for d in dimensions])
        axes.set_yticks([])
        for x, dimension in enumerate(dimensions):
            low, high = _ends(dimension)
            axes.text(x, -0.02, low, ha="center", va="top", fontsize=7, color="#555555")
            axes.text(x, 1.02, high, ha="center", va="bottom", fontsize=7, color="#555555")
        axes.set_ylim(-0.12, 1.1)

    return svg("parallel", "The parameters of all trials, a line each", 3.6, draw)


def _height(dimension: Dimension, value: Any) -> float:
    """Where a value stands between the ends of its dimension, 0 … 1."""
    if dimension.choices:
        return dimension.choices.index(value) / max(len(dimension.choices) - 1, 1)
    if dimension.log:
        return float(np.log(value / dimension.low) / np.log(dimension.high / dimension.low))
    return (value - dimension.low) / (dimension.high - dimension.low)


def _ends(dimension: Dimension) -> tuple[str, str]:
    if dimension.choices:
        return _plain(dimension.choices[0]), _plain(dimension.choices[-1])
    return _plain(dimension.low), _plain(dimension.high)


def _bars(weights: Mapping[str, float]) -> str:
    names = list(weights)[::-1]

    def draw(drawn: "Figure") -> None:
        axes = drawn.subplots()
        axes.barh(names, [weights[name] for name in names], color="#0072b2", height=0.6)
        axes.set_xlabel("share")

    return svg("importances", "Share of each parameter in the differences between trials", 0.8 + 0.3 * len(names), draw)
