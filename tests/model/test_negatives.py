"""Extra negatives: drawn with the right probabilities, and the same wherever and whenever they are drawn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gru4rec.model import negatives


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60).filter(lambda weights: sum(weights) > 1e-3))
def test_alias_table_holds_exactly_the_given_shares(weights):
    weights = np.array(weights)
    table = negatives.alias_table(weights)
    share = table.keep.copy()
    np.add.at(share, table.alias, 1 - table.keep)
    np.testing.assert_allclose(share / len(weights), weights / weights.sum(), atol=1e-9)
    assert ((table.keep >= 0) & (table.keep <= 1)).all()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_draws_follow_support_to_the_alpha(alpha):
    support = np.arange(1, 51)
    table = negatives.alias_table(support**alpha)
    drawn = negatives.draw(table, negatives.stream(1, 0, 0, 0), (1_000_000,))
    expected = support**alpha / (support**alpha).sum() * len(drawn)
    deviation = (np.bincount(drawn, minlength=50) - expected) / np.sqrt(expected)
    assert (deviation**2).sum() < 85  # chi-squared, 49 degrees of freedom: exceeded once in a thousand seeds


def test_a_part_of_a_stream_can_be_drawn_without_the_parts_before_it():
    whole = negatives.stream(3, 1, 2, 5).random(4000, dtype=np.float32)
    part = negatives.stream(3, 1, 2, 5, skip=1000).random(500, dtype=np.float32)
    np.testing.assert_array_equal(part, whole[2000:2500])


def test_streams_differ_by_seed_purpose_epoch_and_block():
    first = negatives.stream(1, 1, 1, 1).random(8)
    for other in ((2, 1, 1, 1), (1, 2, 1, 1), (1, 1, 2, 1), (1, 1, 1, 2)):
        assert not np.array_equal(first, negatives.stream(*other).random(8))
