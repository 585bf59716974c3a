"""Gates: which figures open them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gru4rec.config import Score
from gru4rec.scoring import gates

SETTINGS = Score(model="m", sessions="s", out="o")
GOOD = {"rows": 9, "rejected": 1, "short": 0, "too_long": 0, "repeated": 0, "unknown_items": 0, "bad_scores": 0}


def failed(found):
    return [gate.gate for gate in found if not gate.passed]


@pytest.mark.parametrize("wrong", ["short", "too_long", "repeated", "unknown_items", "bad_scores"])
def test_one_wrong_entry_closes_its_gate_alone(wrong):
    assert failed(gates.whole(10, GOOD, "", False)) == []
    assert failed(gates.whole(10, {**GOOD, wrong: 1}, "part-0: row 3: it", False)) == [wrong]
    assert failed(gates.whole(10, {**GOOD, "short": 1}, "", True)) == []


@pytest.mark.parametrize("rows", [8, 10, 0])
def test_a_session_more_or_less_closes_the_gate(rows):
    with pytest.raises(gates.Closed, match=f"gate rows: {rows + 1} is not == 10 .*nothing was published") as closed:
        gates.refuse(gates.whole(10, {**GOOD, "rows": rows}, "", False), {"its": "content"})
    assert closed.value.content == {"its": "content"}


def sane(settings=SETTINGS, sessions=100, fallback=10, rejected=0.0, shown=50, before=(100, 50, 0.9)):
    return gates.sane(settings, sessions, fallback, rejected, shown, gates.Yesterday(*before) if before else None)


def test_the_settings_are_the_bounds():
    assert failed(sane()) == []
    assert failed(sane(rejected=0.02)) == ["rejected_share"]
    assert failed(sane(fallback=51)) == ["fallback_share"]
    assert failed(sane(sessions=29, fallback=1)) == ["sessions_to_yesterday"]
    assert failed(sane(shown=24)) == ["coverage_to_yesterday"]
    assert failed(sane(before=(100, 50, 0.29))) == ["overlap_with_yesterday"]


def test_what_cannot_be_worked_out_closes_and_what_is_not_there_does_not():
    found = sane(before=(100, 50, float("nan")))
    assert failed(found) == ["overlap_with_yesterday"]
    assert [gate.plain()["figure"] for gate in found][-1] is None
    assert failed(sane(before=None)) == []
    assert failed(sane(sessions=0, fallback=0, shown=0, before=None)) == []


def test_every_bound_can_be_switched_off():
    none = {"max_fallback_share": 1, "max_rejected_share": 1, "min_sessions": 0, "min_coverage": 0, "min_overlap": 0}
    off = Score(model="m", sessions="s", out="o", **none)
    assert failed(sane(off, 1, 1, 1.0, 0, (100, 50, float("nan")))) == []


@given(
    counts=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8), times=st.integers(1, 9)
)
def test_overlap_is_a_share(counts, times):
    one, other = np.array([*counts, (1, 1)]).T
    found = gates.overlap(one, other)
    assert 0 < found <= 1 + 1e-12
    assert found == pytest.approx(gates.overlap(other, one)) == pytest.approx(gates.overlap(times * one, other))
    assert gates.overlap(one, times * one) == pytest.approx(1)
    apart = np.concatenate([one, 0 * other]), np.concatenate([0 * one, other])
    assert gates.overlap(*apart) == 0


def test_a_list_of_nothing_has_no_overlap():
    assert np.isnan(gates.overlap(np.zeros(3), np.ones(3)))
