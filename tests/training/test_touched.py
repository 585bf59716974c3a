"""The touched items of a block: both ways to find them, against counting by hand."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simple_log import simple_log

from gru4rec.model import kernels
from gru4rec.training import lanes
from gru4rec.training.touched import Layout


@given(sessions=st.integers(1, 20), seed=st.integers(0, 99), lane_count=st.integers(1, 5), sampled=st.integers(0, 12))
def test_items_of_each_step(sessions, seed, lane_count, sampled):
    log, support = simple_log(sessions, 15, seed)
    block = next(lanes.blocks([log], lane_count, 8))
    extra = np.random.default_rng(seed).integers(0, 15, (8, sampled)).astype(np.int32)
    logq, alpha = 0.7, 0.5
    fused = kernels.FUSED
    found = []
    for way in {fused, False}:
        kernels.FUSED = way
        try:
            found.append(Layout(support, logq, alpha)(block, extra, "cpu"))
        finally:
            kernels.FUSED = fused
    for one in found:
        for step, items in enumerate(one):
            active = block.active[step]
            targets, inputs = block.targets[step, active], block.inputs[step, active]
            ids = items.items.numpy()
            assert len(set(ids.tolist())) == len(ids)
            assert set(ids[: items.scored].tolist()) == {*targets.tolist(), *extra[step].tolist()}
            assert set(ids.tolist()) == {*targets.tolist(), *extra[step].tolist(), *inputs.tolist()}
            assert (ids[items.inputs.numpy()[active]] == inputs).all()
            assert (ids[items.positives.numpy()[active]] == targets).all()
            as_target, as_negative = Counter(targets.tolist()), Counter(extra[step].tolist())
            for place, item in enumerate(ids[: items.scored].tolist()):
                correction = logq * math.log(max(support[item], 1))
                weight = as_target[item] * math.exp(-correction) + as_negative[item] * math.exp(-alpha * correction)
                assert float(items.multiplicity[place]) == as_target[item] + as_negative[item]
                assert float(items.log_weight[place]) == pytest.approx(math.log(weight), abs=1e-5)
    for one, other in zip(found[0], found[-1], strict=True):
        assert one.items.equal(other.items)
        assert one.positives.equal(other.positives)
