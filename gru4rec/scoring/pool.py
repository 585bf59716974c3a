"""Many pieces at once: a pool of scoring actors on Ray Data.

Only the plan of the pieces and the counts of each go through the driver. An actor that dies is replaced and its piece
done again; it writes the same file again.
"""

import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray
import torch

from gru4rec import on_ray
from gru4rec.config import Score
from gru4rec.errors import InputError
from gru4rec.model.network import GRU4Rec
from gru4rec.scoring import parts, reach, source, states
from gru4rec.scoring.scorer import Outcome, Scorer, Work, attempt, failed, given, outcome, taken


class ScoringActor:
    """An actor: holds the model, turns pieces into part files."""

    def __init__(self, shared: list[ray.ObjectRef], threads: int, device: str, mark: str) -> None:
        """`mark`: what `reach.marked` gives for the result's folder."""
        torch.set_num_threads(threads)
        model, work = ray.get(shared[0])
        index = ray.get(shared[1]) if len(shared) > 1 else None
        with warnings.catch_warnings():
            # The weights lie in Ray's shared memory, once for all actors of a machine; they are only read.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self.scorer = Scorer(taken(model, device), work, index)
        self.unseen = reach.unseen(work.folder, mark)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._piece(**row) for row in batch.to_pylist()])

    def _piece(self, number: int, spans: str) -> dict[str, Any]:
        if self.unseen:
            return failed(self.unseen, bad_input=True)
        read = [source.Span(*span) for span in json.loads(spans)]
        return attempt(lambda: self.scorer.piece(number, read), self.scorer.work.folder)


def score(settings: Score, model: GRU4Rec, work: Work, cut: Sequence[Sequence[source.Span]]) -> Iterator[Outcome]:
    """Make the parts of all pieces, as they are done, in any order. Ray must be connected.

    Raises what a piece failed with, and InputError where this machine can never run what was asked for or a node does
    not see the result's folder.
    """
    plan = [{"number": number, "spans": json.dumps(spans)} for number, spans in enumerate(cut)]
    actors = _actors(settings, len(plan))
    shared = [ray.put((given(model), work))]
    if work.earlier is not None:
        # Made where it lies in the memory that the actors of a machine share; they wait for it with all the CPUs there
        # may be, so that it must need none.
        shared.append(ray.remote(num_cpus=0)(states.index).remote(work.earlier))
    device = "cuda" if settings.gpus_per_actor else "cpu"
    with reach.marked(work.folder) as mark:
        dataset = ray.data.from_items(plan, override_num_blocks=len(plan)).map_batches(
            ScoringActor,
            fn_constructor_kwargs={"shared": shared, "threads": settings.threads, "device": device, "mark": mark},
            batch_size=1,
            batch_format="pyarrow",
            compute=actors,
            num_cpus=_cpus(settings),
            num_gpus=settings.gpus_per_actor or None,
        )
        for row in dataset.iter_rows():
            yield outcome(row, len(work.items))


def await_room(settings: Score) -> float:
    """Wait, on a cluster that may grow, for what one actor needs; the seconds that took. Ray must be connected."""

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    return on_ray.await_room(_cpus(settings), settings.gpus_per_actor, say)


def _cpus(settings: Score) -> int:
    """CPUs that Ray sets aside for an actor."""
    return 0 if settings.gpus_per_actor else settings.threads


def _actors(settings: Score, pieces: int) -> ray.data.ActorPoolStrategy:
    """The pool of actors: as many as asked for, else as there is room for. Raises InputError as `_fitting`.

    Where nodes may join, actors are started on them too, until each piece has one: Ray Data starts no more than fit.
    """
    fit = _fitting(settings)
    first = max(1, min(settings.actors or fit, pieces))
    most = pieces if on_ray.may_grow() and not settings.actors else first
    return ray.data.ActorPoolStrategy(min_size=1, max_size=most, initial_size=first)


def _fitting(settings: Score) -> int:
    """How many actors fit now. Raises InputError where this machine can never run what was asked for.

    On a cluster that the job was submitted to, more may come (autoscaling), so nothing is refused there.
    """
    resources = ray.cluster_resources()
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    final = not on_ray.may_grow()
    if settings.gpus_per_actor:
        fit = int(gpus / settings.gpus_per_actor)
        if final and fit < max(1, settings.actors):
            raise InputError(
                f"--gpus-per-actor {settings.gpus_per_actor:g}: {max(1, settings.actors)} actors need "
                f"{settings.gpus_per_actor * max(1, settings.actors):g} GPUs, Ray has {gpus:g}"
            )
    else:
        fit = int(cpus / settings.threads)
        if final and fit < max(1, settings.actors):
            raise InputError(
                f"--actors {settings.actors} --threads {settings.threads}: need "
                f"{settings.threads * max(1, settings.actors)} CPUs, Ray has {cpus:g}"
            )
    return fit


def distinct_sessions(folder: str, names: Sequence[str], of: int) -> int:
    """Distinct session ids of the part files, counted in `of` partitions at once. Ray must be connected."""
    count = ray.remote(parts.distinct_sessions)
    return sum(ray.get([count.remote(folder, names, partition, of) for partition in range(of)]))
