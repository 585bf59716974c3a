"""The files of click logs → sessions as a Ray dataset, one partition a block, and the rows that cannot be
read.
"""

import functools
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gru4rec import config, storage
from gru4rec.errors import InputError
from gru4rec.sessions import clean, formats, report, sources
from gru4rec.sessions import read as reading

PARTITION_BYTES = 256 * 2**20
"""Size of the log, as text, for one more partition."""

Entry = dict[str, Any]


def sessions_of(
    settings: config.Prepare, form: formats.Format, files: list[sources.Source], staging: str
) -> tuple[Any, Entry]:
    """(sessions as a materialised Ray dataset, what the reading tasks noted)."""
    import ray.data

    reads = sources.pieces(files)
    size = sum(source.size for source in files)
    count = settings.partitions or max(1, -(-sum(source.weight for source in files) // PARTITION_BYTES))
    report.say(f"reading {len(files)} files, {size / 2**20:.1f} MiB")
    types = sources.carried_types(files)
    task = functools.partial(_read, reads=reads, form=form, types=types, staging=staging)
    clicks = ray.data.from_items([{"read": i} for i in range(len(reads))], override_num_blocks=len(reads))
    whole = {"batch_size": None, "batch_format": "pyarrow"}  # a batch is a block, as it is
    if count == 1 and len(reads) == 1:
        sessions = clicks.map_batches(lambda batch: clean.sessionise(task(batch), form.gap), **whole)
    else:
        clicks = clicks.map_batches(task, **whole)
        # One block is one partition: repartitioning by keys does not cut its blocks.
        clicks = clicks.repartition(count, keys=["session"]) if count > 1 else clicks.repartition(1)
        sessions = clicks.map_batches(functools.partial(clean.sessionise, gap=form.gap), **whole)
    sessions = sessions.materialize()
    return sessions, _notes(files, reads, staging)


def no_sessions(files: list[sources.Source], form: formats.Format) -> pa.Table:
    """What a partition without clicks is put together to."""
    return clean.sessionise(reading.schema(sources.carried_types(files), form).empty_table())


def _read(
    batch: pa.Table,
    reads: list[list[sources.Piece]],
    form: formats.Format,
    types: list[pa.DataType],
    staging: str,
) -> pa.Table:
    """Task: the clicks of some reads. Rejected rows and counts are left in `staging`, under the read's
    number.
    """
    clicks = [reading.schema(types, form).empty_table()]
    for number in batch["read"].to_pylist():
        rejected, notes = [], []
        for piece in reads[number]:
            try:
                found = reading.read(piece, form, types)
            except (OSError, pa.ArrowException) as error:
                notes.append({"file": piece.source.number, "error": " ".join(str(error).split())})
                continue
            clicks.append(found.clicks)
            rejected.append(found.rejected)
            count = found.rejected.num_rows
            counts = {"rows": found.rows, "rejected": count, "left_out": found.left_out, "lines": found.lines}
            notes.append({"file": piece.source.number, **counts})
        storage.write_json(storage.join(staging, "rejected", f"{number:06d}.json"), notes)
        if any(table.num_rows for table in rejected):
            part = storage.join(staging, "rejected", f"part-{number:06d}.parquet")
            storage.write_parquet(part, pa.concat_tables(rejected))
    return pa.concat_tables(clicks)


def _notes(files: list[sources.Source], reads: list[list[sources.Piece]], staging: str) -> Entry:
    """What the reading tasks noted, added up; gives rejected rows their number in the file.

    A task knows a row's number only from the start of its piece. Raises InputError for a file that cannot
    be read.
    """
    folder = storage.join(staging, "rejected")
    logs = []
    for log, name in enumerate(("clicks", "test_clicks")):
        mine = [source for source in files if source.log == log]
        if mine:
            empty = sum(not source.rows for source in mine)
            logs.append({"log": name, "files": len(mine), "empty_files": empty, "rows_in": 0, "rejected": 0})
    lines = [0] * len(files)
    first: Entry | None = None
    left_out = 0
    for number in range(len(reads)):
        path = storage.join(folder, f"{number:06d}.json")
        before, counts = [], []
        for note in storage.read_json(path):
            source = files[note["file"]]
            if "error" in note:
                raise InputError(f"{storage.shown(source.path)}: cannot be read: {note['error']}")
            before.append(lines[source.number])
            counts.append(note["rejected"])
            lines[source.number] += note["lines"]
            logs[source.log]["rows_in"] += note["rows"]
            logs[source.log]["rejected"] += note["rejected"]
            left_out += note["left_out"]
        storage.remove_file(path)
        if not sum(counts):
            continue
        part = storage.join(folder, f"part-{number:06d}.parquet")
        if any(before):
            _renumber(part, np.repeat(before, counts))
        if first is None:
            filesystem, inner = storage.locate(part)
            first = pq.read_table(inner, filesystem=filesystem).slice(0, 1).to_pylist()[0]
    return {"logs": logs, "first": first, "left_out": left_out}


def _renumber(path: str, before: np.ndarray) -> None:
    filesystem, inner = storage.locate(path)
    table = pq.read_table(inner, filesystem=filesystem)
    rows = pc.add(table["row"], pa.array(before.astype(np.int64)))
    storage.write_parquet(path, table.set_column(table.schema.get_field_index("row"), "row", rows))
