"""The data report's figures, as SVG to put into a page: small at any data size, equal bytes for equal data.

Matplotlib draws without its global state: no pyplot, and settings that hold while a figure is drawn. Nothing of a log
but numbers comes into a figure.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gru4rec.page import svg
from gru4rec.sessions.data_counts import Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"train": "#0072b2", "valid": "#e69f00", "test": "#009e73"}  # told apart by the colour-blind too

_POINTS = 200
"""Bins or points of a curve; what a person cannot tell apart is not drawn."""


def by_day(splits: Mapping[str, Split]) -> str:
    """Clicks and sessions by day, the splits one on top of the other. There must be a click."""
    days = np.concatenate([split.clicks_by_day.values for split in splits.values()])
    edges = _day_edges(int(days.min()), int(days.max()))
    width = int(edges[1] - edges[0])
    unit = "a day" if width == 1 else f"in {width} days"

    def draw(figure: "Figure") -> None:
        upper, lower = figure.subplots(2, 1, sharex=True)
        for axes, what in ((upper, "clicks"), (lower, "sessions")):
            below = np.zeros(len(edges) - 1, np.int64)
            for name, split in splits.items():
                above = below + getattr(split, f"{what}_by_day").binned(edges)
                used = np.flatnonzero(above > below)
                if len(used):
                    mine = slice(used[0], used[-1] + 1)
                    shown = edges[mine.start : mine.stop + 1]
                    axes.stairs(above[mine], shown, baseline=below[mine], fill=True, color=COLOURS[name], label=name)
                below = above
            axes.set_ylabel(f"{what} {unit}")
            axes.yaxis.set_major_formatter("{x:,.0f}")
        upper.set_title(f"Clicks and sessions {unit}")
        figure.legend(*upper.get_legend_handles_labels(), loc="outside upper right", ncols=3)  # off the bars
        ticks = edges[:-1][:: -(-len(edges) // 7)]
        lower.set_xticks(ticks, [str(np.datetime64(int(day), "D")) for day in ticks])
        lower.set_xlabel("day of the click, or of the session's first click (UTC)")

    return svg("days", "Clicks and sessions by day, train, valid and test marked", 4.2, draw)


def _day_edges(first: int, last: int) -> np.ndarray:
    """Bins of a whole number of days, at most _POINTS of them, that hold both days."""
    width = -(-(last - first + 1) // _POINTS)
    return np.arange(first, last + width + 1, width)


def session_lengths(splits: Mapping[str, Split]) -> str:
    """How many sessions have each length, both axes logarithmic. There must be a session."""
    longest = max(int(split.lengths.values[-1]) for split in splits.values() if split.lengths.total)
    edges = _length_edges(longest)

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        for name, split in splits.items():
            if split.lengths.total:
                sessions = split.lengths.binned(edges) / np.diff(edges)
                seen = np.where(sessions > 0, sessions, np.nan)
                axes.stairs(seen, edges - 0.5, baseline=None, color=COLOURS[name], label=name, linewidth=1.5)
        _logarithmic(axes)
        axes.set_title("Session lengths")
        axes.set_xlabel("length of the session (clicks)")
        axes.set_ylabel("sessions of each length")
        axes.legend()

    return svg("lengths", "Number of sessions of each length, on logarithmic scales", 3.0, draw)


def _length_edges(longest: int) -> np.ndarray:
    """Bins of whole lengths from 1 to the longest, each wider than the one before once they are wider than 1."""
    return np.unique(np.geomspace(1, longest + 1, 80).round().astype(np.int64))


def popularity(support: np.ndarray) -> str:
    """Training clicks of the items by rank, both axes logarithmic. `support` [items], highest first, not empty."""
    ranks = np.unique(np.geomspace(1, len(support), _POINTS).round().astype(np.int64))

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        clicks = support[ranks - 1]
        axes.plot(ranks, np.where(clicks > 0, clicks, np.nan), ".-", color=COLOURS["train"], markersize=3)
        _logarithmic(axes)
        axes.set_title("Item popularity")
        axes.set_xlabel("rank of the item (1: the most clicks)")
        axes.set_ylabel("training clicks")

    return svg("popularity", "Training clicks of the items by rank, on logarithmic scales", 3.0, draw)


def _logarithmic(axes: Any) -> None:
    """Both axes logarithmic, with labels that are plain numbers also where an axis spans less than a decade or two."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        if high < 20 * low:
            axis.set_major_locator(MaxNLocator(6))
        axis.set_major_formatter(lambda x, _: f"{x:,.0f}" if x == round(x) else f"{x:g}")
        axis.set_minor_formatter("")
