"""One scoring run: what is missing of a result is made, all of it is checked, then one step makes it count.

Only the plan of pieces and the counts of each are held here: nothing that grows with the sessions. A single piece is
done in this process; for more, Ray is started.
"""

import contextlib
import hashlib
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from gru4rec import lock, storage
from gru4rec.config import Score
from gru4rec.errors import GRU4RecError, InputError
from gru4rec.scoring import gates, limits, manifest, parts, source, states
from gru4rec.scoring.scorer import Outcome, Scorer, Work, attempt, outcome
from gru4rec.sessions.catalogue import UNKNOWN, catalogue, encoder, plain
from gru4rec.tracking.folder import LoadedModel

PROGRESS_SECONDS = 10.0
PIECES_HERE = 1  # so many are done in this process: Ray's start would take longer
DISTINCT_HERE = parts.PARTITION_ROWS  # up to here a single task would count them, which first had to start
EXPOSURE = "exposure.parquet"
AGAIN = "run the same command again"


class Job(NamedTuple):
    """What is to be scored with what, and where the result belongs."""

    settings: Score
    found: source.Source
    allowed: limits.Limits
    loaded: LoadedModel
    version: str | None  # of the model in its registry
    model_uri: str
    key: str
    model: str  # digest of weights and catalogue
    lists: str  # digest of the settings that a list of given clicks depends on

    @property
    def place(self) -> str:
        """The folder whose manifest.json counts."""
        return manifest.place(self.settings.out, self.settings.date)

    @property
    def name(self) -> str:
        """The result's folder in it."""
        return manifest.result_name(self.version, self.key)


class Done(NamedTuple):
    """A result that counts."""

    content: dict[str, Any]  # its manifest
    unchanged: bool  # it did so before
    kept: int  # parts that an earlier run had made
    scored: int  # sessions that this run has scored
    seconds: float  # that took


def find(settings: Score, loaded: LoadedModel, version: str | None, model_uri: str) -> Job:
    """The sessions to score; needs no Ray. Raises InputError for bad input and for an `out` that is taken."""
    manifest.check_out(settings.out, settings.date, settings.sessions)
    found = source.find(settings.sessions, loaded.items.schema.field("item_id").type, settings.skip_corrupt)
    allowed = limits.limits(catalogue(loaded.items), settings.only_items, settings.exclude_items)
    items = "" if allowed.items is None else hashlib.sha256(allowed.items.astype("<i8").tobytes()).hexdigest()
    model, lists = manifest.model_digest(loaded), {**_lists_of(settings), "items": items}
    key = manifest.key(model, found, lists)
    return Job(settings, found, allowed, loaded, version, model_uri, key, model, states.digest(lists))


def _lists_of(settings: Score) -> dict[str, Any]:
    """The settings that lists depend on, but for files of items."""
    names = ("top_k", "exclude_seen", "min_score", "with_embeddings", "skip_corrupt", "incremental")
    return {name: getattr(settings, name) for name in names}


def run(job: Job) -> Done:
    """Make the result of a job the one that counts in `job.place`, unless it is already.

    An earlier result stays until the new one is whole. Raises InputError where a file turns out to be damaged, and
    GRU4RecError where another run is at work, something cannot be written or a gate fails; what was made stays, and
    the same job goes on from there.
    """
    if before := _unchanged(job):
        return before
    with lock.held(job.place) as check, contextlib.ExitStack() as stack:
        if before := _unchanged(job):
            return before
        return _make(job, check, stack)


def _unchanged(job: Job) -> Done | None:
    found = manifest.current(job.place)
    # A version of its own has a result of its own, even where it is the same model again.
    if found and (found["key"], found["result"]) == (job.key, job.name) and manifest.whole(job.place, found):
        return Done(found, True, len(found["files"]), 0, 0.0)
    return None


