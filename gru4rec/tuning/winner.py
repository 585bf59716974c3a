"""The best point of a search: trained anew on training and validation split with several seeds, and tested once."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gru4rec import storage
from gru4rec.config import Hyperparameters, Tune
from gru4rec.errors import GRU4RecError, InputError
from gru4rec.evaluation import contenders, measure, pieces
from gru4rec.evaluation.tally import Total, intervals
from gru4rec.sessions.prepared import Prepared
from gru4rec.tracking import folder as model_folder
from gru4rec.tuning import trial

FINAL = "final"
_METRICS = ("recall_at_20", "mrr_at_20", "ndcg_at_20")
_REFERENCE = "markov"  # a baseline that takes no time, beside


def train(
    number: int,
    settings: Hyperparameters,
    seeds: Sequence[int],
    prepared: Prepared,
    folder: str,
    job: Tune,
    epochs: int,
    say: Callable[[str], None],
    every_s: float = 60.0,
) -> list[str]:
    """Model folders of trial `number`, one a seed, each trained by a Ray task; those that are there stay as they are.

    It stops after `epochs` of the settings'. Those of an earlier winner, in a search that was then asked for more
    trials, are removed. `say` gets a line of progress every `every_s` seconds. Raises GRU4RecError that says which seed
    could not be trained.
    """
    import ray

    gpus = job.gpus_per_trial
    options = {"num_cpus": job.threads, **({"num_gpus": gpus} if gpus else {}), "max_retries": 2}
    task = ray.remote(_trained).options(**options)
    mine = f"trial-{number:05d}"
    for name in storage.list_folders(storage.join(folder, FINAL)):
        if name != mine:
            storage.remove_folder(storage.join(folder, FINAL, name))
    given = [(seed, storage.join(folder, FINAL, mine, f"seed-{seed}")) for seed in seeds]
    device = "cuda" if gpus else "cpu"
    data = prepared.folder, prepared.fingerprint
    tasks = [task.remote(settings, seed, *data, place, job.threads, device, epochs) for seed, place in given]
    found, began = [], time.monotonic()
    for seed, one in zip(seeds, tasks, strict=True):
        while not ray.wait([one], timeout=every_s)[0]:
            ready, _ = ray.wait(tasks, num_returns=len(tasks), timeout=0)
            minutes = (time.monotonic() - began) / 60
            say(f"training the best: {len(ready)} of {len(tasks)} seed(s) done after {minutes:.0f} min")
        try:
            found.append(ray.get(one))
        except ray.exceptions.RayTaskError as error:
            raise _reason(error.cause, number, seed, seeds) from error
    return found


def _reason(cause: BaseException, number: int, seed: int, seeds: Sequence[int]) -> BaseException:
    """Why the model of a seed could not be trained, and what to do."""
    if isinstance(cause, InputError | trial.TakenOver):
        return cause
    why = " ".join(str(cause).split())
    if not isinstance(cause, GRU4RecError):
        why = f"{type(cause).__name__}: {why}".removesuffix(": ")
    without = "--seeds without that one, or " if seed != seeds[0] else ""
    return GRU4RecError(
        f"trial {number} is the best, but on training and validation split, with seed {seed}, its training fails: "
        f"{why}; go on with {without}more --trials, of which another may be the best"
    )


def _trained(
    settings: Hyperparameters,
    seed: int,
    data: str,
    fingerprint: str,
    place: str,
    threads: int,
    device: str,
    epochs: int,
) -> str:
    """Task."""
    import dataclasses

    import torch

    torch.set_num_threads(threads)
    chosen = dataclasses.replace(settings, seed=seed)
    return trial.train_whole(chosen, data, place, device, epochs, fingerprint)


def test(models: Sequence[str], seeds: Sequence[int], prepared: Prepared, say: Callable[[str], None]) -> dict[str, Any]:
    """Figures on the test split: of each seed's model and of a Markov chain, with 95 % intervals, and the mean and
    standard deviation over the seeds.
    """
    cut = pieces.cut(prepared, "test")
    asked = measure.question(prepared, "test", cut, [20])
    items = np.arange(len(prepared.items))
    found: list[contenders.Contender] = [
        contenders.Model(f"seed {seed}", loaded.model, loaded.items["support"].to_numpy(), items)
        for seed, loaded in zip(seeds, map(model_folder.load, models), strict=True)
    ]
    found.append(contenders.baseline(_REFERENCE, prepared).contender)
    totals: dict[str, Total] = measure.measure(found, asked, cut, measure.Workers(), say)
    metrics = {label: {key: total.metric(key) for key in _METRICS} for label, total in totals.items()}
    of_seeds = np.array([[metrics[f"seed {seed}"][key] for key in _METRICS] for seed in seeds])
    spread = of_seeds.std(axis=0, ddof=1) if len(seeds) > 1 else np.zeros(len(_METRICS))
    return {
        "predictions": next(iter(totals.values())).predictions,
        "metrics": metrics,
        "intervals": intervals(totals, _METRICS),
        "mean": dict(zip(_METRICS, of_seeds.mean(axis=0).tolist(), strict=True)),
        "deviation": dict(zip(_METRICS, spread.tolist(), strict=True)),
    }
