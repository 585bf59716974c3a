"""`report.html` beside the prepared data: what a person wants to see of a log before training on it.

One file that opens from disk: no script, nothing from the network (its own policy forbids both). What comes from the
log (ids, file names, rows) is escaped, shortened, and shown with its control characters spelt out. Equal data, equal
bytes.
"""

import itertools
from typing import Any

import numpy as np

from gru4rec import storage
from gru4rec.page import NUMBER, PATH, RAW, TEXT, Row, escaped, figure, share, table
from gru4rec.page import page as whole_page
from gru4rec.sessions import data_counts, data_figures
from gru4rec.sessions.data_counts import Counts, Rejected, Split
from gru4rec.sessions.prepared import REPORT, SPLITS, Prepared

_TOP_ITEMS = 10
_SHOWN_REASONS = 10
_SUPPORTS = (1, 5, 10, 20, 50, 100)
"""Where classes of training support begin."""


def write(folder: str) -> None:
    """Write the report into a prepared folder. Raises InputError where a file of it cannot be read."""
    prepared = Prepared(folder)
    storage.write_bytes(storage.join(folder, REPORT), page(prepared).encode())


def page(prepared: Prepared) -> str:
    """The report as HTML. Raises InputError where a file of the folder cannot be read."""
    counts = data_counts.count(prepared)
    parts = [
        _overview(prepared),
        _steps(prepared.summary),
        _splits(counts.splits),
        figure("By day", data_figures.by_day(counts.splits)),
        figure("Session lengths", data_figures.session_lengths(counts.splits)),
        _popularity(prepared),
        _test_items(prepared, counts),
        _rejected(counts.rejected),
    ]
    return whole_page("Data report", parts)


def _overview(prepared: Prepared) -> str:
    splits = prepared.summary["splits"].values()
    clicks, sessions = (sum(split[what] for split in splits) for what in ("clicks", "sessions"))
    return (
        f"<h1>Data report</h1>\n<p>{sessions:,} sessions with {clicks:,} clicks on {prepared.summary['items']:,} items "
        f'are prepared.</p>\n<p class="note">Fingerprint of the data: {escaped(prepared.fingerprint)}</p>'
    )


def _steps(summary: dict[str, Any]) -> str:
    """What came in, what each step removed and what is left; the last two kinds add up to the first."""
    rows_in, left = summary["rows_in"], {name: summary["splits"][name] for name in SPLITS}

    def row(name: str, sessions: int | str, clicks: int) -> Row:
        return [name, sessions, clicks, share(clicks, rows_in)]

    rows = [row(f"rows in ({log['log']}, {log['files']} file(s))", "", log["rows_in"]) for log in summary["logs"]]
    rows.append(row("removed: rows that cannot be read", "", summary["rejected"]))
    rows += [row(f"removed: {step['name']}", step["sessions"], step["clicks"]) for step in summary["steps"]]
    rows += [row(f"left: {name}", split["sessions"], split["clicks"]) for name, split in left.items()]
    removed = summary["rejected"] + sum(step["clicks"] for step in summary["steps"])
    total = row("removed and left", "", removed + sum(split["clicks"] for split in left.values()))
    columns = {"": TEXT, "sessions": NUMBER, "rows (clicks)": NUMBER, "share of rows in": NUMBER}
    return f"<h2>What each step removed</h2>\n{table('steps', columns, rows, total)}"


def _splits(splits: dict[str, Split]) -> str:
    columns = {"": TEXT} | dict.fromkeys(("sessions", "clicks", "mean length", "median", "90 %", "99 %"), NUMBER)
    columns |= dict.fromkeys(("longest", "first day", "last day"), NUMBER)
    rows: list[Row] = []
    for name, split in splits.items():
        sessions, clicks, days = split.lengths.total, split.clicks_by_day.total, split.clicks_by_day.values
        if sessions:
            lengths = [split.lengths.quantile(share) for share in (0.5, 0.9, 0.99, 1)]
            rows.append([name, sessions, clicks, f"{clicks / sessions:.2f}", *lengths, _day(days[0]), _day(days[-1])])
        else:
            rows.append([name, 0, 0, *[""] * 7])
    days = np.unique(np.concatenate([split.clicks_by_day.values for split in splits.values()]))
    without = int(days[-1] - days[0]) + 1 - len(days)
    note = (
        f"Lengths in clicks, days in UTC. {len(days):,} day(s) have clicks; between the first and the last, "
        f"{without:,} have none."
    )
    return f'<h2>Splits</h2>\n{table("splits", columns, rows)}\n<p class="note">{note}</p>'


