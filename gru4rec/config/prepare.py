"""Settings of prepare, and of the simulated log."""

import re
from dataclasses import dataclass
from typing import Literal

from gru4rec.config.common import REQUIRED, Common, setting

_NO_SEPARATOR = '"\r\n\0'


@dataclass(frozen=True)
class Prepare(Common):
    """Turn raw click logs into clean sessions in time order, in Parquet."""

    clicks: tuple[str, ...] = setting(
        REQUIRED,
        "Click log: files, folders or globs. Of a folder, files named .csv .tsv .txt .dat .inter .parquet .pq are read "
        "and others counted; a file that is named itself, or by a glob, is text unless named .parquet or .pq.",
        min_length=1,
    )
    test_clicks: tuple[str, ...] = setting((), "Click log of the test split, where the data comes already split.")
    base: str = setting(
        "",
        "Prepared folder to go on from: its clicks are taken from there, and of --clicks only files that it is not "
        "made of are read. Its items keep their index, new ones come after them. It can be --out itself.",
    )
    out: str = setting(REQUIRED, "Folder for the prepared data.")
    format: Literal["columns", "yoochoose", "diginetica", "retailrocket", "globo", "uci-eshop", "movielens"] = setting(
        "columns",
        "Form of the log: 'columns' (named columns) or that of a published log: 'yoochoose' (no header: session, ISO "
        "time, item, category), 'diginetica' (train-item-views.csv), 'retailrocket' (events.csv: views, sessions of a "
        "visitor by --session-gap 30m), 'globo' (hourly files), 'uci-eshop', 'movielens' (.inter: a user is a session, "
        "a rating a click).",
    )
    session_column: str = setting("SessionId", "Name of the session column (format 'columns').")
    user_column: str = setting(
        "",
        "Name of a column of users, where there is none of sessions (format 'columns'): sessions are cut by "
        "--session-gap, and the id of one is USER_TIME, with the time of its first click in ms.",
    )
    session_gap: str = setting(
        "",
        "A click more than this after the user's click before begins a new session: a number and s, m or h, such as "
        "30m (with --user-column; format 'retailrocket' has 30m).",
    )
    item_column: str = setting("ItemId", "Name of the item column (format 'columns').")
    time_column: str = setting("Time", "Name of the time column (format 'columns').")
    time_unit: Literal["s", "ms", "us", "ns"] = setting(
        "s",
        "Unit of times given as numbers since 1970 UTC (format 'columns'); ISO-8601 text is recognised by itself.",
    )
    separator: str = setting(
        "",
        "Column separator of text files (format 'columns'): one ASCII character, or \\t for a tab; default: by the "
        "file's name (tab for .tsv, .txt and .inter, else comma).",
    )
    drop_duplicates: bool = setting(
        False, "Cleaning, step 1: leave out clicks of the same session, item and time as another, but the first."
    )
    drop_repeats: bool = setting(False, "Cleaning, step 2: leave out clicks on the item of the session's click before.")
    min_session_length: int = setting(2, "Cleaning, step 3: leave out sessions with fewer clicks than this.", ge=1)
    max_session_length: int = setting(
        0, "Cleaning, step 4: leave out sessions with more clicks than this (robots); 0 is no limit.", ge=0
    )
    max_clicks_per_minute: int = setting(
        0,
        "Cleaning, step 5: leave out sessions with more clicks than this in any 60 seconds (robots); 0 is no limit.",
        ge=0,
    )
    min_item_support: int = setting(
        5,
        "Cleaning, step 7 (6 is the split): leave out items with fewer clicks than this in the training split; step 8: "
        "training sessions that are then too short.",
        ge=1,
    )
    filter: Literal["once", "fixpoint"] = setting(
        "once",
        "Steps 7 and 8 are done 'once', so that an item can end up with less support, or again and again until nothing "
        "changes ('fixpoint'). Steps 9 and 10: validation and test clicks on items unknown in training, and sessions "
        "that are then too short.",
    )
    split_by: Literal["auto", "end", "start"] = setting(
        "auto",
        "Split by the time of a session's 'end' (no training click is at or after the split) or 'start' (no training "
        "session starts at or after it; later clicks of one that began before stay with it and are counted); 'auto': "
        "end, for format 'globo' start. Sessions are never cut.",
    )
    test_days: float = setting(
        1.0, "Sessions that end (or start) in the last so many days are the test split (unless --test-clicks).", ge=0
    )
    valid_days: float = setting(
        0.0, "Sessions that end (or start) in the so many days before are the validation split.", ge=0
    )
    shards: int = setting(256, "Logical shards (row groups) of the training split, near-equal in clicks.", ge=1)
    partitions: int = setting(
        0,
        "Partitions that sessions are hashed into while they are put together; 0: by the size of the log.",
        ge=0,
    )
    strict: bool = setting(False, "Stop at the first row that cannot be read instead of setting it aside in rejected/.")
    force: bool = setting(False, "Prepare even where the folder is already made of these files with these settings.")
    report: bool = setting(True, "Write report.html, the data in figures and tables, beside the prepared data.")

    def __post_init__(self) -> None:
        """Raises ValueError for a separator that is none, and for settings that contradict each other."""
        if self.separator == "\\t":  # as a shell hands it on
            object.__setattr__(self, "separator", "\t")
        if self.separator and (
            len(self.separator) > 1 or not self.separator.isascii() or self.separator in _NO_SEPARATOR
        ):
            raise ValueError(
                "--separator: one ASCII character, neither a double quote nor an end of line, or \\t for a tab, got "
                f"{self.separator!r}"
            )
        if self.session_gap and not self.gap:
            raise ValueError(f"--session-gap: a number above 0 and s, m or h, such as 30m, got {self.session_gap!r}")
        if self.user_column and not self.gap:
            raise ValueError("--user-column: needs --session-gap")
        if self.user_column and self.session_column != type(self).session_column:
            raise ValueError("--user-column and --session-column: give one of them")

    @property
    def gap(self) -> int:
        """The session gap in ms; 0 where there is none, or none that can be read."""
        found = re.fullmatch(r"(\d{1,9})([smh])", self.session_gap)
        return int(found[1]) * {"s": 1_000, "m": 60_000, "h": 3_600_000}[found[2]] if found else 0


@dataclass(frozen=True)
class Simulation:
    """What a simulated click log looks like."""

    sessions: int = setting(20_000, "Sessions to simulate.", ge=1)
    items: int = setting(1_000, "Items in the catalogue.", ge=2)
    days: float = setting(14.0, "Days that the log spans.", gt=0)
    mean_length: float = setting(5.0, "Mean clicks of a session.", ge=1)
    skew: float = setting(1.0, "Exponent of the popularity skew (Zipf); 0 is none.", ge=0)
    drift: float = setting(
        0.2, "Share of the popularity that moves to other items between the first and last day.", ge=0, le=1
    )
    simulation_seed: int = setting(7, "Seed of the simulated log.", ge=0, lt=2**32)


@dataclass(frozen=True)
class Simulate(Simulation, Common):
    """Write a simulated click log with learnable structure, at any size."""

    out: str = setting(REQUIRED, "Folder for the Parquet files of the log.")
