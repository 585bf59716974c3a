"""Files and shards: balanced, complete and in order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gru4rec.sessions import layout

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=200).map(np.array)


@given(LENGTHS, st.integers(1, 50))
def test_shards_are_in_order_without_a_gap_and_balanced(lengths, shards):
    shard = layout.shard_of(lengths, shards)
    assert len(shard) == len(lengths)
    assert shard[0] == 0
    assert set(np.diff(shard)) <= {0, 1}
    assert shard[-1] < min(shards, len(lengths))
    clicks = np.bincount(shard, weights=lengths)
    equal = lengths.sum() / min(shards, len(lengths))
    assert clicks.max() <= equal + lengths.max()


def test_sessions_of_one_length_make_equal_shards():
    shard = layout.shard_of(np.full(1000, 3), 10)
    np.testing.assert_array_equal(np.bincount(shard), np.full(10, 100))


def test_no_sessions_no_shards():
    assert len(layout.shard_of(np.array([], np.int64), 4)) == 0


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20).map(np.array), st.integers(1, 300))
def test_every_file_with_clicks_has_a_shard(clicks, shards):
    found = layout.allot(clicks, shards)
    np.testing.assert_array_equal(found > 0, (clicks > 0) & (found > 0))
    assert (found[clicks > 0] >= 1).all()
    if clicks.sum():
        exact = clicks * shards / clicks.sum()
        assert (np.abs(found - exact) <= 1).all()


@given(
    st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 50)), min_size=1, max_size=100),
    st.integers(1, 9),
)
def test_files_are_in_order_of_start(sessions, files):
    start, lengths = np.array(sessions).T
    bins = layout.bin_of(start, start.min(), start.max())
    assert bins.min() >= 0
    assert bins.max() < layout.BINS
    clicks = np.bincount(bins, weights=lengths, minlength=layout.BINS).astype(np.int64)
    edges = layout.edges(clicks, files, 1)
    file = layout.file_of(bins, edges)
    assert len(edges) < files or files == 1
    assert file[np.argsort(start, kind="stable")].tolist() == sorted(file.tolist())
    assert set(file) == set(range(len(edges) + 1))


@pytest.mark.parametrize("files", [2, 5, 64])
def test_files_are_balanced(files):
    random = np.random.default_rng(0)
    clicks = random.integers(0, 100, layout.BINS)
    by_file = np.bincount(layout.file_of(np.arange(layout.BINS), layout.edges(clicks, files, files)), weights=clicks)
    assert len(by_file) == files
    assert np.abs(by_file / clicks.sum() * files - 1).max() < 0.2


def test_shards_of_several_files_are_balanced():
    clicks = np.full(layout.BINS, 10)
    edges = layout.edges(clicks, 100, 256)
    by_file = np.bincount(layout.file_of(np.arange(layout.BINS), edges), weights=clicks).astype(np.int64)
    shards = layout.allot(by_file, 256)
    assert shards.sum() == 256
    np.testing.assert_allclose(by_file / shards, clicks.sum() / 256, rtol=0.01)


def test_what_starts_after_the_latest_is_in_the_last_bin():
    """As a session does whose first click was on a rare item, where it was the last to start."""
    bins = layout.bin_of(np.array([0, 50, 100, 10**9]), 0, 100)
    assert bins[0] == 0
    assert bins[-1] == layout.BINS - 1
    assert (np.diff(bins) > 0).all()