def _make(job: Job, check_lock: Any, stack: contextlib.ExitStack) -> Done:
    """Ray, where it is needed, is connected until the `stack` ends."""
    settings, cut = job.settings, source.pieces(job.found, top_k=job.settings.top_k)
    work = Work(
        folder=storage.join(job.place, job.name),
        key=job.key,
        top_k=settings.top_k,
        exclude_seen=settings.exclude_seen,
        allowed=job.allowed.items,
        min_score=settings.min_score,
        embeddings=settings.with_embeddings,
        skip_corrupt=settings.skip_corrupt,
        items=job.loaded.items,
        prepared=job.found.prepared,
        session_id=job.found.session_id,
        remember=settings.incremental,
        earlier=_earlier(job),
    )
    started = time.monotonic()
    try:
        storage.make_folder(work.folder)
    except OSError as error:
        raise GRU4RecError(f"{storage.shown(work.folder)}: cannot be made: {error}") from error
    with_ray, waited = len(cut) > PIECES_HERE or settings.gpus_per_actor > 0, 0.0
    if with_ray:
        _connect(stack, settings.verbose)
        waited = _await_room(settings)
    total = _total(_pieces(job, work, cut, with_ray), job.found.rows, len(work.items))
    scoring_seconds = time.monotonic() - started - waited
    names = [part.name for part in total.parts]
    distinct = _distinct(work.folder, names, job.found.rows, with_ray)
    try:
        shown = _exposure(job, work, total.exposure)
    except OSError as error:
        raise GRU4RecError(f"{storage.shown(work.folder)}: cannot be written: {error}; {AGAIN}") from error
    figures = total.figures
    checks = gates.whole(job.found.rows, figures, total.first_wrong, work.short_allowed)
    before = _yesterday(job, total.exposure)
    rejected = max(figures["rejected"] / max(job.found.rows, 1), len(job.found.skipped) / max(job.found.count, 1))
    checks += gates.sane(settings, figures["rows"], figures["fallback"], rejected, shown["rows"], before)
    if with_ray:
        from gru4rec import ray_metrics

        ray_metrics.gates(checks, _shown_as(job))
    content = _describe(job, work, total, shown, checks, distinct, time.monotonic() - started)
    gates.refuse(checks, content)
    check_lock()
    try:
        manifest.publish(job.place, job.name, content)
    except OSError as error:
        raise GRU4RecError(f"{storage.shown(job.place)}: cannot be published: {error}; {AGAIN}") from error
    with contextlib.suppress(OSError):  # what was published counts, whatever else cannot be deleted yet
        manifest.prune(job.place, settings.keep)
        if settings.incremental and settings.date:
            states.remove_older(settings.out, settings.date)
    return Done(content, False, total.kept, total.scored, scoring_seconds)


def _earlier(job: Job) -> states.Earlier | None:
    """The result to go on from, where that is asked for and there is one; says which on stderr."""
    if not job.settings.incremental:
        return None
    found = states.find(job.settings.out, job.settings.date, job.model, job.lists)
    if found is None:
        said = "no earlier result of this model has states: each session is scored from its first click"
    else:
        said = f"going on from {found.name}" + ("" if found.lists else ", with other settings: its states alone")
    print(said, file=sys.stderr, flush=True)
    return found


def _connect(stack: contextlib.ExitStack, verbose: bool) -> None:
    from gru4rec import on_ray  # Ray is imported only where it is needed, which takes seconds

    stack.enter_context(on_ray.connected(verbose))
    stack.enter_context(on_ray.without_explained_lines(verbose))


def _await_room(settings: Score) -> float:
    """Wait for nodes where the cluster has none yet; the seconds that took, which say nothing of the speed."""
    from gru4rec.scoring import pool

    return pool.await_room(settings)


def _shown_as(job: Job) -> str:
    """What Prometheus calls this run."""
    return job.settings.date or job.name


def _pieces(job: Job, work: Work, cut: list[list[source.Span]], with_ray: bool) -> Iterator[Outcome]:
    if with_ray and cut:
        from gru4rec import ray_metrics
        from gru4rec.scoring import pool

        outcomes = pool.score(job.settings, job.loaded.model, work, cut)
        yield from ray_metrics.of_scoring(outcomes, _shown_as(job), job.found.rows)
        return
    before = torch.get_num_threads()
    torch.set_num_threads(job.settings.threads)
    try:
        scorer = Scorer(job.loaded.model, work, states.index(work.earlier) if work.earlier else None)
        for number, spans in enumerate(cut or [[]]):  # no sessions: one part without rows, to show the columns
            plain = attempt(lambda n=number, s=spans: scorer.piece(n, s), work.folder)  # type: ignore[misc]
            yield outcome(plain, len(work.items))
    finally:
        torch.set_num_threads(before)


class _Total(NamedTuple):
    parts: list[parts.Part]  # in order
    figures: dict[str, int]  # sums over all parts, by the name of the count
    exposure: np.ndarray  # lists that show each item, [V] int64
    first_wrong: str
    kept: int
    scored: int


def _total(outcomes: Iterator[Outcome], rows: int, items: int) -> _Total:
    """What all pieces come to; says on stderr how far it is."""
    found: list[parts.Part] = []
    exposure = np.zeros(items, np.int64)
    kept = done = scored = 0
    started = told = time.monotonic()
    for part, was_there, lists in outcomes:
        found.append(part)
        exposure += lists
        kept += was_there
        done += part.rows
        scored += 0 if was_there else part.rows
        now = time.monotonic()
        if now - told >= PROGRESS_SECONDS:
            told = now
            speed = scored / (now - started)
            print(f"scored {done:,} of {rows:,} sessions, {speed:,.0f}/s", file=sys.stderr, flush=True)
    found.sort(key=lambda part: part.name)
    counts = [name for name, kind in parts.Part.__annotations__.items() if kind is int]
    figures = {name: sum(getattr(part, name) for part in found) for name in counts}
    wrong = next((part.first_wrong for part in found if part.first_wrong), "")
    return _Total(found, figures, exposure, wrong, kept, scored)


