"""Connecting a job to Ray: the cluster it was submitted to, or one on this machine that it ends itself."""

import contextlib
import logging
import os
from collections.abc import Iterator

import ray


@contextlib.contextmanager
def connected(verbose: bool = False) -> Iterator[None]:
    """Be connected to Ray inside the block.

    Joins the cluster of RAY_ADDRESS where that is set (`ray job submit` sets it), leaves a connection as it was
    where there is one, and otherwise starts a cluster on this machine and ends it with the block.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    environment = worker_environment(verbose)
    if not address:
        # Workers here inherit it. A runtime environment would cost the workers that Ray starts ahead.
        os.environ.update(environment)
    ray.init(
        address=address or "local",
        include_dashboard=None if address else False,
        log_to_driver=verbose,
        logging_level=logging.INFO if verbose else logging.ERROR,
        runtime_env={"env_vars": environment} if address else None,
    )
    if not verbose:
        quiet_data()
    try:
        yield
    finally:
        ray.shutdown()


def worker_environment(verbose: bool) -> dict[str, str]:
    """Environment variables for every worker process of the job."""
    return {} if verbose else {"PYTHONWARNINGS": "ignore::DeprecationWarning,ignore::FutureWarning"}


def quiet_data() -> None:
    """No progress bars and no log lines of Ray Data's own."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
