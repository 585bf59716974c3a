"""What a person sees of an evaluation: models side by side, a metric a row."""

from collections.abc import Mapping, Sequence

from rich.table import Table

_NAMES = {"recall": "Recall", "mrr": "MRR", "ndcg": "NDCG", "map": "MAP", "hit_rate": "Hit rate"}


def comparison(
    title: str,
    found: Mapping[str, Mapping[str, float]],
    intervals: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
) -> Table:
    """A table of metrics such as `recall_at_20` by model, with their `intervals` [low, high] where they are known."""
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for model in found:
        table.add_column(model, justify="right")
    for key in next(iter(found.values())):
        name, _, cutoff = key.partition("_at_")
        cells = [_cell(metrics[key], (intervals or {}).get(model, {}).get(key)) for model, metrics in found.items()]
        table.add_row(f"{_NAMES.get(name, name.capitalize())}@{cutoff}", *cells)
    return table


def _cell(value: float, interval: Sequence[float] | None) -> str:
    return f"{value:.4f} ({interval[0]:.4f}–{interval[1]:.4f})" if interval else f"{value:.4f}"
