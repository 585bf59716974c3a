"""The forms that click logs come in: one entry a form, read by `gru4rec.sessions.read`."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from gru4rec import config
from gru4rec.sessions import times

Clock = Callable[[list[pa.Array], str], tuple[np.ndarray, np.ndarray]]


def one_column(columns: list[pa.Array], unit: str) -> tuple[np.ndarray, np.ndarray]:
    """The time of a click from its one time column: (ms [rows] int64, readable [rows] bool)."""
    return times.milliseconds(columns[0], unit)


@dataclass(frozen=True)
class Format:
    """What the columns of a click log are called and how its text is written."""

    session: str  # column of the session id
    item: str  # column of the item id
    time: tuple[str, ...]  # columns that the clock reads
    columns: tuple[str, ...] = ()  # names by place, for text without a header; () where there is one
    separator: str = ""  # of text files; "": by the file's name
    time_unit: str = "s"  # of times given as numbers
    clock: Clock = one_column  # the time columns → ms

    @property
    def wanted(self) -> tuple[str, ...]:
        """The columns to read: session, item, then those of the time."""
        return (self.session, self.item, *self.time)


FORMATS = {
    "yoochoose": Format(
        session="session",
        item="item",
        time=("time",),
        columns=("session", "time", "item", "category"),
        separator=",",
    ),
}


def chosen(settings: config.Prepare) -> Format:
    """The form that the settings ask for; `columns` takes its names from the settings."""
    if settings.format in FORMATS:
        return FORMATS[settings.format]
    return Format(
        session=settings.session_column,
        item=settings.item_column,
        time=(settings.time_column,),
        separator=settings.separator,
        time_unit=settings.time_unit,
    )
