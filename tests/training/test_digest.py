"""Replicas that differ in one bit anywhere have another digest; equal ones have the same."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gru4rec.training.digest import ROWS, digest


@given(
    rows=st.integers(1, 40), width=st.integers(1, 30), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 31)
)
def test_one_bit_changes_the_digest(rows, width, place, bit):
    dense, table = torch.randn(1, 2, width), torch.randn(rows, 3, width)
    before = digest(dense, [table]), digest(dense, [table], 0)
    assert before == (digest(dense.clone(), [table.clone()]), digest(dense.clone(), [table.clone()], 0))
    for changed in (dense, table):
        bits = changed.view(-1).view(torch.int32)
        bits[int(place * len(bits))] ^= int(np.uint32(1 << bit).view(np.int32))
        after = digest(dense, [table]), digest(dense, [table], 0)
        assert before[0] != after[0]
        assert before[1] != after[1]
        before = after


@pytest.mark.parametrize("items", [10, ROWS - 1, ROWS * 3 + 1])
def test_every_row_has_its_turn(items):
    table = torch.randn(items, 2, 5)
    blocks = range(-(-items // ROWS) + 1)
    before = [digest(torch.zeros(1, 2, 4), [table], block) for block in blocks]
    for row in (0, items // 2, items - 1):
        changed = table.clone()
        changed[row, 1, 3] += 1
        assert before != [digest(torch.zeros(1, 2, 4), [changed], block) for block in blocks]
