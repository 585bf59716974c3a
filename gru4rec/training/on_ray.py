"""Training on Ray Train: what each worker runs, and how the driver starts them and hears from them.

The driver alone talks to MLflow and to the person in front of it; workers tell their news to a small actor, the
notice board, that the driver reads.
"""

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import ray
import torch
from ray.train import Checkpoint, CheckpointConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from torch import Tensor

from gru4rec import storage
from gru4rec.config import Hyperparameters, Train
from gru4rec.errors import GRU4RecError, InputError
from gru4rec.evaluation import ranking
from gru4rec.evaluation.metrics import RankingMetrics
from gru4rec.model import negatives
from gru4rec.model.network import GRU4Rec, initialise
from gru4rec.sessions.prepared import Prepared, Sessions, Shard, concatenate, shuffled, stream
from gru4rec.tracking import folder as model_folder
from gru4rec.training.exchange import Collective
from gru4rec.training.trainer import Epoch, Trainer
from gru4rec.training.warm_start import Overlap, carried_over

MODEL = "model"  # name of the model folder inside a checkpoint
EPOCH = "epoch-"  # name of the checkpoint that an epoch leaves, with its number

_ORDER = 64  # purpose of random streams, beside those of the trainer


@dataclass(frozen=True)
class News:
    """What the workers have told so far."""

    epoch: int = 0  # epoch in hand, from 0
    events: int = 0  # transitions trained in this epoch
    loss: float = 0.0  # mean over them
    stage: str = "starting"
    epochs: tuple[Epoch, ...] = ()
    validated: tuple[dict[str, float], ...] = ()  # metrics of each epoch on the validation split


@ray.remote(num_cpus=0)
class NoticeBoard:
    """Where rank 0 puts its news and the driver reads them."""

    def __init__(self) -> None:
        self._news = News()
        self._epochs: dict[int, tuple[Epoch, dict[str, float]]] = {}

    def progress(self, epoch: int, events: int, loss: float) -> None:
        self._news = News(epoch, events, loss, "training")

    def epoch_done(self, epoch: int, result: Epoch, validated: dict[str, float]) -> None:
        self._epochs[epoch] = result, validated

    def stage(self, name: str) -> None:
        self._news = News(self._news.epoch, self._news.events, self._news.loss, name)

    def read(self) -> News:
        ordered = [self._epochs[epoch] for epoch in sorted(self._epochs)]
        epochs, validated = (tuple(parts) for parts in zip(*ordered, strict=True)) if ordered else ((), ())
        return replace(self._news, epochs=epochs, validated=validated)


@dataclass(frozen=True)
class Trained:
    """What a training run left."""

    model_folder: str
    epochs: list[Epoch]
    metrics: dict[str, float]
    predictions: int
    best_epoch: int  # whose weights these are, from 1


def _work(config: dict[str, Any]) -> None:
    """The training loop of one Ray Train worker."""
    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(config["threads"])
    device = ray.train.torch.get_device()
    settings = Hyperparameters(**config["hyperparameters"])
    board = config["board"]
    prepared = Prepared(config["data"])
    trainer = _begin(settings, prepared, config["warm_start"], device)
    valid = _own_part(prepared, "valid", rank, size) if settings.patience else None
    best: dict[str, Tensor] = {}
    best_epoch, best_value = 0, -1.0

    for epoch in range(settings.epochs):

        def progress(events: int, loss: float, epoch: int = epoch) -> None:
            board.progress.remote(epoch, events, loss)

        result = trainer.train_epoch(
            epoch, [order(prepared.shards("train"), settings, epoch, rank, size)], progress if rank == 0 else None
        )
        measured: dict[str, float] = {}
        if valid is not None:
            measured = _evaluate(trainer.model, valid, [20], device).result()
            if measured[settings.monitor] > best_value:
                best_epoch, best_value = epoch, measured[settings.monitor]
                best = {name: tensor.clone() for name, tensor in _all_tensors(trainer).items()}
        if rank == 0:
            ray.get(board.epoch_done.remote(epoch, result, {f"valid_{key}": value for key, value in measured.items()}))
        if epoch + 1 == settings.epochs or (settings.patience and epoch - best_epoch >= settings.patience):
            break
        # The next epoch may fail: what this one gave stays.
        _report(trainer, prepared, {"epochs": epoch + 1}, rank, name=f"{EPOCH}{epoch + 1:04d}")

    if best:
        for name, tensor in _all_tensors(trainer).items():
            tensor.copy_(best[name])
    if rank == 0:
        board.stage.remote("evaluating")
    metrics = _evaluate(trainer.model, _own_part(prepared, "test", rank, size), config["cutoffs"], device)
    reported = {**metrics.result(), "predictions": metrics.predictions, "epochs": (best_epoch if best else epoch) + 1}
    _report(trainer, prepared, reported, rank, {"metrics": metrics.result()})


