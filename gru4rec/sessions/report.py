"""What prepare did, as a short table for people."""

import sys
from typing import Any

from gru4rec.sessions.prepared import SPLITS


def step(name: str, sessions: int, clicks: int) -> dict[str, Any]:
    """What one step of the cleaning took away, as it stands in prepare.json."""
    return {"name": name, "sessions": sessions, "clicks": clicks}


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
        if log["rejected"]:
            table.add_row("  rows that cannot be read", "", f"−{log['rejected']:,}")
    for step in summary["steps"]:
        if step["clicks"] or step["sessions"]:
            sessions = f"−{step['sessions']:,}" if step["sessions"] else ""
            table.add_row(f"  {step['name']}", sessions, f"−{step['clicks']:,}")
    for name in SPLITS:
        split = summary["splits"][name]
        table.add_row(name, f"{split['sessions']:,}", f"{split['clicks']:,}")
    table.add_row("items", "", f"{summary['items']:,}")
    Console(stderr=True, highlight=False).print(table)
