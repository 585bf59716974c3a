"""What must hold of a result before anyone sees it: figures in, verdicts out.

Every gate is closed unless its figure lies within its bound; a figure that is no number fails.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gru4rec.config import Score
from gru4rec.errors import GRU4RecError


class Gate(NamedTuple):
    """One condition on a figure."""

    gate: str
    figure: float | None  # None: there is nothing to compare with
    bound: str  # such as "<= 0.5", or "none"
    passed: bool
    note: str = ""

    def plain(self) -> dict[str, Any]:
        """For JSON, which knows no NaN."""
        known = self.figure is not None and math.isfinite(self.figure)
        return {**self._asdict(), "figure": self.figure if known else None}


def equal(gate: str, figure: float, wanted: float, note: str = "") -> Gate:
    return Gate(gate, figure, f"== {wanted:g}", figure == wanted, note)


def at_most(gate: str, figure: float | None, bound: float, off: float, note: str = "") -> Gate:
    """Passed up to `bound`; where that is `off`, always."""
    if figure is None or bound == off:
        return Gate(gate, figure, "none", True, note)
    return Gate(gate, figure, f"<= {bound:g}", figure <= bound, note)


def at_least(gate: str, figure: float | None, bound: float, off: float = 0.0, note: str = "") -> Gate:
    """Passed from `bound` on; where that is `off`, always."""
    if figure is None or bound == off:
        return Gate(gate, figure, "none", True, note)
    return Gate(gate, figure, f">= {bound:g}", figure >= bound, note)


def whole(rows_in: int, figures: Mapping[str, int], first_wrong: str, short_allowed: bool) -> list[Gate]:
    """The gates that no setting opens: every session is there, and every list is one.

    `figures` are sums over all parts, as in `parts.Part`; `short_allowed`: an option may leave lists short.
    """
    found = [
        equal("rows", figures["rows"] + figures["rejected"], rows_in, "sessions out and rejected, against those in"),
        equal("too_long", figures["too_long"], 0, "lists longer than possible"),
        equal("repeated", figures["repeated"], 0, "items that their list shows twice"),
        equal("unknown_items", figures["unknown_items"], 0, "listed items that the catalogue does not have"),
        equal("bad_scores", figures["bad_scores"], 0, "scores that are not finite, not sorted, or without an item"),
    ]
    if not short_allowed:
        found.append(equal("short", figures["short"], 0, "lists shorter than no option explains"))
    return [gate if gate.passed or not first_wrong else gate._replace(note=first_wrong) for gate in found]


class Yesterday(NamedTuple):
    """What there is to compare with: the result of the last date before."""

    sessions: int
    items_shown: int
    overlap: float  # of the item shares of today's lists and its own; NaN where it could not be worked out


def sane(
    settings: Score, sessions: int, fallback: int, rejected: float, items_shown: int, before: Yesterday | None
) -> list[Gate]:
    """The gates that settings set: on what was left out, fallback lists, and what was published for the date before.

    `rejected` is the share of the input that was left out. Without sessions there are no shares, without an earlier
    date no comparison: such gates pass, with no figure.
    """
    share = fallback / sessions if sessions else None
    ratio = sessions / before.sessions if before and before.sessions else None
    compared = before if sessions and before and before.items_shown else None
    coverage = items_shown / compared.items_shown if compared else None
    overlap = compared.overlap if compared else None
    return [
        at_most("rejected_share", rejected, settings.max_rejected_share, 1.0, "--max-rejected-share"),
        at_most("fallback_share", share, settings.max_fallback_share, 1.0, "--max-fallback-share"),
        at_least("sessions_to_yesterday", ratio, settings.min_sessions, note="--min-sessions"),
        at_least("coverage_to_yesterday", coverage, settings.min_coverage, note="--min-coverage"),
        at_least("overlap_with_yesterday", overlap, settings.min_overlap, note="--min-overlap"),
    ]


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Sum over items of the smaller of two shares: 1 for equal distributions, 0 for lists of other items.

    Counts of each item, [V]; a list of none has no shares: NaN.
    """
    with np.errstate(invalid="ignore"):
        return float(np.minimum(one / one.sum(), other / other.sum()).sum())


class Closed(GRU4RecError):
    """A gate did not open; `content` is what the manifest would have said."""

    def __init__(self, said: str, content: Mapping[str, Any]) -> None:
        super().__init__(said)
        self.content = content


def refuse(gates: Sequence[Gate], content: Mapping[str, Any]) -> None:
    """Raises Closed that names every gate that failed and its figure."""
    failed = [gate for gate in gates if not gate.passed]
    if failed:
        said = "; ".join(
            f"gate {gate.gate}: {gate.figure:g} is not {gate.bound}" + (f" ({gate.note})" if gate.note else "")
            for gate in failed
        )
        raise Closed(f"{said}: nothing was published, the result before stays", content)
