"""Local steps with periodic averaging (local SGD; Stich, ICLR 2019), for networks too slow for a sum a step.

Between two averages every worker trains on its own lanes alone. An item's row is then the mean over the workers that
touched it since the last average, for a worker that did not has nothing to say about it: a mean over all would undo
most of what rare items learn. The optimizer's state is averaged like the weights. All draw the same extra negatives,
so that the rows to exchange grow with the workers only by their lanes' own clicks.
"""

import numpy as np
import torch
from torch import Tensor

from gru4rec.model.optimizers import Optimizer
from gru4rec.training.exchange import Exchange


class Averager:
    """Averages tables of rows that all workers have, each after steps of its own."""

    def __init__(self, exchange: Exchange, tables: list[Optimizer]) -> None:
        self._exchange = exchange
        self._tables = tables
        self._touched: list[list[Tensor]] = [[] for _ in tables]

    def touch(self, *rows: Tensor) -> None:
        """A step has changed `rows` [M] int64 of each table (the last row of a table, which is spare, may be named)."""
        for touched, of_step in zip(self._touched, rows, strict=True):
            touched.append(of_step)

    def average(self) -> None:
        """Make the tables of all workers equal, bit for bit; every worker calls it after as many steps as the others.

        A worker that has made no step since the last average has no part in the mean.
        """
        for table, touched in zip(self._tables, self._touched, strict=True):
            # Marking rows takes a tenth of the time of sorting them.
            mine = np.zeros(len(table.packed), bool)
            if touched:
                mine[torch.cat(touched).cpu().numpy()] = True
            touched.clear()
            counts = np.zeros(len(mine), np.int32)
            for part in self._exchange.collect(np.flatnonzero(mine).astype(np.int32).tobytes()):
                counts[np.frombuffer(part, np.int32)] += 1  # a worker names a row once
            union = np.flatnonzero(counts)
            if len(union):
                to = table.packed.device
                self._average(table, *(torch.from_numpy(part).to(to) for part in (union, counts[union], mine[union])))

    def _average(self, table: Optimizer, rows: Tensor, counts: Tensor, own: Tensor) -> None:
        """`rows` [U] of the table, each over the `counts` [U] workers that touched it; `own` [U]: this one did."""
        self._exchange.average(table.packed, rows, counts, own)
        if table.updates is not None:
            updates = table.updates.index_select(0, rows).mul_(own)
            self._exchange.add(updates)
            table.updates.index_copy_(0, rows, torch.round(updates / counts).to(updates.dtype))
