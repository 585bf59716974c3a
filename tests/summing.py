"""A process that sums with another, through shared memory and not, and may die in between."""

import os
import signal
from pathlib import Path

import torch
import torch.distributed as dist

from gru4rec.errors import GRU4RecError
from gru4rec.training import shared_sum
from gru4rec.training.exchange import Collective


def member(rank: int, folder: str, results) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    shared_sum._FOLDER = Path(folder, "of one machine")
    exchanges = [Collective(timeout=1.0), Collective(share_memory=False)]
    generator = torch.Generator().manual_seed(rank)
    for count in (10, 5, 1000, 100_000, 3):  # the memory grows twice
        values = torch.randn(count, generator=generator)
        sums = [values.clone(), values.clone()]
        for exchange, found in zip(exchanges, sums, strict=True):
            exchange.add(found)
        assert torch.equal(*sums)
    assert exchanges[0]._shared is not None

    shared_sum._FOLDER = Path(folder, f"of machine {rank}")
    apart = Collective()
    found = torch.full((9,), float(rank + 1))
    apart.add(found)
    assert apart._shared is None
    assert torch.equal(found, torch.full((9,), 3.0))

    results[f"bytes {rank}"] = exchanges[0].sent
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        exchanges[0].add(torch.ones(3))
    except GRU4RecError as error:
        results["error"] = str(error)
