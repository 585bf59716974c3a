"""`report.html` beside the prepared data: what a person wants to see of a log before training on it.

One file that opens from disk: no script, nothing from the network (its own policy forbids both). What comes from the
log (ids, file names, rows) is escaped, shortened, and shown with its control characters spelt out. Equal data, equal
bytes.
"""

import html
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gru4rec import storage
from gru4rec.sessions import data_counts, data_figures
from gru4rec.sessions.data_counts import Counts, Rejected, Split
from gru4rec.sessions.prepared import REPORT, SPLITS, Prepared

_SHOWN = 200  # characters of a text that comes from the log
_TOP_ITEMS = 10
_SHOWN_REASONS = 10
_SUPPORTS = (1, 5, 10, 20, 50, 100)
"""Where classes of training support begin."""

TEXT, NUMBER, RAW, PATH = "text", "number", "raw", "path"
"""Kinds of columns; RAW and PATH come from the log. A long path is shown by its end."""

Row = list[Any]

_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>Data report</title>
<style>
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; }
body { max-width: 820px; margin: 2em auto; padding: 0 1em; }
h2 { font-size: 1.2em; margin-top: 2em; }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2em .8em .2em 0; text-align: left; vertical-align: top; border-bottom: 1px solid #e5e5e5; }
.number { text-align: right; white-space: nowrap; }
td.raw, td.path { font: .85em ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
tfoot td { font-weight: 600; border-top: 1px solid #888; }
figure { margin: 0; }
svg { max-width: 100%; height: auto; }
p.note { color: #555; }
</style>
</head>
<body>
"""


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
        _figure("By day", data_figures.by_day(counts.splits)),
        _figure("Session lengths", data_figures.session_lengths(counts.splits)),
        _popularity(prepared),
        _test_items(prepared, counts),
        _rejected(counts.rejected),
    ]
    return _HEAD + "\n".join(parts) + "\n</body>\n</html>\n"


def _overview(prepared: Prepared) -> str:
    splits = prepared.summary["splits"].values()
    clicks, sessions = (sum(split[what] for split in splits) for what in ("clicks", "sessions"))
    return (
        f"<h1>Data report</h1>\n<p>{sessions:,} sessions with {clicks:,} clicks on {prepared.summary['items']:,} items "
        f'are prepared.</p>\n<p class="note">Fingerprint of the data: {_escaped(prepared.fingerprint)}</p>'
    )


def _steps(summary: dict[str, Any]) -> str:
    """What came in, what each step removed and what is left; the last two kinds add up to the first."""
    rows_in, left = summary["rows_in"], {name: summary["splits"][name] for name in SPLITS}

    def row(name: str, sessions: int | str, clicks: int) -> Row:
        return [name, sessions, clicks, _share(clicks, rows_in)]

    rows = [row(f"rows in ({log['log']}, {log['files']} file(s))", "", log["rows_in"]) for log in summary["logs"]]
    rows.append(row("removed: rows that cannot be read", "", summary["rejected"]))
    rows += [row(f"removed: {step['name']}", step["sessions"], step["clicks"]) for step in summary["steps"]]
    rows += [row(f"left: {name}", split["sessions"], split["clicks"]) for name, split in left.items()]
    removed = summary["rejected"] + sum(step["clicks"] for step in summary["steps"])
    total = row("removed and left", "", removed + sum(split["clicks"] for split in left.values()))
    columns = {"": TEXT, "sessions": NUMBER, "rows (clicks)": NUMBER, "share of rows in": NUMBER}
    return f"<h2>What each step removed</h2>\n{_table('steps', columns, rows, total)}"


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
    return f'<h2>Splits</h2>\n{_table("splits", columns, rows)}\n<p class="note">{note}</p>'


def _popularity(prepared: Prepared) -> str:
    support = prepared.support
    order = np.argsort(-support, kind="stable")
    ranked = support[order]
    total = int(ranked.sum())
    shares: list[Row] = []
    for percent in (1, 10, 100):
        most = -(-len(ranked) * percent // 100)
        clicks = int(ranked[:most].sum())
        shares.append([f"top {percent} %", most, clicks, _share(clicks, total)])
    ids = prepared.items["item_id"].take(order[:_TOP_ITEMS]).to_pylist()
    top: list[Row] = [
        [rank, item, int(clicks), _share(int(clicks), total)]
        for rank, (item, clicks) in enumerate(zip(ids, ranked, strict=False), 1)
    ]
    numbers = {"training clicks": NUMBER, "share": NUMBER}
    return "\n".join(
        [
            _figure("Item popularity", data_figures.popularity(ranked)),
            _table("popularity", {"": TEXT, "items": NUMBER, **numbers}, shares),
            _table("top", {"rank": NUMBER, "item": RAW, **numbers}, top),
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
        f"<p>Of {before:,} {which} clicks, {unknown:,} ({_share(unknown, before)}) were on items that training does "
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
            rows.append([name, int(mine.sum()), clicked, found, _share(found, int(clicks.sum()))])
    columns = {"training clicks of the item": TEXT}
    columns |= dict.fromkeys(("items", "clicked in test", "test clicks", "share"), NUMBER)
    total: Row = ["all", len(clicks), int((clicks > 0).sum()), int(clicks.sum()), ""]
    return heading + said + _table("support", columns, rows, total)


def _rejected(rejected: list[Rejected]) -> str:
    heading = "<h2>Rows that could not be read</h2>\n"
    if not rejected:
        return f"{heading}<p>None.</p>"
    total = sum(entry.rows for entry in rejected)
    shown, rest = rejected[:_SHOWN_REASONS], rejected[_SHOWN_REASONS:]
    rows: list[Row] = [[entry.reason, entry.rows, _share(entry.rows, total)] for entry in shown]
    if rest:
        others = sum(entry.rows for entry in rest)
        rows.append([f"{len(rest):,} more reasons", others, _share(others, total)])
    examples: list[Row] = [
        [example["reason"], example["file"], example["row"], example["text"]]
        for entry in shown
        for example in entry.examples
    ]
    return (
        heading
        + _table("rejected", {"reason": RAW, "rows": NUMBER, "share": NUMBER}, rows, ["all", total, ""])
        + f"\n<p>The first {data_counts.EXAMPLES} of each; all are in <code>rejected/</code>.</p>\n"
        + _table("examples", {"reason": RAW, "file": PATH, "row": NUMBER, "text": RAW}, examples)
    )


def _figure(heading: str, svg: str) -> str:
    return f"<h2>{heading}</h2>\n<figure>{svg}</figure>"


def _table(name: str, columns: Mapping[str, str], rows: list[Row], foot: Row | None = None) -> str:
    """A table with the id `name`; `columns`: heading → kind. Every cell is escaped."""
    lines = [f'<table id="{name}">', "<thead>", _row("th", columns, columns), "</thead>", "<tbody>"]
    lines += [_row("td", row, columns) for row in rows]
    lines += ["</tbody>", *(["<tfoot>", _row("td", foot, columns), "</tfoot>"] if foot else []), "</table>"]
    return "\n".join(lines)


def _row(tag: str, cells: Iterable[Any], columns: Mapping[str, str]) -> str:
    shown = [
        f'<{tag} class="{kind}">{_escaped(_cell(cell, kind))}</{tag}>'
        for cell, kind in zip(cells, columns.values(), strict=True)
    ]
    return f"<tr>{''.join(shown)}</tr>"


def _cell(value: Any, kind: str) -> str:
    text = f"{value:,}" if kind == NUMBER and isinstance(value, int) else str(value)
    if len(text) <= _SHOWN:
        return text
    return "…" + text[-_SHOWN:] if kind == PATH else text[:_SHOWN] + "…"


def _escaped(text: str) -> str:
    """Text that is no markup wherever it stands; what cannot be seen, or turns the direction, as \\x1b or \\u202e."""
    seen = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return html.escape(seen)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2%}".replace("%", " %") if whole else "–"


def _day(day: int) -> str:
    return str(np.datetime64(int(day), "D"))
