"""Training on Ray Train: what each worker runs, and how the driver starts them, hears from them and outlives them.

Ray Train starts the workers, notices when one dies or a node goes, and starts all anew; where training goes on is
decided by the checkpoints of the run's folder (`loop.py`), which count once they are whole. The driver alone talks to
MLflow and to the person in front of it; workers tell their news to a small actor, the notice board, that it reads.
"""

import contextlib
import logging
import math
import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from datetime import timedelta
from typing import Any

import numpy as np
import ray
import torch
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gru4rec import on_ray, storage
from gru4rec.config import Hyperparameters, Train
from gru4rec.errors import GRU4RecError, InputError, masked
from gru4rec.sessions.prepared import Prepared
from gru4rec.training import checkpoints, loop
from gru4rec.training.exchange import Collective, Exchange
from gru4rec.training.explosion import Exploded
from gru4rec.training.loop import Plan, Training
from gru4rec.training.notice_board import News, NoticeBoard, Teller
from gru4rec.training.progress import Finished

RAY = "ray"  # what Ray Train itself writes, in the run's folder

_ABORT_S, _LISTENS_S = 15.0, 5.0  # that an end is waited for

_SAME_EVERYWHERE = (Exploded, loop.Diverged)  # errors that all workers of one step meet alike


class Unfit(InputError):
    """A worker cannot train with what it was given, and all workers know: damaged data, others than the run was begun
    with, or a place for the run that it does not share.
    """


def _work(config: dict[str, Any]) -> Finished | None:
    """The training of one Ray Train worker."""
    board = config["board"]
    torch.set_num_threads(config["threads"])
    device = ray.train.torch.get_device()
    exchange = Collective(device, timeout=config["plan"].stall_timeout or math.inf)
    goes_on = ray.get(board.starts.remote()) if exchange.rank == 0 else True
    if not exchange.share(np.array([int(goes_on)]))[0, 0]:
        return None
    try:
        settings = Hyperparameters(**config["hyperparameters"])
        splits = ("train", "test", *(("valid",) if settings.patience else ()))
        _check_place(config["plan"].place, exchange)
        prepared = _opened(config["data"], config["data_fingerprint"], splits, exchange)
        training = Training(settings, prepared, config["plan"], exchange, Teller(board, exchange.size), device)
        return training.run()
    except Exception as error:
        ours = isinstance(error, GRU4RecError)
        # What cannot be sent is sent as text: exceptions of libraries may not survive the way.
        ray.get(board.failed.remote(error if ours else RuntimeError(f"{type(error).__name__}: {error}"), ours))
        together = isinstance(error, _SAME_EVERYWHERE) and config["plan"].sync_every == 1
        if (exchange.size == 1 and ours) or together or isinstance(error, Unfit):
            return None  # all workers are here; others would wait for one that returns, and go with one that fails
        raise


class _Trainer(TorchTrainer):
    """Leaves Ctrl-C to the job: Ray Train's own handler trains on for a while, and may end the job with exit code 0."""

    controller: Any = None

    def _register_sigint_handler(self, controller: Any) -> None:
        self.controller = controller

    def abort(self) -> None:
        """End the workers, and give back what they hold of the cluster."""
        with contextlib.suppress(Exception):
            ray.get(self.controller.abort.remote(), timeout=_ABORT_S)


def _check_place(run: str, exchange: Exchange) -> None:
    """Raises Unfit in all workers where one does not see what the driver has put into the run's folder: nobody would
    see what it leaves there.
    """
    found = ""
    if not storage.exists(storage.join(run, loop.ATTEMPT)):
        node = ray.util.get_node_ip_address()
        found = f"--storage: the worker on {node} does not see {storage.shown(run)}; name a folder that all nodes reach"
    _agree(found, exchange)


def _agree(found: str, exchange: Exchange) -> None:
    """Raises Unfit in all workers where one has `found` something to say."""
    for message in exchange.collect(found.encode()):
        if message:
            raise Unfit(message.decode())