def _begin(settings: Hyperparameters, prepared: Prepared, warm_start: str, device: torch.device) -> Trainer:
    """The trainer of a new model, or of the one in the folder `warm_start` with its optimizer's state."""
    exchange = Collective(device)
    if not warm_start:
        return Trainer(initialise(settings, len(prepared.items), device), prepared.support, exchange)
    old = model_folder.load(warm_start)
    overlap = Overlap.of(prepared.items, old.items)
    trainer = Trainer(carried_over(old.model, settings, overlap, device), prepared.support, exchange)
    states, optimizer = trainer.optimizer_tensors(), model_folder.load_optimizer(warm_start)
    if states.keys() <= optimizer.keys():
        overlap.copy(states, optimizer)
    return trainer


def order(shards: list[Shard], settings: Hyperparameters, epoch: int, rank: int, size: int) -> Iterator[Sessions]:
    """The training sessions of a worker in an epoch: shards rank, rank + size, … of all in time order.

    Or of all in a new order each epoch, and so the sessions of each shard.
    """
    if settings.order == "time":
        yield from stream(shards[rank::size])
        return
    places = negatives.stream(settings.seed, _ORDER, epoch, 0).permutation(len(shards))
    for place in places[rank::size]:
        yield shuffled(shards[place].read(), negatives.stream(settings.seed, _ORDER, epoch, 1 + int(place)))


def _all_tensors(trainer: Trainer) -> dict[str, Tensor]:
    """Weights and the optimizer's state, views of them."""
    return {**trainer.model.tensors(), **trainer.optimizer_tensors()}


def _evaluate(model: GRU4Rec, own: Sessions, cutoffs: Sequence[int], device: torch.device) -> RankingMetrics:
    """Metrics over the sessions of all workers, from each worker's `own`."""
    metrics = ranking.evaluate(model, own, cutoffs)
    counted = metrics.state().to(device)
    torch.distributed.all_reduce(counted)
    metrics.restore(counted)
    return metrics


