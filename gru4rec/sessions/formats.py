"""The forms that click logs come in: one entry of FORMATS a form, read by `gru4rec.sessions.read`.

To add a form, write its entry here and its name in `config.Prepare.format`. An entry names the columns of session,
item and time. Where that is not all, it says how the text is written (`columns`, `separator`), which rows are clicks
(`only`), that a column of users stands for sessions (`gap`), that a click's time lies in several columns (`clock`,
below are those there are), or that sessions are split by their start (`split_by`, `start`). Nothing else changes.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from gru4rec import config
from gru4rec.errors import InputError
from gru4rec.sessions import times

Clock = Callable[[list[pa.Array], str], tuple[np.ndarray, np.ndarray]]
"""The time columns and the unit of numbers → (ms [rows] int64, readable [rows] bool)."""

MINUTE = 60_000  # ms


def one_column(columns: list[pa.Array], unit: str) -> tuple[np.ndarray, np.ndarray]:
    """A moment: a number in `unit` since 1970 UTC, or a date."""
    return times.milliseconds(columns[0], unit)


def day_and_offset(columns: list[pa.Array], unit: str) -> tuple[np.ndarray, np.ndarray]:
    """A day (UTC) and a whole number of ms that is added to it."""
    day, is_day = times.milliseconds(columns[0], unit)
    offset, is_offset = times.whole_numbers(columns[1])
    return times.checked(day + offset, is_day & is_offset)


def date_and_order(columns: list[pa.Array], unit: str) -> tuple[np.ndarray, np.ndarray]:
    """Year, month and day (UTC), and the number of the click in its session, which stands for so many ms."""
    day, is_day = times.calendar(*columns[:3])
    order, is_order = times.whole_numbers(columns[3])
    return times.checked(day + order, is_day & is_order)


@dataclass(frozen=True)
class Format:
    """What the columns of a click log are called, how its text is written, and what its sessions are."""

    session: str  # column of the session id; with a gap, of the user id
    item: str  # column of the item id
    time: tuple[str, ...]  # columns that the clock reads
    columns: tuple[str, ...] = ()  # names by place, for text without a header; () where there is one
    separator: str = ""  # of text files; "": by the file's name
    time_unit: str = "s"  # of times given as numbers
    clock: Clock = one_column  # the time columns → ms
    timed: bool = True  # the ms between two clicks of a session mean something; else they keep the order only
    gap: int = 0  # ms; above 0, a user's click more than this after the one before begins a new session
    only: tuple[str, str] | None = None  # (column, value): rows with another value there are no clicks
    split_by: str = "end"  # --split-by auto
    start: str = ""  # column of the session's start, as the clock `one_column` reads it; "": its first click
    published: bool = False  # columns, separator and unit are those of a published log, not of the settings

    @property
    def wanted(self) -> tuple[str, ...]:
        """The columns to read: session, item, those of the time; then those of `start` and `only` where there are."""
        start = (self.start,) if self.start else ()
        only = (self.only[0],) if self.only else ()
        return (self.session, self.item, *self.time, *start, *only)


FORMATS = {
    # RecSys Challenge 2015
    "yoochoose": Format(
        session="session",
        item="item",
        time=("time",),
        columns=("session", "time", "item", "category"),
        separator=",",
    ),
    # CIKM Cup 2016, train-item-views.csv: `timeframe` is ms since the session's first query, on the day `eventdate`
    "diginetica": Format(
        session="session_id",
        item="item_id",
        time=("eventdate", "timeframe"),
        separator=";",
        clock=day_and_offset,
    ),
    # Retailrocket, events.csv
    "retailrocket": Format(
        session="visitorid",
        item="itemid",
        time=("timestamp",),
        separator=",",
        time_unit="ms",
        gap=30 * MINUTE,
        only=("event", "view"),
    ),
    # Globo.com (G1) news, one file an hour: single clicks run weeks past the hour in which their session starts
    "globo": Format(
        session="session_id",
        item="click_article_id",
        time=("click_timestamp",),
        separator=",",
        time_unit="ms",
        split_by="start",
        start="session_start",
    ),
    # UCI, clickstream data for online shopping
    "uci-eshop": Format(
        session="session ID",
        item="page 2 (clothing model)",
        time=("year", "month", "day", "order"),
        separator=";",
        clock=date_and_order,
        timed=False,
    ),
    # MovieLens in atomic files (.inter): a user is a session, a rating a click
    "movielens": Format(session="user_id:token", item="item_id:token", time=("timestamp:float",), separator="\t"),
}


_OF_COLUMNS = ("user_column", "session_column", "item_column", "time_column", "time_unit", "separator")
"""Settings that a published log has no use for."""


def chosen(settings: config.Prepare) -> Format:
    """The form that the settings ask for; `columns` takes its names from the settings.

    Raises InputError for a setting that does not go with the form.
    """
    form = FORMATS.get(settings.format)
    if form is None:
        form = Format(
            session=settings.user_column or settings.session_column,
            item=settings.item_column,
            time=(settings.time_column,),
            separator=settings.separator,
            time_unit=settings.time_unit,
            gap=settings.gap if settings.user_column else 0,
        )
    else:
        form = dataclasses.replace(form, published=True)
        for name in _OF_COLUMNS:
            if getattr(settings, name) != getattr(config.Prepare, name):
                flag = "--" + name.replace("_", "-")
                raise InputError(f"{flag}: needs --format columns, not {settings.format}, which says it itself")
    if settings.gap and not form.gap:
        raise InputError(f"--session-gap: the sessions of --format {settings.format} are given; needs --user-column")
    if settings.max_clicks_per_minute and not form.timed:
        raise InputError(
            f"--max-clicks-per-minute: --format {settings.format} has the order of clicks, not their times"
        )
    return dataclasses.replace(form, gap=settings.gap) if settings.gap else form
