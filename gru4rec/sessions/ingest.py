"""The files of click logs → sessions, one Ray object a partition, and the rows that cannot be read."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gru4rec import config, storage
from gru4rec.errors import InputError
from gru4rec.sessions import base, clean, formats, id_bytes, report, sources
from gru4rec.sessions import read as reading
from gru4rec.sessions.prepared import REJECTED

PARTITION_BYTES = 256 * 2**20
"""Size of the log, as text, for one more partition; an eighth of what Arrow can hold of ids, should some partition have
far more of them than another, or the log's weight be judged too small.
"""

_NOTES = "reading"
"""Folder for what the reading tasks leave. A task that is run again, even late, because a machine was lost, writes
the same there once more; what is made of it, in the folder of rejected rows, is nobody else's.
"""

_ACCOUNTS = ("clicks", "test_clicks", *base.LOGS)

_IDS = ("session", "item")

_HEAD = 2**16  # bytes at the beginning of the log by which ids are judged

Entry = dict[str, Any]


def sessions_of(
    settings: config.Prepare, form: formats.Format, files: list[sources.Source], staging: str
) -> tuple[list[Any], Entry]:
    """(sessions as Ray objects, one table a partition; what the reading tasks noted)."""
    reads = sources.pieces(files)
    storage.make_folder(storage.join(staging, _NOTES))
    size = sum(source.size for source in files)
    report.say(f"reading {len(files)} file{'s' * (len(files) != 1)}, {size / 2**20:.1f} MiB")
    early = _seem_integers(files, form)
    sessions = _put_together(settings, form, files, reads, staging, early)
    notes = _notes(files, reads, staging)
    if notes["text"]:
        report.say(f"ids of {' and '.join(notes['text'])}s are not all integers: reading again")
        early = [seem and name not in notes["text"] for name, seem in zip(_IDS, early, strict=True)]
        sessions = _put_together(settings, form, files, reads, staging, early)
        notes = _notes(files, reads, staging)
    return sessions, notes


def _seem_integers(files: list[sources.Source], form: formats.Format) -> list[bool]:
    """Whether session and item ids are handed on as integers though they are read as text, judging by the beginning of
    the first text: numbers are smaller than text, and sooner compared. Where that turns out wrong, all is read again.
    """
    types = sources.carried_types(files)
    first = next((source for source in files if source.rows and source.separator), None)
    if first is None:
        return [False, False]
    try:
        head = reading.read(sources.Piece(first, 0, min(first.size, _HEAD)), form, types).clicks
    except (OSError, pa.ArrowException):  # reading all of it will say so
        return [False, False]
    may = [kind == pa.string() and may for kind, may in zip(types, sources.may_be_integers(files), strict=True)]
    may[0] &= not form.gap  # the id of a session is made from the user's, as text
    return [wanted and clean.are_integers(head[name]) for name, wanted in zip(_IDS, may, strict=True)]


def _put_together(
    settings: config.Prepare,
    form: formats.Format,
    files: list[sources.Source],
    reads: list[list[sources.Piece]],
    staging: str,
    early: list[bool],
) -> list[Any]:
    """Sessions as Ray objects, one table a partition; `early`: ids to be handed on as integers. Raises InputError where
    a partition would have more text than it can hold.

    Not a shuffle of Ray Data, which took a quarter longer on 33 million clicks and 15 s more on small logs: a task
    hands on its clicks by partition at once, so that they are kept and copied once. That makes reads × partitions
    objects, 640,000 for 100 GB of text; far beyond, reads and partitions must grow.
    """
    import ray

    count = settings.partitions or max(1, -(-sum(source.weight for source in files) // PARTITION_BYTES))
    types = sources.carried_types(files)
    task = ray.put(functools.partial(_read, reads=reads, form=form, types=types, staging=staging, early=early))
    read = ray.remote(_by_partition).options(num_returns=count)
    found = [read.remote(number, task, count) for number in range(len(reads))]
    parts = [[one] for one in found] if count == 1 else found
    together = ray.remote(_together).options(num_returns=2)
    sessions = [together.remote(form.gap, count, *[part[place] for part in parts]) for place in range(count)]
    del found, parts  # so that clicks go as soon as they are put together
    for wrong in ray.get([wrong for _, wrong in sessions]):
        if wrong:
            raise InputError(wrong)
    return [table for table, _ in sessions]


def _by_partition(number: int, read: Callable[[pa.Table], pa.Table], count: int) -> pa.Table | list[pa.Table]:
    """Task: the clicks of a read, those of each partition; all clicks of a session are in the same."""
    clicks = read(pa.table({"read": [number]}))
    if count == 1:
        return clicks
    clicks = clicks.combine_chunks()
    partition = (clean.hashes(clicks["session"]) % np.uint64(count)).astype(np.min_scalar_type(count))
    order, ends = np.argsort(partition, kind="stable"), np.cumsum(np.bincount(partition, minlength=count))
    return [clicks.take(pa.array(rows)) for rows in np.split(order, ends[:-1])]


def _together(gap: int, partitions: int, *parts: pa.Table) -> tuple[pa.Table | None, str]:
    """Task: the sessions of one of so many partitions, ""; or None and what is wrong, where its ids are too much text.

    Not raised: Ray would print the errors of the tables that nobody asks for.
    """
    clicks = pa.concat_tables(parts)
    wrong = id_bytes.too_many(clicks, partitions)
    return (None if wrong else clean.sessionise(clicks, gap)), wrong


def forget(staging: str) -> None:
    """Delete what the reading tasks left; they must be at their end, and no more data asked of them."""
    storage.remove_folder(storage.join(staging, _NOTES))


def _read(
    batch: pa.Table,
    reads: list[list[sources.Piece]],
    form: formats.Format,
    types: list[pa.DataType],
    staging: str,
    early: Sequence[bool] = (False, False),
) -> pa.Table:
    """Task: the clicks of some reads. Rejected rows and counts are left in `staging`, under the read's
    number: a read that is done again replaces them. So is which ids are text after all, though they should be handed
    on as integers (`early`); then no clicks are.
    """
    kinds = [pa.int64() if wanted else kind for wanted, kind in zip(early, types, strict=True)]
    clicks = [reading.schema(kinds, form).empty_table()]
    for number in batch["read"].to_pylist():
        rejected, notes = [], []
        for piece in reads[number]:
            try:
                found = reading.read(piece, form, types if piece.source.separator else kinds)
            except (OSError, pa.ArrowException) as error:
                notes.append({"file": piece.source.number, "error": " ".join(str(error).split())})
                continue
            mine, text = _typed(found.clicks, early)
            if not text:
                clicks.append(mine)
            rejected.append(found.rejected)
            count = found.rejected.num_rows
            counts = {"rows": found.rows, "rejected": count, "left_out": found.left_out, "lines": found.lines}
            notes.append({"file": piece.source.number, **counts, "text": text})
        storage.write_json(storage.join(staging, _NOTES, f"{number:06d}.json"), notes)
        if any(table.num_rows for table in rejected):
            part = storage.join(staging, _NOTES, _part(number))
            storage.write_parquet(part, pa.concat_tables(rejected))
    return pa.concat_tables(clicks)


def _typed(clicks: pa.Table, early: Sequence[bool]) -> tuple[pa.Table, list[str]]:
    """(clicks with ids as integers where wanted, columns of ids where they are not)."""
    text = []
    for name, wanted in zip(_IDS, early, strict=True):
        ids = clean.integers(clicks[name]) if wanted and not pa.types.is_integer(clicks[name].type) else clicks[name]
        if ids is None:
            text.append(name)
        else:
            clicks = clicks.set_column(clicks.schema.get_field_index(name), name, ids)
    return clicks, text


def _notes(files: list[sources.Source], reads: list[list[sources.Piece]], staging: str) -> Entry:
    """What the reading tasks noted, added up; writes the rejected rows with their number in the file.

    A task knows a row's number only from the start of its piece. Raises InputError for a file that cannot
    be read.
    """
    folder, rejected = storage.join(staging, _NOTES), storage.join(staging, REJECTED)
    logs = []
    for account, name in enumerate(_ACCOUNTS):
        mine = [source for source in files if _account(source) == account]
        empty = sum(not source.rows for source in mine)
        logs.append({"log": name, "files": len(mine), "empty_files": empty, "rows_in": 0, "rejected": 0})
    lines = [0] * len(files)
    first: Entry | None = None
    left_out = 0
    text: set[str] = set()
    for number in range(len(reads)):
        before, counts = [], []
        for note in storage.read_json(storage.join(folder, f"{number:06d}.json")):
            source = files[note["file"]]
            if "error" in note:
                raise InputError(f"{storage.shown(source.path)}: cannot be read: {note['error']}")
            before.append(lines[source.number])
            counts.append(note["rejected"])
            lines[source.number] += note["lines"]
            log = logs[_account(source)]
            log["rows_in"] += note["rows"]
            log["rejected"] += note["rejected"]
            left_out += note["left_out"]
            text |= set(note["text"])
        if not sum(counts):
            continue
        found = _renumbered(storage.join(folder, _part(number)), np.repeat(before, counts))
        storage.write_parquet(storage.join(rejected, _part(number)), found)
        first = first or found.slice(0, 1).to_pylist()[0]
    logs = [log for log in logs if log["files"]]
    return {"logs": logs, "first": first, "left_out": left_out, "text": sorted(text)}


def _account(source: sources.Source) -> int:
    return source.log + 2 * bool(source.catalogue)


def _part(read: int) -> str:
    return f"part-{read:06d}.parquet"


def _renumbered(path: str, before: np.ndarray) -> pa.Table:
    filesystem, inner = storage.locate(path)
    with filesystem.open_input_file(inner) as file:
        table = pq.ParquetFile(file).read()
    rows = pc.add(table["row"], pa.array(before.astype(np.int64)))
    return table.set_column(table.schema.get_field_index("row"), "row", rows)
