"""Pages for people: one HTML file that opens from disk, tables and figures in it.

No script, nothing from the network (the page's own policy forbids both). What comes from a log (ids, file names, rows)
is escaped, shortened, and shown with its control characters spelt out. Equal data, equal bytes.
"""

import html
import io
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 200  # characters of a text that comes from the log
TEXT, NUMBER, RAW, PATH = "text", "number", "raw", "path"
"""Kinds of columns; RAW and PATH come from the log. A long path is shown by its end."""

_STYLE = {
    "svg.hashsalt": "gru4rec",  # ids of parts of the figure are random otherwise
    "svg.fonttype": "none",  # text stays text
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e5e5",
    "legend.frameon": False,
}

Row = list[Any]

_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; }
body { max-width: 960px; margin: 2em auto; padding: 0 1em; }
h2 { font-size: 1.2em; margin-top: 2em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2em .8em .2em 0; text-align: left; vertical-align: baseline; border-bottom: 1px solid #e5e5e5; }
.wide { overflow-x: auto; }
div.wide { margin: 1em 0; }
th:first-child, td:first-child { position: sticky; left: 0; background: #fff; }
.number { text-align: right; }
td.number { white-space: nowrap; }
td.raw, td.path { font: .85em ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
td.text, td.raw, td.path { min-width: 7em; }
tfoot td { font-weight: 600; border-top: 1px solid #888; }
figure { margin: 0; }
svg { min-width: 560px; max-width: 100%; height: auto; }
p { overflow-wrap: anywhere; }
p.note { color: #555; }
</style>
</head>
<body>
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page of HTML parts."""
    return _HEAD.replace("{title}", escaped(title)) + "\n".join(parts) + "\n</body>\n</html>\n"


def table(name: str, columns: Mapping[str, str], rows: list[Row], foot: Row | None = None) -> str:
    """A table with the id `name`; `columns`: heading → kind. Every cell is escaped. Too wide, it scrolls by itself."""
    lines = [f'<div class="wide"><table id="{name}">', "<thead>", _row("th", columns, columns), "</thead>", "<tbody>"]
    lines += [_row("td", row, columns) for row in rows]
    lines += ["</tbody>", *(["<tfoot>", _row("td", foot, columns), "</tfoot>"] if foot else []), "</table></div>"]
    return "\n".join(lines)


def _row(tag: str, cells: Iterable[Any], columns: Mapping[str, str]) -> str:
    shown = [
        f'<{tag} class="{kind}">{escaped(_cell(cell, kind))}</{tag}>'
        for cell, kind in zip(cells, columns.values(), strict=True)
    ]
    return f"<tr>{''.join(shown)}</tr>"


def _cell(value: Any, kind: str) -> str:
    text = f"{value:,}" if kind == NUMBER and isinstance(value, int) else str(value)
    if len(text) <= SHOWN:
        return text
    return "…" + text[-SHOWN:] if kind == PATH else text[:SHOWN] + "…"


def escaped(text: str) -> str:
    """Text that is no markup wherever it stands; what cannot be seen, or turns the direction, as \\x1b or \\u202e."""
    seen = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return html.escape(seen)


def share(part: int, whole: int) -> str:
    return f"{part / whole:.2%}".replace("%", " %") if whole else "–"


def svg(name: str, label: str, height: float, draw: Callable[["Figure"], None]) -> str:
    """An svg element; `label` says what it shows to those who cannot see it, `name` sets its ids apart."""
    # What it says of building its font cache, once on a machine, is of no use to who prepares data.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib.style
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    written = io.BytesIO()
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=(7.6, height), layout="constrained")
        canvas = FigureCanvasSVG(figure)
        draw(figure)
        canvas.print_svg(written, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = written.getvalue().decode()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def figure(heading: str, drawing: str) -> str:
    """A heading with an svg element below."""
    return f'<h2>{heading}</h2>\n<figure class="wide">{drawing}</figure>'
