"""Speed as ratios against named alternatives, in one run; see --help. Only `prepare` and, on CPUs, `score` need Ray."""

import dataclasses
import os
import sys
from typing import Any

from gru4rec import cli, config
from gru4rec.errors import InputError

EACH = ("train", "scaling", "prepare", "evaluate", "score")  # of --what all, in this order


def run(settings: config.Bench) -> dict[str, Any]:
    if settings.scratch and not os.path.isdir(settings.scratch):
        raise InputError(f"--scratch {settings.scratch}: there is no such folder; make it, or name another")
    if settings.what == "all":
        return _all(settings)

    if settings.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise InputError("--device cuda: torch finds no GPU here")

    if settings.what == "prepare":
        from gru4rec.sessions import bench as prepare

        return prepare.run(settings.clicks, settings.ways, settings.repeats, settings.scratch)

    if settings.what == "score" and settings.device == "cuda":
        from gru4rec.scoring import bench_engine

        return bench_engine.run(settings.catalogues, settings.sessions, settings.repeats, settings.device)

    if settings.what == "score":
        from gru4rec.scoring import bench as scoring

        return scoring.run(settings.catalogues, settings.sessions, settings.repeats, settings.scratch)

    if settings.what == "evaluate":
        from gru4rec.evaluation import bench as evaluation

        return evaluation.run(settings.repeats, settings.threads)

    from gru4rec.training import bench, scaling

    if settings.what == "scaling":
        name, *others = settings.configurations or ("lanes-256",)
        if others or name == "catalogue" or settings.device != "cpu":
            raise InputError("--what scaling: takes one configuration, not 'catalogue', and --device cpu")
        gpu_step = settings.gpu_step_us / 1e6
        return scaling.run(name, settings.seconds, settings.repeats, settings.threads, gpu_step)
    return bench.run(settings.configurations, settings.seconds, settings.repeats, settings.threads, settings.device)


def _all(settings: config.Bench) -> dict[str, Any]:
    """Each in turn; its result by its name."""
    import torch

    if settings.device != "cpu":
        raise InputError("--what all: takes --device cpu; on cuda, measure train and score by themselves")
    threads = torch.get_num_threads()
    result: dict[str, Any] = {"what": "all"}
    for what in EACH:
        print(f"bench of {what}", file=sys.stderr, flush=True)
        its: dict[str, Any] = {"what": what, "configurations": settings.configurations if what == "train" else ()}
        result[what] = run(dataclasses.replace(settings, **its))
        torch.set_num_threads(threads)  # each begins as it does alone
    return result


if __name__ == "__main__":
    sys.exit(cli.run(config.Bench, run))
