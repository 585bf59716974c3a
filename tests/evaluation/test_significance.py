"""Intervals and tests: against scipy, and against what they promise on data whose truth is known."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from gru4rec.evaluation import significance


def sessions(random, count, share, own=0.1):
    """Hits and predictions of sessions, whose predictions depend on one another."""
    counts = random.integers(1, 9, count)
    ease = np.clip(share + own * random.standard_normal(count), 0, 1)
    return random.binomial(counts, ease).astype(float), counts, ease


def test_the_interval_is_scipys():
    random = np.random.default_rng(1)
    sums, counts, _ = sessions(random, 300, 0.6)
    low, high = significance.interval(significance.drawn(sums[:, None], counts, 20_000))
    wanted = scipy.stats.bootstrap(
        (sums, counts),
        lambda s, n, axis=-1: s.sum(axis=axis) / n.sum(axis=axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        random_state=2,
        batch=1000,
    ).confidence_interval
    assert (low[0], high[0]) == pytest.approx(wanted, abs=0.002)


def test_the_p_value_is_scipys():
    random = np.random.default_rng(3)
    sums, counts, ease = sessions(random, 200, 0.5)
    other = random.binomial(counts, np.clip(ease - 0.03, 0, 1)).astype(float)
    found = significance.better(sums, other, counts)
    wanted = scipy.stats.permutation_test(
        (sums, other),
        lambda a, b, axis=-1: (a - b).sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=10_000,
        alternative="greater",
        random_state=4,
        batch=1000,
    )
    assert found.p == pytest.approx(wanted.pvalue, abs=0.02)
    assert found.difference == pytest.approx((sums - other).sum() / counts.sum())
    assert found.low < found.difference < found.high


def test_columns_are_drawn_together_so_that_differences_are_precise():
    random = np.random.default_rng(5)
    sums, counts, _ = sessions(random, 400, 0.5, own=0.3)
    both = significance.drawn(np.column_stack([sums, sums]), counts, 500)
    assert (both[:, 0] == both[:, 1]).all()
    nearly = sums.copy()
    nearly[:5] += 1
    found = significance.better(nearly, sums, counts)
    low, high = significance.interval(significance.drawn(sums[:, None], counts, 500))
    assert found.high - found.low < (high - low)[0] / 4


def test_nothing_is_found_too_often_where_nothing_is():
    """Of 200 pairs of equals, some 5 % come out below 0.05; with a margin next to none."""
    random = np.random.default_rng(6)
    p, p_margin = [], []
    for _ in range(200):
        sums, counts, ease = sessions(random, 120, 0.5, own=0.3)
        other = random.binomial(counts, ease).astype(float)
        p.append(significance.better(sums, other, counts, draws=400).p)
        p_margin.append(significance.better(sums, other, counts, margin=0.1, draws=400).p)
    assert 0.01 < np.mean(np.array(p) < 0.05) < 0.1
    assert np.mean(np.array(p_margin) < 0.05) < 0.03


def test_groups_of_sessions_give_the_interval_of_the_sessions(monkeypatch):
    random = np.random.default_rng(7)
    sums, counts, _ = sessions(random, 6000, 0.5, own=0.2)
    whole = significance.interval(significance.drawn(sums[:, None], counts, 3000))
    monkeypatch.setattr(significance, "GROUPS", 500)
    in_groups = significance.interval(significance.drawn(sums[:, None], counts, 3000))
    width = (whole[1] - whole[0])[0]
    assert np.array(in_groups) == pytest.approx(np.array(whole), abs=width / 8)
    kept, total = significance.grouped(sums[:, None], counts)
    assert len(total) == 500
    assert (kept.sum(), total.sum()) == (sums.sum(), counts.sum())


def test_the_same_models_are_never_different():
    sums, counts, _ = sessions(np.random.default_rng(8), 50, 0.5)
    found = significance.better(sums, sums, counts)
    assert found == (0, 0, 0, 1)
    assert (
        significance.better(sums, sums * 0.5, counts).p
        < 0.001
        < 0.999
        < significance.better(sums * 0.5, sums, counts).p
    )


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_its_definition(p):
    found = significance.holm(np.array(p))
    for level in (0.01, 0.05, 0.2):
        rejected = set()
        for step, place in enumerate(np.argsort(p, kind="stable")):
            if p[place] * (len(p) - step) > level:
                break
            rejected.add(int(place))
        assert set(np.flatnonzero(found <= level).tolist()) == rejected
