"""Top-k: what a stable sort by falling score gives, whatever the ties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gru4rec.config import Hyperparameters
from gru4rec.model.network import initialise, scores
from gru4rec.scoring import topk
from gru4rec.scoring.topk import TILE, assortment, best_items, top_k
from gru4rec.sessions.prepared import Sessions


def stable_sort(matrix, k):
    values, order = torch.sort(matrix, dim=1, descending=True, stable=True)
    return values[:, :k], order[:, :k]


def assert_same(found, expected):
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(0, 5),
    items=st.integers(1, 40 * TILE),
    k=st.integers(1, 40),
    levels=st.sampled_from([1, 2, 3, 10, 10_000]),
    seed=st.integers(0, 2**31),
)
def test_equals_a_stable_sort(rows, items, k, levels, seed):
    """Few levels of score make ties everywhere: inside tiles, across them, and at the k-th place."""
    drawn = np.random.default_rng(seed).integers(-levels, levels, (rows, items)) / 4
    matrix = torch.tensor(drawn, dtype=torch.float32)
    assert_same(top_k(matrix, k), stable_sort(matrix, k))


@pytest.mark.parametrize("items", [1, TILE, 3 * TILE, 3 * TILE + 1, 64 * TILE, 64 * TILE + TILE - 1])
@pytest.mark.parametrize("k", [1, 2, 20, 5000])
def test_equals_a_stable_sort_of_random_scores(items, k):
    matrix = torch.randn(7, items, generator=torch.Generator().manual_seed(items * k))
    assert_same(top_k(matrix, k), stable_sort(matrix, k))


def test_extreme_scores_keep_their_order():
    tiny, huge = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
    special = torch.tensor([0.0, -0.0, tiny, -tiny, tiny / 8, huge, -huge, -torch.inf, torch.inf, 1e-45, -1e-45])
    matrix = special.repeat(30 * TILE)[None]
    for k in (1, 20, 500):
        assert_same(top_k(matrix, k), stable_sort(matrix, k))


def test_zero_and_minus_zero_tie():
    matrix = torch.tensor([[-0.0, 0.0, -0.0, 0.0]])
    assert top_k(matrix, 4)[1].tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("place", [0, 700, 30 * TILE - 1, 30 * TILE])
def test_nan_is_rejected_wherever_it_is(place):
    matrix = torch.zeros(3, 30 * TILE + 1)
    matrix[1, place] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        top_k(matrix, 2)


@pytest.mark.parametrize(
    ("matrix", "k"), [(torch.zeros(3), 1), (torch.zeros(3, 3).double(), 1), (torch.zeros(3, 3), 0)]
)
def test_what_is_not_a_ranking_is_refused(matrix, k):
    with pytest.raises(ValueError, match="must be"):
        top_k(matrix, k)


def test_a_matrix_that_is_not_contiguous():
    matrix = torch.randn(2000, 9).t()
    assert_same(top_k(matrix, 5), stable_sort(matrix, 5))


@pytest.mark.parametrize("block", [1, 3, 50, None])
def test_the_block_of_rows_does_not_change_the_ranking(block):
    model = initialise(Hyperparameters(layers=(8,)), 900)
    hidden = torch.randn(50, 8)
    values, items = best_items(model, hidden, 10, block=block)
    expected = stable_sort(scores(model, hidden), 10)
    torch.testing.assert_close(values, expected[0])
    assert torch.equal(items, expected[1])


@settings(max_examples=100, deadline=None)
@given(
    rows=st.integers(0, 4),
    items=st.integers(1, 3000),
    k=st.integers(1, 40),
    levels=st.sampled_from([1, 3, 1000]),
    columns=st.integers(1, 3000),
    block=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
def test_the_scan_equals_a_stable_sort(rows, items, k, levels, columns, block, seed):
    """Whatever the blocks, with ties everywhere, banned and excluded items, of all items or some."""
    drawn = np.random.default_rng(seed)
    model = initialise(Hyperparameters(layers=(2,)), items)
    model.item_table.copy_(torch.from_numpy(drawn.integers(-levels, levels, (items, 2)) / 4))
    model.item_bias.copy_(torch.from_numpy(drawn.integers(-levels, levels, items) / 4))
    output = torch.from_numpy(drawn.integers(-2, 2, (rows, 2)) / 2).float()
    lengths = drawn.integers(0, 5, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    excluded = Sessions(offsets, drawn.integers(0, items, offsets[-1]).astype(np.int32))
    banned = drawn.permutation(items)[: drawn.integers(0, items + 1)]
    allowed = np.sort(drawn.permutation(items)[: drawn.integers(1, items + 1)])
    matrix = scores(model, output)
    for row in range(rows):
        matrix[row, excluded.items[offsets[row] : offsets[row + 1]].astype(np.int64)] = -torch.inf
    matrix[:, banned] = -torch.inf
    expected = stable_sort(matrix[:, allowed], k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topk, "COLUMNS", columns)
        for way in (topk.select, None):
            patch.setattr(topk, "select", way)
            found = best_items(model, output, k, excluded, block, banned, assortment(model, allowed))
            assert torch.equal(found[0], expected[0])
            assert torch.equal(found[1], torch.from_numpy(allowed)[expected[1]])


@pytest.mark.parametrize("place", [0, 3, 4, 700, 1500, 1999])
@pytest.mark.parametrize("columns", [5, 1024, 4096])
def test_the_scan_finds_nan_wherever_it_is(monkeypatch, place, columns):
    monkeypatch.setattr(topk, "COLUMNS", columns)
    model = initialise(Hyperparameters(layers=(4,)), 2000)
    model.item_bias[place] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        best_items(model, torch.randn(2, 4), 4)


def test_no_assortment_is_an_error():
    with pytest.raises(ValueError, match="needs an item"):
        assortment(initialise(Hyperparameters(layers=(4,)), 5), np.zeros(0, np.int64))


def test_excluded_items_come_last_as_minus_infinity():
    model = initialise(Hyperparameters(layers=(4,)), 5)
    excluded = Sessions(np.array([0, 3, 3]), np.array([0, 2, 2], np.int32))
    values, items = best_items(model, torch.randn(2, 4), 5, excluded, block=1)
    assert set(items[0, :3].tolist()) == {1, 3, 4}
    assert (values[0, 3:] == -torch.inf).all()
    assert torch.isfinite(values[1]).all()


def test_no_rows():
    values, items = best_items(initialise(Hyperparameters(layers=(4,)), 5), torch.empty(0, 4), 20)
    assert values.shape == items.shape == (0, 5)


def test_an_infinite_score_is_an_error():
    model = initialise(Hyperparameters(layers=(4,)), 5)
    model.item_bias[3] = torch.inf
    with pytest.raises(ValueError, match="infinite"):
        best_items(model, torch.randn(2, 4), 2)
