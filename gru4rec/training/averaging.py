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
            mine = torch.cat(touched).unique().cpu().numpy() if touched else np.zeros(0, np.int64)
            touched.clear()
            everyone = [np.frombuffer(part, np.int64) for part in self._exchange.collect(mine.tobytes())]
            union, counts = np.unique(np.concatenate(everyone), return_counts=True)
            if len(union):
                own = np.isin(union, mine, assume_unique=True)
                self._average(table, *(torch.from_numpy(part).to(table.packed.device) for part in (union, counts, own)))

    def _average(self, table: Optimizer, rows: Tensor, counts: Tensor, own: Tensor) -> None:
        """`rows` [U] of the table, each over the `counts` [U] workers that touched it; `own` [U]: this one did."""
        summed = table.packed.index_select(0, rows).mul_(own[:, None, None])
        self._exchange.add(summed)
        table.packed.index_copy_(0, rows, summed.div_(counts[:, None, None]))
        if table.updates is not None:
            updates = table.updates.index_select(0, rows).mul_(own)
            self._exchange.add(updates)
            table.updates.index_copy_(0, rows, torch.round(updates / counts).to(updates.dtype))
