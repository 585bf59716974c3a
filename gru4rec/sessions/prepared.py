"""The prepared folder: what prepare writes and everything else reads.

    DIR/prepare.json        counts of every step, settings, fingerprint, digests
    DIR/items.parquet       item_id (the log's own type), item_index int32, support int64; index 0…n−1
    DIR/train|valid|test/   sessions in Parquet, rows in order of `start` over all files in name order
    DIR/left_out/           clicks that cleaning took away, doubles apart: session_id, item_id, time (ms); for --base
    DIR/files.parquet       the files that it is made of, with size and version; those of its base too
    DIR/rejected/           rows that could not be read, each with its file, row and reason
    DIR/report.html         the data in figures and tables, for people (unless --no-report)

A logical shard is one row group of a training file; shards are numbered in the order of the files' names.

The data do not depend on how the log was cut into files and read, nor on partitions and machines: clicks of a session
are in order of (time, file, row), sessions in order of (start, file and row of the first click), items in order of
their first training click. Files are in order of their paths; so where no two clicks have the same time, nothing but
the rows themselves matters, and where some do, the names of their files and their rows within do.

On an object store, which cannot rename a folder, DIR/prepare.json names the folder inside DIR that holds everything
else ("data": "data-1a2b3c4d"), and preparing again writes another one and replaces prepare.json last. So whoever has
opened a prepared folder there goes on reading what it opened: the data that were replaced are deleted when DIR is
prepared once more. In a local folder everything changes its place at once, and who reads on is told. Who opens the
folder again, in the middle of some work, may find other data there: `check_is` tells.
"""

import datetime
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gru4rec import storage
from gru4rec.errors import InputError
from gru4rec.sessions import summary as summaries
from gru4rec.sessions.digest import digest

SUMMARY = summaries.NAME
ITEMS = "items.parquet"
REPORT = "report.html"
REJECTED = "rejected"
LEFT_OUT = "left_out"
FILES = "files.parquet"
SPLITS = summaries.SPLITS

BATCH = 65_536
"""Sessions that are read at a time where a file streams through bounded memory."""

_BUFFER = 2**20  # bytes read at a time; without, all of a column of a row group
REMEDY = "prepare again, with jobs/prepare.py --force"
_UNREADABLE = (OSError, pa.ArrowException, KeyError)  # KeyError: a column is not there


class Source(Protocol):
    """Sessions that can be read, once or again and again, always in the same order."""

    def batches(self) -> Iterator["Sessions"]:
        """All sessions in their order, in parts of any size."""


class Sessions(NamedTuple):
    """Sessions laid flat: session i clicked `items[offsets[i]:offsets[i + 1]]`, in that order."""

    offsets: np.ndarray  # [sessions + 1] int64, offsets[0] == 0
    items: np.ndarray  # [clicks] int32, item index

    @property
    def count(self) -> int:  # type: ignore[override]
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Clicks of each session, [sessions] int64."""
        return np.diff(self.offsets)

    @property
    def transitions(self) -> int:
        """Pairs of neighbouring clicks: what is trained, and what is predicted."""
        return int(np.maximum(self.lengths - 1, 0).sum())

    def batches(self) -> Iterator["Sessions"]:
        """These sessions, once: sessions in memory are a source of one batch."""
        yield self


def flatten(column: pa.ChunkedArray | pa.Array) -> Sessions:
    """Sessions from an Arrow column of list<integer>; null lists count as empty."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if column.null_count:
        column = column.fill_null([])
    offsets = column.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    items = column.values.slice(offsets[0], offsets[-1] - offsets[0]).to_numpy(zero_copy_only=False)
    return Sessions(offsets - offsets[0], items.astype(np.int32, copy=False))


def concatenate(parts: list[Sessions]) -> Sessions:
    """The sessions of all parts, in order."""
    if not parts:
        return Sessions(np.zeros(1, np.int64), np.zeros(0, np.int32))
    starts = np.cumsum([0] + [len(part.items) for part in parts])
    offsets = [part.offsets[:-1] + start for part, start in zip(parts, starts, strict=False)]
    return Sessions(np.concatenate([*offsets, starts[-1:]]), np.concatenate([part.items for part in parts]))


class Version(NamedTuple):
    """Tells which version of a prepared folder was opened."""

    summary: str  # path of its prepare.json
    stamp: tuple[int, int] | None  # None: an object store, where each version has a folder of its own

    def check(self) -> None:
        """Raises InputError where the folder has another version by now: what was opened before is whole."""
        now = storage.stamp(self.summary) if self.stamp else None
        if now and now != self.stamp:
            raise InputError(
                f"{self.summary.rpartition('/')[0]}: was prepared anew while it was read; run again, with the new data"
            )


