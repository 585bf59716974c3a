"""What a person sees of an evaluation: models side by side."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from gru4rec.evaluation.relevance import SHOWN


def comparison(title: str, found: Mapping[str, Mapping[str, float]]) -> Table:
    """A table of metrics such as `recall_at_20` by model, a metric a row."""
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for model in found:
        table.add_column(model, justify="right")
    for key in next(iter(found.values())):
        table.add_row(shown_metric(key), *(f"{metrics[key]:.4f}" for metrics in found.values()))
    return table


def with_intervals(
    title: str,
    found: Mapping[str, Mapping[str, float]],
    intervals: Mapping[str, Mapping[str, Sequence[float]]],
    keys: Sequence[str],
) -> Table:
    """A table of some metrics, a model a row, each with its interval [low, high] below it where that is known."""
    table = Table(title=title, title_justify="left")
    table.add_column("", overflow="fold")
    for key in keys:
        table.add_column(shown_metric(key), justify="right", no_wrap=True)
    for model, metrics in found.items():
        table.add_row(model, *(_cell(metrics[key], intervals[model].get(key)) for key in keys))
    return table


def shown_metric(key: str) -> str:
    """The name of a metric such as `recall_at_20` as people write it: Recall@20."""
    name, _, cutoff = key.partition("_at_")
    return f"{SHOWN.get(name, name.capitalize())}@{cutoff}"


def _cell(value: float, interval: Sequence[float] | None) -> str:
    return f"{value:.4f}\n{interval[0]:.4f}–{interval[1]:.4f}" if interval else f"{value:.4f}"
