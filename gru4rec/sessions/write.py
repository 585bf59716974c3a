"""Clean sessions → the Parquet files of the prepared folder, each written by one task, and their digests."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gru4rec import config, storage
from gru4rec.sessions import clean, layout, report
from gru4rec.sessions.base import LEFT_OUT_COLUMNS, TEST_LOG
from gru4rec.sessions.clean import TRAIN, Rules
from gru4rec.sessions.digest import digest
from gru4rec.sessions.prepared import ITEMS, LEFT_OUT, SPLITS
from gru4rec.sessions.report import step

Entry = dict[str, Any]

MOMENT = pa.timestamp("ms", "UTC")


def ordered(sessions: pa.Table) -> pa.Table:
    """In order of start, ties by first appearance."""
    start, _ = clean.starts_and_ends(sessions)
    return sessions.take(pa.array(np.lexsort((sessions["position"].to_numpy(), start))))


def contract(sessions: pa.Table) -> pa.Table:
    """The columns that readers see: session_id, start, items list<int32>, times list<timestamp[ms]>."""
    start, _ = clean.starts_and_ends(sessions)
    return pa.table(
        {
            "session_id": sessions["session"],
            "start": pa.array(start).cast(MOMENT),
            "items": sessions["items"],
            "times": sessions["times"].cast(pa.list_(pa.timestamp("ms"))),
        }
    )


def write_file(sessions: pa.Table, folder: str, split: int, number: int, shards: int) -> Entry:
    """Write one file of a split.

    `sessions`: of this file, without empty ones, item indices, in any order. `shards`: its row groups.
    Returns the entry of the file for prepare.json, with its digest.
    """
    table = contract(ordered(sessions))
    lengths = clean.lengths(table)
    if split != TRAIN:
        shards = -(-int(lengths.sum()) // layout.CLICKS_PER_ROW_GROUP)
    shard = layout.shard_of(lengths, shards)
    cuts = np.concatenate([np.flatnonzero(np.diff(shard, prepend=-1)), [len(shard)]])
    name = f"part-{number:05d}.parquet"
    filesystem, inner = storage.locate(storage.join(folder, SPLITS[split], name))
    with filesystem.open_output_stream(inner) as stream, pq.ParquetWriter(stream, table.schema) as writer:
        for start, end in itertools.pairwise(cuts.tolist()):
            writer.write_table(table.slice(start, end - start), row_group_size=end - start)
    return {
        "name": name,
        "sessions": len(table),
        "clicks": int(lengths.sum()),
        "transitions": int((lengths - 1).sum()),
        "row_groups": len(cuts) - 1,
        "digest": digest(table["session_id"].type, lambda name: table[name].chunks),
    }


def write_items(firsts: pa.Table, staging: str) -> None:
    columns = {
        "item_id": firsts["item"],
        "item_index": pa.array(np.arange(firsts.num_rows, dtype=np.int32)),
        "support": firsts["support"],
    }
    storage.write_parquet(storage.join(staging, ITEMS), pa.table(columns))


def write_splits(
    sessions: Sequence[Any],
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

    clicks = [int(count) for count in totals["clicks"]]
    wanted = [min(settings.shards, int(totals["sessions"][TRAIN])), 1, 1]
    edges = [layout.edges(bins[split], layout.files_for(clicks[split]), wanted[split]) for split in range(len(SPLITS))]
    by_file = np.zeros(len(edges[TRAIN]) + 1, np.int64)
    np.add.at(by_file, layout.file_of(np.arange(layout.BINS), edges[TRAIN]), bins[TRAIN])
    shards = layout.allot(by_file, wanted[TRAIN])
    files = [(split, number) for split, cuts in enumerate(edges) for number in range(len(cuts) + 1)]
    report.say(f"writing {int(totals['clicks'].sum())} clicks")
    place = ray.remote(_place).options(num_returns=len(files))
    item_ids = ray.put(firsts["item"].combine_chunks())
    shortest = max(2, settings.min_session_length)
    placed = [place.remote(block, rules, item_ids, edges, window, shortest, staging) for block in sessions]
    out = ray.remote(_write_file)
    rows: list[Entry] = ray.get(
        [
            out.remote(
                split,
                number,
                int(shards[number]) if split == TRAIN else 1,
                shortest,
                staging,
                *[parts[at] for parts in placed],
            )
            for at, (split, number) in enumerate(files)
        ]
    )
    rows.sort(key=lambda row: (row["split"], row["name"]))
    steps.append(step("items unknown in training (valid, test)", 0, sum(row["unknown"] for row in rows)))
    short = [sum(row[name] for row in rows) for name in ("short_sessions", "short_clicks")]
    steps.append(step("sessions too short now (valid, test)", *short))
    counts = ("sessions", "clicks", "transitions")
    splits = {}
    for split, name in enumerate(SPLITS):
        mine = [row for row in rows if row["split"] == split and row["sessions"]]
        keys = ("name", *counts, "row_groups", "digest")
        splits[name] = {count: sum(row[count] for row in mine) for count in counts}
        splits[name]["files"] = [{key: row[key] for key in keys} for row in mine]
    return splits


def _place(
    sessions: pa.Table,
    rules: Rules,
    item_ids: pa.Array,
    edges: list[np.ndarray],
    window: tuple[int, int],
    min_length: int,
    staging: str,
) -> list[pa.Table]:
    """Task: clean sessions with item indices, for each file of each split those that go there.

    Writes the clicks that are left out on the way, or will be: of validation and test sessions below `min_length`.
    """
    every = clean.numbered(clean.without_doubles(sessions, rules)[0])
    sessions = clean.supported(clean.good(every, rules), rules)
    start, _ = clean.starts_and_ends(sessions)
    sessions, unknown = clean.indexed(sessions, item_ids)
    if unknown.any():  # a session whose first click has gone starts later now
        some = clean.lengths(sessions) > 0
        start[some], _ = clean.starts_and_ends(clean.filtered(sessions, some))
    bins, split = layout.bin_of(start, *window), sessions["split"].to_numpy()
    file = np.zeros(len(bins), np.int64)
    before = 0  # files of the splits before
    for number, cuts in enumerate(edges):
        file[split == number] = before + layout.file_of(bins[split == number], cuts)
        before += len(cuts) + 1
    stay = (split == TRAIN) | (clean.lengths(sessions) >= min_length)
    _write_left_out(every, clean.left_out(every, clean.filtered(sessions, stay)), rules, staging)
    sessions = sessions.select(["session", "position", "items", "times"]).combine_chunks()
    sessions = sessions.append_column("unknown", pa.array(unknown))
    order, ends = np.argsort(file, kind="stable"), np.cumsum(np.bincount(file, minlength=before))
    return [sessions.take(pa.array(rows)) for rows in np.split(order, ends[:-1])]


def _write_left_out(sessions: pa.Table, left_out: np.ndarray, rules: Rules, staging: str) -> None:
    """Write the clicks that are `left_out`, [clicks] bool: a file a log, named after the first of these sessions."""
    if not left_out.any():
        return
    of = np.repeat(np.arange(len(sessions)), clean.lengths(sessions))[left_out]
    items, times = (pc.list_flatten(sessions[name]).filter(pa.array(left_out)) for name in ("items", "times"))
    values = sessions["session"].take(pa.array(of)).cast(rules.session_type), items.cast(rules.item_type), times
    clicks = pa.table(dict(zip(LEFT_OUT_COLUMNS, values, strict=True)))
    log = sessions["log"].to_numpy()[of]
    first = int(sessions["position"].to_numpy().min())
    for number, beginning in enumerate(("", TEST_LOG)):
        mine = clicks.filter(pa.array(log == number))
        if len(mine):
            name = f"{beginning}clicks-{first:019d}.parquet"
            storage.write_parquet(storage.join(staging, LEFT_OUT, name), mine)


def _write_file(split: int, number: int, shards: int, min_length: int, staging: str, *parts: pa.Table) -> Entry:
    """Task: write file `number` of a split, of its sessions from all partitions; returns its counts."""
    sessions = pa.concat_tables(parts)
    lengths = clean.lengths(sessions)
    short = (lengths < min_length) & (split != TRAIN)
    row: Entry = {
        "split": split,
        "unknown": int(pc.sum(sessions["unknown"]).as_py() or 0),
        "short_sessions": int(short.sum()),
        "short_clicks": int(lengths[short].sum()),
    }
    sessions = clean.filtered(sessions, ~short)
    if sessions.num_rows:
        return row | write_file(sessions, staging, split, number, shards)
    return row | {"name": "", "digest": ""} | dict.fromkeys(("sessions", "clicks", "transitions", "row_groups"), 0)
