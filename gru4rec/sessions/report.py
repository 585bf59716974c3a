"""What prepare did, as a short table for people."""

import sys
from typing import Any

import numpy as np

from gru4rec.sessions.clean import NEVER, Rules
from gru4rec.sessions.prepared import SPLITS


def step(name: str, sessions: int, clicks: int) -> dict[str, Any]:
    """What one step of the cleaning took away, as it stands in prepare.json."""
    return {"name": name, "sessions": sessions, "clicks": clicks}


def split(rules: Rules, later: int) -> dict[str, Any]:
    """How sessions were split, as it stands in prepare.json: `by` their end or start; the moments from which on they
    are validation and test, null where none is; training clicks at or after the first of these (by start, since
    sessions stay whole; by end there is none).
    """
    valid_from = rules.valid_from if rules.valid_from != rules.test_from else NEVER
    return {
        "by": rules.split_by,
        "valid_from": _moment(valid_from),
        "test_from": _moment(rules.test_from),
        "later_train_clicks": later,
    }


def _moment(ms: int) -> str | None:
    return None if ms == NEVER else f"{np.datetime64(ms, 'ms')}Z"


def say(text: str) -> None:
    """A line of progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def show(summary: dict[str, Any]) -> None:
    """Print to stderr what came in, what each step took away, and what is left (`summary`: prepare.json)."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("sessions", justify="right")
    table.add_column("clicks", justify="right")
    for log in summary["logs"]:
        table.add_row(f"{log['log']}: rows in {log['files']} file(s)", "", f"{log['rows_in']:,}")
        if log["empty_files"]:
            table.add_row(f"  {log['empty_files']} file(s) without a row", "", "")
        if log["rejected"]:
            table.add_row("  rows that cannot be read", "", f"−{log['rejected']:,}")
    table.add_row("sessions put together", f"{summary['sessions_in']:,}", "")
    for step in summary["steps"]:
        if step["clicks"] or step["sessions"]:
            sessions = f"−{step['sessions']:,}" if step["sessions"] else ""
            table.add_row(f"  {step['name']}", sessions, f"−{step['clicks']:,}")
    for name in SPLITS:
        split = summary["splits"][name]
        moment = summary["split"].get(f"{name}_from")
        by = f": {summary['split']['by']} at {moment} or later" if moment else ""
        table.add_row(f"{name}{by}", f"{split['sessions']:,}", f"{split['clicks']:,}")
        if name == "train" and summary["split"]["later_train_clicks"]:
            later = summary["split"]["later_train_clicks"]
            table.add_row("  of these later than the split: sessions stay whole", "", f"{later:,}")
    table.add_row("items", "", f"{summary['items']:,}")
    Console(stderr=True, highlight=False, markup=False).print(table)