def _distinct(folder: str, names: list[str], rows: int, with_ray: bool) -> int:
    of = parts.partitions(rows)
    if rows <= DISTINCT_HERE or not with_ray:
        return sum(parts.distinct_sessions(folder, names, partition, of) for partition in range(of))
    from gru4rec.scoring import pool

    return pool.distinct_sessions(folder, names, of)


def _exposure(job: Job, work: Work, exposure: np.ndarray) -> dict[str, Any]:
    """Write how many lists show each item; the file's entry in the manifest."""
    shown = np.flatnonzero(exposure)
    table = pa.table({"item_id": catalogue(work.items).ids.take(pa.array(shown)), "lists": exposure[shown]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    content = sink.getvalue()
    storage.write_bytes(storage.join(work.folder, EXPOSURE), content)
    return {"name": f"{job.name}/{EXPOSURE}", "rows": len(table), "bytes": len(content)}


def _yesterday(job: Job, exposure: np.ndarray) -> gates.Yesterday | None:
    """The result of the last date before; None without a date, and where there is none.

    Items that the model does not know any more have no share in what its lists show.
    """
    nights = manifest.nights(job.settings.out, job.settings.date, 1)
    if not job.settings.date or not nights:
        return None
    content, overlap = nights[0], float("nan")
    path = storage.join(manifest.place(job.settings.out, content["date"]), content["exposure"]["name"])
    with contextlib.suppress(OSError, pa.ArrowException, InputError):
        filesystem, inner = storage.locate(path)
        with filesystem.open_input_file(inner) as file:
            then = pq.read_table(file)
        index = encoder(catalogue(job.loaded.items))(plain(then["item_id"]))
        lists = then["lists"].to_numpy()
        known = np.bincount(index[index != UNKNOWN], lists[index != UNKNOWN], len(exposure))
        gone = lists[index == UNKNOWN].sum()
        overlap = gates.overlap(np.append(exposure, 0), np.append(known, gone))
    return gates.Yesterday(content["totals"]["sessions"], content["exposure"]["rows"], overlap)


def _describe(
    job: Job,
    work: Work,
    total: _Total,
    shown: dict[str, Any],
    checks: list[gates.Gate],
    distinct: int,
    seconds: float,
) -> dict[str, Any]:
    """The content of manifest.json. Names are relative to the folder that it lies in."""
    figures = total.figures
    return {
        "format": manifest.FORMAT,
        "format_version": manifest.FORMAT_VERSION,
        "result": job.name,
        "date": job.settings.date or None,
        "key": job.key,
        "published": manifest.now(),
        "model": {
            "uri": storage.shown(job.model_uri),
            "version": job.version,
            "data_fingerprint": job.loaded.config.get("data_fingerprint"),
        },
        "input": {
            "path": storage.shown(job.found.path),
            "fingerprint": job.found.fingerprint,
            "digest": job.found.digest,
            "sessions": job.found.rows,
            "skipped_files": len(job.found.others),
            "corrupt": [*job.found.skipped, *dict.fromkeys(why for part in total.parts for why in part.corrupt)],
        },
        "settings": _lists_of(job.settings),
        "limits": job.allowed.files,
        "files": [{"name": f"{job.name}/{part.name}", "rows": part.rows, "bytes": part.bytes} for part in total.parts],
        "states": _states(job, total) if work.remember else None,
        "exposure": shown,
        "totals": {
            "sessions": figures["rows"],
            "rejected": figures["rejected"],
            "fallback": figures["fallback"],
            "unknown_clicks": figures["unknown_clicks"],
            "listed": figures["listed"],
            "taken_over": figures["taken_over"],
            "continued": figures["continued"],
            "short_lists": figures["short"],
            "items_shown": shown["rows"],
            "distinct_sessions": distinct,
            "list_length": work.longest,
        },
        "checks": [gate.plain() for gate in checks],
        "seconds": round(seconds, 3),
    }


def _states(job: Job, total: _Total) -> dict[str, Any]:
    """The manifest's entry of the files that the next night goes on from."""
    files = [
        {"name": f"{job.name}/{states.states_name(number)}", "bytes": part.states_bytes}
        for number, part in enumerate(total.parts)
    ]
    return {"model": job.model, "lists": job.lists, "unused": total.figures["unused"], "files": files}
