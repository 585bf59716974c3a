"""How often the rule for promotion errs: pairs of trainings that differ in their seed alone, and pairs that differ."""

import numpy as np
import pytest
from prepared_folder import prepared_folder

from gru4rec import cli, config
from gru4rec.config import Hyperparameters
from gru4rec.evaluation import contenders, decision, measure, pieces
from gru4rec.evaluation.decision import Version
from gru4rec.model.network import initialise
from gru4rec.sessions.prepared import Sessions
from gru4rec.training.trainer import Trainer

ITEMS, PAIRS = 300, 10


def log(seed, sessions):
    """Sessions in which every other click follows from the one before."""
    random = np.random.default_rng(seed)
    lengths = random.integers(2, 9, sessions)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = random.zipf(1.3, offsets[-1]) % ITEMS
    follows = random.random(offsets[-1]) < 0.5
    follows[offsets[:-1]] = False
    for place in np.flatnonzero(follows):
        items[place] = (items[place - 1] * 7 + 3) % ITEMS
    return Sessions(offsets, items.astype(np.int32))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    logs = {"train": log(1, 3000), "test": log(2, 3000)}
    return prepared_folder(tmp_path_factory.mktemp("data") / "d", logs, ITEMS)


def trained(data, seed, epochs):
    settings = Hyperparameters(layers=(32,), batch_size=32, n_sample=64, learning_rate=0.1, epochs=5, seed=seed)
    trainer = Trainer(initialise(settings, ITEMS), data.support)
    for epoch in range(epochs):
        trainer.train_epoch(epoch, [data.shards("train")])
    return trainer.model


def promotions(data, pairs):
    """Of pairs (champion, version), which promote the version by the default settings of compare."""
    settings = cli.check(config.Compare, {"models": ["m"], "data": data.folder})
    cut = pieces.cut(data, "test")
    asked = measure.question(data, "test", cut, [20])
    found = []
    for pair in pairs:
        totals = [
            measure.measure_here(contenders.Model(str(n), model, data.support, np.arange(ITEMS)), asked, cut)
            for n, model in enumerate(pair)
        ]
        versions = [
            Version(str(n), total.metric(settings.metric), data.fingerprint, 0.0, 1.0, 0.0, 0.0)
            for n, total in enumerate(totals)
        ]
        gains = {str(n): total.sums[:, total.column(settings.metric)] for n, total in enumerate(totals)}
        decided = decision.decide(versions, "0", gains, totals[0].counts, data.fingerprint, settings)
        found.append(decided.promote)
    return found


@pytest.mark.slow
def test_another_seed_is_not_promoted_and_better_training_is(data):
    models = [trained(data, seed, 5) for seed in range(2 * PAIRS)]
    assert sum(promotions(data, zip(models[::2], models[1::2], strict=True))) <= 1
    poor = [trained(data, seed, 1) for seed in range(3)]
    assert all(promotions(data, zip(poor, models[:3], strict=True)))
