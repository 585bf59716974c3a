"""The training step against plain float64."""

import dataclasses

import numpy as np
import plain
import pytest
import torch
import workers
from simple_log import simple_log
from variants import VARIANTS

from gru4rec.config import Hyperparameters
from gru4rec.errors import GRU4RecError
from gru4rec.model import kernels, negatives
from gru4rec.model.network import initialise
from gru4rec.training import lanes
from gru4rec.training.explosion import Exploded, check
from gru4rec.training.trainer import BLOCK_STEPS, Trainer

BASE = Hyperparameters(
    layers=(16,), batch_size=8, n_sample=50, dropout_hidden=0.0, learning_rate=0.1, momentum=0.2, seed=1
)
TOGETHER = [
    dataclasses.replace(BASE, loss="cross-entropy", logq=1.0, sample_alpha=0.5),
    dataclasses.replace(BASE, loss="bpr-max", sample_alpha=0.0, bpreg=0.5, elu_param=0.5, mask_seen=True),
    dataclasses.replace(
        BASE, loss="top1-max", cell="lstm", layers=(12, 10), embedding="one-hot", optimizer="adam", grad_clip=0.5
    ),
]
every_variant = pytest.mark.parametrize("settings", [pytest.param(made, id=name) for name, made in VARIANTS])


def obvious_factors(trainer: Trainer, number: int, step: int) -> dict:
    """The step's dropout factors as the plain implementation takes them."""
    settings = trainer.settings
    embed = trainer._dropout(settings.dropout_embed, 1, 0, number, trainer.model.input_table.shape[1])
    hidden = [trainer._dropout(settings.dropout_hidden, 2 + i, 0, number, h) for i, h in enumerate(settings.layers)]
    return {
        "drop_embed": 1.0 if embed is None else embed[step].double(),
        "drop_hidden": None if hidden[0] is None else [drop[step].double() for drop in hidden],
    }


@every_variant
@pytest.mark.parametrize("way", ["fused", "plain torch", "padded"])
def test_every_step_of_an_epoch_equals_the_plain_implementation(settings, way, monkeypatch):
    """Losses step by step, to the last retired lane, and all weights at the end."""
    if way == "fused" and not kernels.FUSED:
        pytest.skip("numba is not installed")
    monkeypatch.setattr(kernels, "FUSED", way == "fused")
    sessions, support = simple_log(130, 60)
    model = initialise(settings, len(support))
    # A seed with which no score comes so near to the kink of an activation that rounding decides its side.
    for name, weight in plain.initial(settings, len(support), seed=4).items():
        model.tensors()[name].copy_(weight)
    obvious = plain.PlainTrainer(settings, model.tensors(), support)
    trainer = Trainer(model, support, padded=way == "padded")
    steps = 0
    for number, block in enumerate(lanes.Schedule([sessions], settings.batch_size, BLOCK_STEPS)):
        found = trainer.train_block(0, number, block).tolist()
        extra = negatives.draw(
            negatives.alias_table(np.maximum(support, 1).astype(np.float64) ** settings.sample_alpha),
            negatives.stream(settings.seed, 0, 0, number),
            (BLOCK_STEPS, settings.n_sample),
        )
        for step, loss in enumerate(found):
            wanted = obvious.step(
                torch.from_numpy(block.inputs[step]).long(),
                torch.from_numpy(block.targets[step]).long(),
                torch.from_numpy(block.resets[step]),
                torch.from_numpy(extra[step]).long(),
                active=torch.from_numpy(block.active[step]),
                **obvious_factors(trainer, number, step),
            )
            assert loss == pytest.approx(wanted, rel=2e-5, abs=1e-6)
        steps += len(found)
    assert steps > BLOCK_STEPS
    for name, weight in model.tensors().items():
        torch.testing.assert_close(
            weight.double(), obvious.weights[name], rtol=0, atol=1e-3, msg=lambda m, n=name: n + m
        )


@pytest.mark.parametrize("count", [1, 3, 7])
def test_fewer_sessions_than_lanes_train(count):
    sessions, support = simple_log(count, 50)
    trainer = Trainer(initialise(BASE, 50), support)
    epoch = trainer.train_epoch(0, [[sessions]])
    assert epoch.events == sessions.transitions


def test_an_epoch_trains_every_transition_and_lowers_the_loss():
    sessions, support = simple_log(500, 60)
    trainer = Trainer(initialise(BASE, 60), support)
    epochs = [trainer.train_epoch(epoch, [[sessions]]) for epoch in range(3)]
    assert {epoch.events for epoch in epochs} == {sessions.transitions}
    assert epochs[2].loss < epochs[0].loss


def test_a_loss_that_explodes_stops_with_epoch_and_step():
    sessions, support = simple_log(200, 60)
    model = initialise(BASE, 60)
    model.item_table[3] = torch.nan
    with pytest.raises(GRU4RecError, match="not finite in epoch 1"):
        Trainer(model, support).train_epoch(0, [[sessions]])


def test_a_loss_far_above_its_beginning_stops_with_epoch_and_step():
    sessions, support = simple_log(300, 60)
    settings = dataclasses.replace(BASE, loss="bpr-max", learning_rate=0.05)
    trainer = Trainer(initialise(settings, 60), support)
    blocks = list(lanes.Schedule([sessions], settings.batch_size, BLOCK_STEPS))
    first = BLOCK_STEPS * settings.batch_size
    limit = check(trainer.train_block(0, 0, blocks[0]).numpy() * settings.batch_size, first, 0, 0, 0.0)
    trainer.model.item_table.mul_(1000)
    grown = trainer.train_block(0, 1, blocks[1]).numpy() * settings.batch_size
    with pytest.raises(Exploded, match=r"explodes in epoch 3, step (6[5-9]|[789]\d|1[012]\d):"):
        check(grown, first, 2, BLOCK_STEPS, limit)


@pytest.mark.parametrize("settings", TOGETHER, ids=[settings.loss for settings in TOGETHER])
def test_more_threads_change_no_weight(settings, monkeypatch):
    """Rows and lanes are shared out between threads, and blocks laid out ahead: the same bits."""
    sessions, support = simple_log(200, 300)
    settings = dataclasses.replace(settings, n_sample=200, dropout_embed=0.2, dropout_hidden=0.2)
    monkeypatch.setattr(kernels, "_WORTH", 1)
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        trainer = Trainer(initialise(settings, 300), support)
        trainer.train_epoch(0, [[sessions]])
        found.append(workers.parameter_hash(trainer.model))
    assert found[0] == found[1]


def test_untouched_rows_keep_weights_and_optimizer_state():
    sessions, support = simple_log(50, 40)
    settings = dataclasses.replace(BASE, n_sample=0)
    wide = np.concatenate([support, np.ones(1000, np.int64)])
    model = initialise(settings, len(wide))
    before = model.item_table.clone()
    trainer = Trainer(model, wide)
    trainer.train_epoch(0, [[sessions]])
    assert torch.equal(model.item_table[40:], before[40:])
    assert not trainer.optimizer_tensors()["item_table.accumulator"][40:].any()
