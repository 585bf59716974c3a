"""The training of one worker, from the first epoch to the final model; stopped anywhere, it goes on where it was.

A run lives in a folder that all workers and every later attempt reach:

    RUN/checkpoints/NAME/   what is needed to go on: a model folder with the optimizer's state, and each worker's lanes
    RUN/best/epoch-0003/    with early stopping: the best epoch's model folder
    RUN/model/              the final model folder

With as many workers as made it, a checkpoint brings back every bit of weights, optimizer's state, hidden states, lanes
and random streams (these are counters: epoch and block say where they stand), so that an interrupted run ends with the
same weights as an uninterrupted one. Another number of workers walks other lanes: it goes on from the epoch's start.
"""

import dataclasses
import faulthandler
import functools
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from gru4rec import storage
from gru4rec.config import Hyperparameters
from gru4rec.errors import GRU4RecError, masked
from gru4rec.evaluation import ranking
from gru4rec.evaluation.metrics import RankingMetrics
from gru4rec.model.network import GRU4Rec, initialise
from gru4rec.sessions.prepared import Prepared
from gru4rec.tracking import folder as model_folder
from gru4rec.training import checkpoints, curve, lane_state
from gru4rec.training.exchange import Exchange
from gru4rec.training.order import order
from gru4rec.training.progress import Done, Finished, Listener, Point, WorkerFigures, done_from
from gru4rec.training.trainer import BLOCK_STEPS, Trainer
from gru4rec.training.warm_start import Overlap, carried_over

CHECKPOINTS, BEST, MODEL, ATTEMPT = "checkpoints", "best", "model", "attempt"

_PROGRESS_S = 0.5  # between two pieces of news within an epoch
EVALUATED = 1024  # sessions that are ranked at a time


class Diverged(GRU4RecError):
    """Replicas that must be equal bit for bit are not."""


class TakenOver(GRU4RecError):
    """Another attempt at the same run has begun."""


@dataclass(frozen=True)
class Plan:
    """How a run is to be trained, beside its hyperparameters."""

    place: str  # the run's folder
    attempt: str = ""  # who may write there, if RUN/attempt names one
    warm_start: str = ""  # model folder to go on from
    sync_every: int = 1
    cutoffs: tuple[int, ...] = (20,)
    checkpoint_minutes: float = 10.0  # 0: at epoch ends only
    checkpoint_steps: int = 0  # 0: by the clock
    keep: int = 2  # checkpoints within epochs, and as many between them
    stall_timeout: float = 0.0  # seconds; 0: wait forever
    splits: tuple[str, ...] = ("train",)  # trained on, in this order
    tested: str = "test"  # split that the final model is evaluated on; empty: none
    epochs: int = 0  # stop after so many of those that the learning rate's schedule is laid over; 0: after all


