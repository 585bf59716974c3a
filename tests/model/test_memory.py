"""Arrays in huge pages are arrays."""

import numpy as np
import pytest
import torch

from gru4rec.model import memory


@pytest.mark.parametrize("shape", [(0,), (3,), (5, 7), (700_000,), (1000, 3, 401)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_zeros_of_any_size_can_be_written_and_shared_with_torch(shape, dtype):
    made = memory.zeros(shape, dtype)
    assert (made.shape, made.dtype) == (shape, dtype)
    assert made.flags.c_contiguous
    assert not made.any()
    made[...] = 3
    assert (torch.from_numpy(made) == 3).all()
    if made.nbytes > memory.HUGE and hasattr(memory.mmap, "MADV_HUGEPAGE"):
        assert made.ctypes.data % memory.HUGE == 0


def test_a_kernel_without_huge_pages_will_do(monkeypatch):
    monkeypatch.delattr(memory.mmap, "MADV_HUGEPAGE", raising=False)
    assert not memory.zeros((1 << 20,), np.float32).any()


def test_a_copy_has_the_same_values():
    values = np.arange(1_000_000, dtype=np.float64)
    assert np.array_equal(memory.placed(values), values)
