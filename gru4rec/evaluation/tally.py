"""What a piece of a split adds to a model's figures, and the figures of all pieces added up.

Nothing here grows with the sessions beyond one piece: metrics are kept by group of sessions (significance.py) and by
class of predictions, lists by the items that they show.

Shapes: C columns, the metrics (relevance.METRICS) × cut-offs; G groups; K classes over all breakdowns; P items.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from gru4rec.evaluation import significance
from gru4rec.evaluation.relevance import METRICS

LIST = 20  # items of the lists whose coverage, popularity and novelty are measured
_LENGTHS = ((2, 2), (3, 3), (4, 5), (6, 10), (11, 20), (21, None))
_POSITIONS = ((1, 1), (2, 2), (3, 4), (5, 9), (10, None))
_HEAD = (0.1, 0.25, 0.5, 0.75)  # shares of the training clicks, from the most popular items on


class Breakdown(NamedTuple):
    """Classes of predictions, each by a range of whole numbers; `None` has no upper end."""

    name: str
    heading: str
    unit: str
    ranges: tuple[tuple[int, int | None], ...]

    @property
    def labels(self) -> list[str]:
        found = []
        for low, high in self.ranges:
            found.append(f"{low:,} or more" if high is None else f"{low:,}" if high == low else f"{low:,} to {high:,}")
        return found

    def of(self, values: np.ndarray) -> np.ndarray:
        """The class of each value, [n] int64; −1 for one that is below all of them."""
        return np.searchsorted([low for low, _ in self.ranges], values, side="right") - 1


def breakdowns(support: np.ndarray) -> list[Breakdown]:
    """By session length, position, popularity of the next item (`support` [P]: training clicks) and its age.

    The popularity classes are cut where the most popular items together have 10, 25, 50 and 75 % of the training
    clicks.
    """
    ordered = np.sort(support)[::-1]
    share = np.cumsum(ordered) / max(ordered.sum(), 1)
    cuts = ordered[np.minimum(np.searchsorted(share, _HEAD), len(ordered) - 1)].tolist() if len(ordered) else []
    edges = sorted({0, *cuts})
    popular = (*((low, high - 1) for low, high in itertools.pairwise(edges)), (edges[-1], None))
    return [
        Breakdown("lengths", "By session length", "clicks", _LENGTHS),
        Breakdown("positions", "By position in the session", "clicks seen", _POSITIONS),
        Breakdown("popularity", "By popularity of the next item", "training clicks", popular),
        Breakdown("age", "By age of the next item", "days in the training log", ((0, 0), (1, 6), (7, 29), (30, None))),
    ]


@dataclass
class Tally:
    """Sums over sessions."""

    sessions: int  # with a prediction
    predictions: int
    groups: np.ndarray  # [G] int64: which groups have sessions here, ascending
    sums: np.ndarray  # [G, C] float64
    counts: np.ndarray  # [G] float64: predictions
    class_sums: np.ndarray  # [K, C] float64
    class_counts: np.ndarray  # [K] float64
    unknown: int = 0  # relevant items that the model does not know: they count against it
    unstarted: int = 0  # predictions before which it knows no click of the session
    lists: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # [P]: lists that show an item


def tally(
    gains: np.ndarray, owner: np.ndarray, group: np.ndarray, classes: Sequence[np.ndarray], sizes: Sequence[int]
) -> Tally:
    """Count the predictions of a piece.

    `gains` [T, C]; `owner` [T] the session of each; `group` [sessions]; `classes` the class of each prediction [T] in
    each breakdown, −1 for none, of which there are `sizes`. The rest of the tally is for the caller to fill in.
    """
    groups, place = np.unique(group, return_inverse=True)
    counts = np.bincount(owner, minlength=len(group))
    by_class = [np.zeros((0, gains.shape[1]))]
    in_class: list[np.ndarray] = [np.zeros(0)]
    for which, size in zip(classes, sizes, strict=True):
        inside = which >= 0
        by_class.append(significance.summed(which[inside], gains[inside], size))
        in_class.append(np.bincount(which[inside], minlength=size))
    return Tally(
        sessions=int((counts > 0).sum()),
        predictions=len(gains),
        groups=groups,
        sums=significance.summed(place, significance.summed(owner, gains, len(group)), len(groups)),
        counts=np.bincount(place, counts, len(groups)),
        class_sums=np.concatenate(by_class),
        class_counts=np.concatenate(in_class),
    )


class Total:
    """Tallies of all pieces, added up in the order in which they are given."""

    def __init__(self, sessions: int, cutoffs: Sequence[int], classes: int, items: int, support: np.ndarray) -> None:
        """Of a split with so many sessions; `support` [P] are the training clicks of the prepared items."""
        self.cutoffs, self.support = list(cutoffs), support
        groups, columns = min(sessions, significance.GROUPS), len(METRICS) * len(cutoffs)
        self.sessions = self.predictions = self.unknown = self.unstarted = 0
        self.sums, self.counts = np.zeros((groups, columns)), np.zeros(groups)
        self.class_sums, self.class_counts = np.zeros((classes, columns)), np.zeros(classes)
        self.lists = np.zeros(items, np.int64)

    def add(self, part: Tally) -> None:
        self.sessions += part.sessions
        self.predictions += part.predictions
        self.unknown += part.unknown
        self.unstarted += part.unstarted
        self.sums[part.groups] += part.sums
        self.counts[part.groups] += part.counts
        self.class_sums += part.class_sums
        self.class_counts += part.class_counts
        self.lists += part.lists

    def column(self, key: str) -> int:
        """The column of a metric such as `recall_at_20`."""
        name, _, cutoff = key.partition("_at_")
        return METRICS.index(name) * len(self.cutoffs) + self.cutoffs.index(int(cutoff))

    def metric(self, key: str) -> float:
        """The mean over all predictions; 0 where there is none."""
        return float(self.sums[:, self.column(key)].sum() / max(self.predictions, 1))

    def metrics(self, cutoffs: Sequence[int]) -> dict[str, float]:
        """All metrics at these cut-offs, and what the lists show (`of_lists`)."""
        of_predictions = {f"{name}_at_{k}": self.metric(f"{name}_at_{k}") for k in cutoffs for name in METRICS}
        return of_predictions | self.of_lists()

    def of_lists(self) -> dict[str, float]:
        """Coverage, popularity and novelty of the lists of 20 after the last click of each session.

        * coverage: the share of the catalogue that some list shows.
        * popularity: the mean of clicks in training over those of the most clicked item, over all places of all lists
          (Ludewig & Jannach, UMUAI 2018, section 4.2): near 1 where everybody sees the bestsellers.
        * novelty: the mean of −log2 of an item's share of the training clicks, bits (Vargas & Castells, RecSys 2011);
          an item that training does not have counts as one of a single click.
        """
        shown, clicks = max(int(self.lists.sum()), 1), max(int(self.support.sum()), 1)
        popularity = self.support / max(int(self.support.max(initial=0)), 1)
        surprise = -np.log2(np.maximum(self.support, 1) / clicks)
        return {
            f"coverage_at_{LIST}": float((self.lists > 0).sum() / max(len(self.lists), 1)),
            f"popularity_at_{LIST}": float((self.lists * popularity).sum() / shown),
            f"novelty_at_{LIST}": float((self.lists * surprise).sum() / shown),
        }

    def classes(self, key: str) -> np.ndarray:
        """A metric by class, [K]; NaN for a class without predictions."""
        with np.errstate(invalid="ignore"):
            return self.class_sums[:, self.column(key)] / self.class_counts


def intervals(totals: dict[str, Total], keys: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """95 % intervals of metrics by model, [low, high] each, all drawn with the same sessions; empty without models."""
    if not totals:
        return {}
    counts = next(iter(totals.values())).counts
    columns = [(label, key) for label in totals for key in keys]
    sums = np.column_stack([totals[label].sums[:, totals[label].column(key)] for label, key in columns])
    low, high = significance.interval(significance.drawn(sums, counts))
    found: dict[str, dict[str, list[float]]] = {label: {} for label in totals}
    for place, (label, key) in enumerate(columns):
        found[label][key] = [float(low[place]), float(high[place])]
    return found
