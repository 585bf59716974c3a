"""What prepare is measured against: scripts in one process, as a data scientist would write them with one library.

Each reads a log in the form `yoochoose` and writes the same prepared folder as prepare with its default settings, but
for what only prepare has: no row is checked or set aside (a bad one ends them), nothing is counted, no digest is
taken, nothing is read back, and all is in memory. The log is given in order of sessions' first clicks or not; ties in
time keep the order of rows.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gru4rec import config
from gru4rec.sessions import layout
from gru4rec.sessions.prepared import ITEMS, SPLITS

DAY = 86_400_000  # ms
NAMES = ["session", "time", "item", "category"]

_DEFAULTS = config.Prepare(clicks=("-",), out="-")
SHORTEST, SUPPORT, SHARDS = _DEFAULTS.min_session_length, _DEFAULTS.min_item_support, _DEFAULTS.shards
TEST = round(_DEFAULTS.test_days * DAY)


def with_pandas(log: str, out: Path) -> None:
    """The straightforward one: a table of clicks, masks from `groupby().transform()`, and lists by `agg(list)`."""

    def write(split: str, clicks: Any) -> None:
        lists = clicks.groupby("session", sort=False).agg(
            start=("time", "min"), items=("index", list), times=("time", list)
        )
        table = {
            "session_id": lists.index.to_numpy(),
            "start": pa.array(lists["start"].to_numpy()).cast(pa.timestamp("ms", "UTC")),
            "items": pa.array(lists["items"], pa.list_(pa.int32())),
            "times": pa.array(lists["times"], pa.list_(pa.timestamp("ms"))),
        }
        _write(out, split, pa.table(table))

    _with_pandas(log, out, write)


def with_pandas_and_arrow(log: str, out: Path) -> None:
    """The same with lists laid out by numpy and Arrow from the ordered clicks, without a Python object a click."""

    def write(split: str, clicks: Any) -> None:
        _write_clicks(out, split, *(clicks[name].to_numpy() for name in ("session", "index", "time")))

    _with_pandas(log, out, write)


def _with_pandas(log: str, out: Path, write: Callable[[str, Any], None]) -> None:
    """`write` gets a split's name and its clicks: session, index and time, in order."""
    import pandas as pd

    clicks = pd.read_csv(
        log, names=NAMES, usecols=NAMES[:3], dtype={"session": "int64", "item": "int64"}, parse_dates=["time"]
    )
    clicks["time"] = clicks["time"].dt.tz_convert(None).to_numpy().astype("datetime64[ms]").astype("int64")
    clicks["position"] = np.arange(len(clicks))
    clicks = clicks.sort_values(["session", "time", "position"])
    sessions = clicks.groupby("session")
    clicks["position"] = sessions["position"].transform("min")  # orders sessions that start at once
    clicks = clicks[sessions["item"].transform("size") >= SHORTEST]
    end = clicks.groupby("session")["time"].transform("max")
    in_test = end >= end.max() - TEST
    train, test = clicks[~in_test], clicks[in_test]
    support = train["item"].value_counts()
    train = train[train["item"].isin(support.index[support >= SUPPORT])]

    def finished(part: pd.DataFrame) -> pd.DataFrame:
        """Sessions that are long enough still, in order of start."""
        part = part[part.groupby("session")["item"].transform("size") >= SHORTEST]
        part = part.assign(start=part.groupby("session")["time"].transform("min"))
        return part.sort_values(["start", "position", "time"], kind="stable")

    train = finished(train)
    index, items = pd.factorize(train["item"])
    train["index"] = index
    _write_items(out, items.to_numpy(), np.bincount(index))
    write("train", train)
    test = finished(test[test["item"].isin(items)])
    test["index"] = pd.Index(items).get_indexer(test["item"])
    write("test", test)


def with_polars(log: str, out: Path) -> None:
    """All cores; sessions as lists as soon as they are put together."""
    import polars as pl

    clicks = (
        pl.scan_csv(log, has_header=False, new_columns=NAMES)
        .select("session", "item", pl.col("time").str.to_datetime("%Y-%m-%dT%H:%M:%S%.3fZ", time_unit="ms"))
        .with_row_index("position")
        .collect()
    )
    position, length = pl.col("position").min(), pl.col("item").list.len()
    sessions = clicks.sort("time", maintain_order=True).group_by("session").agg("item", "time", position)
    sessions = sessions.filter(length >= SHORTEST)
    del clicks
    end = pl.col("time").list.last()
    in_test = end >= end.max() - pl.duration(milliseconds=TEST)
    sessions = sessions.with_columns(in_test=in_test)
    train, test = (
        sessions.filter(pl.col("in_test") == wanted).explode("item", "time").drop("in_test") for wanted in (False, True)
    )
    del sessions
    support = train.group_by("item").len().filter(pl.col("len") >= SUPPORT)

    def finished(part: Any) -> Any:
        """Clicks of sessions that are long enough still, in order of start."""
        lists = part.group_by("session", maintain_order=True).agg("item", "time", position).filter(length >= SHORTEST)
        lists = lists.sort(pl.col("time").list.first(), "position")
        return lists.select("session", "item", "time").explode("item", "time")

    train = finished(train.join(support, on="item", how="semi", maintain_order="left"))
    items = train.group_by("item", maintain_order=True).len().with_row_index("index")
    test = finished(test.join(items, on="item", how="semi", maintain_order="left"))
    _write_items(out, items["item"].to_numpy(), items["len"].to_numpy())
    for name, part in (("train", train), ("test", test)):
        index = part.select("item").join(items, on="item", how="left", maintain_order="left")["index"]
        times = part["time"].dt.timestamp("ms")
        _write_clicks(out, name, part["session"].to_numpy(), index.to_numpy(), times.to_numpy())


