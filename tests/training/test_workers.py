"""Several workers against one process: exact with a sum a step; with local steps, the mean that it says it is."""

import dataclasses

import numpy as np
import torch
import workers
from simple_log import simple_log
from variants import VARIANTS

from gru4rec.config import Hyperparameters
from gru4rec.model.network import initialise
from gru4rec.sessions.prepared import Sessions
from gru4rec.training.exchange import Alone
from gru4rec.training.trainer import BLOCK_STEPS, Trainer

LONG = Hyperparameters(
    layers=(16,), batch_size=8, n_sample=50, dropout_embed=0.2, dropout_hidden=0.2, learning_rate=0.1, seed=1
)
LOCAL = Hyperparameters(
    layers=(8,), batch_size=4, n_sample=10, dropout_hidden=0.0, learning_rate=0.1, momentum=0.2, seed=1
)


def dealt(sessions: Sessions, count: int) -> list[Sessions]:
    """The sessions in `count` streams, as cards are dealt."""
    owner = np.repeat(np.arange(sessions.count) % count, sessions.lengths)
    return [
        Sessions(np.concatenate([[0], np.cumsum(sessions.lengths[part::count])]), sessions.items[owner == part])
        for part in range(count)
    ]


def check_exact(settings, support, streams, of_workers, name, rtol=1e-5):
    alone = workers.alone(settings, support, streams)
    for found in of_workers:
        np.testing.assert_allclose(found.losses, alone.losses, rtol=rtol, atol=1e-6, err_msg=name)
        for weight, values in found.weights.items():
            np.testing.assert_allclose(values, alone.weights[weight], atol=2e-4, err_msg=f"{name}: {weight}")
    assert len({found.hash for found in of_workers}) == 1, name
    assert len({found.digest for found in of_workers}) == 1, name


def test_three_workers_equal_one_process_with_every_option(tmp_path):
    """Each of the variants to the last retired lane: losses step by step, all weights; replicas with the same bits."""
    sessions, support = simple_log(150, 60)
    streams = dealt(sessions, 3)
    runs = [(settings, support, streams) for _, settings in VARIANTS]
    for (name, settings), of_workers in zip(VARIANTS, workers.together(tmp_path, runs), strict=True):
        check_exact(settings, support, streams, of_workers, name)


def test_two_workers_equal_one_process_for_long_and_when_one_runs_out(tmp_path):
    """300 steps and more, dropout and momentum on; a worker without sessions keeps step until all are done."""
    sessions, support = simple_log(2000, 300)
    short = Sessions(sessions.offsets[:21], sessions.items[: sessions.offsets[20]])
    several = [
        dataclasses.replace(LONG, loss="cross-entropy", logq=1.0, sample_alpha=0.5, momentum=0.2),
        dataclasses.replace(LONG, loss="bpr-max", sample_alpha=0.0, elu_param=0.5, mask_seen=True, momentum=0.2),
    ]
    runs = [(settings, support, dealt(sessions, 2)) for settings in several]
    runs.append((several[0], support, [short, dealt(sessions, 8)[0]]))
    for run, of_workers in zip(runs, workers.together(tmp_path, runs), strict=True):
        check_exact(*run, of_workers, run[0].loss)
    assert len(of_workers[0].losses) > 100


def test_local_steps_are_averaged_over_the_workers_that_touched_a_row(tmp_path):
    """Against two processes that know nothing of each other, averaged by hand."""
    sessions, support = simple_log(500, 400)
    first, second = dealt(sessions, 2)
    streams = [first, Sessions(second.offsets[:61], second.items[: second.offsets[60]])]
    runs = [
        (dataclasses.replace(LOCAL, embedding=embedding), support, streams, 1000, every)
        for embedding in ("tied", "separate")
        for every in (4, 128)
    ]
    for run, found in zip(runs, workers.together(tmp_path, runs), strict=True):
        if run[-1] <= BLOCK_STEPS:  # the last block ends with an average
            assert found[0].hash == found[1].hash
        for worker, tensors in zip(found, averaged_by_hand(*run), strict=True):
            for name, values in worker.weights.items():
                np.testing.assert_allclose(values, tensors[name].numpy(), atol=1e-5, err_msg=f"{run[-1]} {name}")


def averaged_by_hand(settings, support, streams, _, every) -> list[dict[str, torch.Tensor]]:
    """Weights and optimizer's state of each worker after an epoch."""
    trainers = [Trainer(initialise(settings, len(support)), support) for _ in streams]
    everything = [{**of.model.tensors(), **of.optimizer_tensors()} for of in trainers]
    base = {name: tensor.clone() for name, tensor in everything[0].items()}
    blocks = [
        [ahead.block for ahead in of._blocks([[stream]], None)] for of, stream in zip(trainers, streams, strict=True)
    ]
    steps_since = 0
    for number in range(max(map(len, blocks))):
        laid = [
            of._laid_out(0, number, own[number]) if number < len(own) else []
            for of, own in zip(trainers, blocks, strict=True)
        ]
        for step in range(BLOCK_STEPS):
            for of, steps in zip(trainers, laid, strict=True):
                if step < len(steps):
                    of._step(steps[step], settings.learning_rate)
            steps_since += 1
            if steps_since == every:
                steps_since = 0
                average_by_hand(everything, base)
    return everything


def rows_that_differ(tensors: dict[str, torch.Tensor], base: dict[str, torch.Tensor], *names: str) -> torch.Tensor:
    found = [(tensors[name] != base[name]).reshape(len(base[name]), -1).any(dim=1) for name in names]
    return torch.stack(found).any(dim=0)


def average_by_hand(everything: list[dict[str, torch.Tensor]], base: dict[str, torch.Tensor]) -> None:
    """Item rows: the mean over those that have changed them since `base`; dense weights: over those that trained."""
    trained = [not torch.equal(tensors["item_bias"], base["item_bias"]) for tensors in everything]
    changed_rows = {
        "item_table": [rows_that_differ(tensors, base, "item_table", "item_bias") for tensors in everything]
    }
    changed_rows["item_bias"] = changed_rows["item_table"]
    if "item_input" in base:
        changed_rows["item_input"] = [rows_that_differ(tensors, base, "item_input") for tensors in everything]
    for name, before in base.items():
        dense = [torch.full(before.shape[:1], made) for made in trained]
        changed = changed_rows.get(name.partition(".")[0], dense)
        counts = sum(part.double() for part in changed)
        shape = (-1,) + (1,) * (before.dim() - 1)
        total = sum(
            part.view(shape) * tensors[name].double() for part, tensors in zip(changed, everything, strict=True)
        )
        mean = torch.where(counts.view(shape) > 0, total / counts.clamp_min(1).view(shape), before.double())
        for tensors in everything:
            tensors[name].copy_(mean)
    for name in base:
        base[name] = everything[0][name].clone()


def test_local_steps_of_a_worker_alone_are_those_of_one_process():
    sessions, support = simple_log(200, 60)
    one, local = (workers.train_steps(LOCAL, support, [sessions], Alone(), 1000, every) for every in (1, 64))
    assert one.hash == local.hash
