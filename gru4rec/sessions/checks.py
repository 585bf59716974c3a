"""Checks of a prepared folder before anyone reads it: what prepare promises, read back from the files themselves.

Of prepare.json: rows in = rejected + removed + left; the counts of the files add up to those of the splits and the
items. Of left_out/ and rejected/: as many rows as it says. Of items.parquet: types, items numbered 0…n−1, no id twice,
support equal to the training clicks. Of each file of sessions: columns and types of the contract, no value missing,
counts and digest as in prepare.json, items in 0…n−1, lists of equal length, no shorter or longer than promised, times
ascending in a session, `start` the first of them, rows in order of `start`, over all files too. Over all files: one
type of session_id, no file that is not listed, and no session twice, neither in one split nor in two. Ids name sessions
within a log: where the test split is a log of its own (`--test-clicks`), ids may be in both.

Each file is read once, whole, by one task; it takes the memory that writing it took. Small folders are read here, one
file after the other. For the search of sessions that are there twice, ids are hashed, hashes go to partitions, and
each partition is searched by a task: nothing that grows with sessions comes to the driver.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gru4rec import storage
from gru4rec.errors import GRU4RecError
from gru4rec.sessions import clean, layout, report, write
from gru4rec.sessions import summary as summaries
from gru4rec.sessions.catalogue import is_integer, is_text
from gru4rec.sessions.digest import digest
from gru4rec.sessions.prepared import ITEMS, LEFT_OUT, REJECTED, SPLITS

HASHES_PER_PARTITION = 4_000_000

Entry = dict[str, Any]


class Promise(NamedTuple):
    """What a file of sessions must hold."""

    split: str
    entry: Entry  # of prepare.json
    items: int  # in the catalogue
    shortest: int  # clicks of a session
    longest: int  # 0: no limit
    parts: int  # partitions of hashes

    @property
    def name(self) -> str:
        return f"{self.split}/{self.entry['name']}"


class Found(NamedTuple):
    """What a file of sessions holds, as far as other files must fit to it."""

    problem: str  # "": none, otherwise all else is empty
    first: int  # start of the first session, ms
    last: int  # and of the last
    ids: str  # type of session_id
    support: np.ndarray  # [items] int64, clicks


def check(folder: str, summary: Entry) -> None:
    """Check the prepared folder whose prepare.json is to be `summary`.

    Ray must be connected where the folder has more than CLICKS_PER_FILE clicks. Raises GRU4RecError that names the
    check, the file and the row.
    """
    try:
        _counts(summary)
        items = _items(folder, summary)
        _rows_of(folder, REJECTED, summary["rejected"])
        _rows_of(folder, LEFT_OUT, summary["left_out"])
        _sessions(folder, summary, items)
    except _Failed as error:
        raise GRU4RecError(
            f"a check of the prepared data failed: {error}; nothing was published, what was there before is as it was; "
            "run again, and if it fails again, report it with this line"
        ) from error


class _Failed(Exception):
    """Says which check, of which file, at which row."""


def _must(holds: bool, what: str) -> None:
    if not holds:
        raise _Failed(what)


def _counts(summary: Entry) -> None:
    splits = summary["splits"]
    for name, split in splits.items():
        for count in ("sessions", "clicks", "transitions"):
            total = sum(file[count] for file in split["files"])
            _must(split[count] == total, f"counts: {name} has {split[count]} {count}, its files {total}")
    removed = sum(step["clicks"] for step in summary["steps"])
    left = sum(split["clicks"] for split in splits.values())
    came, rejected = summary["rows_in"], summary["rejected"]
    _must(
        came == rejected + removed + left,
        f"counts: {came} rows came in, {rejected} rejected + {removed} removed + {left} left are accounted for",
    )


def _items(folder: str, summary: Entry) -> pa.Table:
    items = _read(folder, ITEMS)
    wanted = [("item_id", None), ("item_index", pa.int32()), ("support", pa.int64())]
    _columns(ITEMS, items.schema, wanted)
    _values(ITEMS, items, items.column_names)
    _must(len(items) == summary["items"], f"counts: {ITEMS}: {len(items)} items, prepare.json says {summary['items']}")
    _rows(ITEMS, items["item_index"].to_numpy() != np.arange(len(items)), "items are not numbered 0…n−1")
    _must(len(pc.unique(items["item_id"])) == len(items), f"item ids: {ITEMS}: an item is there twice")
    found = summaries.fingerprint(items["item_id"], summary["splits"])
    _must(found == summary["fingerprint"], f"fingerprint: {ITEMS}: is not that of prepare.json")
    return items


def _rows_of(folder: str, part: str, wanted: int) -> None:
    names = storage.list_files(storage.join(folder, part))
    rows = 0
    for name in names:
        filesystem, inner = storage.locate(storage.join(folder, part, name))
        with filesystem.open_input_file(inner) as file:
            rows += pq.ParquetFile(file).metadata.num_rows
    _must(rows == wanted, f"counts: {part}/: {rows} rows, prepare.json says {wanted}")


def _sessions(folder: str, summary: Entry, items: pa.Table) -> None:
    splits, settings = summary["splits"], summary["settings"]
    shortest = settings["min_session_length"]
    total = sum(split["sessions"] for split in splits.values())
    clicks = sum(split["clicks"] for split in splits.values())
    parts = max(1, -(-total // HASHES_PER_PARTITION))
    promises = []
    for number, split in enumerate(SPLITS):
        listed = [entry["name"] for entry in splits[split]["files"]]
        others = sorted(set(storage.list_files(storage.join(folder, split))) ^ set(listed))
        _must(not others, f"files: {split}/{others[0] if others else ''}: is not both there and in prepare.json")
        _must(listed == sorted(listed), f"files: {split}/: are not listed in order of their names")
        least = shortest if number == 0 else max(2, shortest)
        promises += [
            Promise(split, entry, len(items), least, settings["max_session_length"], parts)
            for entry in splits[split]["files"]
        ]
    report.say(f"checking {clicks} clicks")
    found, ids, repeated = (_in_tasks if clicks > layout.CLICKS_PER_FILE else _here)(folder, promises)
    support = np.zeros(len(items), np.int64)
    last: dict[str, int] = {}
    kind = ""
    for promise, file in zip(promises, found(), strict=True):
        _must(not file.problem, file.problem)
        kind = kind or file.ids
        _must(file.ids == kind, f"schema: {promise.name}: session_id is {file.ids}, in the files before {kind}")
        in_order = file.first >= last.get(promise.split, file.first)
        _must(in_order, f"order: {promise.name}: row 0: starts before the last session of the file before")
        last[promise.split] = file.last
        if promise.split == SPLITS[0]:
            support += file.support
    _rows(ITEMS, items["support"].to_numpy() != support, "support is not the number of training clicks")
    logs = (
        [SPLITS[:-1], SPLITS[-1:]] if any(log["log"].endswith("test_clicks") for log in summary["logs"]) else [SPLITS]
    )
    for splits_of_log in logs:
        mine = [number for number, promise in enumerate(promises) if promise.split in splits_of_log]
        suspects = repeated([[ids[number][part] for number in mine] for part in range(parts)])
        if len(suspects):
            _once(folder, [promises[number] for number in mine], suspects)


def _here(folder: str, promises: Sequence[Promise]) -> tuple[Callable, list[list[np.ndarray]], Callable]:
    """(files' findings in order, hashes by file and partition, the search for hashes that are there twice)."""
    every = [_file(folder, promise) for promise in promises]
    return (
        lambda: [found for found, *_ in every],
        [hashes for _, *hashes in every],
        lambda parts: np.concatenate([_repeated(*part) for part in parts]),
    )


def _in_tasks(folder: str, promises: Sequence[Promise]) -> tuple[Callable, list[list[Any]], Callable]:
    """The same by tasks; hashes stay where the tasks left them."""
    import ray

    task = ray.remote(_file)
    every = [task.options(num_returns=1 + promise.parts).remote(folder, promise) for promise in promises]
    search = ray.remote(_repeated)
    return (
        lambda: (ray.get(found) for found, *_ in every),
        [hashes for _, *hashes in every],
        lambda parts: np.concatenate(ray.get([search.remote(*part) for part in parts])),
    )


def _file(folder: str, promise: Promise) -> list[Any]:
    """Task: what a file holds, and the hashes of its session ids, [sessions of the partition] uint64 each."""
    try:
        table = _read(folder, promise.name)
        return [_checked(table, promise), *_hashes(table["session_id"], promise.parts)]
    except _Failed as error:
        nothing = np.zeros(0, np.uint64)
        return [Found(str(error), 0, 0, "", nothing), *[nothing] * promise.parts]


def _read(folder: str, name: str) -> pa.Table:
    filesystem, inner = storage.locate(storage.join(folder, *name.split("/")))
    try:
        with filesystem.open_input_file(inner) as file:
            return pq.ParquetFile(file).read(use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise _Failed(f"reading: {name}: {' '.join(str(error).split())}") from error


def _checked(table: pa.Table, promise: Promise) -> Found:
    """What all other files must fit to; raises _Failed where the file is not as promised."""
    name, entry = promise.name, promise.entry
    listed = [("items", pa.list_(pa.int32())), ("times", pa.list_(pa.timestamp("ms")))]
    _columns(name, table.schema, [("session_id", None), ("start", write.MOMENT), *listed])
    table = table.combine_chunks()
    _values(name, table, table.column_names)
    for column, _ in listed:
        missing = pc.list_flatten(table[column]).is_null().to_numpy()
        row = np.repeat(np.arange(len(table)), pc.list_value_length(table[column]).to_numpy())
        _rows(name, missing, f"a value in {column} is missing", row)
    lengths = pc.list_value_length(table["items"]).to_numpy().astype(np.int64)
    of = np.repeat(np.arange(len(table)), lengths)
    counts = {"sessions": len(table), "clicks": len(of), "transitions": int((lengths - 1).sum())}
    for count, value in counts.items():
        _must(value == entry[count], f"counts: {name}: {value} {count}, prepare.json says {entry[count]}")
    _must(len(table) > 0, f"counts: {name}: has no session")
    _rows(name, pc.list_value_length(table["times"]).to_numpy() != lengths, "items and times differ in length")
    _rows(name, lengths < promise.shortest, f"shorter than {promise.shortest} clicks")
    if promise.longest:
        _rows(name, lengths > promise.longest, f"longer than {promise.longest} clicks")
    items = pc.list_flatten(table["items"]).to_numpy()
    _rows(name, (items < 0) | (items >= promise.items), f"an item is not in 0…{promise.items - 1}", of)
    times = pc.list_flatten(table["times"]).cast(pa.int64()).to_numpy()
    _rows(name, (of[1:] == of[:-1]) & (times[1:] < times[:-1]), "times do not ascend", of[1:])
    start = table["start"].cast(pa.int64()).to_numpy()
    _rows(name, start != times[np.cumsum(lengths) - lengths], "start is not the first time")
    _rows(name, np.diff(start, prepend=start[0]) < 0, "sessions are not in order of start")
    found = digest(table["session_id"].type, lambda column: table[column].chunks)
    _must(found == entry["digest"], f"digest: {name}: its values are not those that were to be written")
    kind = str(table["session_id"].type)
    return Found("", int(start[0]), int(start[-1]), kind, np.bincount(items, minlength=promise.items))


def _columns(name: str, schema: pa.Schema, wanted: Sequence[tuple[str, pa.DataType | None]]) -> None:
    """Names and types; None: of ids, whole numbers or text."""
    names = [column for column, _ in wanted]
    _must(schema.names == names, f"schema: {name}: has columns {' '.join(schema.names)}, not {' '.join(names)}")
    for column, kind in wanted:
        found = schema.field(column).type
        fits = found == kind if kind else is_integer(found) or is_text(found)
        _must(fits, f"schema: {name}: {column} is {found}" + (f", not {kind}" if kind else ": ids are numbers or text"))


def _values(name: str, table: pa.Table, columns: Sequence[str]) -> None:
    for column in columns:
        if table[column].null_count:
            _rows(name, table[column].is_null().to_numpy(), f"{column} is missing")


def _rows(name: str, wrong: np.ndarray, what: str, of: np.ndarray | None = None) -> None:
    """Raises _Failed for the first entry of `wrong` that is true; it belongs to row `of[i]`, or row i."""
    if wrong.any():
        at = int(np.argmax(wrong))
        raise _Failed(f"{name}: row {at if of is None else int(of[at])}: {what}")


def _hashes(ids: pa.ChunkedArray, parts: int) -> list[np.ndarray]:
    """Hashes of ids, by partition."""
    hashes = clean.hashes(ids)
    if parts == 1:
        return [hashes]
    part = hashes % np.uint64(parts)
    return [hashes[part == number] for number in range(parts)]


def _repeated(*hashes: np.ndarray) -> np.ndarray:
    """Task: the hashes that are there more than once."""
    every = np.sort(np.concatenate(hashes)) if hashes else np.zeros(0, np.uint64)
    return np.unique(every[1:][every[1:] == every[:-1]])


def _once(folder: str, promises: Sequence[Promise], suspects: np.ndarray) -> None:
    """Raises _Failed where ids with these hashes are really there twice: different text can have one hash."""
    seen: dict[Any, str] = {}
    for promise in promises:
        ids = _read(folder, promise.name)["session_id"]
        for row in np.flatnonzero(np.isin(_hashes(ids, 1)[0], suspects)).tolist():
            place = f"{promise.name}: row {row}"
            session = ids[row].as_py()
            _must(session not in seen, f"sessions: {place}: session {session!r} is in {seen.get(session)} too")
            seen[session] = place