@dataclass(frozen=True)
class Shard:
    """One logical shard: a row group of a file."""

    path: str
    row_group: int
    version: Version | None = None  # None: files that nobody replaces
    sessions: int = 0  # that it has, where known

    def read(self) -> Sessions:
        """All its sessions in memory. Raises InputError as `batches` does."""
        return concatenate(list(self.batches()))

    def batches(self, sessions: int = BATCH) -> Iterator[Sessions]:
        """Its sessions, so many at a time, in bounded memory however large the row group.

        Raises InputError that names file and row group where it is missing or corrupt, and where the folder has been
        prepared anew since it was opened.
        """
        for batch in self.tables(["items"], sessions):
            yield flatten(batch["items"])

    def tables(self, columns: list[str], sessions: int = BATCH) -> Iterator[pa.RecordBatch]:
        """Columns of its sessions, as `batches`."""
        try:
            yield from _batches(self.path, columns, sessions, [self.row_group], self.version)
        except _UNREADABLE as error:
            if self.version:
                self.version.check()
            raise InputError(
                f"{storage.shown(self.path)}: row group {self.row_group} cannot be read: {error}"
            ) from error


@dataclass(frozen=True)
class Shuffled:
    """A shard whose sessions come in another order; all of them are in memory while they are given.

    `generator` makes the random generator anew each time, so that the order is always the same.
    """

    shard: Shard
    generator: Callable[[], np.random.Generator]

    def batches(self) -> Iterator[Sessions]:
        yield shuffled(self.shard.read(), self.generator())


def _batches(
    path: str,
    columns: list[str],
    rows: int = BATCH,
    row_groups: list[int] | None = None,
    version: Version | None = None,
) -> Iterator[pa.RecordBatch]:
    """Columns of a Parquet file, so many rows at a time, in bounded memory. Raises one of _UNREADABLE, and InputError
    where the file is not of this version of the folder.
    """
    filesystem, inner = storage.locate(path)
    with filesystem.open_input_file(inner) as file:
        if version:
            version.check()  # once open, the file stays what it is
        parquet = pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)
        yield from parquet.iter_batches(rows, row_groups=row_groups, columns=columns, use_threads=False)