def _popularity(prepared: Prepared) -> str:
    support = prepared.support
    order = np.argsort(-support, kind="stable")
    ranked = support[order]
    total = int(ranked.sum())
    shares: list[Row] = []
    for percent in (1, 10, 100):
        most = -(-len(ranked) * percent // 100)
        clicks = int(ranked[:most].sum())
        shares.append([f"top {percent} %", most, clicks, share(clicks, total)])
    ids = prepared.items["item_id"].take(order[:_TOP_ITEMS]).to_pylist()
    top: list[Row] = [
        [rank, item, int(clicks), share(int(clicks), total)]
        for rank, (item, clicks) in enumerate(zip(ids, ranked, strict=False), 1)
    ]
    numbers = {"training clicks": NUMBER, "share": NUMBER}
    return "\n".join(
        [
            figure("Item popularity", data_figures.popularity(ranked)),
            table("popularity", {"": TEXT, "items": NUMBER, **numbers}, shares),
            table("top", {"rank": NUMBER, "item": RAW, **numbers}, top),
        ]
    )


def _test_items(prepared: Prepared, counts: Counts) -> str:
    """Clicks on items that training does not know (they were removed), and on those it knows little of."""
    summary = prepared.summary
    heading = "<h2>Unknown and rare items in the test split</h2>\n"
    # Both steps after the training items are known; the first takes the unknown items' clicks away.
    later = [step for step in summary["steps"] if step["name"].endswith("(valid, test)")]
    unknown = sum(step["clicks"] for step in later if step["name"].startswith("items unknown"))
    before = sum(step["clicks"] for step in later) + sum(summary["splits"][name]["clicks"] for name in SPLITS[1:])
    if not before:
        return f"{heading}<p>There is no test split.</p>"
    which = "validation and test" if summary["splits"]["valid"]["clicks"] else "test"
    said = (
        f"<p>Of {before:,} {which} clicks, {unknown:,} ({share(unknown, before)}) were on items that training does "
        "not know; they were removed.</p>\n"
    )
    clicks = counts.test_clicks
    place = np.searchsorted(_SUPPORTS, prepared.support, side="right")
    classes = ["0", *(f"{low}–{high - 1}" for low, high in itertools.pairwise(_SUPPORTS)), f"{_SUPPORTS[-1]} and more"]
    rows: list[Row] = []
    for number, name in enumerate(classes):
        mine = place == number
        if number or mine.any():
            found, clicked = int(clicks[mine].sum()), int((clicks[mine] > 0).sum())
            rows.append([name, int(mine.sum()), clicked, found, share(found, int(clicks.sum()))])
    columns = {"training clicks of the item": TEXT}
    columns |= dict.fromkeys(("items", "clicked in test", "test clicks", "share"), NUMBER)
    total: Row = ["all", len(clicks), int((clicks > 0).sum()), int(clicks.sum()), ""]
    return heading + said + table("support", columns, rows, total)


def _rejected(rejected: list[Rejected]) -> str:
    heading = "<h2>Rows that could not be read</h2>\n"
    if not rejected:
        return f"{heading}<p>None.</p>"
    total = sum(entry.rows for entry in rejected)
    shown, rest = rejected[:_SHOWN_REASONS], rejected[_SHOWN_REASONS:]
    rows: list[Row] = [[entry.reason, entry.rows, share(entry.rows, total)] for entry in shown]
    if rest:
        others = sum(entry.rows for entry in rest)
        rows.append([f"{len(rest):,} more reasons", others, share(others, total)])
    examples: list[Row] = [
        [example["reason"], example["file"], example["row"], example["text"]]
        for entry in shown
        for example in entry.examples
    ]
    return (
        heading
        + table("rejected", {"reason": RAW, "rows": NUMBER, "share": NUMBER}, rows, ["all", total, ""])
        + f"\n<p>The first {data_counts.EXAMPLES} of each; all are in <code>rejected/</code>.</p>\n"
        + table("examples", {"reason": RAW, "file": PATH, "row": NUMBER, "text": RAW}, examples)
    )


def _day(day: int) -> str:
    return str(np.datetime64(int(day), "D"))
