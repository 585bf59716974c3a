"""What the data report counts: one pass over a prepared folder, in bounded memory.

Kept are histograms alone. Days are at most those between the years 1970 and 9999, and n clicks have fewer than
sqrt(2n) + 1 different session lengths; only the catalogue's size and these decide how much memory is taken.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gru4rec import storage
from gru4rec.sessions.passes import DAY
from gru4rec.sessions.prepared import REJECTED, SPLITS, Prepared

EXAMPLES = 3
"""Rejected rows that are shown for each reason."""

REASONS = 1000
"""Reasons that are told apart; a hostile log could make up more."""

OTHER = "other reasons"

_DENSE = 2**20  # numbers this near each other are counted in an array


class Tally:
    """How often each whole number occurred: `values` ascending and `counts`, [distinct] int64 each."""

    def __init__(self) -> None:
        self.values, self.counts = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def add(self, numbers: np.ndarray) -> None:
        """Count these numbers, [n] int64, as well."""
        if not len(numbers):
            return
        low = int(numbers.min())
        if int(numbers.max()) - low < _DENSE:
            counts = np.bincount(numbers - low)
            values = np.flatnonzero(counts)
            counts, values = counts[values], values + low
        else:
            values, counts = np.unique(numbers, return_counts=True)
        every = np.concatenate([self.values, values])
        self.values, place = np.unique(every, return_inverse=True)
        both = np.zeros(len(self.values), np.int64)
        np.add.at(both, place, np.concatenate([self.counts, counts]))
        self.counts = both

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def quantile(self, share: float) -> int:
        """The smallest number that at least this share of all does not exceed. There must be one."""
        return int(self.values[np.searchsorted(np.cumsum(self.counts), share * self.total)])

    def binned(self, edges: np.ndarray) -> np.ndarray:
        """How many numbers are in each [edges[i], edges[i + 1]), [edges − 1] int64."""
        before = np.concatenate([[0], np.cumsum(self.counts)])
        return np.diff(before[np.searchsorted(self.values, edges)])


@dataclass(frozen=True)
class Split:
    """Histograms of one split; days are whole days since 1970 UTC."""

    clicks_by_day: Tally = field(default_factory=Tally)
    sessions_by_day: Tally = field(default_factory=Tally)  # by the day of their first click
    lengths: Tally = field(default_factory=Tally)  # clicks of a session


class Rejected(NamedTuple):
    """Rows that could not be read for one reason."""

    reason: str
    rows: int
    examples: list[dict[str, Any]]  # the first: file, row, reason, text


class Counts(NamedTuple):
    """All that the report counts."""

    splits: dict[str, Split]
    test_clicks: np.ndarray  # of each item, [items] int64
    rejected: list[Rejected]  # most frequent first


def count(prepared: Prepared) -> Counts:
    """Count a prepared folder, every column at most once. Raises InputError that names a file that cannot be read."""
    splits = {name: Split() for name in SPLITS}
    test_clicks = np.zeros(len(prepared.items), np.int64)
    for name, split in splits.items():
        columns = ["start", "times", *(["items"] if name == "test" else [])]
        for batch in prepared.batches(name, columns):
            times = batch["times"]
            split.lengths.add(np.diff(times.offsets.to_numpy()).astype(np.int64))
            split.clicks_by_day.add(_ms(times.flatten()) // DAY)
            split.sessions_by_day.add(_ms(batch["start"]) // DAY)
            if name == "test":
                found = np.bincount(batch["items"].flatten().to_numpy())
                test_clicks[: len(found)] += found
    return Counts(splits, test_clicks, _rejected(storage.join(prepared.data, REJECTED)))


def _ms(times: pa.Array) -> np.ndarray:
    return times.cast(pa.int64()).to_numpy(zero_copy_only=False)


def _rejected(folder: str) -> list[Rejected]:
    """Reasons with their rows and first examples, from the files of rejected rows in order of their names."""
    rows: Counter[str] = Counter()
    examples: dict[str, list[dict[str, Any]]] = {}
    for name in storage.list_files(folder, ".parquet"):
        filesystem, inner = storage.locate(storage.join(folder, name))
        with filesystem.open_input_file(inner) as file:
            for batch in pq.ParquetFile(file).iter_batches(use_threads=False):
                encoded = batch["reason"].dictionary_encode()
                codes = encoded.indices.to_numpy()
                for code, found in enumerate(np.bincount(codes).tolist()):
                    reason = encoded.dictionary[code].as_py()
                    reason = reason if reason in rows or len(rows) < REASONS else OTHER
                    rows[reason] += found
                    shown = examples.setdefault(reason, [])
                    if len(shown) < EXAMPLES:
                        places = np.flatnonzero(codes == code)[: EXAMPLES - len(shown)]
                        shown += batch.take(pa.array(places)).to_pylist()
    return [Rejected(reason, rows[reason], examples[reason]) for reason in sorted(rows, key=lambda r: (-rows[r], r))]
