"""What a person sees of an evaluation: models side by side, a metric a row."""

from collections.abc import Mapping

from rich.table import Table


def comparison(title: str, found: Mapping[str, Mapping[str, float]]) -> Table:
    """A table of metrics such as `recall_at_20` by model."""
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for model in found:
        table.add_column(model, justify="right")
    for key in next(iter(found.values())):
        name, _, cutoff = key.partition("_at_")
        shown = name.capitalize() if name == "recall" else name.upper()
        table.add_row(f"{shown}@{cutoff}", *(f"{metrics[key]:.4f}" for metrics in found.values()))
    return table
