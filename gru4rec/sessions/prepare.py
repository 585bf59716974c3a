"""Click logs → the prepared folder, by Ray tasks.

Files are read in pieces by tasks, clicks are hashed by session into partitions, and each partition is put
together in one vectorised pass (`ingest`). What later steps need to know of all partitions, the last time,
supports and first clicks, comes to the driver as one small table a partition (`passes`); it never holds
sessions or clicks. At the end sessions are brought together by file, and each file is written by one task
(`write`). A log that fits into one partition is never shuffled. What is taken away, and in which order, is
written in `clean`.
"""

import dataclasses
import errno
import os
from typing import Any

from gru4rec import config, outputs, storage
from gru4rec.errors import GRU4RecError, InputError
from gru4rec.sessions import base as bases
from gru4rec.sessions import (
    checks,
    data_report,
    file_names,
    formats,
    ingest,
    inputs,
    passes,
    report,
    sources,
    staging,
    write,
)
from gru4rec.sessions import summary as summaries
from gru4rec.sessions.prepared import LEFT_OUT, REJECTED, SPLITS, SUMMARY

Entry = dict[str, Any]


def prepare(settings: config.Prepare) -> Entry:
    """Make the prepared folder `settings.out` from click logs and return the counts.

    Connects to Ray where there is no connection yet. An earlier prepared folder of that name is replaced
    once the new one is whole and has passed all `checks`; it is left as it is where it is made of the same files
    with the same settings. Raises InputError for a log that cannot be read or of which nothing is left, and for
    a folder `out` that holds something else; GRU4RecError where a check fails or the disk is full.
    """
    form = formats.chosen(settings)
    outputs.check_folder("--out", settings.out)
    if not staging.free(settings.out):
        raise InputError(
            f"--out {storage.shown(settings.out)}: holds something that prepare did not write; give another folder"
        )
    logs: list[list[str]] = []
    skipped: dict[str, int] = {}
    for account, given in (("clicks", settings.clicks), ("test_clicks", settings.test_clicks)):
        flag = "--" + account.replace("_", "-")
        paths, others = sources.paths_of(given, flag)
        logs.append(paths)
        skipped[account] = len(others)
        if others:
            report.say(file_names.not_read(flag, others, sources.KNOWN))
    staging.tidy(settings.out)
    states, lineage = inputs.states(logs), []
    base = bases.opened(settings, form)
    if base:
        logs, states = bases.new_files(base, logs, states)
        # Without new files the index is the base's own: nothing in it changes.
        lineage = base.lineage if any(logs) else base.lineage[:-1]
    made_of = inputs.fingerprint(states, lineage, settings)
    earlier = None if settings.force else inputs.already_prepared(settings.out, made_of)
    if earlier:
        report.say(
            f"{storage.shown(settings.out)}: is already made of these files with these settings, nothing to do "
            "(--force prepares again)"
        )
        return _result(settings, {**earlier, "skipped_files": skipped}, unchanged=True)
    flags = {
        settings.session_column: "--session-column",
        settings.item_column: "--item-column",
        settings.time_column: "--time-column",
        settings.user_column: "--user-column",
    }
    files = bases.sources(base) if base else []
    files += sources.open_all(logs, form, {} if form.columns else flags, len(files))
    for log, name in enumerate(("--clicks", "--test-clicks")):
        mine = [source for source in files if source.log == log]
        if mine and not any(source.rows for source in mine):  # a night may be without a click, a log is not
            raise InputError(f"{storage.shown(mine[0].path)}: has a header but no rows ({name})")

    from gru4rec import on_ray

    try:
        with staging.staged(settings.out) as place, on_ray.connected(settings.verbose):
            summary = _run(settings, form, files, base, place.folder)
            summary |= {"skipped_files": skipped, "made_of": made_of} | ({"lineage": lineage} if base else {})
            inputs.write_files(states, place.folder)
            checks.check(place.folder, summary)
            if settings.report:
                storage.write_json(storage.join(place.folder, SUMMARY), summary)  # so that it can be read
                data_report.write(place.folder)
            place.publish(summary)
    except Exception as error:
        if isinstance(error, GRU4RecError) or not _is_full(error):
            raise
        raise GRU4RecError(
            f"no space is left on a device while writing --out {storage.shown(settings.out)}: free some, or give a "
            "folder elsewhere, and run again; what was there before is as it was"
        ) from error
    report.show(summary)
    return _result(settings, summary, unchanged=False)


