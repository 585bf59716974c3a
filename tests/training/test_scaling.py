"""The model of the step's time against hand and brute force; the bench answers, whatever the figures."""

import json

import numpy as np
import pytest
from simple_log import simple_log

from gru4rec.config import Hyperparameters
from gru4rec.errors import GRU4RecError
from gru4rec.training import lanes, scaling, step_time


def test_a_fitted_link_is_the_one_that_made_the_times():
    link = step_time.fitted([1000, 50_000, 2_000_000], [0.000_1 + size / 2e9 for size in (1000, 50_000, 2_000_000)])
    assert link.latency == pytest.approx(1e-4)
    assert link.bandwidth == pytest.approx(2e9)
    assert link.seconds(1e6) == pytest.approx(6e-4)


def test_times_that_fall_with_size_give_a_link_without_negative_parts():
    link = step_time.fitted([1000, 1_000_000], [2e-3, 1e-3])
    assert link.seconds(10**9) == pytest.approx(link.latency)
    assert link.latency > 0


def test_rings_of_gpus_by_hand():
    nvlink, ethernet = step_time.NETWORKS
    assert nvlink.seconds(3e6, 8) == pytest.approx(20e-6 + 1.75 * 10e-6)
    assert ethernet.seconds(1.25e6, 64) == pytest.approx(180e-6 + 63 / 32 * 100e-6)


def test_efficiency_by_hand():
    assert step_time.efficiency(1.0, 1.0, 0.0) == 1
    assert step_time.efficiency(1.0, 1.5, 0.5) == pytest.approx(0.5)
    assert step_time.efficiency(1.0, 1.0, 64.0, sync_every=64) == pytest.approx(0.5)


def test_expected_touched_rows_are_the_mean_of_many_draws():
    support = np.array([0, 1, 2, 5, 30, 100, 3, 3])
    settings = Hyperparameters(batch_size=2, n_sample=3, sample_alpha=0.5)
    rng = np.random.default_rng(0)
    weight = np.maximum(support, 1) ** 0.5
    counts = []
    for _ in range(4000):
        clicks = rng.choice(8, 2 * 2 * 2 * 2, p=support / support.sum())
        counts.append(len({*clicks, *rng.choice(8, 3 * 2, p=weight / weight.sum())}))
    assert step_time.touched_rows(support, settings, workers=2, steps=2) == pytest.approx(np.mean(counts), abs=0.06)


def test_pretended_workers_add_lanes_that_walk_the_same_log():
    sessions, _ = simple_log(200, 50)
    (block, *_) = lanes.Schedule([sessions], 4, 16)
    gathered = scaling.Pretended(3, sessions).gather(block)
    assert gathered.inputs.shape == (16, 12)
    for name in lanes.Block._fields:
        np.testing.assert_array_equal(getattr(gathered, name)[:, :4], getattr(block, name))
    assert gathered.active[:, 4:].all()
    pairs = {
        (int(a), int(b))
        for start, end in zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True)
        for a, b in zip(sessions.items[start : end - 1], sessions.items[start + 1 : end], strict=True)
    }
    assert set(zip(gathered.inputs[:, 4:].flat, gathered.targets[:, 4:].flat, strict=True)) <= pairs


def test_the_bench_measures_every_way_and_predicts_two_workers(capsys):
    found = scaling.run("lanes-32", seconds=0.05, repeats=1, threads=1, gpu_step=1e-4)
    json.dumps(found, allow_nan=False)
    assert [row["way"] for row in found["rows"]] == list(scaling.WAYS)
    assert found["model"][0]["predicted_ms"] > 0
    assert {(row["gpus"], row["sync_every"]) for row in found["gpus"]} == {(g, k) for g in (8, 64) for k in (1, 8, 64)}
    assert all(row["efficiency"] > 0 for row in found["gpus"])
    exact = found["rows"][2]
    assert 4 * 2000 * 101 < exact["bytes_a_step"] < 4 * (16 + 61_000 + (4 * 32 + 2048) * 101)
    assert "| two, exact |" in capsys.readouterr().err


def test_a_process_that_fails_ends_the_bench():
    with scaling.Crew("no such configuration", threads=1) as crew, pytest.raises(GRU4RecError, match="exit code 1"):
        crew.ask(2, "train", "one alone", 1)
