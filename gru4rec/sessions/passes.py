"""Passes over all sessions: each comes back as a small table a partition, merged here on the driver.

Every pass starts again from the sessions as they were read and applies all rules known by then, so that
nothing is kept between passes and each is a pure function of a partition and the rules.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gru4rec import config
from gru4rec.errors import InputError
from gru4rec.sessions import clean, formats, layout, sources
from gru4rec.sessions.clean import NEVER, TRAIN, Rules
from gru4rec.sessions.prepared import SPLITS
from gru4rec.sessions.report import step

DAY = 86_400_000  # ms

Entry = dict[str, Any]


def _each(sessions: Sequence[Any], task: Callable[[pa.Table], pa.Table]) -> Iterator[pa.Table]:
    """What `task` makes of each partition of sessions: small tables, whichever is ready first."""
    import ray

    run, stored = ray.remote(_run), ray.put(task)
    left = [run.remote(stored, partition) for partition in sessions]
    while left:
        ready, left = ray.wait(left)
        yield ray.get(ready[0])


def _run(task: Callable[[pa.Table], pa.Table], sessions: pa.Table) -> pa.Table:
    return task(sessions)


def first_rules(
    settings: config.Prepare, form: formats.Format, files: list[sources.Source], known: pa.Array | None = None
) -> Rules:
    """What the settings say about what stays, before any session is looked at. `known`: items that stay anyway."""
    session_type, item_type = sources.carried_types(files)
    return Rules(
        min_length=settings.min_session_length,
        max_length=settings.max_session_length,
        session_type=session_type,
        item_type=item_type,
        drop_duplicates=settings.drop_duplicates,
        drop_repeats=settings.drop_repeats,
        max_per_minute=settings.max_clicks_per_minute,
        split_by=form.split_by if settings.split_by == "auto" else settings.split_by,
        known=known,
    )


def _lengths(sessions: pa.Table, rules: Rules, may_be_integers: list[bool]) -> pa.Table:
    """Task: one row of counts, the window in time, and whether all ids are integers."""
    ids = (sessions["session"], pc.list_flatten(sessions["items"]))
    integers = [may and clean.are_integers(column) for may, column in zip(may_be_integers, ids, strict=True)]
    sessions, duplicates, repeats = clean.without_doubles(sessions, rules)
    short, long = clean.too_short(sessions, rules), clean.too_long(sessions, rules)
    fast = clean.too_fast(sessions, rules) & ~short & ~long
    lengths = clean.lengths(sessions)
    good = clean.filtered(sessions, ~(short | long | fast))
    start, _ = clean.starts_and_ends(good)
    moments = clean.moments(clean.filtered(good, good["log"].to_numpy() == 0), rules)
    counts: Entry = {"sessions": len(lengths), "duplicates": duplicates, "repeats": repeats, "left": len(start)}
    for name, mask in (("short", short), ("long", long), ("fast", fast)):
        counts |= {f"{name}_sessions": int(mask.sum()), f"{name}_clicks": int(lengths[mask].sum())}
    counts |= {
        "earliest": int(start.min()) if len(start) else NEVER,
        "latest": int(start.max()) if len(start) else -1,
        "last": int(moments.max()) if len(moments) else -1,
        "session_integers": integers[0],
        "item_integers": integers[1],
    }
    return pa.table({name: [value] for name, value in counts.items()})


def lengths_and_split(
    sessions: Sequence[Any],
    rules: Rules,
    settings: config.Prepare,
    form: formats.Format,
    files: list[sources.Source],
    notes: Entry,
) -> tuple[Rules, list[Entry], tuple[int, int]]:
    """(rules with id types and the split, steps so far, earliest and latest start).

    Adds to `notes` the number of `sessions` that were put together.
    """
    may = sources.may_be_integers(files)
    parts = list(_each(sessions, functools.partial(_lengths, rules=rules, may_be_integers=may)))
    found = pa.concat_tables(parts)
    total = {name: int(pc.sum(found[name]).as_py()) for name in found.column_names[:10]}
    notes["sessions"], notes["doubles"] = total["sessions"], total["duplicates"] + total["repeats"]
    steps = []
    if form.only:
        steps.append(step("rows whose {} is not {}".format(*form.only), 0, notes["left_out"]))
    if rules.drop_duplicates:
        steps.append(step("exact duplicates", 0, total["duplicates"]))
    if rules.drop_repeats:
        steps.append(step("consecutive repeats", 0, total["repeats"]))
    steps.append(step("sessions too short", total["short_sessions"], total["short_clicks"]))
    steps.append(step("sessions too long", total["long_sessions"], total["long_clicks"]))
    if rules.max_per_minute:
        steps.append(step("sessions with too many clicks a minute", total["fast_sessions"], total["fast_clicks"]))
    if not total["left"]:
        raise InputError(_no_session(notes, total, settings, form))
    for place, name in enumerate(("session", "item")):
        if may[place] and pc.all(found[f"{name}_integers"]).as_py():
            rules = dataclasses.replace(rules, **{f"{name}_type": pa.int64()})
    if rules.known is not None:
        rules = dataclasses.replace(rules, known=rules.known.cast(rules.item_type))
    last = pc.max(found["last"]).as_py()
    test_from = NEVER
    if settings.test_days and not any(source.log for source in files):
        test_from = last - round(settings.test_days * DAY)
    valid_from = test_from
    if settings.valid_days:
        valid_from = (last if test_from == NEVER else test_from) - round(settings.valid_days * DAY)
    rules = dataclasses.replace(rules, valid_from=valid_from, test_from=test_from)
    return rules, steps, (pc.min(found["earliest"]).as_py(), pc.max(found["latest"]).as_py())


def _no_session(notes: Entry, total: Entry, settings: config.Prepare, form: formats.Format) -> str:
    first = notes["first"]
    rejected = ""
    if first:
        rejected = f", first {first['file']} row {first['row']}: {first['reason']}; its text is {first['text']!r}"
    rows = sum(log["rows_in"] for log in notes["logs"])
    bad = sum(log["rejected"] for log in notes["logs"])
    left_out = f", in {notes['left_out']} {form.only[0]} is not {form.only[1]}" if form.only else ""
    fast = ""
    if settings.max_clicks_per_minute:
        fast = f", {total['fast_sessions']} had a minute with more than --max-clicks-per-minute clicks"
    return (
        f"no session is left: of {rows} rows {bad} could not be read{rejected}{left_out}; "
        f"{total['short_sessions']} sessions were shorter than --min-session-length "
        f"{settings.min_session_length}, {total['long_sessions']} longer than --max-session-length{fast}; see whether "
        "--session-column is the column of sessions"
    )


def _support(sessions: pa.Table, rules: Rules) -> pa.Table:
    """Task: clicks of each item in the training split, as far as it is cleaned by the rules."""
    return clean.support(clean.supported(clean.kept(sessions, rules), rules))


def enough_support(sessions: Sequence[Any], rules: Rules, settings: config.Prepare) -> Rules:
    """The rules with the items that have enough clicks in the training split: counted once, or (fixpoint) again after
    rare items and then sessions too short have gone, until all that are left have enough.
    """
    while True:
        parts = list(_each(sessions, functools.partial(_support, rules=rules)))
        counts = clean.merged_support(parts)
        enough = pc.greater_equal(counts["support"], settings.min_item_support)
        if rules.known is not None:
            enough = pc.or_(enough, pc.is_in(counts["item"], rules.known))
        rules = dataclasses.replace(rules, supported=counts["item"].filter(enough).combine_chunks())
        if settings.filter == "once" or pc.all(enough).as_py() is not False:
            return rules


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
        trained = pc.list_flatten(clean.filtered(before.select(["items"]), train_before)["items"])
        rare = len(trained) - int(pc.sum(pc.is_in(trained, rules.supported)).as_py() or 0)
    row: Entry = {name: [column.to_numpy(zero_copy_only=False)] for name, column in _columns(clean.first_clicks(after))}
    times = pc.list_flatten(clean.filtered(after.select(["times"]), split == TRAIN)["times"]).to_numpy()
    row |= {"cells": [used], "clicks": [clicks], "rare": [rare]}
    row |= {"later": [int((times >= rules.valid_from).sum())]}
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


def first_clicks(
    sessions: Sequence[Any], rules: Rules, window: tuple[int, int], steps: list[Entry], settings: config.Prepare
) -> tuple[pa.Table, Entry, np.ndarray]:
    """(first click of every item in order of the index, totals, clicks [splits, BINS] by start)."""
    firsts, counts = None, np.zeros(len(SPLITS), np.int64)
    bins = np.zeros(len(SPLITS) * layout.BINS, np.int64)
    rare = later = train_before = train_sessions_before = 0
    for found in _each(sessions, functools.partial(_firsts, rules=rules, window=window)):
        for row in range(found.num_rows):
            part = pa.table({name: pc.list_flatten(found[name].slice(row, 1)) for name in found.column_names[:5]})
            firsts = clean.merged_first_clicks([part] if firsts is None else [firsts, part])
            cells = pc.list_flatten(found["cells"].slice(row, 1)).to_numpy()
            bins[cells] += pc.list_flatten(found["clicks"].slice(row, 1)).to_numpy()
            counts += pc.list_flatten(found["sessions"].slice(row, 1)).to_numpy()
            rare += found["rare"][row].as_py()
            later += found["later"][row].as_py()
            train_before += found["train_before"][row].as_py()
            train_sessions_before += found["train_sessions_before"][row].as_py()
    by_split = bins.reshape(len(SPLITS), layout.BINS)
    clicks = by_split.sum(axis=1)
    steps.append(step("rare items (train)", 0, rare))
    again = train_before - rare - int(clicks[TRAIN])
    steps.append(step("sessions too short now (train)", int(train_sessions_before - counts[TRAIN]), again))
    if firsts is None or not firsts.num_rows:
        raise InputError(_nothing_to_train(train_sessions_before, settings))
    if rules.known is not None:
        firsts = clean.behind(rules.known, firsts)
    return firsts, {"sessions": counts, "clicks": clicks, "later": later}, by_split


def _nothing_to_train(sessions: int, settings: config.Prepare) -> str:
    if sessions:
        return (
            f"no training session is left: too few items have --min-item-support {settings.min_item_support} "
            "training clicks; lower it"
        )
    return (
        "no training session is left: all end (--split-by start: begin) within --test-days "
        f"{settings.test_days:g} and --valid-days {settings.valid_days:g} of the last click; lower these, or give "
        "--test-clicks"
    )