def _opened(data: str, fingerprint: str, splits: Sequence[str], exchange: Exchange) -> Prepared:
    """The prepared folder, with its items and all files of the splits checked, of the files each worker some.

    Raises Unfit in all workers where one finds damage, or other data than those of the run's fingerprint: the folder
    may have been prepared anew since the workers before these opened it.
    """
    found = ""
    try:
        prepared = Prepared(data)
        prepared.check_is(fingerprint, "this run")
        prepared.verify_items()
        for split in splits:
            prepared.verify(split, exchange.rank, exchange.size)
    except InputError as error:
        found = str(error)
    _agree(found, exchange)
    return prepared


def fit(
    settings: Train,
    data: Prepared,
    run: str,
    listeners: Sequence[Callable[[News], None]],
    warm_start: str = "",
    every_s: float = 0.5,
) -> Finished:
    """Train on the prepared folder `data` with Ray Train and evaluate on its test split; Ray must be connected.

    All that is needed to go on lies in the folder `run`, which workers on all nodes must reach: called again with it,
    after whatever happened, training goes on from the newest whole checkpoint. The final model is `run`/model.
    Each of the `listeners` hears the workers' news every `every_s` seconds on a thread of its own, and once more at the
    end: what it raises before is a warning, at the end it fails the run. Raises InputError where this machine cannot
    hold the workers, a file of the data is damaged, or workers that start (once more) find the folder prepared anew, or
    do not share the folder `run`; TakenOver where another job goes on with the run; GRU4RecError where training fails,
    which names the last good checkpoint.
    """
    waits_for = lacking(settings)
    attempt = uuid.uuid4().hex
    storage.write_bytes(storage.join(run, loop.ATTEMPT), attempt.encode())
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = NoticeBoard.options(scheduling_strategy=here).remote(settings.max_failures)  # type: ignore[attr-defined]
    if waits_for:
        ray.get(board.say.remote(f"{waits_for}; waiting for more to join"))
    least, most = settings.worker_range
    trainer = _Trainer(
        _work,
        train_loop_config={
            "hyperparameters": {of.name: getattr(settings, of.name) for of in fields(Hyperparameters)},
            "data": data.folder,
            "data_fingerprint": data.fingerprint,
            "plan": Plan(
                run,
                attempt,
                warm_start,
                settings.sync_every,
                tuple(sorted({*settings.cutoffs, 20})),
                settings.checkpoint_minutes,
                settings.checkpoint_steps,
                settings.keep_checkpoints,
                settings.stall_timeout,
            ),
            "threads": settings.threads,
            "board": board,
        },
        torch_config=TorchConfig(backend="nccl" if settings.gpus else "gloo", timeout_s=_seconds(settings)),
        scaling_config=ScalingConfig(
            num_workers=least if least == most else (least, most),
            use_gpu=settings.gpus,
            resources_per_worker={"CPU": settings.threads, **({"GPU": 1} if settings.gpus else {})},
            elastic_resize_monitor_interval_s=settings.resize_seconds,
        ),
        run_config=RunConfig(
            name=attempt,
            storage_path=storage.join(run, RAY),
            failure_config=FailureConfig(max_failures=-1),  # the notice board counts
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    # Ray Train's own check of workers that no longer answer; its processes inherit it.
    os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", str(_seconds(settings)))
    kept = storage.join(run, loop.CHECKPOINTS)
    try:
        with contextlib.ExitStack() as heard:
            for listener in listeners:
                heard.enter_context(_listening(board, listener, every_s))
            result = trainer.fit()
        news: News = ray.get(board.read.remote())
        fatal = ray.get(board.fatal.remote())
    except Exception as error:
        raise _reason(error, kept) from error
    except BaseException:
        trainer.abort()
        raise
    finally:
        ray.kill(board)
        with contextlib.suppress(OSError):  # what others have there is another attempt's, at work perhaps
            storage.remove_folder(storage.join(run, RAY, attempt))
    if fatal is not None:
        raise _with_checkpoint(fatal, kept)
    with contextlib.suppress(OSError):
        storage.remove_folder(storage.join(run, RAY))
    try:
        for listener in listeners:
            listener(news)
    except Exception as error:
        raise GRU4RecError(
            f"all epochs are trained, and not all of their figures could be recorded: {_in_short(error)}; see that "
            "MLflow's store can be reached and go on with this run (--resume): it records what is missing"
        ) from error
    if result.return_value is None:
        raise GRU4RecError("training ended without a model")
    return result.return_value


def _seconds(settings: Train) -> int:
    """The stall timeout as Ray takes it: without one, a week."""
    return int(settings.stall_timeout) or int(timedelta(weeks=1).total_seconds())


@contextlib.contextmanager
def _listening(board: Any, watch: Callable[[News], None], every_s: float) -> Iterator[None]:
    """`watch` hears the news every so many seconds inside the block. Where it fails, that is said once, and it hears
    the next all the same.
    """
    done = threading.Event()

    def listen() -> None:
        warned = False
        while not done.wait(every_s):
            try:
                watch(ray.get(board.read.remote()))
            except Exception as error:  # of MLflow's store, most likely: an outage there must not silence the run
                if not warned:
                    warned = True
                    print(
                        f"WARNING: what the workers tell could not be recorded: {_in_short(error)}. Training goes on; "
                        "what is missing is recorded once that works again, at the latest at the end",
                        file=sys.stderr,
                        flush=True,
                    )

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield
    except BaseException:
        done.set()
        listener.join(_LISTENS_S)  # it may be minutes at MLflow's store, and nobody waits for it any more
        raise
    done.set()
    listener.join()


def _in_short(error: Exception) -> str:
    """The error's first line, without credentials."""
    return masked(f"{type(error).__name__}: {error}".partition("\n")[0])


def lacking(settings: Train) -> str:
    """What the workers need and the cluster does not have; empty for nothing.

    Raises InputError where nothing can join: Ray would wait for it forever.
    """
    have = ray.cluster_resources()
    workers, _ = settings.worker_range
    need = {"CPU": workers * settings.threads, "GPU": workers if settings.gpus else 0}
    remedies = {"CPU": "lower --workers or --threads", "GPU": "leave out --gpus, or lower --workers"}
    for kind, wanted in need.items():
        if wanted > have.get(kind, 0):
            what = f"--workers {settings.workers} need {wanted} {kind}s and the cluster has {have.get(kind, 0):g}"
            if not on_ray.may_grow():
                raise InputError(f"{what}: {remedies[kind]}, or join a larger cluster")
            return what
    return ""


def _with_checkpoint(error: Exception, kept: str) -> Exception:
    """The error with the name of the newest checkpoint in the folder `kept`."""
    if not isinstance(error, GRU4RecError) or isinstance(error, InputError | loop.TakenOver):
        return error
    names = checkpoints.committed(kept)
    left = f"; the last good model is {storage.shown(storage.join(kept, names[-1], loop.MODEL))}" if names else ""
    return GRU4RecError(f"{error}{left}")


def _reason(error: Exception, kept: str) -> Exception:
    """The error of the first worker that failed, without the layers that Ray wraps around it, and what is kept."""
    failures = getattr(error, "worker_failures", None)
    inner: BaseException = next(iter(failures.values())) if failures else error
    while True:
        cause = getattr(inner, "cause", None) or inner.__cause__
        if cause is None or cause is inner:
            break
        inner = cause
    if not isinstance(inner, GRU4RecError):
        logging.getLogger(__name__).debug("training failed", exc_info=error)
        inner = GRU4RecError(f"training failed: {type(inner).__name__}: {inner}")
    return _with_checkpoint(inner, kept)


def parameters(settings: Train) -> dict[str, Any]:
    """What MLflow records as the run's parameters."""
    shown = {**asdict(settings), "warm_start": storage.shown(settings.warm_start)}
    of_training = ("workers", "threads", "gpus", "sync_every", "warm_start")
    return {key: shown[key] for key in [*(of.name for of in fields(Hyperparameters)), *of_training]}
