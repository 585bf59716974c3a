"""Connecting a job to Ray: the cluster it was submitted to, or one on this machine that it ends itself."""

import contextlib
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator

import ray

from gru4rec.errors import InputError, masked


@contextlib.contextmanager
def connected(verbose: bool = False) -> Iterator[None]:
    """Be connected to Ray inside the block.

    Joins the cluster of RAY_ADDRESS where that is set (`ray job submit` sets it), leaves a connection as it was
    where there is one, and otherwise starts a cluster on this machine and ends it with the block. Raises InputError
    where there is no cluster at that address.
    """
    if ray.is_initialized():
        yield
        return
    address = _address()
    environment = worker_environment(verbose)
    if not address:
        # Workers here inherit it. A runtime environment would cost the workers that Ray starts ahead.
        os.environ.update(environment)
    stop = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
            runtime_env={"env_vars": environment} if address and environment else None,
        )
    except (ValueError, ConnectionError) as error:
        if not address:
            raise
        # What stands in braces are environments, with all their variables.
        said = re.sub(r"\{.*\}", "{…}", " ".join(str(error).split()))
        raise InputError(f"RAY_ADDRESS {masked(address)}: {said}") from None
    # Ray's own handler, beneath that for Python, aborts the process three seconds after SIGTERM, amid its tidying.
    if callable(stop) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)
    if not verbose:
        quiet_data()
    try:
        yield
    finally:
        ray.shutdown()


def _address() -> str:
    """The cluster to join; empty for one of the job's own."""
    address = os.environ.get("RAY_ADDRESS", "")
    return "" if address == "local" else address


def may_grow() -> bool:
    """Whether nodes may join while the job waits: on a cluster that it was submitted to, not on one of its own.

    A cluster that scales from zero has nothing to begin with, and gets nodes for what waits there.
    """
    return bool(_address())


def check_one(flag: str, wanted: float, kind: str, of: str, remedy: str) -> None:
    """Raises InputError where `of` (a task, a trial) needs more of CPU or GPU (`kind`) than Ray has in all: Ray would
    wait for it forever. Where more may come, nothing is refused.
    """
    have = ray.cluster_resources().get(kind, 0)
    if wanted > have and not may_grow():
        raise InputError(f"--{flag}: {of} needs {wanted:g} {kind}s, and Ray has {have:g}: {remedy}")


def await_room(cpus: float, gpus: float, say: Callable[[str], None]) -> float:
    """Wait, on a cluster that may grow, until it has so many CPUs and GPUs in all; the seconds that took.

    `say` gets a line where there is something to wait for.
    """
    have = ray.cluster_resources()
    lacking = [f"{kind}s" for kind, wanted in (("CPU", cpus), ("GPU", gpus)) if wanted > have.get(kind, 0)]
    if not lacking or not may_grow():
        return 0.0
    say(f"waiting for {' and '.join(lacking)} to join")
    began = time.monotonic()
    # A cluster that scales from zero starts nodes for tasks that wait.
    ray.get(ray.remote(num_cpus=cpus, num_gpus=gpus)(_nothing).remote())
    return time.monotonic() - began


def _nothing() -> None:
    """Task."""


def worker_environment(verbose: bool) -> dict[str, str]:
    """Environment variables for every worker process of the job, but for what its user has set.

    A submitted job may not set what its runtime environment sets already.
    """
    ours = {} if verbose else {"PYTHONWARNINGS": "ignore::DeprecationWarning,ignore::FutureWarning"}
    return {name: value for name, value in ours.items() if name not in os.environ}


def quiet_data() -> None:
    """No progress bars and no log lines of Ray Data's, Train's and Tune's own."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Of each attempt at a trial that fails, Tune logs the traceback; the search tells why, in a line.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


# Ray Data gives every actor of a pool its arguments through the object store and says at each start that a restart
# needs them to be there still; its executor holds them as long as the pool lives (ray-project/ray#53727).
_EXPLAINED = re.compile(rb"has constructor arguments in the object store and max_restarts > 0")


@contextlib.contextmanager
def without_explained_lines(verbose: bool = False) -> Iterator[None]:
    """Keep lines that mean nothing here, and that Ray's core writes past Python's logging, off stderr."""
    if verbose:
        yield
        return
    kept, (outlet, inlet) = os.dup(2), os.pipe()

    def pass_on() -> None:
        with os.fdopen(outlet, "rb") as lines:
            for line in lines:
                if not _EXPLAINED.search(line):
                    os.write(kept, line)

    reader = threading.Thread(target=pass_on, daemon=True)
    reader.start()
    os.dup2(inlet, 2)
    os.close(inlet)
    try:
        yield
    finally:
        os.dup2(kept, 2)  # closes the last writer, which ends the reader
        reader.join(timeout=10)
        os.close(kept)
