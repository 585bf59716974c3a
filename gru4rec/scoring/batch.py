"""The batch job: pieces of sessions through a pool of actors on Ray Data, verified, then published whole.

Only the plan of pieces and the counts of each go through the driver. An actor reads its piece, scores it
and writes one part file; a piece that is scored again after a failure writes the same file again.
"""

import contextlib
import dataclasses
import json
import os
import sys
import time
import uuid
import warnings
from typing import Any

import pyarrow as pa
import ray
import torch

from gru4rec import storage
from gru4rec.config import Hyperparameters, Score
from gru4rec.errors import GRU4RecError, InputError
from gru4rec.model.network import GRU4Rec
from gru4rec.scoring import manifest, source
from gru4rec.scoring.recommend import recommend
from gru4rec.sessions.catalogue import catalogue, encoder
from gru4rec.tracking.folder import LoadedModel

PROGRESS_SECONDS = 10.0
VERIFY_HERE = 200_000  # rows; up to here it is done before workers for it would have started


class Scorer:
    """A scoring actor: holds the model, turns pieces into part files."""

    def __init__(self, shared: list[ray.ObjectRef], settings: Score, staging: str) -> None:
        torch.set_num_threads(settings.threads)
        given = ray.get(shared[0])
        with warnings.catch_warnings():
            # The weights lie in Ray's shared memory, once for all actors of a machine; they are only read.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            tensors = {name: torch.from_numpy(weight) for name, weight in given["weights"].items()}
        model = GRU4Rec.from_tensors(Hyperparameters(**given["hyperparameters"]), tensors)
        self.model = model.to("cuda" if settings.gpus_per_actor else "cpu")
        self.known = catalogue(given["items"])
        self.encode = encoder(self.known, given["prepared"])
        self.session_id, self.settings, self.staging = given["session_id"], settings, staging

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self.piece(**row) for row in batch.to_pylist()])

    def piece(self, number: int, spans: str) -> dict[str, Any]:
        """Score one piece; an error goes to the driver as data, since Ray wraps what is raised."""
        try:
            result = self.score(source.read([source.Span(*span) for span in json.loads(spans)]))
            name = manifest.write_part(self.staging, number, result)
            return {"name": name, "rows": len(result), **_no_error()}
        except (GRU4RecError, OSError, ValueError) as error:
            return {"name": "", "rows": 0, **_as_data(error)}

    def score(self, sessions: pa.Table) -> pa.Table:
        """Recommendations of a table of sessions, with session_id in the type that all parts share."""
        found = recommend(
            self.model, self.known, sessions, self.settings.top_k, self.settings.exclude_seen, self.encode
        )
        return found.set_column(0, "session_id", found["session_id"].cast(self.session_id))


def find(settings: Score, loaded: LoadedModel) -> source.Source:
    """The sessions to score; needs no Ray. Raises InputError for bad input and for an `out` that is taken."""
    manifest.check_out(settings.out, settings.sessions)
    return source.find(settings.sessions, loaded.items.schema.field("item_id").type)


def run(
    settings: Score, found: source.Source, loaded: LoadedModel, version: str | None, model_uri: str
) -> dict[str, Any]:
    """Score what `find` found, publish to `settings.out`, and return the result of the job.

    Ray must be connected. An earlier result in `out` stays until the new one is whole. Raises InputError
    where a file turns out to be damaged, and GRU4RecError where the result does not pass verification.
    """
    cut = source.pieces(found)
    staging = storage.beside(storage.absolute(settings.out), f".{uuid.uuid4().hex[:8]}.staging")
    started = time.monotonic()
    try:
        storage.make_folder(staging)
        names = _score_pieces(settings, loaded, found, cut, staging)
        scoring_seconds = time.monotonic() - started
        parts, distinct = _verify(names, staging, found.rows, min(settings.top_k, loaded.model.item_count))
        content = manifest.describe(
            model={
                "uri": storage.shown(model_uri),
                "version": version,
                "data_fingerprint": loaded.config.get("data_fingerprint"),
            },
            source={
                "path": storage.shown(found.path),
                "fingerprint": found.fingerprint,
                "sessions": found.rows,
            },
            settings={"top_k": settings.top_k, "exclude_seen": settings.exclude_seen},
            parts=parts,
            seconds=time.monotonic() - started,
            distinct_sessions=distinct,
            list_length=min(settings.top_k, loaded.model.item_count),
        )
        storage.write_json(storage.join(staging, manifest.MANIFEST), content)
        storage.publish(staging, storage.absolute(settings.out), manifest.MANIFEST)
    except BaseException:
        with contextlib.suppress(OSError):
            storage.remove_folder(staging)
        raise
    totals = content["totals"]
    return {
        "sessions_in": found.rows,
        "sessions_out": totals["sessions"],
        "distinct_sessions": distinct,
        "fallback": totals["fallback"],
        "unknown_clicks": totals["unknown_clicks"],
        "list_length": totals["list_length"],
        "sessions_per_second": round(found.rows / scoring_seconds, 1) if found.rows else 0.0,
        "files": len(parts),
        "seconds": content["seconds"],
        "model_version": version,
        "out": storage.shown(settings.out),
    }


