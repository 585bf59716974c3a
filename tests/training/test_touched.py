"""The touched items of a block: both ways to find them, against counting by hand."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from simple_log import simple_log

from gru4rec.config import Hyperparameters
from gru4rec.model import kernels
from gru4rec.training import lanes
from gru4rec.training.touched import Layout


def both_ways(log, lane_count: int, extra: np.ndarray, support, settings, padded=False) -> list:
    """The first block laid out fused and plain."""
    block = next(lanes.Schedule([log], lane_count, len(extra)))
    fused, found = kernels.FUSED, []
    for way in {fused, False}:
        kernels.FUSED = way
        try:
            found.append(Layout(support, settings, padded)(block, extra, "cpu"))
        finally:
            kernels.FUSED = fused
    return [block, *found]


@given(
    sessions=st.integers(1, 20),
    seed=st.integers(0, 99),
    lane_count=st.integers(1, 5),
    sampled=st.integers(0, 12),
    embedding=st.sampled_from(["tied", "separate"]),
)
def test_items_of_each_step(sessions, seed, lane_count, sampled, embedding):
    log, support = simple_log(sessions, 15, seed)
    extra = np.random.default_rng(seed).integers(0, 15, (8, sampled)).astype(np.int32)
    settings = Hyperparameters(logq=0.7, sample_alpha=0.5, embedding=embedding)
    block, *found = both_ways(log, lane_count, extra, support, settings)
    for one in found:
        for step, items in enumerate(one):
            active = block.active[step]
            targets, inputs = block.targets[step, active], block.inputs[step, active]
            ids, input_ids = items.items.numpy(), items.input_items.numpy()
            assert len(set(ids.tolist())) == len(ids)
            assert len(set(input_ids.tolist())) == len(input_ids)
            scored = {*targets.tolist(), *extra[step].tolist()}
            assert set(ids[: items.scored].tolist()) == scored
            if embedding == "tied":
                assert set(ids.tolist()) == {*scored, *inputs.tolist()}
            else:
                assert len(ids) == items.scored
                assert set(input_ids.tolist()) == set(inputs.tolist())
            assert (input_ids[items.inputs.numpy()[active]] == inputs).all()
            assert (ids[items.positives.numpy()[active]] == targets).all()
            as_target, as_negative = Counter(targets.tolist()), Counter(extra[step].tolist())
            for place, item in enumerate(ids[: items.scored].tolist()):
                correction = 0.7 * math.log(max(support[item], 1))
                weight = as_target[item] * math.exp(-correction) + as_negative[item] * math.exp(-0.5 * correction)
                assert float(items.multiplicity[place]) == as_target[item] + as_negative[item]
                assert float(items.log_weight[place]) == pytest.approx(math.log(weight), abs=1e-5)
            for lane in np.flatnonzero(active):
                own = math.log(max(support[block.targets[step, lane]], 1)) * 0.7
                weight = float(items.log_weight[items.positives[lane]])
                assert float(items.offset[lane]) == pytest.approx(weight + own, abs=1e-5)
    for one, other in zip(found[0], found[-1], strict=True):
        assert one.items.equal(other.items)
        assert one.positives.equal(other.positives)


@pytest.mark.parametrize("loss", ["cross-entropy", "bpr-max", "full-cross-entropy"])
@pytest.mark.parametrize("embedding", ["tied", "separate"])
def test_padded_steps_have_one_shape_and_the_same_items(loss, embedding):
    log, support = simple_log(9, 15)
    extra = np.random.default_rng(0).integers(0, 15, (64, 6)).astype(np.int32)
    settings = Hyperparameters(loss=loss, embedding=embedding)
    _, exact, *_ = both_ways(log, 4, extra, support, settings)
    _, padded, *_ = both_ways(log, 4, extra, support, settings, padded=True)
    assert len({(len(step.items), step.scored, len(step.input_items)) for step in padded}) == 1
    for one, other in zip(exact, padded, strict=True):
        real = other.items[: other.scored] < 15
        assert other.items[: other.scored][real].equal(one.items[: one.scored])
        assert other.multiplicity[real].equal(one.multiplicity)
        assert not other.multiplicity[~real].any()
        assert other.log_weight[~real].eq(-torch.inf).all()
        if len(one.input_items):  # past the last step there are none
            assert other.input_items[other.inputs].equal(one.input_items[one.inputs])


@given(sessions=st.integers(1, 15), seed=st.integers(0, 99), lane_count=st.integers(1, 4), rank=st.integers(0, 1))
def test_masked_are_the_scored_items_that_the_session_has_clicked(sessions, seed, lane_count, rank):
    """Over several blocks, and for the lanes of one worker of two."""
    log, support = simple_log(sessions, 8, seed)
    settings = Hyperparameters(mask_seen=True)
    layout, own = Layout(support, settings), slice(rank * lane_count, (rank + 1) * lane_count)
    clicked: list[set[int]] = [set() for _ in range(2 * lane_count)]
    for block in lanes.Schedule([log], 2 * lane_count, 4):
        extra = np.random.default_rng(seed).integers(0, 8, (4, 5)).astype(np.int32)
        for step, items in enumerate(layout(block, extra, "cpu", own)):
            wanted = set()
            for lane in np.flatnonzero(block.active[step]):
                if block.resets[step, lane]:
                    clicked[lane] = set()
                clicked[lane].add(int(block.inputs[step, lane]))
                if own.start <= lane < own.stop:
                    others = clicked[lane] - {int(block.targets[step, lane])}
                    wanted |= {
                        (lane - own.start, place)
                        for place, item in enumerate(items.items[: items.scored].tolist())
                        if item in others
                    }
            pairs = list(zip(items.masked.lanes.tolist(), items.masked.places.tolist(), strict=True))
            assert len(pairs) == len(set(pairs))
            assert set(pairs) == wanted