def with_duckdb(log: str, out: Path) -> None:
    """All cores; SQL."""
    import duckdb

    database = duckdb.connect()
    types = "{'session': 'BIGINT', 'time': 'TIMESTAMP', 'item': 'BIGINT', 'category': 'VARCHAR'}"
    run = database.execute
    run(
        f"""create temp table clicks as
        select session, item, epoch_ms(time) as time, row_number() over () as position
        from read_csv(?, header = false, columns = {types})""",
        [log],
    )
    run(
        f"""create temp table sessions as
        select session, min(position) as position, max(time) as "end",
            list({{'item': item, 'time': time}} order by time, position) as clicks
        from clicks group by session having count(*) >= {SHORTEST}"""
    )
    run("drop table clicks")
    test = f'"end" >= (select max("end") from sessions) - {TEST}'
    for name, condition in (("train", f"not ({test})"), ("test", test)):
        run(
            f"""create temp table {name} as select session, position, unnest(clicks, recursive := true),
            generate_subscripts(clicks, 1) as place from sessions where {condition}"""
        )
    run("drop table sessions")

    def finish(name: str, known: str) -> None:
        """Clicks of sessions that are long enough still, in order of start, as table NAME_kept."""
        run(
            f"""create temp table {name}_kept as
            with known as (select * from {name} where item in ({known})),
            long as (select session, min(time) as start from known group by session having count(*) >= {SHORTEST})
            select session, item, time, row_number() over (order by start, position, place) as number
            from known join long using (session) order by number"""
        )

    finish("train", f"select item from train group by item having count(*) >= {SUPPORT}")
    run(
        """create temp table items as
        select item, count(*) as support, row_number() over (order by min(number)) - 1 as index
        from train_kept group by item"""
    )
    finish("test", "select item from items")
    items = run("select item, support from items order by index").fetchnumpy()
    _write_items(out, items["item"], items["support"])
    for name in ("train", "test"):
        found = run(
            f"select session, index, time from {name}_kept join items using (item) order by number"
        ).fetchnumpy()
        _write_clicks(out, name, found["session"], found["index"], found["time"])


SCRIPTS = {
    "pandas": with_pandas,
    "pandas-arrow": with_pandas_and_arrow,
    "polars": with_polars,
    "duckdb": with_duckdb,
}


def _write_items(out: Path, ids: np.ndarray, support: np.ndarray) -> None:
    for split in SPLITS:
        (out / split).mkdir(parents=True, exist_ok=True)
    index = np.arange(len(ids), dtype=np.int32)
    columns = {"item_id": ids, "item_index": index, "support": support.astype(np.int64)}
    pq.write_table(pa.table(columns), out / ITEMS)


def _write_clicks(out: Path, split: str, session: np.ndarray, index: np.ndarray, time: np.ndarray) -> None:
    """Write clicks [clicks] each, a session's together, in their order."""
    bounds = np.append(np.flatnonzero(np.diff(session, prepend=session[:1] - 1)), len(session))
    heads, offsets = bounds[:-1], pa.array(bounds.astype(np.int32))
    times = pa.array(time).cast(pa.timestamp("ms"))
    columns = {
        "session_id": session[heads],
        "start": pa.array(time[heads]).cast(pa.timestamp("ms", "UTC")),
        "items": pa.ListArray.from_arrays(offsets, pa.array(index.astype(np.int32))),
        "times": pa.ListArray.from_arrays(offsets, times),
    }
    _write(out, split, pa.table(columns))


def _write(out: Path, split: str, table: pa.Table) -> None:
    """One file with the columns and row groups of the contract; none where there is no session."""
    if not len(table):
        return
    lengths = pc.list_value_length(table["items"]).to_numpy().astype(np.int64)
    groups = SHARDS if split == SPLITS[0] else -(-int(lengths.sum()) // layout.CLICKS_PER_ROW_GROUP)
    shard = layout.shard_of(lengths, groups)
    cuts = np.append(np.flatnonzero(np.diff(shard, prepend=-1)), len(shard)).tolist()
    with pq.ParquetWriter(out / split / "part-00000.parquet", table.schema) as writer:
        for start, end in itertools.pairwise(cuts):
            writer.write_table(table.slice(start, end - start), row_group_size=end - start)