def _score_pieces(
    settings: Score, loaded: LoadedModel, found: source.Source, cut: list[list[source.Span]], staging: str
) -> list[str]:
    """Names of the part files, in the order of the sessions."""
    given = {
        "weights": {name: weight.cpu().numpy() for name, weight in loaded.model.tensors().items()},
        "hyperparameters": dataclasses.asdict(loaded.model.hyperparameters),
        "items": loaded.items,
        "prepared": found.prepared,
        "session_id": found.session_id,
    }
    if not cut:  # one part without rows, so that readers find the columns
        scorer = Scorer([ray.put(given)], dataclasses.replace(settings, gpus_per_actor=0), staging)
        items = pa.list_(pa.int32() if found.prepared is not None else scorer.known.ids.type)
        empty = pa.table({"session_id": pa.array([], found.session_id), "items": pa.array([], items)})
        return [manifest.write_part(staging, 0, scorer.score(empty))]
    plan = [{"number": number, "spans": json.dumps(spans)} for number, spans in enumerate(cut)]
    shared = ray.put(given)
    actors = _actors(settings, len(plan))
    dataset = ray.data.from_items(plan, override_num_blocks=len(plan)).map_batches(
        Scorer,
        fn_constructor_kwargs={"shared": [shared], "settings": settings, "staging": staging},
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors),
        num_cpus=settings.threads if not settings.gpus_per_actor else 0,
        num_gpus=settings.gpus_per_actor or None,
    )
    names, done, started, shown = [], 0, time.monotonic(), time.monotonic()
    for row in dataset.iter_rows():
        _raise(row)
        names.append(row["name"])
        done += row["rows"]
        now = time.monotonic()
        if now - shown >= PROGRESS_SECONDS:
            shown = now
            speed = done / (now - started)
            print(f"scored {done:,} of {found.rows:,} sessions, {speed:,.0f}/s", file=sys.stderr, flush=True)
    return sorted(names)


def _actors(settings: Score, pieces: int) -> int:
    """How many actors to run. Raises InputError where this machine can never run what was asked for.

    On a cluster that the job was submitted to, more may come (autoscaling), so nothing is refused there.
    """
    resources = ray.cluster_resources()
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    final = not os.environ.get("RAY_ADDRESS")
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
    return max(1, min(settings.actors or fit, pieces))


def _verify(names: list[str], staging: str, rows: int, longest: int) -> tuple[list[manifest.Part], int]:
    """Read everything back: what each part holds, and the number of distinct session ids."""
    of = manifest.partitions(rows)
    checks: list[dict[str, Any]] = [{"name": name, "partition": -1} for name in names]
    checks += [{"name": "", "partition": partition} for partition in range(of)]

    def check(name: str, partition: int) -> dict[str, Any]:
        part, distinct = manifest.Part(name, 0, 0, 0, 0), 0
        try:
            if name:
                part = manifest.verify(staging, name, longest)
            else:
                distinct = manifest.distinct_sessions(staging, names, partition, of)
        except (GRU4RecError, OSError, ValueError) as error:
            return {**part._asdict(), "distinct": 0, **_as_data(error)}
        return {**part._asdict(), "distinct": distinct, **_no_error()}

    if rows <= VERIFY_HERE:
        found = [check(**row) for row in checks]
    else:
        dataset = ray.data.from_items(checks, override_num_blocks=min(len(checks), 256))
        found = list(dataset.map(lambda row: check(**row)).iter_rows())
    for row in found:
        _raise(row)
    parts = [manifest.Part(**{name: row[name] for name in manifest.Part._fields}) for row in found if row["name"]]
    written = sum(part.rows for part in parts)
    if written != rows:
        raise GRU4RecError(f"{written} of {rows} sessions were written; nothing was published, run again")
    return sorted(parts, key=lambda part: part.name), sum(row["distinct"] for row in found)


def _no_error() -> dict[str, Any]:
    return {"error": "", "bad_input": False}


def _as_data(error: Exception) -> dict[str, Any]:
    kind = "" if isinstance(error, GRU4RecError) else f"{type(error).__name__}: "
    return {"error": f"{kind}{error}", "bad_input": isinstance(error, InputError)}


def _raise(row: dict[str, Any]) -> None:
    if row["error"]:
        raise (InputError if row["bad_input"] else GRU4RecError)(row["error"])
