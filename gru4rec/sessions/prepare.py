"""Click logs → the prepared folder, on Ray Data.

Files are read in pieces by tasks, clicks are hashed by session into partitions, and each partition is put
together in one vectorised pass. What later steps need to know of all partitions (the last time, supports,
first clicks) comes to the driver as one small table a partition; it never holds sessions or clicks. At the
end sessions are brought together by file, and each file is written by one task. A log that fits into one
partition is never shuffled.
"""

import dataclasses
import functools
import hashlib
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gru4rec import config, storage
from gru4rec.errors import GRU4RecError, InputError
from gru4rec.sessions import clean, formats, layout, report, sources, write
from gru4rec.sessions import read as reading
from gru4rec.sessions.clean import NEVER, TRAIN, Rules
from gru4rec.sessions.prepared import ITEMS, SPLITS, SUMMARY

DAY = 86_400_000  # ms
PARTITION_BYTES = 256 * 2**20
"""Size of the log for one more partition."""

Entry = dict[str, Any]


def prepare(settings: config.Prepare) -> Entry:
    """Make the prepared folder `settings.out` from click logs and return the counts.

    Connects to Ray where there is no connection yet. An earlier prepared folder of that name is replaced
    once the new one is whole. Raises InputError for a log that cannot be read or of which nothing is left,
    and for a folder `out` that holds something else.
    """
    form = formats.chosen(settings)
    _check_out(settings.out)
    logs = [
        sources.paths_of(settings.clicks, "--clicks"),
        sources.paths_of(settings.test_clicks, "--test-clicks"),
    ]
    flags = {
        settings.session_column: "--session-column",
        settings.item_column: "--item-column",
        settings.time_column: "--time-column",
    }
    files = sources.open_all(logs, form, {} if form.columns else flags)
    for log, name in enumerate(("--clicks", "--test-clicks")):
        mine = [source for source in files if source.log == log]
        if mine and not any(source.rows for source in mine):
            raise InputError(f"{storage.shown(mine[0].path)}: has a header but no rows ({name})")

    from gru4rec import on_ray

    staging = storage.absolute(storage.beside(settings.out, f".{uuid.uuid4().hex[:8]}.staging"))
    try:
        with on_ray.connected(settings.verbose):
            summary = _run(settings, form, files, staging)
        storage.write_json(storage.join(staging, SUMMARY), summary)
        storage.publish(staging, storage.absolute(settings.out), last=SUMMARY)
    finally:
        storage.remove_folder(staging)
    report.show(summary)
    splits = summary["splits"]
    return {
        "out": storage.shown(settings.out),
        "rows_in": summary["rows_in"],
        "rejected": summary["rejected"],
        "sessions": sum(splits[name]["sessions"] for name in SPLITS),
        "items": summary["items"],
        **{f"{name}_sessions": splits[name]["sessions"] for name in SPLITS},
        **{f"{name}_clicks": splits[name]["clicks"] for name in SPLITS},
    }