def _report(
    trainer: Trainer,
    prepared: Prepared,
    reported: dict[str, Any],
    rank: int,
    extra: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> None:
    """Tell Ray Train, from all workers at once; rank 0 adds a checkpoint with the model folder."""
    if rank != 0:
        ray.train.report(reported, checkpoint_dir_name=name)
        return
    with tempfile.TemporaryDirectory() as place:
        about = {"data_fingerprint": prepared.fingerprint, **(extra or {})}
        folder = os.path.join(place, MODEL)
        model_folder.save(trainer.model, prepared.items, folder, about, trainer.optimizer_tensors())
        ray.train.report(reported, checkpoint=Checkpoint.from_directory(place), checkpoint_dir_name=name)


def _own_part(prepared: Prepared, split: str, rank: int, size: int) -> Sessions:
    """This worker's part of the sessions of a split."""
    return concatenate([shard.read() for shard in prepared.shards(split)[rank::size]])


def fit(
    settings: Train,
    data: str,
    storage_path: str,
    name: str,
    watch: Callable[[News], None],
    warm_start: str = "",
    every_s: float = 0.5,
) -> Trained:
    """Train on the prepared folder `data` with Ray Train and evaluate on its test split; Ray must be connected.

    `watch` hears the workers' news every `every_s` seconds on a thread of its own, and once more at the end. What the
    run leaves goes to `storage_path`/`name`: after each epoch but the last a checkpoint, of which the newest is kept,
    and the final one. `warm_start` is a model folder that every worker can read. Raises InputError where the cluster
    cannot hold the workers, GRU4RecError where training fails, which names the last good checkpoint.
    """
    _check_resources(settings)
    board = NoticeBoard.remote()  # type: ignore[attr-defined]
    hyperparameters = {field.name: getattr(settings, field.name) for field in fields(Hyperparameters)}
    trainer = TorchTrainer(
        _work,
        train_loop_config={
            "hyperparameters": hyperparameters,
            "data": data,
            "warm_start": warm_start,
            "threads": settings.threads,
            "cutoffs": sorted({*settings.cutoffs, 20}),
            "board": board,
        },
        torch_config=TorchConfig(backend="nccl" if settings.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=settings.workers,
            use_gpu=settings.gpus,
            resources_per_worker={"CPU": settings.threads, **({"GPU": 1} if settings.gpus else {})},
        ),
        run_config=RunConfig(name=name, storage_path=storage_path, checkpoint_config=CheckpointConfig(num_to_keep=1)),
    )
    done = threading.Event()

    def listen() -> None:
        while not done.wait(every_s):
            watch(ray.get(board.read.remote()))

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        result = trainer.fit()
        news: News = ray.get(board.read.remote())
    except Exception as error:
        raise _reason(error, _newest(f"{storage_path}/{name}")) from error
    finally:
        done.set()
        listener.join()
        ray.kill(board)
    watch(news)
    metrics: Mapping[str, float] = result.metrics or {}
    if result.checkpoint is None:
        raise GRU4RecError("training ended without a model")
    return Trained(
        model_folder=f"{result.checkpoint.path}/{MODEL}",
        epochs=list(news.epochs),
        metrics={key: value for key, value in metrics.items() if "_at_" in key},
        predictions=int(metrics["predictions"]),
        best_epoch=int(metrics["epochs"]),
    )


def _newest(run: str) -> str:
    """The model folder of the last epoch that left a whole checkpoint; empty where none did."""
    kept = [name for name in storage.list_folders(run) if name.startswith(EPOCH)]
    whole = [f"{run}/{name}/{MODEL}" for name in sorted(kept)]
    whole = [folder for folder in whole if model_folder.CONFIG in storage.list_files(folder)]
    return whole[-1] if whole else ""


def _check_resources(settings: Train) -> None:
    """Refuse at once what the cluster could never start; Ray would wait for it forever."""
    have = ray.cluster_resources()
    need = {"CPU": settings.workers * settings.threads, "GPU": settings.workers if settings.gpus else 0}
    for kind, wanted in need.items():
        if wanted > have.get(kind, 0):
            raise InputError(
                f"--workers {settings.workers} need {wanted} {kind}s and the cluster has {have.get(kind, 0):g}: "
                "lower --workers or --threads, or join a larger cluster"
            )


def _reason(error: Exception, kept: str) -> Exception:
    """The error of the first worker that failed, without the layers that Ray wraps around it, and what is `kept`."""
    failures = getattr(error, "worker_failures", None)
    inner: BaseException = next(iter(failures.values())) if failures else error
    while True:
        cause = getattr(inner, "cause", None) or inner.__cause__
        if cause is None or cause is inner:
            break
        inner = cause
    if isinstance(inner, InputError):
        return inner
    left = f"; the model of the last whole epoch is {storage.shown(kept)}" if kept else ""
    if isinstance(inner, GRU4RecError):
        return GRU4RecError(f"{inner}{left}")
    logging.getLogger(__name__).debug("training failed", exc_info=error)
    return GRU4RecError(f"training failed: {type(inner).__name__}: {inner}{left}")


def parameters(settings: Train) -> dict[str, Any]:
    """What MLflow records as the run's parameters."""
    shown = {**asdict(settings), "warm_start": storage.shown(settings.warm_start)}
    return {
        key: shown[key]
        for key in [field.name for field in fields(Hyperparameters)] + ["workers", "threads", "gpus", "warm_start"]
    }
