"""How many trials share a GPU: by the memory of the largest one, which a probe measures before the search begins.

The largest point of the space, by an estimate that has only to rank points, is trained for a few blocks and ranks a
batch of sessions on a GPU of its own; what it then takes at most decides.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from gru4rec import on_ray
from gru4rec.config import Hyperparameters, Tune
from gru4rec.errors import InputError
from gru4rec.evaluation import ranking
from gru4rec.model.network import initialise, input_width, shapes
from gru4rec.model.optimizers import state_names
from gru4rec.sessions.prepared import Prepared
from gru4rec.training.loop import EVALUATED
from gru4rec.training.trainer import BLOCK_STEPS, Trainer
from gru4rec.tuning.space import Space

MARGIN = 0.1
"""Share of a GPU that stays free: allocators of several processes leave gaps, and no probe sees everything."""

_NUMBER = 4  # bytes
_SHARES = 10_000  # Ray counts GPUs in ten-thousandths
_SIZED = {  # hyperparameters that bear on memory
    *("loss", "cell", "layers", "input_to_all_layers", "feed_forward", "embedding", "embedding_size", "batch_size"),
    *("dropout_embed", "dropout_hidden", "optimizer", "momentum", "n_sample", "mask_hits", "mask_seen"),
}


class Measured(NamedTuple):
    """What the probe found, bytes."""

    trial: int  # of the GPU's memory, at most, with all that a process of its own costs there
    gpu: int  # all of it


def share(found: Measured, most: int) -> float:
    """The fraction of a GPU for each trial: 1 / n for the n ≤ `most` trials that fit into it and leave MARGIN free.

    A trial that does not fit even so has a GPU of its own. Rounded down, as Ray counts: n such fractions are at most a
    GPU, and n + 1 are more (for n up to 99).
    """
    fit = int(found.gpu * (1 - MARGIN)) // found.trial
    return _SHARES // max(1, min(fit, most)) / _SHARES


def estimate(settings: Hyperparameters, items: int) -> int:
    """Bytes of weights, optimizer's state and a block's tensors, roughly: enough to tell which of two takes more."""
    weights = sum(math.prod(shape) for shape in shapes(settings, items).values())
    lanes, full = settings.batch_size, settings.loss == "full-cross-entropy"
    scored = items if full else lanes + settings.n_sample
    rows = 2 * (scored + lanes) * (settings.width + 1)  # fetched, and their gradients
    masks = (settings.mask_hits + settings.mask_seen) * scored * lanes
    dropped = (settings.dropout_hidden > 0) * sum(settings.layers)
    dropped += (settings.dropout_embed > 0) * input_width(settings)
    block = BLOCK_STEPS * lanes * dropped
    return _NUMBER * (weights * (1 + len(state_names(settings))) + rows + 4 * scored * lanes + masks + block)


def largest(space: Space, items: int, hyperparameters: Callable[[dict[str, Any]], Hyperparameters]) -> Hyperparameters:
    """Settings of the point with the largest `estimate`: ranges at their high end, any choices.

    `hyperparameters` makes the settings of a point.
    """
    bearing = set(_SIZED)
    for dimension in reversed(space.dimensions):  # conditions name what stands before
        if dimension.name in bearing:
            bearing |= set(dimension.when)
    values = {
        one.name: (one.choices if one.name in bearing else one.choices[:1]) or (one.nearest(one.high),)
        for one in space.dimensions
    }
    points = (space.settle(dict(zip(values, chosen, strict=True))) for chosen in itertools.product(*values.values()))
    return max(map(hyperparameters, points), key=lambda settings: estimate(settings, items))


def exercise(settings: Hyperparameters, prepared: Prepared, device: torch.device | str) -> None:
    """Train a little and rank a batch of the validation split, with the tensors that a trial has; nothing is kept."""
    tame = dataclasses.replace(settings, learning_rate=1e-6, lr_schedule="constant")  # no loss explodes here
    trainer = Trainer(initialise(tame, len(prepared.items), device), prepared.support)
    sessions = next(prepared.shards("train")[0].batches(BLOCK_STEPS * settings.batch_size))
    trainer.train_epoch(0, [[sessions]])
    ranking.evaluate(trainer.model, next(prepared.shards("valid")[0].batches(EVALUATED)), (20,))


def probe(settings: Hyperparameters, data: str) -> Measured:
    """Exercise the settings on the GPU of this process, which must have it for itself.

    What torch's allocator holds at most, and what it does not count: the CUDA context, libraries' code and workspaces;
    other programs' memory is taken for a part of that, which packs less. Settings that do not fit take the whole GPU.
    """
    device = torch.device("cuda")
    try:
        exercise(settings, Prepared(data), device)
        torch.cuda.synchronize(device)
    except torch.OutOfMemoryError:
        gpu = torch.cuda.mem_get_info(device)[1]
        return Measured(gpu, gpu)
    free, gpu = torch.cuda.mem_get_info(device)
    beside = gpu - free - torch.cuda.memory_reserved(device)
    return Measured(max(0, beside) + torch.cuda.max_memory_reserved(device), gpu)


def check_gpu() -> None:
    """Raises InputError where there is no GPU to measure on, and none can come. Ray must be connected."""
    if not _gpu() and not on_ray.may_grow():
        raise InputError("--pack-gpus: the cluster has no GPU")


def _gpu() -> bool:
    import ray

    return ray.cluster_resources().get("GPU", 0) >= 1


def gpus_per_trial(settings: Tune, highest: Hyperparameters, data: str, say: Callable[[str], None]) -> float:
    """The fraction of a GPU for each trial, measured with `highest` on one of the GPUs, which are taken to be alike.

    It waits for one, which a cluster that the job was submitted to may get. Ray must be connected.
    """
    import ray

    if not _gpu():
        say("--pack-gpus: the cluster has no GPU yet; waiting for one to join")
    # The process ends with the call: its memory on the GPU is the trials'.
    task = ray.remote(num_cpus=settings.threads, num_gpus=1, max_calls=1, max_retries=2)(probe)
    found = ray.get(task.remote(highest, data))
    fraction = share(found, settings.pack_gpus)
    say(
        f"a trial takes up to {found.trial / 2**30:.2f} of a GPU's {found.gpu / 2**30:.1f} GiB: "
        f"{round(1 / fraction)} at a time on each"
    )
    return fraction
