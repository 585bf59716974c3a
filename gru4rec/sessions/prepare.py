"""Click logs → the prepared folder, on Ray Data.

Files are read in pieces by tasks, clicks are hashed by session into partitions, and each partition is put
together in one vectorised pass (`ingest`). What later steps need to know of all partitions, the last time,
supports and first clicks, comes to the driver as one small table a partition (`passes`); it never holds
sessions or clicks. At the end sessions are brought together by file, and each file is written by one task
(`write`). A log that fits into one partition is never shuffled. What is taken away, and in which order, is
written in `clean`.
"""

import dataclasses
import uuid
from typing import Any

from gru4rec import config, storage
from gru4rec.errors import GRU4RecError, InputError
from gru4rec.sessions import data_report, formats, ingest, passes, report, sources, write
from gru4rec.sessions.prepared import SPLITS, SUMMARY

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
        settings.user_column: "--user-column",
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
        if settings.report:
            data_report.write(staging)
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
        raise InputError(f"--out {storage.shown(out)}: holds something that prepare did not write; give another folder")


def _run(settings: config.Prepare, form: formats.Format, files: list[sources.Source], staging: str) -> Entry:
    """Read, clean, split and write into `staging`; returns what prepare.json says."""
    for name in (*SPLITS, "rejected"):
        storage.make_folder(storage.join(staging, name))
    sessions, notes = ingest.sessions_of(settings, form, files, staging)
    if settings.strict and notes["first"]:
        first = notes["first"]
        raise InputError(
            f"{first['file']}: row {first['row']} cannot be read: {first['reason']} (--strict); "
            f"its text is {first['text']!r}"
        )
    rules = passes.first_rules(settings, form, files)
    rules, steps, window = passes.lengths_and_split(sessions, rules, settings, form, files, notes)
    if settings.min_item_support > 1:
        rules = passes.enough_support(sessions, rules, settings)
    firsts, totals, bins = passes.first_clicks(sessions, rules, window, steps, settings)
    write.write_items(firsts, staging)
    splits = write.write_splits(sessions, rules, firsts, bins, window, totals, steps, settings, staging)
    rejected = sum(log["rejected"] for log in notes["logs"])
    rows_in = sum(log["rows_in"] for log in notes["logs"])
    left = sum(split["clicks"] for split in splits.values())
    removed = sum(step["clicks"] for step in steps)
    if rows_in != rejected + removed + left:
        raise GRU4RecError(f"rows were lost: {rows_in} came in, {rejected} + {removed} + {left} are accounted for")
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
        "split": report.split(rules, totals["later"]),
        "splits": splits,
        "items": firsts.num_rows,
        "fingerprint": write.fingerprint(firsts, splits),
        "settings": {name: _shown(value) for name, value in dataclasses.asdict(settings).items()},
    }


def _shown(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_shown(v) for v in value]
    return storage.shown(value) if isinstance(value, str) else value