class Prepared:
    """A prepared folder, opened for reading."""

    def __init__(self, folder: str) -> None:
        """Raises InputError where `folder` was not prepared, or not completely, or prepare.json is not whole."""
        self.folder = storage.absolute(folder)
        if not storage.exists(self.folder):
            raise InputError(f"{folder}: no such folder; make it with jobs/prepare.py --out {folder}")
        path = storage.join(self.folder, SUMMARY)
        try:
            content, stamp = storage.read_stamped(path)
            self.summary: dict[str, Any] = summaries.parsed(content)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError(
                f"{folder}: not a prepared folder (it has no {SUMMARY}); make one with jobs/prepare.py --out"
            ) from error
        except ValueError as error:
            shown = storage.shown(storage.join(folder, SUMMARY))
            raise InputError(f"{shown}: {error}; prepare again, with jobs/prepare.py --out") from error
        self._version = Version(path, stamp)

    @property
    def data(self) -> str:
        """Where everything but prepare.json lies: the folder itself, or on an object store a folder in it."""
        return storage.join(self.folder, *filter(None, [self.summary.get("data")]))

    @property
    def fingerprint(self) -> str:
        """Digest of the data in this folder: equal where items and sessions are equal."""
        return self.summary["fingerprint"]

    def check_is(self, fingerprint: str, whose: str) -> None:
        """Raises InputError unless these are the data of that fingerprint, with which `whose` ("run X") was begun."""
        if self.fingerprint != fingerprint:
            raise InputError(
                f"{storage.shown(self.folder)}: is not the data that {whose} was begun with: it was prepared anew "
                f"(fingerprint {self.fingerprint[:12]}… in {SUMMARY}, {fingerprint[:12]}… then): prepare the same data "
                "again, or begin another, with a name of its own, on these"
            )

    @functools.cached_property
    def items(self) -> pa.Table:
        """item_id, item_index and support, in order of the index."""
        path = storage.join(self.data, ITEMS)
        filesystem, inner = storage.locate(path)
        try:
            with filesystem.open_input_file(inner) as file:
                self._version.check()
                return pq.ParquetFile(file).read()
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{storage.shown(path)}: cannot be read: {error}") from error

    @property
    def support(self) -> np.ndarray:
        """Clicks of each item in the training split, [items] int64."""
        return self.items["support"].to_numpy()

    def items_of(self, splits: Sequence[str]) -> pa.Table:
        """The items table with the clicks of all these splits as support; `train` must be among them."""
        support = self.support
        for split in splits:
            if split != "train":
                for shard in self.shards(split):
                    for batch in shard.batches():
                        support = support + np.bincount(batch.items, minlength=len(support))
        return self.items.set_column(self.items.column_names.index("support"), "support", pa.array(support))

    def files(self, split: str) -> list[str]:
        """Paths of the split's files in the order of their sessions. Raises InputError where one is
        missing.
        """
        folder = storage.join(self.data, split)
        listed = [entry["name"] for entry in self.summary["splits"][split]["files"]]
        missing = sorted(set(listed) - set(storage.list_files(folder)))
        if missing:
            self._version.check()
            raise InputError(
                f"{storage.shown(storage.join(folder, missing[0]))}: is missing (it is listed in {SUMMARY})"
            )
        return [storage.join(folder, name) for name in listed]

    def shards(self, split: str = "train") -> list[Shard]:
        """Logical shards of a split, in time order. Raises InputError that names a bad file."""
        found = []
        for path in self.files(split):
            filesystem, inner = storage.locate(path)
            try:
                with filesystem.open_input_file(inner) as file:
                    self._version.check()
                    footer = pq.ParquetFile(file).metadata
            except (OSError, pa.ArrowException) as error:
                raise InputError(f"{storage.shown(path)}: not a readable Parquet file: {error}") from error
            found += [
                Shard(path, group, self._version, footer.row_group(group).num_rows)
                for group in range(footer.num_row_groups)
            ]
        return found

    def batches(self, split: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Columns of all sessions of a split, in time order, in parts, in bounded memory.

        Raises InputError that names the file that is missing or corrupt.
        """
        for path in self.files(split):
            try:
                yield from _batches(path, columns)
            except _UNREADABLE as error:
                raise InputError(f"{storage.shown(path)}: cannot be read: {error}") from error

    def span(self, split: str) -> tuple[datetime.datetime, datetime.datetime] | None:
        """The times of the first and the last click of a split, UTC, from its files' statistics; None where unknown.

        Raises InputError that names a bad file.
        """
        bounds = []
        for path in self.files(split):
            filesystem, inner = storage.locate(path)
            try:
                with filesystem.open_input_file(inner) as file:
                    self._version.check()
                    found = pq.ParquetFile(file).metadata
            except (OSError, pa.ArrowException) as error:
                raise InputError(f"{storage.shown(path)}: not a readable Parquet file: {error}") from error
            for group in map(found.row_group, range(found.num_row_groups)):
                columns = [group.column(number) for number in range(group.num_columns)]
                of_times = [column.statistics for column in columns if column.path_in_schema.startswith("times.")]
                if not of_times or of_times[0] is None or not of_times[0].has_min_max:
                    return None
                bounds += [of_times[0].min, of_times[0].max]
        return (min(bounds), max(bounds)) if bounds else None

    def verify(self, split: str, part: int = 0, of: int = 1) -> None:
        """Check files part, part + of, … of the split against the digests of prepare.json, in bounded memory.

        Covers every value of the sessions. Raises InputError that names the first file that is missing, unreadable,
        or holds other sessions than those that were prepared.
        """
        listed = zip(self.files(split), self.summary["splits"][split]["files"], strict=True)
        for path, entry in list(listed)[part::of]:
            if "digest" not in entry:
                raise InputError(f"{storage.shown(path)}: has no digest in {SUMMARY}: {REMEDY}")
            try:
                whole = entry["digest"] == _digest(path) and _starts_fit(path)
                self._version.check()
            except _UNREADABLE as error:
                self._version.check()
                raise InputError(f"{storage.shown(path)}: is damaged: {error}: {REMEDY}") from error
            if not whole:
                raise InputError(
                    f"{storage.shown(path)}: is damaged: its sessions are not those that were prepared "
                    f"(digest {entry['digest'][:12]}… in {SUMMARY}): {REMEDY}"
                )

    def verify_items(self) -> None:
        """Check items.parquet against prepare.json: item ids in order of their index, and their support.

        Raises InputError where it cannot be read or holds other items than those that were prepared.
        """
        if not summaries.fits(self.items, self.summary):
            raise InputError(
                f"{storage.shown(storage.join(self.data, ITEMS))}: is damaged: its items are not those that were "
                f"prepared (fingerprint {self.fingerprint[:12]}… in {SUMMARY}): {REMEDY}"
            )

    def read(self, split: str) -> Sessions:
        """All sessions of a split, in time order, in memory."""
        return concatenate([shard.read() for shard in self.shards(split)])


def _digest(path: str) -> str:
    """Digest of a file of sessions. Raises one of _UNREADABLE."""
    filesystem, inner = storage.locate(path)
    with filesystem.open_input_file(inner) as file:
        ids = pq.ParquetFile(file).schema_arrow.field("session_id").type
    return digest(ids, lambda name: (batch[name] for batch in _batches(path, [name])))


def _starts_fit(path: str) -> bool:
    """Whether each session's start is its first time: the digest covers the times alone."""
    for batch in _batches(path, ["start", "times"]):
        start, bounds = batch["start"].cast(pa.int64()), batch["times"].offsets.to_numpy()
        times = batch["times"].values.cast(pa.int64())
        if not start.equals(times.take(pa.array(bounds[:-1]))):
            return False
    return True


def shuffled(sessions: Sessions, generator: np.random.Generator) -> Sessions:
    """The same sessions in another order."""
    order = generator.permutation(sessions.count)
    lengths = sessions.lengths[order]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    places = np.arange(offsets[-1]) + np.repeat(sessions.offsets[order] - offsets[:-1], lengths)
    return Sessions(offsets, sessions.items[places])
