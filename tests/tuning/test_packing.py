"""How many trials share a GPU. What the GPU itself says is not asked here."""

import dataclasses
import itertools

import numpy as np
import pytest
import ray
import torch
from hypothesis import given
from hypothesis import strategies as st
from prepared_folder import prepared_folder
from rich.console import Console
from simple_log import simple_log

from gru4rec import cli, config
from gru4rec.errors import InputError
from gru4rec.model.network import initialise
from gru4rec.training.trainer import Trainer
from gru4rec.tuning import job, packing, space
from gru4rec.tuning.packing import MARGIN, Measured

GIB = 2**30


@given(trial=st.integers(1, 200 * GIB), gpu=st.integers(1, 200 * GIB), most=st.integers(1, 64))
def test_as_many_as_fit_share_a_gpu_and_no_more(trial, gpu, most):
    fraction = packing.share(Measured(trial, gpu), most)
    together = 10_000 // round(fraction * 10_000)  # as Ray counts
    assert 1 <= together <= most
    assert round(fraction * 10_000) / 10_000 == fraction
    if together > 1:
        assert together * trial <= (1 - MARGIN) * gpu
    if together < most:
        assert (together + 1) * trial > int((1 - MARGIN) * gpu)


@given(trial=st.integers(1, GIB), more=st.integers(0, GIB), gpu=st.integers(1, 8 * GIB), most=st.integers(1, 64))
def test_larger_trials_never_share_with_more(trial, more, gpu, most):
    assert packing.share(Measured(trial, gpu), most) <= packing.share(Measured(trial + more, gpu), most)


@pytest.mark.parametrize(
    ("trial", "gpu", "most", "expected"),
    [(2, 80, 64, 0.0277), (2, 80, 8, 0.125), (30, 80, 8, 0.5), (50, 80, 8, 1.0), (90, 80, 8, 1.0), (24, 80, 8, 0.3333)],
)
def test_shares_of_a_gpu(trial, gpu, most, expected):
    assert packing.share(Measured(trial * GIB, gpu * GIB), most) == expected


SPACE = """
loss = { choices = ["cross-entropy", "bpr-max"] }
batch_size = { low = 8, high = 64, step = 8 }
layers = { choices = [16, 96, 32] }
n_sample = { low = 16, high = 256, log = true }
momentum = { choices = [0, 0.5] }
order = { choices = ["time", "shuffled"] }
learning_rate = { low = 0.02, high = 0.4, step = 0.02 }
optimizer = { choices = ["sgd", "adam", "adagrad"], when = { order = "shuffled" } }
bpreg = { low = 0.0, high = 2.0, when = { loss = "bpr-max" } }
"""


def test_the_largest_point_of_a_space():
    found = space.parse(SPACE, "s.toml")
    settings = packing.largest(found, 1000, found.hyperparameters)
    assert (settings.batch_size, settings.layers, settings.n_sample) == (64, (96,), 256)
    assert (settings.optimizer, settings.order, settings.momentum) == ("adam", "shuffled", 0.5)
    drawn = [found.hyperparameters(found.draw(np.random.default_rng(seed))) for seed in range(200)]
    assert max(packing.estimate(one, 1000) for one in drawn) <= packing.estimate(settings, 1000)


def test_the_published_spaces_have_their_largest_point_at_the_high_ends():
    for name in space.names():
        found, _ = space.load(name)
        settings = packing.largest(found, 40_000, found.hyperparameters)
        assert (settings.layers, settings.batch_size, settings.momentum) == ((512,), 256, 0.9)


@pytest.mark.parametrize("embedding", ["tied", "separate", "one-hot"])
def test_the_estimate_counts_weights_and_the_optimizers_state(embedding):
    for optimizer, momentum in itertools.product(["sgd", "adagrad", "adam"], [0.0, 0.5]):
        settings = config.Hyperparameters(
            layers=(16,), batch_size=2, n_sample=0, embedding=embedding, optimizer=optimizer, momentum=momentum
        )
        trainer = Trainer(initialise(settings, 5000), np.ones(5000, np.int64))
        kept = sum(t.nbytes for t in (trainer.model.tensors() | trainer.optimizer_tensors()).values())
        assert kept * 0.95 < packing.estimate(settings, 5000) < kept * 1.15


