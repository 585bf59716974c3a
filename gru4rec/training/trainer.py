"""The training loop of one worker: blocks of steps in, updated weights out.

W workers of B lanes do what one process with W · B lanes does on the same W streams of sessions: the same touched
items and extra negatives on each, the same dropout for each lane, one sum of gradients a step.

Shapes: T steps of a block, B lanes of a worker, N = W · B lanes of all, D size of an item row, E size of an item's
input row, M touched items of a step, K of them scored, I distinct inputs.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gru4rec.config import Hyperparameters
from gru4rec.model import kernels, losses, memory, negatives
from gru4rec.model.network import GRU4Rec, backward, forward, zero_states
from gru4rec.model.optimizers import Optimizer, clip, learning_rate
from gru4rec.sessions.prepared import Source
from gru4rec.training import digest, lanes, touched
from gru4rec.training.averaging import Averager
from gru4rec.training.exchange import Alone, Exchange
from gru4rec.training.explosion import check
from gru4rec.training.progress import Epoch, Point

BLOCK_STEPS = 64  # steps laid out at once; a multiple of 8, so that random streams start on whole counters

_NEGATIVES, _EMBED, _HIDDEN = 0, 1, 2  # purposes of random streams
_ALIGNED = 16  # float32 numbers of a cache line: matrices inside a larger tensor start on one


class _Ahead(NamedTuple):
    """A block with where its lanes stand after it."""

    block: lanes.Block
    positions: tuple[lanes.Position, ...] = ()


class _Step(NamedTuple):
    """What a mini-batch needs but the weights."""

    items: touched.Touched
    keep: Tensor  # [B, 1]: 0 where a lane starts a session, else 1
    weight: Tensor  # [B]: what a lane's loss counts, 0 once it has retired
    drop_embed: Tensor | None  # [B, E] factors of the item input
    drop_hidden: list[Tensor] | None  # [B, H] factors of each layer's output


class Trainer:
    """Trains `model` in place on one worker.

    `support` [V] are the clicks of each item in the training split. A worker usually has one group of `batch_size`
    lanes; `groups` above 1 puts the lanes of so many workers into one process, which is what several workers compute
    together. With `padded` every step has the same shapes, so that a CUDA graph can hold it (by default on a GPU).
    With `sync_every` above 1, workers step alone and average every so many steps, which divide a block or fill several.
    """

    def __init__(
        self,
        model: GRU4Rec,
        support: np.ndarray,
        exchange: Exchange | None = None,
        groups: int = 1,
        padded: bool | None = None,
        sync_every: int = 1,
    ) -> None:
        settings = model.hyperparameters
        self.model = model
        self.exchange = exchange or Alone()
        self.groups = groups
        self.lanes = groups * settings.batch_size  # of this worker
        self._joint = self.exchange.size == 1 or sync_every == 1  # a step is one of all workers
        self.all_lanes = self.lanes * (self.exchange.size if self._joint else 1)  # of a step
        self._first_lane = self.exchange.rank * self.lanes
        self._own = slice(self._first_lane, self._first_lane + self.lanes) if self._joint else slice(0, self.lanes)
        self._sampled = 0 if settings.loss == "full-cross-entropy" else settings.n_sample
        alias = negatives.alias_table(np.maximum(support, 1).astype(np.float64) ** settings.sample_alpha)
        self._alias = negatives.AliasTable(*map(memory.placed, alias))
        self._layout = touched.Layout(support, settings, model.device.type != "cpu" if padded is None else padded)
        self.hidden = zero_states(settings, self.lanes, model.device)  # [B, S·H] of each layer
        self.limit = 0.0  # a block's mean loss above which training has exploded
        # All dense weights lie in one row of a table, of which the model's are views: one update, one exchange.
        self._dense = Optimizer.of(settings, torch.cat([w.reshape(-1) for w in model.dense.values()]).unsqueeze(0))
        self._first = torch.zeros(1, dtype=torch.int64, device=model.device)  # that row
        # An item's bias is the last number of its row, one fetch with it; the spare row is for items that pad a step.
        self._table = Optimizer.of(settings, model.item_table, model.item_bias.unsqueeze(1), spare=1)
        self._input = None if model.item_input is None else Optimizer.of(settings, model.item_input, spare=1)
        model.dense = self._views(self._dense.weights[0])
        model.item_table, model.item_bias = self._table.weights[:-1, :-1], self._table.weights[:-1, -1]
        if self._input is not None:
            model.item_input = self._input.weights[:-1]
        tables = [self._table, self._dense] if self._input is None else [self._table, self._dense, self._input]
        self._averager = None if self._joint else Averager(self.exchange, tables)
        self._sync_every = sync_every
        self._waited = self._exchanging = 0.0  # seconds of the epoch in hand
        # Space that every step uses again. All that is summed over the workers lies in one tensor.
        scored = len(support) if settings.loss == "full-cross-entropy" else self.all_lanes + self._sampled
        width = scored + self.all_lanes * (self._input is None)
        dense, inputs = self._dense.width, 0 if self._input is None else self.all_lanes * self._input.width
        self._rows = model.item_table.new_empty(width, self._table.width)
        self._scores = model.item_table.new_empty(scored * self.lanes)
        self._output = model.item_table.new_ones(self.lanes, self._table.width)  # the last column is the bias's factor
        self._sums = model.item_table.new_zeros(_ALIGNED + _aligned(dense) + self._rows.numel() + inputs)
        self._d_weights = self._views(self._sums[_ALIGNED : _ALIGNED + dense])

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        """The dense weights, or what has their form, by name, as views of one flat tensor."""
        sizes = [weight.numel() for weight in self.model.dense.values()]
        named = zip(self.model.dense.items(), flat.split(sizes), strict=True)
        return {name: part.view(weight.shape) for (name, weight), part in named}

    @property
    def settings(self) -> Hyperparameters:
        return self.model.hyperparameters

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """The optimizer's state by the weight's name and its own, `item_table.accumulator`; views, not copies."""
        found: dict[str, Tensor] = {}
        for name, state in self._dense.states().items():
            if name == "updates":
                found[f"dense.{name}"] = state
            else:
                found |= {f"{weight}.{name}": view for weight, view in self._views(state[0]).items()}
        for kind, state in self._table.states().items():
            if kind == "updates":
                found[f"item_table.{kind}"] = state[:-1]
            else:
                found[f"item_table.{kind}"], found[f"item_bias.{kind}"] = state[:-1, :-1], state[:-1, -1]
        if self._input is not None:
            found |= {f"item_input.{kind}": state[:-1] for kind, state in self._input.states().items()}
        return found

    def train_epoch(
        self,
        epoch: int,
        streams: Sequence[Sequence[Source]],
        at: Point | None = None,
        after: Callable[[Point], None] | None = None,
    ) -> Epoch:
        """One pass over the streams of shards, one for each group of lanes; or the rest of it, from `at` on.

        To go on from a point, weights, optimizer's state and `hidden` must be those of then. `after` hears where the
        epoch stands after each block. Raises Exploded, naming epoch and step, where the loss is no longer finite or
        far above its beginning.
        """
        if len(streams) != self.groups:
            raise ValueError(f"{self.groups} groups of lanes need as many streams, got {len(streams)}")
        point = at or Point(epoch, limit=self.limit)
        if not at:
            for state in self.hidden:
                state.zero_()
        self.limit, self._waited, self._exchanging = point.limit, point.waited, point.exchanging
        self._layout.reset(list(point.clicked))
        began = time.perf_counter() - point.seconds
        for (block, positions), clicked, found in self._pipeline(epoch, point.blocks, self._blocks(streams, at)):
            step_losses = found.double().cpu().numpy() * self.all_lanes
            self.limit = check(step_losses, block.transitions, epoch, point.steps, self.limit)
            point = Point(
                epoch,
                point.blocks + 1,
                point.loss + float(step_losses.sum()),
                point.events + block.transitions,
                point.own_events + int(block.active[:, self._own].sum()),
                point.steps + len(step_losses),
                time.perf_counter() - began,
                self._waited,
                self._exchanging,
                self.limit,
                positions,
                tuple(clicked),
            )
            if after:
                after(point)
        if self._averager:
            self._average(self._averager)
        return self._whole(point)

    def digest(self, block: int | None = None) -> int:
        """A number that replicas have in common: of all weights and state, or of the rows whose turn comes at `block`.

        The latter costs the same for any catalogue; every row's turn comes.
        """
        if self.exchange.size == 1:
            return 0
        tables = [table.packed for table in (self._table, self._input) if table is not None]
        return digest.digest(self._dense.packed, tables, block)

    def _whole(self, point: Point) -> Epoch:
        """The epoch that ended at `point`, over all workers."""
        loss, events = point.loss, point.events
        if not self._joint:
            everyone = self.exchange.share(np.array([loss, float(events)]).view(np.int64)).view(np.float64)
            loss, events = float(everyone[:, 0].sum()), round(everyone[:, 1].sum())
        return Epoch(loss / max(events, 1), events, point.steps, point.seconds)

    def _blocks(self, streams: Sequence[Sequence[Source]], at: Point | None) -> Iterator[_Ahead]:
        """The blocks of the lanes that step together; a group or worker that is done keeps step until all are."""
        lanes_, ats = self.settings.batch_size, at.positions if at else [None] * self.groups
        schedules = [
            lanes.Schedule(shards, lanes_, BLOCK_STEPS, position) for shards, position in zip(streams, ats, strict=True)
        ]
        waited = self._waited
        try:
            own = lanes.side_by_side(schedules, lanes_, BLOCK_STEPS)
            while True:
                block = next(own, None) or lanes.idle_block(self.lanes, BLOCK_STEPS)
                self._waited = waited + sum(schedule.waited for schedule in schedules)
                if self._joint:
                    block = self.exchange.gather(block)
                    done = not block.active.any()
                else:
                    done = not self.exchange.share(np.array([block.transitions])).any()
                if done:
                    return
                yield _Ahead(block, tuple(schedule.position for schedule in schedules))
        finally:
            for schedule in schedules:
                schedule.close()

    def train_blocks(self, epoch: int, blocks: Iterable[lanes.Block]) -> Iterator[tuple[lanes.Block, Tensor]]:
        """Train on the blocks of an epoch from its first on; each block with the loss of each of its steps."""
        for ahead, _, found in self._pipeline(epoch, 0, map(_Ahead, blocks)):
            yield ahead.block, found

    def _pipeline(
        self, epoch: int, first: int, blocks: Iterable[_Ahead]
    ) -> Iterator[tuple[_Ahead, list[np.ndarray], Tensor]]:
        """Train on blocks `first`, …: each with what its lanes' sessions have clicked, and the loss of each step.

        Where torch may use more than one thread, another one lays out the next block while this one trains.
        """
        numbered = enumerate(blocks, start=first)
        rate = learning_rate(self.settings, epoch)
        if torch.get_num_threads() == 1 and self.model.device.type == "cpu":
            for number, pulled in numbered:
                steps = self._laid_out(epoch, number, pulled.block)
                yield pulled, self._layout.clicked, self._train(steps, rate, number)
            return

        def laid_out(number: int, block: lanes.Block) -> tuple[list[_Step], list[np.ndarray]]:
            return self._laid_out(epoch, number, block), self._layout.clicked

        with ThreadPoolExecutor(1, thread_name_prefix="layout") as helper:
            waiting: tuple[int, _Ahead, Future[tuple[list[_Step], list[np.ndarray]]]] | None = None
            ahead: _Ahead | None
            while True:
                number, ahead = next(numbered, (0, None))
                following = None if ahead is None else (number, ahead, helper.submit(laid_out, number, ahead.block))
                if waiting:
                    began = time.perf_counter()
                    steps, clicked = waiting[2].result()
                    self._waited += time.perf_counter() - began
                    yield waiting[1], clicked, self._train(steps, rate, waiting[0])
                if following is None:
                    return
                waiting = following

    def train_block(self, epoch: int, number: int, block: lanes.Block) -> Tensor:
        """Train on block `number`, [T, N]; returns the loss of each step that had an active lane."""
        return self._train(self._laid_out(epoch, number, block), learning_rate(self.settings, epoch), number)

    def _laid_out(self, epoch: int, number: int, block: lanes.Block) -> list["_Step"]:
        """All that the steps of a block need but the weights; blocks come in their order."""
        settings, device, own = self.settings, self.model.device, self._own
        steps = int(block.active.any(axis=1).sum())  # retired lanes stay retired: the steps with work come first
        block = lanes.Block(*(part[:steps] for part in block))
        extra = negatives.draw(
            self._alias, negatives.stream(settings.seed, _NEGATIVES, epoch, number), (BLOCK_STEPS, self._sampled)
        )
        keep = torch.from_numpy(~block.resets[:, own, None]).to(device, torch.float32)
        weight = torch.from_numpy(block.active[:, own]).to(device, torch.float32).div_(self.all_lanes)
        embed = self._dropout(settings.dropout_embed, _EMBED, epoch, number, self.model.input_table.shape[1])
        hidden = [
            self._dropout(settings.dropout_hidden, _HIDDEN + layer, epoch, number, units)
            for layer, units in enumerate(settings.layers)
        ]
        return [
            _Step(
                items,
                keep[step],
                weight[step],
                None if embed is None else embed[step],
                None if hidden[0] is None else [drop[step] for drop in hidden if drop is not None],
            )
            for step, items in enumerate(self._layout(block, extra[:steps], device, own))
        ]

    def _train(self, steps: list["_Step"], rate: float, block: int) -> Tensor:
        losses = torch.empty(len(steps), device=self.model.device)
        averages = 0
        for number, step in enumerate(steps, start=1):
            losses[number - 1] = self._step(step, rate)
            if self._averager and number % self._sync_every == 0:
                self._average(self._averager)
                averages += 1
        if self._averager:
            # Another worker may have more steps in this block; and averages may lie blocks apart.
            due = BLOCK_STEPS // self._sync_every or int((block + 1) * BLOCK_STEPS % self._sync_every == 0)
            for _ in range(due - averages):
                self._average(self._averager)
        return losses

    def _average(self, averager: Averager) -> None:
        began = time.perf_counter()
        averager.average()
        self._exchanging += time.perf_counter() - began

    def _dropout(self, p: float, purpose: int, epoch: int, number: int, width: int) -> Tensor | None:
        """Factors [T, B, width] of this worker's lanes: 0 with probability p, else 1 / (1 − p).

        Drawn lane by lane, so that a lane has the same factors in whichever worker it is.
        """
        if p == 0:
            return None
        skip = self._first_lane * BLOCK_STEPS * width // 2  # two factors come of a 64-bit number
        generator = negatives.stream(self.settings.seed, purpose, epoch, number, skip)
        drawn = generator.random((self.lanes, BLOCK_STEPS, width), dtype=np.float32)
        kept = torch.from_numpy(drawn).to(self.model.device).ge_(p).div_(1 - p)
        return kept.transpose(0, 1).contiguous()

    def _step(self, step: "_Step", rate: float) -> Tensor:
        """One mini-batch; returns its loss, summed over all lanes and divided by their number."""
        items, keep, weight, drop_embed, drop_hidden = step
        model, settings, scored = self.model, self.settings, items.scored
        rows = self._rows[: len(items.items)]
        # The logits of the cross-entropy are the scores with the columns' weights: these join the biases.
        weighted = settings.loss == "cross-entropy" and settings.activation == "linear"
        kernels.gather(self._table.packed, items.items, rows, items.log_weight if weighted else None)
        if self._input is None:
            x = kernels.take(rows, items.inputs, settings.width)
        else:
            x = self._input.weights.index_select(0, items.input_items).index_select(0, items.inputs)
        if drop_embed is not None:
            x = x * drop_embed
        before = [state * keep for state in self.hidden]
        self.hidden, output, saved = forward(settings, model.dense, x, before, drop_hidden)
        # An item's scores lie side by side: the product is faster so, and its gradient needs no other form.
        self._output[:, :-1] = output
        scores = self._scores[: scored * self.lanes].view(scored, self.lanes)
        torch.mm(rows[:scored], self._output.t(), out=scores)
        loss, d_scores = losses.loss_and_gradient(
            settings,
            scores.t(),
            items.positives,
            weight,
            items.multiplicity,
            items.log_weight,
            items.offset,
            items.masked,
            weighted=weighted,
        )
        sums, d_rows, d_input_rows = self._space(items)
        d_output = d_scores @ rows[:scored, :-1]
        d_x = backward(settings, model.dense, saved, d_output, self._d_weights, drop_hidden)
        if drop_embed is not None:
            d_x = d_x * drop_embed
        torch.mm(d_scores.t(), self._output, out=d_rows[:scored])
        if self._input is None:
            kernels.add_rows(d_rows, scored, items.inputs, d_x)
        else:
            kernels.add_rows(d_input_rows, 0, items.inputs, d_x)
        sums[0] = loss
        if self._averager:
            self._averager.touch(items.items, self._first, *([] if self._input is None else [items.input_items]))
        else:
            began = time.perf_counter()
            self.exchange.add(sums)
            self._exchanging += time.perf_counter() - began

        if settings.grad_clip > 0:
            clip([sums[_ALIGNED:]], settings.grad_clip)
        self._table.step(items.items[:scored], d_rows[:scored], rate)
        if self._input is None:  # where an item is not scored, its bias is not touched
            self._table.step(items.items[scored:], d_rows[scored:], rate, width=settings.width)
        else:
            self._input.step(items.input_items, d_input_rows, rate)
        self._dense.step(self._first, self._sums[_ALIGNED : _ALIGNED + self._dense.width].unsqueeze(0), rate)
        return sums[0]

    def _space(self, items: touched.Touched) -> tuple[Tensor, Tensor, Tensor]:
        """A step's part of the space for what is summed over the workers, and the gradients of tables in it.

        The loss, the gradients of the dense weights, then those of the item rows with their biases [M, D + 1] and of
        the input rows [I, E] (none with a tied embedding).
        """
        start = _ALIGNED + _aligned(self._dense.width)
        middle = start + len(items.items) * self._table.width
        end = middle if self._input is None else middle + len(items.input_items) * self._input.width
        d_rows, d_input_rows = self._sums[start:middle], self._sums[middle:end]
        width = self._table.width if self._input is None else self._input.width
        return self._sums[:end], d_rows.view(-1, self._table.width), d_input_rows.view(-1, width)


def _aligned(size: int) -> int:
    """The next multiple of a cache line."""
    return -(-size // _ALIGNED) * _ALIGNED