def _result(settings: config.Prepare, summary: Entry, unchanged: bool) -> Entry:
    splits = summary["splits"]
    return {
        "out": storage.shown(settings.out),
        "unchanged": unchanged,
        "rows_in": summary["rows_in"],
        "rejected": summary["rejected"],
        "skipped_files": sum(summary["skipped_files"].values()),
        "sessions": sum(splits[name]["sessions"] for name in SPLITS),
        "items": summary["items"],
        **{f"{name}_sessions": splits[name]["sessions"] for name in SPLITS},
        **{f"{name}_clicks": splits[name]["clicks"] for name in SPLITS},
    }


def _is_full(error: Exception) -> bool:
    """Whether the disk is: of what went wrong in a task, only the text comes here."""
    return os.strerror(errno.ENOSPC) in str(error)


def _run(
    settings: config.Prepare,
    form: formats.Format,
    files: list[sources.Source],
    base: bases.Base | None,
    folder: str,
) -> Entry:
    """Read, clean, split and write into `folder`; returns what prepare.json says."""
    for name in (*SPLITS, LEFT_OUT, REJECTED):
        storage.make_folder(storage.join(folder, name))
    sessions, notes = ingest.sessions_of(settings, form, files, folder)
    if settings.strict and notes["first"]:
        first = notes["first"]
        raise InputError(
            f"{first['file']}: row {first['row']} cannot be read: {first['reason']} (--strict); "
            f"its text is {first['text']!r}"
        )
    rules = passes.first_rules(settings, form, files, None if base is None else base.items)
    rules, steps, window = passes.lengths_and_split(sessions, rules, settings, form, files, notes)
    if settings.min_item_support > 1:
        rules = passes.enough_support(sessions, rules, settings)
    firsts, totals, bins = passes.first_clicks(sessions, rules, window, steps, settings)
    write.write_items(firsts, folder)
    splits = write.write_splits(sessions, rules, firsts, bins, window, totals, steps, settings, folder)
    ingest.forget(folder)
    rejected = sum(log["rejected"] for log in notes["logs"])
    rows_in = sum(log["rows_in"] for log in notes["logs"])
    left = sum(split["clicks"] for split in splits.values())
    removed_clicks = sum(step["clicks"] for step in steps)
    if rows_in != rejected + removed_clicks + left:
        counted = f"{rejected} + {removed_clicks} + {left}"
        raise GRU4RecError(f"rows were lost: {rows_in} came in, {counted} are accounted for")
    left = sum(split["sessions"] for split in splits.values())
    removed = sum(step["sessions"] for step in steps)
    if notes["sessions"] != removed + left:
        raise GRU4RecError(f"sessions were lost: {notes['sessions']} came in, {removed} + {left} are accounted for")
    return {
        "rows_in": rows_in,
        "rejected": rejected,
        "logs": notes["logs"],
        "sessions_in": notes["sessions"],
        "steps": steps,
        "left_out": removed_clicks - notes["left_out"] - notes["doubles"],
        "split": report.split(rules, totals["later"]),
        "splits": splits,
        "items": firsts.num_rows,
        "fingerprint": summaries.fingerprint(firsts["item"], splits),
        "support_digest": summaries.support_digest(firsts["support"]),
        "settings": {name: _shown(value) for name, value in dataclasses.asdict(settings).items()},
    }


def _shown(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_shown(v) for v in value]
    return storage.shown(value) if isinstance(value, str) else value