def _check_out(out: str) -> None:
    if not storage.free_for(out, SUMMARY):
        raise InputError(
            f"--out {storage.shown(out)}: holds something that prepare did not write; give another folder"
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _run(settings: config.Prepare, form: formats.Format, files: list[sources.Source], staging: str) -> Entry:
    """Read, clean, split and write into `staging`; returns what prepare.json says."""
    for name in (*SPLITS, "rejected"):
        storage.make_folder(storage.join(staging, name))
    sessions, notes = _sessions(settings, form, files, staging)
    if settings.strict and notes["first"]:
        first = notes["first"]
        raise InputError(
            f"{first['file']}: row {first['row']} cannot be read: {first['reason']} (--strict); "
            f"its text is {first['text']!r}"
        )
    rules = Rules(settings.min_session_length, settings.max_session_length, *sources.carried_types(files))
    rules, steps, window = _lengths_and_split(sessions, rules, settings, files, notes)
    if settings.min_item_support > 1:
        parts = list(_each(sessions, functools.partial(_support, rules=rules)))
        counts = clean.merged_support(parts)
        enough = pc.greater_equal(counts["support"], settings.min_item_support)
        rules = dataclasses.replace(rules, supported=counts["item"].filter(enough).combine_chunks())
    firsts, totals, bins = _first_clicks(sessions, rules, window, steps, settings)
    _write_items(firsts, staging)
    splits = _write(sessions, rules, firsts, bins, window, totals, steps, settings, staging)
    rejected = sum(log["rejected"] for log in notes["logs"])
    rows_in = sum(log["rows_in"] for log in notes["logs"])
    left = sum(split["clicks"] for split in splits.values())
    removed = sum(step["clicks"] for step in steps)
    if rows_in != rejected + removed + left:
        raise GRU4RecError(
            f"rows were lost: {rows_in} came in, {rejected} + {removed} + {left} are accounted for"
        )
    return {
        "rows_in": rows_in,
        "rejected": rejected,
        "logs": notes["logs"],
        "steps": steps,
        "splits": splits,
        "items": firsts.num_rows,
        "fingerprint": _fingerprint(firsts, splits),
        "settings": {name: _shown(value) for name, value in dataclasses.asdict(settings).items()},
    }


def _shown(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_shown(v) for v in value]
    return storage.shown(value) if isinstance(value, str) else value


# --- Reading ---


def _sessions(
    settings: config.Prepare, form: formats.Format, files: list[sources.Source], staging: str
) -> tuple[Any, Entry]:
    """(sessions as a materialised Ray dataset, what the reading tasks noted)."""
    import ray.data

    reads = sources.pieces(files)
    size = sum(source.size for source in files)
    count = settings.partitions or max(1, -(-size // PARTITION_BYTES))
    _say(f"reading {len(files)} files, {size / 2**20:.1f} MiB")
    types = sources.carried_types(files)
    task = functools.partial(_read, reads=reads, form=form, types=types, staging=staging)
    clicks = ray.data.from_items([{"read": i} for i in range(len(reads))], override_num_blocks=len(reads))
    whole = {"batch_size": None, "batch_format": "pyarrow"}  # a batch is a block, as it is
    if count == 1 and len(reads) == 1:
        sessions = clicks.map_batches(lambda batch: clean.sessionise(task(batch)), **whole)
    else:
        clicks = clicks.map_batches(task, **whole)
        # One block is one partition: repartitioning by keys does not cut its blocks.
        clicks = clicks.repartition(count, keys=["session"]) if count > 1 else clicks.repartition(1)
        sessions = clicks.map_batches(clean.sessionise, **whole)
    sessions = sessions.materialize()
    return sessions, _notes(files, reads, staging)


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
    clicks = [reading.schema(types).empty_table()]
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
            notes.append(
                {"file": piece.source.number, "rows": found.rows, "rejected": count, "lines": found.lines}
            )
        storage.write_json(storage.join(staging, "rejected", f"{number:06d}.json"), notes)
        if any(table.num_rows for table in rejected):
            _write_parquet(
                pa.concat_tables(rejected), storage.join(staging, "rejected", f"part-{number:06d}.parquet")
            )
    return pa.concat_tables(clicks)


def _notes(files: list[sources.Source], reads: list[list[sources.Piece]], staging: str) -> Entry:
    """What the reading tasks noted, added up; gives rejected rows their number in the file.

    A task knows a row's number only from the start of its piece. Raises InputError for a file that cannot
    be read.
    """
    folder = storage.join(staging, "rejected")
    logs = [
        {"log": name, "files": sum(s.log == log for s in files), "rows_in": 0, "rejected": 0}
        for log, name in enumerate(("clicks", "test_clicks"))
        if any(s.log == log for s in files)
    ]
    lines = [0] * len(files)
    first: Entry | None = None
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
        storage.remove_file(path)
        if not sum(counts):
            continue
        part = storage.join(folder, f"part-{number:06d}.parquet")
        if any(before):
            _renumber(part, np.repeat(before, counts))
        if first is None:
            filesystem, inner = storage.locate(part)
            first = pq.read_table(inner, filesystem=filesystem).slice(0, 1).to_pylist()[0]
    return {"logs": logs, "first": first}


def _renumber(path: str, before: np.ndarray) -> None:
    filesystem, inner = storage.locate(path)
    table = pq.read_table(inner, filesystem=filesystem)
    rows = pc.add(table["row"], pa.array(before.astype(np.int64)))
    _write_parquet(table.set_column(table.schema.get_field_index("row"), "row", rows), path)


# --- Cleaning ---


def _each(sessions: Any, task: Callable[[pa.Table], pa.Table]) -> Iterator[pa.Table]:
    """What `task` makes of each block of sessions: small tables, whichever is ready first."""
    found = sessions.map_batches(task, batch_size=None, batch_format="pyarrow")
    yield from found.iter_batches(batch_size=None, batch_format="pyarrow")


def _lengths(sessions: pa.Table, rules: Rules, may_be_integers: list[bool]) -> pa.Table:
    """Task: one row of counts, the window in time, and whether all ids are integers."""
    short, long = clean.too_short(sessions, rules), clean.too_long(sessions, rules)
    lengths = clean.lengths(sessions)
    good = clean.filtered(sessions, ~(short | long))
    start, _ = clean.starts_and_ends(good)
    _, end = clean.starts_and_ends(clean.filtered(good, good["log"].to_numpy() == 0))
    ids = (sessions["session"], pc.list_flatten(sessions["items"]))
    integers = [may and are_integers(column) for may, column in zip(may_be_integers, ids, strict=True)]
    return pa.table(
        {
            "short_sessions": [int(short.sum())],
            "short_clicks": [int(lengths[short].sum())],
            "long_sessions": [int(long.sum())],
            "long_clicks": [int(lengths[long].sum())],
            "left": [len(start)],
            "earliest": [int(start.min()) if len(start) else NEVER],
            "latest": [int(start.max()) if len(start) else -1],
            "end": [int(end.max()) if len(end) else -1],
            "session_integers": [integers[0]],
            "item_integers": [integers[1]],
        }
    )


def are_integers(ids: pa.ChunkedArray) -> bool:
    """Whether ids in text are all integers that come back as the same text: no leading zero, no plus, 64
    bits.
    """
    if not pc.all(pc.match_substring_regex(ids, r"^(0|-?[1-9][0-9]{0,18})$")).as_py():
        return False
    try:
        ids.cast(pa.int64())
    except pa.ArrowInvalid:
        return False
    return True


def _lengths_and_split(
    sessions: Any, rules: Rules, settings: config.Prepare, files: list[sources.Source], notes: Entry
) -> tuple[Rules, list[Entry], tuple[int, int]]:
    """(rules with id types and the split, steps so far, earliest and latest start)."""
    may = sources.may_be_integers(files)
    found = pa.concat_tables(_each(sessions, functools.partial(_lengths, rules=rules, may_be_integers=may)))
    total = {name: int(pc.sum(found[name]).as_py() or 0) for name in found.column_names[:5]}
    steps = [
        _step("sessions too short", total["short_sessions"], total["short_clicks"]),
        _step("sessions too long", total["long_sessions"], total["long_clicks"]),
    ]
    if not total["left"]:
        first = notes["first"]
        rejected = f", first {first['file']} row {first['row']}: {first['reason']}" if first else ""
        rows = sum(log["rows_in"] for log in notes["logs"])
        bad = sum(log["rejected"] for log in notes["logs"])
        raise InputError(
            f"no session is left: of {rows} rows {bad} could not be read{rejected}; "
            f"{total['short_sessions']} sessions were shorter than --min-session-length "
            f"{settings.min_session_length}, {total['long_sessions']} longer than --max-session-length"
        )
    for place, name in enumerate(("session", "item")):
        if may[place] and pc.all(found[f"{name}_integers"]).as_py():
            rules = dataclasses.replace(rules, **{f"{name}_type": pa.int64()})
    end = pc.max(found["end"]).as_py()
    test_from = NEVER
    if not settings.test_clicks and settings.test_days:
        test_from = end - round(settings.test_days * DAY)
    valid_from = test_from
    if settings.valid_days:
        valid_from = (end if test_from == NEVER else test_from) - round(settings.valid_days * DAY)
    rules = dataclasses.replace(rules, valid_from=valid_from, test_from=test_from)
    return rules, steps, (pc.min(found["earliest"]).as_py(), pc.max(found["latest"]).as_py())


def _step(name: str, sessions: int, clicks: int) -> Entry:
    return {"name": name, "sessions": sessions, "clicks": clicks}


def _support(sessions: pa.Table, rules: Rules) -> pa.Table:
    """Task: clicks of each item in the training split."""
    return clean.support(clean.kept(sessions, rules))


def _firsts(sessions: pa.Table, rules: Rules, window: tuple[int, int]) -> pa.Table:
    """Task: one row with the first clicks, clicks by bin of start, and counts, in the training split and
    the others.
    """
    before = clean.kept(sessions, rules)
    after = clean.supported(before, rules)
    split, lengths = after["split"].to_numpy(), clean.lengths(after)
    start, _ = clean.starts_and_ends(after)
    cells = split.astype(np.int64) * layout.BINS + layout.bin_of(start, *window)
    used, cell = np.unique(cells, return_inverse=True)
    clicks = np.bincount(cell, weights=lengths, minlength=len(used)).astype(np.int64)
    train_before = before["split"].to_numpy() == TRAIN
    lengths_before = clean.lengths(before)
    rare = 0
    if rules.supported is not None:
        trained = pc.list_flatten(clean.filtered(before, train_before)["items"])
        rare = len(trained) - int(pc.sum(pc.is_in(trained, rules.supported)).as_py() or 0)
    row: Entry = {
        name: [column.to_numpy(zero_copy_only=False)] for name, column in _columns(clean.first_clicks(after))
    }
    row |= {"cells": [used], "clicks": [clicks], "rare": [rare]}
    row |= {
        "train_before": [int(lengths_before[train_before].sum())],
        "train_sessions_before": [int(train_before.sum())],
        "sessions": [np.bincount(split, minlength=len(SPLITS)).astype(np.int64)],
    }
    item = pa.array([pa.array(row.pop("item")[0].tolist(), rules.item_type)], pa.list_(rules.item_type))
    return pa.table({"item": item, **row})


def _columns(table: pa.Table) -> Iterator[tuple[str, pa.Array]]:
    for name in table.column_names:
        yield name, table[name].combine_chunks()


def _first_clicks(
    sessions: Any, rules: Rules, window: tuple[int, int], steps: list[Entry], settings: config.Prepare
) -> tuple[pa.Table, Entry, np.ndarray]:
    """(first click of every item in order of the index, totals, clicks [splits, BINS] by start)."""
    firsts, counts = None, np.zeros(len(SPLITS), np.int64)
    bins = np.zeros(len(SPLITS) * layout.BINS, np.int64)
    rare = train_before = train_sessions_before = 0
    for found in _each(sessions, functools.partial(_firsts, rules=rules, window=window)):
        for row in range(found.num_rows):
            part = pa.table(
                {name: pc.list_flatten(found[name].slice(row, 1)) for name in found.column_names[:5]}
            )
            firsts = clean.merged_first_clicks([part] if firsts is None else [firsts, part])
            cells = pc.list_flatten(found["cells"].slice(row, 1)).to_numpy()
            bins[cells] += pc.list_flatten(found["clicks"].slice(row, 1)).to_numpy()
            counts += pc.list_flatten(found["sessions"].slice(row, 1)).to_numpy()
            rare += found["rare"][row].as_py()
            train_before += found["train_before"][row].as_py()
            train_sessions_before += found["train_sessions_before"][row].as_py()
    by_split = bins.reshape(len(SPLITS), layout.BINS)
    clicks = by_split.sum(axis=1)
    steps.append(_step("rare items (train)", 0, rare))
    again = train_before - rare - int(clicks[TRAIN])
    steps.append(_step("sessions too short now (train)", int(train_sessions_before - counts[TRAIN]), again))
    if firsts is None or not firsts.num_rows:
        raise InputError(_nothing_to_train(train_sessions_before, settings))
    return firsts, {"sessions": counts, "clicks": clicks}, by_split


def _nothing_to_train(sessions: int, settings: config.Prepare) -> str:
    if sessions:
        return (
            f"no training session is left: too few items have --min-item-support {settings.min_item_support} "
            "training clicks; lower it"
        )
    return (
        f"no training session is left: all end within --test-days {settings.test_days:g} and --valid-days "
        f"{settings.valid_days:g} of the last click; lower these, or give --test-clicks"
    )


# --- Writing ---


def _write_parquet(table: pa.Table, path: str) -> None:
    filesystem, inner = storage.locate(path)
    with filesystem.open_output_stream(inner) as stream:
        pq.write_table(table, stream)


def _write_items(firsts: pa.Table, staging: str) -> None:
    columns = {
        "item_id": firsts["item"],
        "item_index": pa.array(np.arange(firsts.num_rows, dtype=np.int32)),
        "support": firsts["support"],
    }
    _write_parquet(pa.table(columns), storage.join(staging, ITEMS))


def _write(
    sessions: Any,
    rules: Rules,
    firsts: pa.Table,
    bins: np.ndarray,
    window: tuple[int, int],
    totals: Entry,
    steps: list[Entry],
    settings: config.Prepare,
    staging: str,
) -> Entry:
    """Write the files of all splits by tasks; returns `splits` of prepare.json."""
    import ray

    edges = [
        layout.edges(bins[split], layout.files_for(int(totals["clicks"][split])))
        for split in range(len(SPLITS))
    ]
    by_file = np.zeros(len(edges[TRAIN]) + 1, np.int64)
    np.add.at(by_file, layout.file_of(np.arange(layout.BINS), edges[TRAIN]), bins[TRAIN])
    shards = layout.allot(by_file, min(settings.shards, int(totals["sessions"][TRAIN])))
    files = sum(len(cuts) + 1 for cuts in edges)
    _say(f"writing {int(totals['clicks'].sum())} clicks")
    item_ids = ray.put(firsts["item"].combine_chunks())
    place = functools.partial(_place, rules=rules, item_ids=item_ids, edges=edges, window=window)
    out = functools.partial(
        _write_files, shards=shards, min_length=max(2, settings.min_session_length), staging=staging
    )
    placed = sessions.map_batches(place, batch_size=None, batch_format="pyarrow")
    if sessions.num_blocks() > 1:
        many = files > len(SPLITS)
        placed = placed.repartition(files, keys=["split", "file"]) if many else placed.repartition(1)
    rows: list[Entry] = []
    for found in placed.map_batches(out, batch_size=None, batch_format="pyarrow").iter_batches(
        batch_size=None, batch_format="pyarrow"
    ):
        rows += found.to_pylist()
    rows.sort(key=lambda row: (row["split"], row["name"]))
    steps.append(_step("items unknown in training (valid, test)", 0, sum(row["unknown"] for row in rows)))
    short = [sum(row[name] for row in rows) for name in ("short_sessions", "short_clicks")]
    steps.append(_step("sessions too short now (valid, test)", *short))
    counts = ("sessions", "clicks", "transitions")
    splits = {}
    for split, name in enumerate(SPLITS):
        mine = [row for row in rows if row["split"] == split and row["sessions"]]
        keys = ("name", *counts, "row_groups", "digest")
        splits[name] = {count: sum(row[count] for row in mine) for count in counts}
        splits[name]["files"] = [{key: row[key] for key in keys} for row in mine]
    return splits


def _place(
    sessions: pa.Table, rules: Rules, item_ids: Any, edges: list[np.ndarray], window: tuple[int, int]
) -> pa.Table:
    """Task: clean sessions with item indices, and the file (number in its split) that each goes to."""
    import ray

    sessions = clean.supported(clean.kept(sessions, rules), rules)
    start, _ = clean.starts_and_ends(sessions)
    bins, split = layout.bin_of(start, *window), sessions["split"].to_numpy()
    file = np.zeros(len(bins), np.int64)
    for number, cuts in enumerate(edges):
        file[split == number] = layout.file_of(bins[split == number], cuts)
    sessions, unknown = clean.indexed(sessions, ray.get(item_ids))
    return sessions.append_column("file", pa.array(file)).append_column("unknown", pa.array(unknown))


def _write_files(sessions: pa.Table, shards: np.ndarray, min_length: int, staging: str) -> pa.Table:
    """Task: write the files whose sessions are here; one row for each with its counts."""
    split, file = sessions["split"].to_numpy(), sessions["file"].to_numpy()
    rows = []
    for number, part in sorted(set(zip(split.tolist(), file.tolist(), strict=True))):
        mine = clean.filtered(sessions, (split == number) & (file == part))
        lengths = clean.lengths(mine)
        short = (lengths < min_length) & (number != TRAIN)
        row: Entry = {
            "split": number,
            "unknown": int(pc.sum(mine["unknown"]).as_py()),
            "short_sessions": int(short.sum()),
            "short_clicks": int(lengths[short].sum()),
        }
        mine = clean.filtered(mine, ~short)
        if mine.num_rows:
            wanted = int(shards[part]) if number == TRAIN else 1
            row |= write.write_file(mine, staging, number, part, wanted)
        else:
            row |= dict.fromkeys(("sessions", "clicks", "transitions", "row_groups"), 0) | {
                "name": "",
                "digest": "",
            }
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=FILE_ROWS)


FILE_ROWS = pa.schema(
    [
        *((name, pa.int64()) for name in ("split", "unknown", "short_sessions", "short_clicks")),
        *((name, pa.string()) for name in ("name", "digest")),
        *((name, pa.int64()) for name in ("sessions", "clicks", "transitions", "row_groups")),
    ]
)


def _fingerprint(firsts: pa.Table, splits: Entry) -> str:
    """Digest of items and sessions in their order; the same for any number of partitions."""
    found = hashlib.sha256()
    items = firsts["item"].combine_chunks()
    found.update(str(items.type).encode())
    if pa.types.is_integer(items.type):
        found.update(items.to_numpy().astype("<i8").tobytes())
    else:
        found.update("\0".join(items.to_pylist()).encode())
    for name in SPLITS:
        found.update(name.encode())
        for file in splits[name]["files"]:
            found.update(file["digest"].encode())
    return found.hexdigest()
