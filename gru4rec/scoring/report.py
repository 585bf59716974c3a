"""What a scoring run did, for people: a short table on stderr."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def show(result: Mapping[str, Any], model: str) -> None:
    """Print the result of a scoring run to stderr."""
    sessions = result["sessions_out"]
    share = f" ({result['fallback'] / sessions:.1%})" if sessions else ""
    date = f"/date={result['date']}" if result["date"] else ""
    files = f"{result['files']} files" + (
        f", {result['kept_files']} of them were there" if result["kept_files"] else ""
    )
    rows = [
        ("model", model),
        ("sessions", f"{sessions:,} ({result['distinct_sessions']:,} distinct ids)"),
        ("list length", str(result["list_length"])),
        ("popularity fallback", f"{result['fallback']:,}{share}"),
        ("unknown clicks", f"{result['unknown_clicks']:,}"),
        ("speed", f"{result['sessions_per_second']:,.0f} sessions/s"),
        ("written to", f"{result['out']}{date}/{result['result']} ({files})"),
    ]
    if result["rejected"]:
        rows.insert(2, ("rejected", f"{result['rejected']:,} sessions"))
    for option, unknown in result["unknown_limits"].items():
        if unknown:
            rows.insert(-1, ("unknown ids", f"{unknown:,} in --{option.replace('_', '-')}"))
    if result["unchanged"]:
        rows = [*rows[:-2], ("nothing to do", f"{result['out']}{date}/{result['result']} is this result already")]
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in rows:
        table.add_row(name, value)
    Console(stderr=True, markup=False, soft_wrap=True).print(table)