def test_the_probe_trains_and_ranks_as_a_trial_does_and_never_reads_the_test_split(tmp_path):
    logs = {"train": simple_log(300, 40, seed=1)[0], "valid": simple_log(60, 40, seed=2)[0]}
    prepared = prepared_folder(tmp_path / "d", {**logs, "test": simple_log(60, 40, seed=3)[0]}, 40)
    for path in (tmp_path / "d" / "test").iterdir():
        path.unlink()
    wild = config.Hyperparameters(layers=(8,), batch_size=8, n_sample=16, learning_rate=1e6)
    packing.exercise(wild, prepared, "cpu")


class _OfOneGpu:
    """Stands for a GPU: what a process sees of it."""

    def __init__(self, monkeypatch, total, used, reserved, peak):
        for name, value in {
            "mem_get_info": (total - used, total),
            "memory_reserved": reserved,
            "max_memory_reserved": peak,
            "synchronize": None,
        }.items():
            monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)


def test_what_the_allocator_does_not_count_belongs_to_the_trial(monkeypatch):
    monkeypatch.setattr(packing, "Prepared", lambda data: data)
    monkeypatch.setattr(packing, "exercise", lambda *_: None)
    _OfOneGpu(monkeypatch, total=1000, used=150, reserved=100, peak=130)
    assert packing.probe(config.Hyperparameters(), "d") == Measured(50 + 130, 1000)


def test_a_trial_that_does_not_fit_takes_the_whole_gpu(monkeypatch):
    def too_much(*_):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(packing, "Prepared", lambda data: data)
    monkeypatch.setattr(packing, "exercise", too_much)
    _OfOneGpu(monkeypatch, total=1000, used=150, reserved=100, peak=130)
    found = packing.probe(config.Hyperparameters(), "d")
    assert packing.share(found, 8) == 1.0


def test_packing_needs_a_gpu(monkeypatch):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(InputError, match="--pack-gpus: the cluster has no GPU"):
        job._check_resources(cli.check(config.Tune, {"data": "d", "pack_gpus": 4}))


def test_packing_waits_for_a_gpu_on_a_cluster_that_may_get_one(monkeypatch):
    class Task:
        def remote(self, *_):
            return Measured(10, 80)

    monkeypatch.setattr(ray, "cluster_resources", dict)
    monkeypatch.setattr(ray, "remote", lambda **asked: lambda _: Task() if asked["num_gpus"] == 1 else None)
    monkeypatch.setattr(ray, "get", lambda measured: measured)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    settings = cli.check(config.Tune, {"data": "d", "pack_gpus": 4})
    told = []
    fraction = packing.gpus_per_trial(settings, config.Hyperparameters(), "d", told.append)
    assert fraction == packing.share(Measured(10, 80), 4)
    assert "waiting for one to join" in told[0]


def test_the_search_goes_on_with_what_was_measured(monkeypatch, tmp_path):
    asked = []

    def measured(settings, highest, data, say):
        asked.append(highest)
        return 0.25

    monkeypatch.setattr(packing, "gpus_per_trial", measured)
    log = simple_log(30, 40)[0]
    prepared = prepared_folder(tmp_path / "d", {"train": log, "valid": log, "test": log}, 40)
    settings = cli.check(config.Tune, {"data": prepared.folder, "pack_gpus": 8})
    found = space.parse(SPACE, "s.toml")
    packed = job._packed(settings, found, prepared, Console())
    assert packed == dataclasses.replace(settings, gpus_per_trial=0.25, pack_gpus=0)
    assert [(one.layers, one.patience) for one in asked] == [((96,), settings.epochs)]
    assert job._packed(packed, found, prepared, Console()) is packed


def test_a_share_is_measured_or_given_not_both():
    with pytest.raises(InputError, match="--pack-gpus: measures what --gpus-per-trial gives"):
        cli.check(config.Tune, {"data": "d", "pack_gpus": 4, "gpus_per_trial": 0.5})
