"""What several training processes run together in a test, without Ray."""

import hashlib

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from gru4rec.config import Hyperparameters
from gru4rec.model.network import GRU4Rec, initialise
from gru4rec.sessions.prepared import Sessions
from gru4rec.training.exchange import Alone, Collective
from gru4rec.training.trainer import Trainer


def parameter_hash(model: GRU4Rec) -> str:
    digest = hashlib.sha256()
    for weight in model.tensors().values():
        digest.update(weight.contiguous().numpy().tobytes())
    return digest.hexdigest()


def train_steps(
    settings: Hyperparameters, support: np.ndarray, streams: list[Sessions], exchange, blocks: int
) -> tuple[list[float], GRU4Rec]:
    """Loss of each step of the first `blocks` blocks."""
    model = initialise(settings, len(support))
    trainer = Trainer(model, support, exchange, groups=len(streams))
    losses: list[float] = []
    for number, block in enumerate(trainer._blocks([[stream] for stream in streams])):
        if number == blocks:
            break
        losses += trainer.train_block(0, number, block).tolist()
    return losses, model


def alone(settings, support, streams, blocks):
    return train_steps(settings, support, streams, Alone(), blocks)


def _member(rank: int, size: int, meeting: str, results, settings, support, streams, blocks) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    losses, model = train_steps(settings, support, [streams[rank]], Collective(), blocks)
    results[rank] = (losses, parameter_hash(model))
    dist.destroy_process_group()


def together(tmp_path, settings, support, streams, blocks) -> list[tuple[list[float], str]]:
    """(losses, parameter hash) of each of as many workers as there are streams."""
    with mp.get_context("spawn").Manager() as manager:
        results = manager.dict()
        arguments = (len(streams), str(tmp_path / "meeting"), results, settings, support, streams, blocks)
        mp.spawn(_member, arguments, nprocs=len(streams))
        return [results[rank] for rank in range(len(streams))]
