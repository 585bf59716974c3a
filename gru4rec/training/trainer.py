"""The training loop of one worker: blocks of steps in, updated weights out.

W workers of B lanes do what one process with W · B lanes does on the same W streams of sessions: the same touched
items and extra negatives on each, the same dropout for each lane, one sum of gradients a step.

Shapes: T steps of a block, B lanes of a worker, N = W · B lanes of all, D size of an item row, M touched items of a
step, K of them scored.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gru4rec.config import Hyperparameters
from gru4rec.errors import GRU4RecError
from gru4rec.model import kernels, negatives
from gru4rec.model.adagrad import Adagrad
from gru4rec.model.losses import bpr, bpr_max, cross_entropy, top1, top1_max
from gru4rec.model.network import GRU4Rec, backward, forward, zero_states
from gru4rec.sessions.prepared import Sessions
from gru4rec.training import lanes, touched
from gru4rec.training.exchange import Alone, Exchange

BLOCK_STEPS = 64  # steps laid out at once; a multiple of 8, so that random streams start on whole counters

_NEGATIVES, _EMBED, _HIDDEN = 0, 1, 2  # purposes of random streams


@dataclass(frozen=True)
class Epoch:
    """What one pass over the sessions gave, over all workers."""

    loss: float  # mean over the transitions
    events: int  # transitions trained
    steps: int
    seconds: float


class Trainer:
    """Trains `model` in place on one worker.

    `support` [V] are the clicks of each item in the training split. A worker usually has one group of `batch_size`
    lanes; `groups` above 1 puts the lanes of so many workers into one process, which is what several workers compute
    together.
    """

    def __init__(self, model: GRU4Rec, support: np.ndarray, exchange: Exchange | None = None, groups: int = 1) -> None:
        settings = model.hyperparameters
        self.model = model
        self.exchange = exchange or Alone()
        self.groups = groups
        self.lanes = groups * settings.batch_size  # of this worker
        self.all_lanes = self.lanes * self.exchange.size
        self._alias = negatives.alias_table(np.maximum(support, 1).astype(np.float64) ** settings.sample_alpha)
        self._layout = touched.Layout(support, settings.logq, settings.sample_alpha)
        self._states = zero_states(settings, self.lanes, model.device)
        # All dense weights lie in one tensor, of which the model's are views: one update, one exchange.
        self._dense = torch.cat([weight.reshape(-1) for weight in model.dense.values()])
        model.dense = self._views(self._dense)
        self._table_state, self._bias_state, self._dense_state = (
            Adagrad.of(weight, settings.learning_rate, settings.momentum)
            for weight in (model.item_table, model.item_bias.unsqueeze(1), self._dense)
        )
        # Space that every step uses again. All that is summed over the workers lies in one tensor: the gradients of
        # the dense weights, the loss, then those of the touched rows and biases.
        width = 2 * self.all_lanes + settings.n_sample
        self._rows = model.item_table.new_empty(width, settings.layers[-1])
        self._scores = model.item_table.new_empty(self.lanes * width)
        self._sums = self._dense.new_zeros(len(self._dense) + 1 + self._rows.numel() + width)
        self._d_dense = self._sums[: len(self._dense)]
        self._d_weights = self._views(self._d_dense)

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        """The dense weights, or their gradients, by name, as views of one flat tensor."""
        sizes = [weight.numel() for weight in self.model.dense.values()]
        named = zip(self.model.dense.items(), flat.split(sizes), strict=True)
        return {name: part.view(weight.shape) for (name, weight), part in named}

    @property
    def settings(self) -> Hyperparameters:
        return self.model.hyperparameters

    def train_epoch(
        self,
        epoch: int,
        streams: list[Iterable[Sessions]],
        progress: Callable[[int, float], None] | None = None,
    ) -> Epoch:
        """One pass over the streams, one for each group of lanes. `progress` hears (events, loss) after each block.

        Raises GRU4RecError where the loss is no longer finite.
        """
        if len(streams) != self.groups:
            raise ValueError(f"{self.groups} groups of lanes need as many streams, got {len(streams)}")
        self._states = zero_states(self.settings, self.lanes, self.model.device)
        began = time.perf_counter()
        total, events, steps = 0.0, 0, 0
        for number, block in enumerate(self._blocks(streams)):
            losses = self.train_block(epoch, number, block)
            total += float(losses.sum()) * self.all_lanes
            events += block.transitions
            steps += len(losses)
            if not np.isfinite(total):
                raise GRU4RecError(
                    f"the loss is not finite in epoch {epoch + 1}, by step {steps}: lower --learning-rate or --momentum"
                )
            if progress:
                progress(events, total / events)
        return Epoch(total / max(events, 1), events, steps, time.perf_counter() - began)

    def _blocks(self, streams: list[Iterable[Sessions]]) -> Iterator[lanes.Block]:
        """The blocks of all workers' lanes, [T, N]; a worker that is done keeps step until all are."""
        schedules = [lanes.blocks(stream, self.settings.batch_size, BLOCK_STEPS) for stream in streams]
        own = lanes.side_by_side(schedules, self.settings.batch_size, BLOCK_STEPS)
        while True:
            block = self.exchange.gather(next(own, None) or lanes.idle_block(self.lanes, BLOCK_STEPS))
            if not block.active.any():
                return
            yield block

    def train_block(self, epoch: int, number: int, block: lanes.Block) -> Tensor:
        """The steps of block `number`, [T, N]; returns the loss of each step that had an active lane."""
        settings, device = self.settings, self.model.device
        steps = int(block.active.any(axis=1).sum())  # retired lanes stay retired: the steps with work come first
        block = lanes.Block(*(part[:steps] for part in block))
        extra = negatives.draw(
            self._alias,
            negatives.stream(settings.seed, _NEGATIVES, epoch, number),
            (BLOCK_STEPS, settings.n_sample),
        )
        laid_out = self._layout(block, extra[:steps], device)
        own = slice(self.exchange.rank * self.lanes, (self.exchange.rank + 1) * self.lanes)
        keep = torch.from_numpy(~block.resets[:, own, None]).to(device, torch.float32)
        weight = torch.from_numpy(block.active[:, own]).to(device, torch.float32) / self.all_lanes
        drop_embed = self._dropout(settings.dropout_embed, _EMBED, epoch, number, settings.layers[-1])
        drop_hidden = [
            self._dropout(settings.dropout_hidden, _HIDDEN + layer, epoch, number, units)
            for layer, units in enumerate(settings.layers)
        ]
        losses = torch.empty(steps, device=device)
        for step, items in enumerate(laid_out):
            losses[step] = self._step(
                items,
                own,
                keep[step],
                weight[step],
                None if drop_embed is None else drop_embed[step],
                None if drop_hidden[0] is None else [drop[step] for drop in drop_hidden if drop is not None],
            )
        return losses

    def _dropout(self, p: float, purpose: int, epoch: int, number: int, width: int) -> Tensor | None:
        """Factors [T, B, width] of this worker's lanes: 0 with probability p, else 1 / (1 − p).

        Drawn lane by lane, so that a lane has the same factors in whichever worker it is.
        """
        if p == 0:
            return None
        skip = self.exchange.rank * self.lanes * BLOCK_STEPS * width // 2  # two factors come of a 64-bit number
        generator = negatives.stream(self.settings.seed, purpose, epoch, number, skip)
        drawn = generator.random((self.lanes, BLOCK_STEPS, width), dtype=np.float32)
        kept = torch.from_numpy(drawn).to(self.model.device).ge_(p).div_(1 - p)
        return kept.transpose(0, 1).contiguous()

    def _step(
        self,
        items: touched.Touched,
        own: slice,
        keep: Tensor,
        weight: Tensor,
        drop_embed: Tensor | None,
        drop_hidden: list[Tensor] | None,
    ) -> Tensor:
        """One mini-batch; returns its loss, summed over all lanes and divided by their number."""
        model, settings = self.model, self.settings
        count, scored, width = len(items.items), items.scored, settings.layers[-1]
        rows = self._rows[:count]
        kernels.gather(model.item_table, items.items, out=rows)
        bias = model.item_bias.index_select(0, items.items[:scored])

        x = rows.index_select(0, items.inputs[own])
        if drop_embed is not None:
            x = x * drop_embed
        before = [h * keep for h in self._states]
        self._states, saved = forward(model.dense, x, before, drop_hidden)
        hidden = self._states[-1]
        scores = self._scores[: self.lanes * scored].view(self.lanes, scored)
        if settings.loss == "cross-entropy":  # its logits are the scores with the columns' weights
            bias.add_(items.log_weight)
        torch.addmm(bias, hidden, rows[:scored].t(), out=scores)
        loss, d_scores = self._loss(scores, items.positives[own], weight, items, own)

        ends = len(self._dense), len(self._dense) + 1, len(self._dense) + 1 + rows.numel()
        sums = self._sums[: ends[2] + scored]
        d_rows, d_bias = sums[ends[1] : ends[2]].view(count, width), sums[ends[2] :]
        d_x = backward(model.dense, saved, d_scores @ rows[:scored], self._d_weights, drop_hidden)
        if drop_embed is not None:
            d_x = d_x * drop_embed
        torch.mm(d_scores.t(), hidden, out=d_rows[:scored])
        d_rows[scored:] = 0
        d_rows.index_add_(0, items.inputs[own], d_x)
        torch.sum(d_scores, dim=0, out=d_bias)
        sums[ends[0]] = loss
        self.exchange.add(sums)

        self._table_state.step_rows(model.item_table, items.items, d_rows)
        self._bias_state.step_rows(model.item_bias.unsqueeze(1), items.items[:scored], d_bias.unsqueeze(1))
        self._dense_state.step(self._dense, self._d_dense)
        return sums[ends[0]]

    def _loss(
        self, scores: Tensor, positive: Tensor, weight: Tensor, items: touched.Touched, own: slice
    ) -> tuple[Tensor, Tensor]:
        """The loss of this worker's lanes and its gradient with respect to `scores` [B, K]."""
        settings = self.settings
        match settings.loss:
            case "cross-entropy":
                return cross_entropy(scores, positive, weight, items.offset[own])
            case "bpr-max":
                return bpr_max(scores, positive, weight, items.multiplicity, settings.bpreg, settings.elu_param)
            case "top1":
                return top1(scores, positive, weight, items.multiplicity)
            case "top1-max":
                return top1_max(scores, positive, weight, items.multiplicity)
            case "bpr":
                return bpr(scores, positive, weight, items.multiplicity)
