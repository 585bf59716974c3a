"""What several training processes run together in a test, without Ray."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from gru4rec import cli
from gru4rec.config import Hyperparameters, Train
from gru4rec.model.network import GRU4Rec, initialise
from gru4rec.sessions.prepared import Prepared, Sessions
from gru4rec.training.exchange import Alone, Collective, Exchange
from gru4rec.training.loop import Plan, Training
from gru4rec.training.progress import Finished
from gru4rec.training.trainer import Trainer


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def parameter_hash(model: GRU4Rec) -> str:
    return tensors_hash(model.tensors())


class Trained(NamedTuple):
    losses: list[float]  # of each step
    weights: dict[str, np.ndarray]
    hash: str  # of weights and optimizer's state
    digest: int


def train_steps(
    settings: Hyperparameters,
    support: np.ndarray,
    streams: list[Sessions],
    exchange: Exchange,
    blocks: int = 1000,
    sync_every: int = 1,
) -> Trained:
    """The first `blocks` blocks of an epoch."""
    model = initialise(settings, len(support))
    trainer = Trainer(model, support, exchange, groups=len(streams), sync_every=sync_every)
    losses: list[float] = []
    for number, ahead in enumerate(trainer._blocks([[stream] for stream in streams], None)):
        if number == blocks:
            break
        losses += trainer.train_block(0, number, ahead.block).tolist()
    weights = {name: tensor.numpy().copy() for name, tensor in model.tensors().items()}
    return Trained(losses, weights, tensors_hash(model.tensors() | trainer.optimizer_tensors()), trainer.digest())


def alone(settings, support, streams, blocks=1000) -> Trained:
    return train_steps(settings, support, streams, Alone(), blocks)


def _member(rank: int, size: int, meeting: str, results, runs) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    found = []
    for settings, support, streams, *rest in runs:
        found.append(train_steps(settings, support, [streams[rank]], Collective(), *rest))
    results[rank] = found
    dist.destroy_process_group()


def together(tmp_path, runs: Sequence[tuple]) -> list[list[Trained]]:
    """What each worker has after each of the `runs`, (settings, support, streams, …) of `train_steps`; [run][worker].

    There are as many workers as each run has streams.
    """
    size = len(runs[0][2])
    with mp.get_context("spawn").Manager() as manager:
        results = manager.dict()
        mp.spawn(_member, (size, str(tmp_path / "meeting"), results, runs), nprocs=size)
        of_workers = [results[rank] for rank in range(size)]
    return [list(of_run) for of_run in zip(*of_workers, strict=True)]


class Deaf:
    """A listener to whom nothing matters."""

    def __getattr__(self, name: str):
        return lambda *_: None


def train_run(command: str, place: str, exchange: Exchange | None = None) -> Finished:
    """What the train job does with these settings, by one worker and without Ray, in the run's folder `place`."""
    chosen = cli.parse(Train, command.split())
    hyperparameters = Hyperparameters(
        **{field.name: getattr(chosen, field.name) for field in dataclasses.fields(Hyperparameters)}
    )
    plan = Plan(place, cutoffs=tuple(sorted({*chosen.cutoffs, 20})))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return Training(hyperparameters, Prepared(chosen.data), plan, exchange or Alone(), Deaf()).run()
    finally:
        torch.set_num_threads(threads)


def _train_member(rank: int, size: int, meeting: str, results, command: str, place: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    results[rank] = train_run(command, place, Collective())
    dist.destroy_process_group()


def train_run_together(tmp_path, size: int, command: str, place: str) -> Finished:
    """`train_run` by so many workers."""
    with mp.get_context("spawn").Manager() as manager:
        results = manager.dict()
        mp.spawn(_train_member, (size, str(tmp_path / "meeting"), results, command, place), nprocs=size)
        return results[0]
