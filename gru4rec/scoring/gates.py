"""What must hold of a result before anyone sees it: figures in, verdicts out.

Every gate is closed unless its figure lies within its bound; a figure that is no number fails.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gru4rec.errors import GRU4RecError


class Gate(NamedTuple):
    """One condition on a figure."""

    gate: str
    figure: float | None  # None: there is nothing to compare with
    bound: str  # such as "<= 0.5", or "none"
    passed: bool
    note: str = ""


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


def refuse(gates: Sequence[Gate]) -> None:
    """Raises GRU4RecError that names every gate that failed and its figure."""
    failed = [gate for gate in gates if not gate.passed]
    if failed:
        said = "; ".join(
            f"gate {gate.gate}: {gate.figure:g} is not {gate.bound}" + (f" ({gate.note})" if gate.note else "")
            for gate in failed
        )
        raise GRU4RecError(f"{said}: nothing was published, the result before stays")
