"""Measuring models on a split: piece by piece, in this process or as Ray tasks, with the same figures.

A task measures one model on one piece. Few are under way at a time, and their tallies are added up in the order of the
pieces: the driver holds nothing that grows with the sessions, and every bit is the same with one worker and with many.
"""

import itertools
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from gru4rec import storage
from gru4rec.errors import GRU4RecError
from gru4rec.evaluation import pieces, relevance, significance
from gru4rec.evaluation.contenders import Baseline, Contender
from gru4rec.evaluation.metrics import Ties
from gru4rec.evaluation.pieces import Piece
from gru4rec.evaluation.relevance import METRICS
from gru4rec.evaluation.tally import LIST, Breakdown, Tally, Total, breakdowns, tally
from gru4rec.sessions.prepared import Prepared, Sessions

ALONE = 20_000_000_000
"""Predictions × items × models up to which this process measures alone: a minute, when workers would cost some ten
seconds to start."""

CURVE = (1, 2, 3, 5, 10, 20, 50, 100)
"""Cut-offs that the pages draw; measured besides those that are asked for."""

_DAY_MS = 86_400_000
_PROGRESS_SECONDS = 10.0
_LOOK_SECONDS = 5.0  # after which it is looked again how many tasks there is room for
_AHEAD = 4  # pieces that may be done before the one that is counted next, for each worker


class Question(NamedTuple):
    """What is measured: the same for all models."""

    sessions: int  # of the split
    predictions: int
    cutoffs: tuple[int, ...]
    relevant: Literal["next", "rest"]
    ties: Ties
    support: np.ndarray  # [P] training clicks of the prepared items
    age: np.ndarray  # [P] days from an item's first training click to the last click of training; −1: none
    breakdowns: list[Breakdown]
    out: str = ""  # folder for what each session gave; empty: not kept


@dataclass(frozen=True)
class Workers:
    """Where it is measured."""

    count: int = 0  # Ray tasks at a time; 0: this process alone for what it does soon, else as many as there is room
    gpus: float = 0.0  # of a task


def question(
    prepared: Prepared,
    split: str,
    cut: Sequence[Piece],
    cutoffs: Sequence[int],
    relevant: Literal["next", "rest"] = "next",
    ties: Ties = "conservative",
    out: str = "",
) -> Question:
    """The question for the pieces of a split; `cutoffs` besides `CURVE` and 20."""
    return Question(
        sessions=sum(piece.rows for piece in cut),
        predictions=prepared.summary["splits"][split]["transitions"],
        cutoffs=tuple(sorted({*cutoffs, *CURVE, LIST})),
        relevant=relevant,
        ties=ties,
        support=prepared.support,
        age=_ages(prepared),
        breakdowns=breakdowns(prepared.support),
        out=out,
    )


