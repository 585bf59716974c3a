"""Training on Ray Train: what each worker runs, and how the driver starts them and hears from them.

The driver alone talks to MLflow and to the person in front of it; workers tell their news to a small actor, the
notice board, that the driver reads.
"""

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import ray
import torch
from ray.train import Checkpoint, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from gru4rec.config import Hyperparameters, Train
from gru4rec.errors import GRU4RecError, InputError
from gru4rec.evaluation import ranking
from gru4rec.model.network import initialise
from gru4rec.sessions.prepared import Prepared, Sessions, concatenate, stream
from gru4rec.tracking import folder as model_folder
from gru4rec.training.exchange import Collective
from gru4rec.training.trainer import Epoch, Trainer

MODEL = "model"  # name of the model folder inside the last checkpoint


@dataclass(frozen=True)
class News:
    """What the workers have told so far."""

    epoch: int = 0  # epoch in hand, from 0
    events: int = 0  # transitions trained in this epoch
    loss: float = 0.0  # mean over them
    stage: str = "starting"
    epochs: tuple[Epoch, ...] = ()


@ray.remote(num_cpus=0)
class NoticeBoard:
    """Where rank 0 puts its news and the driver reads them."""

    def __init__(self) -> None:
        self._news = News()
        self._epochs: dict[int, Epoch] = {}

    def progress(self, epoch: int, events: int, loss: float) -> None:
        self._news = News(epoch, events, loss, "training")

    def epoch_done(self, epoch: int, result: Epoch) -> None:
        self._epochs[epoch] = result

    def stage(self, name: str) -> None:
        self._news = News(self._news.epoch, self._news.events, self._news.loss, name)

    def read(self) -> News:
        ordered = tuple(self._epochs[epoch] for epoch in sorted(self._epochs))
        return News(self._news.epoch, self._news.events, self._news.loss, self._news.stage, ordered)


@dataclass(frozen=True)
class Trained:
    """What a training run left."""

    model_folder: str
    epochs: list[Epoch]
    metrics: dict[str, float]
    predictions: int


def _work(config: dict[str, Any]) -> None:
    """The training loop of one Ray Train worker."""
    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(config["threads"])
    device = ray.train.torch.get_device()
    settings = Hyperparameters(**config["hyperparameters"])
    board = config["board"]
    prepared = Prepared(config["data"])
    shards = prepared.shards("train")[rank::size]
    model = initialise(settings, len(prepared.items), device)
    trainer = Trainer(model, prepared.support, Collective(device))

    for epoch in range(settings.epochs):

        def progress(events: int, loss: float, epoch: int = epoch) -> None:
            board.progress.remote(epoch, events, loss)

        result = trainer.train_epoch(epoch, [stream(shards)], progress if rank == 0 else None)
        if rank == 0:
            ray.get(board.epoch_done.remote(epoch, result))

    if rank == 0:
        board.stage.remote("evaluating")
    own = _own_part(prepared, rank, size)
    metrics = ranking.evaluate(model, own, config["cutoffs"])
    counted = metrics.state().to(device)
    torch.distributed.all_reduce(counted)
    metrics.restore(counted)
    reported = {**metrics.result(), "predictions": metrics.predictions}
    if rank != 0:
        ray.train.report(reported)
        return
    with tempfile.TemporaryDirectory() as place:
        extra = {"data_fingerprint": prepared.fingerprint, "metrics": metrics.result()}
        model_folder.save(model.to("cpu"), prepared.items, os.path.join(place, MODEL), extra)
        ray.train.report(reported, checkpoint=Checkpoint.from_directory(place))


def _own_part(prepared: Prepared, rank: int, size: int) -> Sessions:
    """This worker's part of the test sessions."""
    return concatenate([shard.read() for shard in prepared.shards("test")[rank::size]])


def fit(
    settings: Train, data: str, storage_path: str, name: str, watch: Callable[[News], None], every_s: float = 0.5
) -> Trained:
    """Train on the prepared folder `data` with Ray Train and evaluate on its test split; Ray must be connected.

    `watch` hears the workers' news every `every_s` seconds on a thread of its own, and once more at the end. What the
    run leaves goes to `storage_path`/`name`. Raises InputError where the cluster cannot hold the workers, GRU4RecError
    where training fails.
    """
    _check_resources(settings)
    board = NoticeBoard.remote()  # type: ignore[attr-defined]
    hyperparameters = {field.name: getattr(settings, field.name) for field in fields(Hyperparameters)}
    trainer = TorchTrainer(
        _work,
        train_loop_config={
            "hyperparameters": hyperparameters,
            "data": data,
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
        run_config=RunConfig(name=name, storage_path=storage_path),
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
        raise _reason(error) from error
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
    )


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


def _reason(error: Exception) -> Exception:
    """The error of the first worker that failed, without the layers that Ray wraps around it."""
    failures = getattr(error, "worker_failures", None)
    inner: BaseException = next(iter(failures.values())) if failures else error
    while True:
        cause = getattr(inner, "cause", None) or inner.__cause__
        if cause is None or cause is inner:
            break
        inner = cause
    if isinstance(inner, GRU4RecError):
        return inner
    logging.getLogger(__name__).debug("training failed", exc_info=error)
    return GRU4RecError(f"training failed: {type(inner).__name__}: {inner}")


def parameters(settings: Train) -> dict[str, Any]:
    """What MLflow records as the run's parameters."""
    shown = asdict(settings)
    return {
        key: shown[key] for key in [field.name for field in fields(Hyperparameters)] + ["workers", "threads", "gpus"]
    }
