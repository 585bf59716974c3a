"""Going on from a model whose catalogue was another one."""

import dataclasses

import pyarrow as pa
import pytest
import torch
from simple_log import simple_log

from gru4rec.config import Hyperparameters
from gru4rec.errors import InputError
from gru4rec.model.network import initialise
from gru4rec.training.trainer import Trainer
from gru4rec.training.warm_start import Overlap, carried_over

SMALL = Hyperparameters(layers=(8,), batch_size=4, n_sample=16, learning_rate=0.1)
KINDS = [
    SMALL,
    dataclasses.replace(SMALL, embedding="separate", embedding_size=6, optimizer="adam", learning_rate=0.01),
    dataclasses.replace(SMALL, embedding="one-hot", cell="lstm", layers=(6, 8), feed_forward=(5,), momentum=0.0),
]


def items_table(ids: list) -> pa.Table:
    return pa.table({"item_id": ids, "item_index": pa.array(range(len(ids)), pa.int32()), "support": [1] * len(ids)})


def trained(settings: Hyperparameters, items: int) -> Trainer:
    sessions, support = simple_log(60, items)
    trainer = Trainer(initialise(settings, items), support)
    trainer.train_epoch(0, [[sessions]])
    return trainer


@pytest.mark.parametrize("settings", KINDS, ids=lambda settings: settings.embedding)
def test_known_items_keep_weights_and_state_new_ones_begin_and_vanished_ones_go(settings):
    old = trained(settings, 30)
    ids = [7, *range(110, 130), 8, 9, 101]
    overlap = Overlap.of(items_table(ids), items_table(list(range(100, 130))))
    assert (len(overlap.known), overlap.new, overlap.dropped) == (21, 3, 9)
    model = carried_over(old.model, settings, overlap, "cpu")
    new = Trainer(model, simple_log(60, len(ids))[1])
    overlap.copy(new.optimizer_tensors(), old.optimizer_tensors())
    fresh = initialise(settings, len(ids)).tensors()
    for kept, before, begun in (
        (model.tensors(), old.model.tensors(), fresh),
        (new.optimizer_tensors(), old.optimizer_tensors(), None),
    ):
        for name, values in kept.items():
            if not name.startswith("item_"):
                assert torch.equal(values, before[name]), name
                continue
            for index, item in enumerate(ids):
                if item >= 100:
                    assert torch.equal(values[index], before[name][item - 100]), name
                elif begun is None:
                    assert not values[index].any()
                else:
                    assert torch.equal(values[index], begun[name][index]), name


def test_going_on_from_the_same_catalogue_is_going_on():
    """Two epochs in one go, and one epoch after the other by way of a carried-over model: the same bits."""
    sessions, support = simple_log(60, 30)
    at_once, first = (Trainer(initialise(SMALL, 30), support) for _ in range(2))
    for epoch in range(2):
        at_once.train_epoch(epoch, [[sessions]])
    first.train_epoch(0, [[sessions]])
    overlap = Overlap.of(items_table(list(range(30))), items_table(list(range(30))))
    second = Trainer(carried_over(first.model, SMALL, overlap, "cpu"), support)
    overlap.copy(second.optimizer_tensors(), first.optimizer_tensors())
    second.train_epoch(1, [[sessions]])
    for name, weight in second.model.tensors().items():
        assert torch.equal(weight, at_once.model.tensors()[name]), name


def test_another_architecture_or_another_kind_of_ids_is_refused():
    old = initialise(SMALL, 5)
    overlap = Overlap.of(items_table(["a", "b"]), items_table(["b", "c", "d", "e", "f"]))
    with pytest.raises(InputError, match="--layers is 9, but the model to go on from has 8"):
        carried_over(old, dataclasses.replace(SMALL, layers=(9,)), overlap, "cpu")
    with pytest.raises(InputError, match="ids of type int64"):
        Overlap.of(items_table([1]), items_table(["b"]))