def _ages(prepared: Prepared) -> np.ndarray:
    """Whole days from each item's first training click to the last of all, [P] int64; −1 for an item without one."""
    none = np.iinfo(np.int64).max
    first, last = np.full(len(prepared.items), none), 0
    for batch in prepared.batches("train", ["items", "times"]):
        items = batch["items"].flatten().to_numpy(zero_copy_only=False)
        times = batch["times"].flatten().cast(pa.timestamp("ms")).cast(pa.int64()).to_numpy(zero_copy_only=False)
        np.minimum.at(first, items, times)
        last = max(last, int(times.max(initial=0)))
    return np.where(first < none, (last - first) // _DAY_MS, -1)


def measure(
    contenders: Sequence[Contender],
    asked: Question,
    cut: Sequence[Piece],
    workers: Workers,
    say: Callable[[str], None],
    verbose: bool = False,
) -> dict[str, Total]:
    """The figures of each contender by its label. `say` gets a line of progress now and then.

    Raises InputError that names a file that is damaged.
    """
    jobs = [(one, piece) for one in contenders for piece in cut]
    scores = asked.predictions * len(asked.support) * len(contenders)
    if workers.count == 0 and not workers.gpus and scores <= ALONE:
        return _added(contenders, jobs, asked, _here(jobs, asked), say)
    from gru4rec import on_ray

    with on_ray.connected(verbose):
        on_ray.check_one("gpus-per-worker", workers.gpus, "GPU", "a worker", "give less, or 0 to measure on CPUs")
        on_ray.await_room(1, workers.gpus, say)
        return _added(contenders, jobs, asked, _on_ray(jobs, asked, workers), say)


def measure_here(contender: Contender, asked: Question, cut: Sequence[Piece]) -> Total:
    """The figures of one contender, measured by this process. Raises as `measure`."""
    jobs = [(contender, piece) for piece in cut]
    return _added([contender], jobs, asked, _here(jobs, asked), lambda _: None)[contender.label]


def _added(
    contenders: Sequence[Contender],
    jobs: Sequence[tuple[Contender, Piece]],
    asked: Question,
    tallies: Iterator[Tally],
    say: Callable[[str], None],
) -> dict[str, Total]:
    """The tallies of `jobs`, in their order, added up by contender."""
    classes, items = sum(len(breakdown.ranges) for breakdown in asked.breakdowns), len(asked.support)
    found = {one.label: Total(asked.sessions, asked.cutoffs, classes, items, asked.support) for one in contenders}
    shown = time.monotonic()
    for number, ((one, piece), part) in enumerate(zip(jobs, tallies, strict=True), start=1):
        found[one.label].add(part)
        if time.monotonic() - shown >= _PROGRESS_SECONDS:
            shown = time.monotonic()
            say(f"{one.label}: {piece.first + piece.rows:,} sessions measured; {number} of {len(jobs)} pieces")
    return found


def _here(jobs: Sequence[tuple[Contender, Piece]], asked: Question) -> Iterator[Tally]:
    """Tallies in the order of `jobs`, from this process."""
    for contender, those in itertools.groupby(jobs, key=lambda job: job[0]):
        ready = contender.ready()
        for _, piece in those:
            yield measure_piece(ready, piece, asked)


def _on_ray(jobs: Sequence[tuple[Contender, Piece]], asked: Question, workers: Workers) -> Iterator[Tally]:
    """Tallies in the order of `jobs`, from tasks of which few are under way or wait to be counted at a time."""
    import ray

    options = {"num_cpus": 1, **({"num_gpus": workers.gpus} if workers.gpus else {})}
    task, ready = ray.remote(_measured).options(**options), ray.remote(_ready).options(num_cpus=1)
    shared: dict[str, Any] = {}
    question = ray.put(asked)
    waiting: dict[Any, int] = {}
    done: dict[int, Tally] = {}
    begun = told = 0
    while told < len(jobs):
        at_once = _at_once(workers)
        while begun < len(jobs) and len(waiting) < at_once and begun - told < _AHEAD * at_once:
            one, piece = jobs[begun]
            if one.label not in shared:
                shared[one.label] = ready.remote(one) if isinstance(one, Baseline) else ray.put(one)
            waiting[task.remote([shared[one.label]], piece, question)] = begun
            begun += 1
        ended, _ = ray.wait(list(waiting), num_returns=1, timeout=_LOOK_SECONDS)
        for reference in ended:
            done[waiting.pop(reference)] = _unwrapped(reference)
        while told in done:
            yield done.pop(told)
            told += 1


def _at_once(workers: Workers) -> int:
    """How many tasks are to be under way: where --workers does not say it, as many as there is room for now.

    Where nodes may join, one more waits, since a node is started for what waits.
    """
    import ray

    from gru4rec import on_ray

    if workers.count:
        return workers.count
    resources = ray.cluster_resources()
    room = resources.get("GPU", 0.0) / workers.gpus if workers.gpus else resources.get("CPU", 1.0)
    return max(1, int(room) + on_ray.may_grow())


def _unwrapped(reference: Any) -> Tally:
    """The tally of a task; what it raised is raised as it was."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, GRU4RecError):
            raise error.cause from error
        raise


def _ready(contender: Contender) -> Contender:
    """Task: what a baseline learns, it learns once for all workers."""
    return contender.ready()


_held: dict[str, Contender] = {}  # of this worker process: a model is read from shared memory once


def _measured(contender: list[Any], piece: Piece, asked: Question) -> Tally:
    """Task. The contender comes in a list, so that Ray does not read it anew for every piece."""
    import ray

    torch.set_num_threads(1)
    (reference,) = contender
    if reference.hex() not in _held:
        _held.clear()
        _held[reference.hex()] = ray.get(reference).ready("cuda" if ray.get_gpu_ids() else "cpu")
    return measure_piece(_held[reference.hex()], piece, asked)


def measure_piece(contender: Contender, piece: Piece, asked: Question) -> Tally:
    """Rank a piece with a model, and count; with `asked.out` write what each session gave.

    Raises InputError that names a damaged file.
    """
    sessions, about = pieces.read(piece)
    relevant = (relevance.rest if asked.relevant == "rest" else relevance.next_click)(sessions)
    ranked = contender.rank(sessions, relevant, asked.relevant == "next", asked.ties)
    gains = relevance.gains(ranked.ranks, relevant, asked.cutoffs).reshape(len(relevant.at), -1)
    owner = np.searchsorted(sessions.offsets, relevant.at, side="right") - 1
    group = significance.group_of(piece.first, piece.rows, asked.sessions)
    values = _values(sessions, owner, relevant.at, asked)
    classes = [breakdown.of(of) for breakdown, of in zip(asked.breakdowns, values, strict=True)]
    found = tally(gains, owner, group, classes, [len(breakdown.ranges) for breakdown in asked.breakdowns])
    found.unknown, found.unstarted = ranked.unknown, ranked.unstarted
    lists = contender.lists(sessions, LIST)
    found.lists = np.bincount(lists[lists >= 0], minlength=len(asked.support))
    if asked.out:
        _write(contender, piece, asked, sessions, about, ranked.ranks, gains, owner)
    return found


def _values(sessions: Sessions, owner: np.ndarray, at: np.ndarray, asked: Question) -> list[np.ndarray]:
    """What the breakdowns go by, in their order, [T] each."""
    following = sessions.items[at + 1]
    return [
        sessions.lengths[owner],
        at - sessions.offsets[owner] + 1,
        asked.support[following],
        asked.age[following],
    ]


def _write(
    contender: Contender,
    piece: Piece,
    asked: Question,
    sessions: Sessions,
    about: pa.Table,
    ranks: np.ndarray,
    gains: np.ndarray,
    owner: np.ndarray,
) -> None:
    """One Parquet file: a row a session, see `README.md`."""
    columns = {name: about[name] for name in about.column_names}
    columns["clicks"] = pa.array(sessions.lengths.astype(np.int32))
    predictions = np.bincount(owner, minlength=sessions.count)
    columns["predictions"] = pa.array(predictions.astype(np.int32))
    if asked.relevant == "next":
        offsets = pa.array(np.concatenate([[0], np.cumsum(predictions)]).astype(np.int32))
        columns["ranks"] = pa.ListArray.from_arrays(offsets, pa.array(ranks, mask=np.isinf(ranks)))
    sums = significance.summed(owner, gains, sessions.count)
    names = [f"{name}_at_{k}" for name in METRICS for k in asked.cutoffs]
    columns |= {name: pa.array(sums[:, place]) for place, name in enumerate(names)}
    place = storage.join(asked.out, folder_of(contender.label))
    storage.make_folder(place)
    storage.write_parquet(storage.join(place, f"part-{piece.number:05d}.parquet"), pa.table(columns))


def folder_of(label: str) -> str:
    """The folder of a model's sessions below `out`: its label, in letters that are safe in a name."""
    return re.sub(r"[^\w.-]", "_", label)
