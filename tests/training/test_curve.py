"""The marks of an epoch: one a part at most, and nothing lost between them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gru4rec.training.curve import PARTS, Mark, extended, stretches

BLOCKS = st.lists(st.tuples(st.integers(1, 500), st.floats(0, 10), st.floats(0.01, 5)), min_size=1, max_size=300)


def points(blocks) -> list[tuple[float, int, float]]:
    """Sums of loss, transitions and seconds after each block."""
    found, loss, events, seconds = [], 0.0, 0, 0.0
    for more, mean, took in blocks:
        loss, events, seconds = loss + mean * more, events + more, seconds + took
        found.append((loss, events, seconds))
    return found


def walked(found):
    marks = ()
    for loss, events, seconds in found:
        marks = extended(marks, loss, events, seconds, found[-1][1])
    return marks


@given(BLOCKS)
def test_stretches_add_up_to_the_epoch(blocks):
    found = points(blocks)
    marks = walked(found)
    parts = [mark.part for mark in marks]
    assert parts == sorted(set(parts))
    assert parts[0] >= 1
    assert parts[-1] == PARTS
    assert marks[-1] == Mark(PARTS, *found[-1])
    assert {mark[1:] for mark in marks} <= set(found)
    events = [after.events - before.events for before, after in zip((Mark(0, 0, 0, 0), *marks), marks, strict=False)]
    shown = stretches(marks)
    total = sum(of.loss * count for of, count in zip(shown, events, strict=True))
    assert total == pytest.approx(found[-1][0], abs=1e-6)
    assert sum(count / of.events_per_second for of, count in zip(shown, events, strict=True)) == pytest.approx(
        found[-1][2]
    )


def test_more_transitions_than_were_expected_are_the_last_part():
    """With local steps a worker knows its own transitions, which are not quite its share of all."""
    marks = extended((), 10.0, 90, 1.0, 100.0)
    marks = extended(marks, 20.0, 130, 2.0, 100.0)
    assert [mark.part for mark in marks] == [90, 100]
    assert extended(marks, 30.0, 150, 3.0, 100.0) == marks