class Training:
    """One worker's part in a run; all workers make the same calls."""

    def __init__(
        self,
        settings: Hyperparameters,
        prepared: Prepared,
        plan: Plan,
        exchange: Exchange,
        listener: Listener,
        device: torch.device | str = "cpu",
    ) -> None:
        self._settings, self._prepared, self._plan = settings, prepared, plan
        self._exchange, self._listener, self._device = exchange, listener, torch.device(device)
        self._first = exchange.rank == 0
        self._place = storage.join(plan.place, CHECKPOINTS)
        self._shards = [shard for split in plan.splits for shard in prepared.shards(split)]
        self._items = prepared.items_of(plan.splits)
        self._done: list[Done] = []
        self._best_epoch, self._best_value = 0, -1.0  # from 1; 0: none yet
        self._at: Point | None = None  # where the epoch in hand goes on
        self._checkpointed = time.monotonic()
        self._told = 0.0
        self.trainer = self._begin()

    def run(self) -> Finished:
        """Train what is left of the run, evaluate it, and leave the final model in RUN/model."""
        settings = self._settings
        self._alive()
        while len(self._done) < (self._plan.epochs or settings.epochs) and not self._out_of_patience():
            self._epoch(len(self._done))
        if settings.patience and self._best_epoch < len(self._done):
            self._restore(self._best(self._best_epoch))
        if self._first:
            self._listener.stage("evaluating")
        tested = self._plan.tested
        metrics = self._evaluate(tested, self._plan.cutoffs) if tested else RankingMetrics(self._plan.cutoffs)
        finished = Finished(
            tuple(self._done),
            metrics.result(),
            metrics.predictions,
            self._best_epoch or len(self._done),
            self._exchange.size,
        )
        if self._first:
            self._save_model(storage.join(self._plan.place, MODEL), {"metrics": finished.metrics})
        self._exchange.share(np.zeros(1, np.int64))  # nobody leaves before the model is there
        faulthandler.cancel_dump_traceback_later()
        return finished

    def _epoch(self, epoch: int) -> None:
        shards = order(self._shards, self._settings, epoch, self._exchange.rank, self._exchange.size)
        at, self._at = self._at, None
        last = at or Point()
        sent, steps = self._exchange.sent, last.steps
        transitions = self._prepared.summary["splits"]["train"]["transitions"]
        if self._plan.sync_every > 1:
            transitions /= self._exchange.size  # a point knows its own worker's

        def after(point: Point) -> None:
            nonlocal last
            marks = curve.extended(last.curve, point.loss, point.events, point.seconds, transitions)
            last = dataclasses.replace(point, curve=marks)
            self._after_block(last)

        result = self.trainer.train_epoch(epoch, [shards], at, after)
        self._check_replicas(epoch, last.steps)
        validated: dict[str, float] = {}
        if self._settings.patience:
            validated = self._evaluate("valid", (20,)).result()
            if validated[self._settings.monitor] > self._best_value:
                self._best_epoch, self._best_value = epoch + 1, validated[self._settings.monitor]
                if self._first:
                    self._save_model(self._best(epoch + 1), {})
        shown = {f"valid_{key}": value for key, value in validated.items()}
        done = Done(result, shown, self._figures(last, sent, steps), last.curve)
        self._done.append(done)
        self._checkpoint(Point(epoch + 1))
        if self._first:
            self._listener.epoch_done(epoch, done)

    def _out_of_patience(self) -> bool:
        return bool(self._settings.patience) and len(self._done) - self._best_epoch >= self._settings.patience

    def _after_block(self, point: Point) -> None:
        self._alive()
        if self._plan.sync_every > 1 and point.blocks * BLOCK_STEPS % self._plan.sync_every:
            return  # replicas differ until the next average
        told = self._exchange.share(np.array([self.trainer.digest(point.blocks), self._first and self._due(point)]))
        self._check_digests(told[:, 0], point.epoch, point.steps)
        if told[0, 1]:
            self._check_replicas(point.epoch, point.steps)
            self._checkpoint(point)
        if self._first and time.monotonic() - self._told > _PROGRESS_S:
            self._told = time.monotonic()
            self._listener.progress(point.epoch, point)

    def _alive(self) -> None:
        """End this process, with a traceback of every thread on stderr, if that is not said again in time."""
        if self._plan.stall_timeout:
            faulthandler.dump_traceback_later(self._plan.stall_timeout, exit=True, file=sys.__stderr__ or sys.stderr)

    def _due(self, point: Point) -> bool:
        """Whether it is time for a checkpoint within the epoch."""
        plan = self._plan
        if plan.checkpoint_steps:
            blocks = max(1, -(-plan.checkpoint_steps // BLOCK_STEPS))
            return point.blocks % blocks == 0
        return plan.checkpoint_minutes > 0 and time.monotonic() - self._checkpointed > 60 * plan.checkpoint_minutes

    def _check_replicas(self, epoch: int, steps: int) -> None:
        """Raise Diverged unless all tables of all workers are equal bit for bit."""
        self._check_digests(self._exchange.share(np.array([self.trainer.digest()]))[:, 0], epoch, steps)

    def _check_digests(self, digests: np.ndarray, epoch: int, steps: int) -> None:
        other = np.flatnonzero(digests != digests[0])
        if len(other):
            raise Diverged(
                f"the weights of worker {other[0]} differ from those of worker 0 in epoch {epoch + 1}, step {steps}: "
                "its machine computes other results; replace it and run the same command again"
            )

    # -- what is kept ------------------------------------------------------------------------------------------------

    def _best(self, epoch: int) -> str:
        return storage.join(self._plan.place, BEST, f"epoch-{epoch:04d}")

    def _save_model(self, folder: str, about: dict[str, Any]) -> None:
        """Raises GRU4RecError where it cannot be written."""
        self._own_attempt()
        about = {"data_fingerprint": self._prepared.fingerprint, **about}
        trainer = self.trainer
        try:
            model_folder.save(trainer.model, self._items, folder, about, trainer.optimizer_tensors())
        except (OSError, pa.ArrowException) as error:
            raise GRU4RecError(
                f"{storage.shown(folder)}: cannot be written: {error}; make room and run the same command again"
            ) from error

    def _checkpoint(self, point: Point) -> None:
        """Keep all that is needed to go on from `point`; where the storage fails, that is told and training goes on."""
        mine = lane_state.to_bytes(point, self.trainer.hidden) if point.blocks else b""
        lanes = self._exchange.collect(mine)
        self._checkpointed = time.monotonic()
        if not self._first:
            return
        trainer, prepared = self.trainer, self._prepared
        model = model_folder.contents(
            trainer.model, self._items, {"data_fingerprint": prepared.fingerprint}, trainer.optimizer_tensors()
        )
        files: dict[str, Callable[[], bytes]] = {f"{MODEL}/{name}": made for name, made in model.items()}
        if point.blocks:
            files |= {lane_state.name(rank): functools.partial(bytes, part) for rank, part in enumerate(lanes)}
        about = {
            **self._identity(),
            "epoch": point.epoch,
            "block": point.blocks,
            "step": point.steps,
            "done": [dataclasses.asdict(done) for done in self._done],
            "best_epoch": self._best_epoch,
            "best_value": self._best_value,
            "limit": trainer.limit,
        }
        before = "the one before"
        try:
            self._own_attempt()
            known = checkpoints.committed(self._place)
            before = known[-1] if known else "the beginning"
            number = int(known[-1].partition("-")[0]) + 1 if known else 1
            name = f"{number:06d}-epoch-{point.epoch:04d}-step-{point.steps:09d}"
            checkpoints.save(self._place, name, files, about)
        except (OSError, pa.ArrowException) as error:
            self._listener.say(
                f"WARNING: no checkpoint could be written to {storage.shown(self._place)}: {masked(str(error))}. "
                f"Training goes on; if it is interrupted, it goes on from {before}. Make room, or see to the storage."
            )
            return
        self._listener.committed(name)
        try:
            self._tidy()
        except (OSError, pa.ArrowException) as error:
            self._listener.say(
                f"WARNING: earlier checkpoints could not be removed: {masked(str(error))}. The next one tries again."
            )

    def _tidy(self) -> None:
        """Remove the checkpoints and best models that are needed no longer."""
        checkpoints.prune(self._place, self._plan.keep)
        for folder in storage.list_folders(storage.join(self._plan.place, BEST)):
            if folder != f"epoch-{self._best_epoch:04d}":
                storage.remove_folder(storage.join(self._plan.place, BEST, folder))

    def _own_attempt(self) -> None:
        """Raise TakenOver where another attempt at this run has begun: two must not write side by side."""
        path = storage.join(self._plan.place, ATTEMPT)
        if self._plan.attempt and storage.exists(path) and storage.read_bytes(path).decode() != self._plan.attempt:
            raise TakenOver("another job has begun to go on with this run; this one stops")

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint within an epoch must share with the run that goes on from it."""
        return {
            "data_fingerprint": self._prepared.fingerprint,
            "workers": self._exchange.size,
            "sync_every": self._plan.sync_every,
        }

    # -- where it begins ---------------------------------------------------------------------------------------------

    def _begin(self) -> Trainer:
        """The trainer of the newest checkpoint that fits, of the model to go on from, or of a new model."""
        found = json.loads(self._exchange.collect(json.dumps(self._newest()).encode())[0])
        if found:
            _, folder, about = found
            self._done = [done_from(kept) for kept in about["done"]]
            self._best_epoch, self._best_value = about["best_epoch"], about["best_value"]
        if self._first:
            self._listener.begins(self._done, found[0] if found else "")
        if found:
            self.trainer = self._new_trainer(initialise(self._settings, len(self._prepared.items), self._device))
            self._restore(storage.join(folder, MODEL))
            self.trainer.limit = about["limit"]
            if about["block"]:
                lanes = storage.read_bytes(storage.join(folder, lane_state.name(self._exchange.rank)))
                self._at, hidden = lane_state.from_bytes(lanes)
                for state, then in zip(self.trainer.hidden, hidden, strict=True):
                    state.copy_(then)
            return self.trainer
        if not self._plan.warm_start:
            return self._new_trainer(initialise(self._settings, len(self._prepared.items), self._device))
        old = model_folder.load(self._plan.warm_start)
        overlap = Overlap.of(self._prepared.items, old.items)
        trainer = self._new_trainer(carried_over(old.model, self._settings, overlap, self._device))
        states, optimizer = trainer.optimizer_tensors(), model_folder.load_optimizer(self._plan.warm_start)
        if states.keys() <= optimizer.keys():
            overlap.copy(states, optimizer)
        return trainer

    def _new_trainer(self, model: GRU4Rec) -> Trainer:
        return Trainer(model, self._items["support"].to_numpy(), self._exchange, sync_every=self._plan.sync_every)

    def _newest(self) -> tuple[str, str, dict[str, Any]] | None:
        """Name, folder and `about` of the checkpoint to go on from; only the first worker looks."""
        if not self._first:
            return None
        identity, say = self._identity(), self._listener.say
        passed: list[dict[str, Any]] = []
        others: list[str] = []

        def wanted(about: dict[str, Any]) -> bool:
            if about["data_fingerprint"] != identity["data_fingerprint"]:
                others.append(about["data_fingerprint"])
                return False
            fits = not about["block"] or {key: about[key] for key in identity} == identity
            if not fits:
                passed.append(about)
            return fits

        def damaged(error: checkpoints.Damaged) -> None:
            say(f"WARNING: {error}; going on from the one before")

        kept = checkpoints.newest(self._place, wanted, damaged)
        if others:
            say(f"WARNING: {len(others)} checkpoint(s) of other data (fingerprint {others[0][:12]}…) are passed over")
        if passed:
            say(
                f"epoch {passed[0]['epoch'] + 1} was interrupted at step {passed[0]['step']:,} with "
                f"{passed[0]['workers']} worker(s) and --sync-every {passed[0]['sync_every']}; now there are "
                f"{identity['workers']}, with --sync-every {identity['sync_every']}: going on from the start of epoch "
                f"{(kept.about['epoch'] if kept else 0) + 1}"
            )
        elif kept:
            say(f"going on from epoch {kept.about['epoch'] + 1}, step {kept.about['step']:,}")
        return (kept.name, kept.folder, kept.about) if kept else None

    def _restore(self, folder: str) -> None:
        """Take over weights and optimizer's state of a model folder of this run."""
        kept, states = model_folder.load(folder), model_folder.load_optimizer(folder)
        if kept.model.hyperparameters != self._settings:
            raise GRU4RecError(f"{storage.shown(folder)}: was made with other hyperparameters than this run's")
        there = kept.model.tensors() | states
        for name, tensor in (self.trainer.model.tensors() | self.trainer.optimizer_tensors()).items():
            tensor.copy_(there[name])

    # -- what is measured --------------------------------------------------------------------------------------------

    def _evaluate(self, split: str, cutoffs: Sequence[int]) -> RankingMetrics:
        """Metrics over a split, of which each worker ranks its own shards."""
        metrics = RankingMetrics(cutoffs)
        counted = metrics.state()
        own = self._prepared.shards(split)[self._exchange.rank :: self._exchange.size]
        batches = (batch for shard in own for batch in shard.batches(EVALUATED))
        while True:
            # All keep step, so that nobody waits for long at the end: that would look like a stall.
            batch = next(batches, None)
            self._alive()
            if not self._exchange.share(np.array([batch is not None], np.int64)).any():
                break
            if batch is not None:
                counted += ranking.evaluate(self.trainer.model, batch, cutoffs).state()
        counted = counted.to(self._device)
        self._exchange.add(counted)
        metrics.restore(counted)
        return metrics

    def _figures(self, last: Point, sent: int, steps: int) -> tuple[WorkerFigures, ...]:
        """What the epoch that ended at `last` was like for each worker; after `steps` of it, it had `sent` so much."""
        seconds = max(last.seconds, 1e-9)
        a_step = (self._exchange.sent - sent) / max(last.steps - steps, 1)
        gpu = torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else 0
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        shares = last.waited / seconds, last.exchanging / seconds
        mine = [last.own_events / seconds, *shares, a_step, resident, gpu / 2**20]
        everyone = self._exchange.share(np.array(mine).view(np.int64)).view(np.float64)
        return tuple(WorkerFigures(*row) for row in everyone.tolist())
