"""The recommendations folder: its part files, their verification, and the manifest that makes them a result.

OUT/part-00000.parquet …   one row a session, in the order of the input
OUT/manifest.json          model, input, settings, rows of each file, totals
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from gru4rec import storage
from gru4rec.errors import GRU4RecError, InputError
from gru4rec.storage import shown

MANIFEST = "manifest.json"
FORMAT = "gru4rec recommendations"
FORMAT_VERSION = 1
PARTITION_ROWS = 5_000_000


class Part(NamedTuple):
    """What one part file holds."""

    name: str
    rows: int
    fallback: int  # sessions with no known click
    short: int  # lists that are shorter than the longest possible
    unknown_clicks: int


def part_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def write_part(folder: str, number: int, table: pa.Table) -> str:
    """Write one part file, whole or not at all; writing it again replaces it. Returns its name."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", compression_level=1)
    storage.write_bytes(storage.join(folder, part_name(number)), sink.getvalue())
    return part_name(number)


def verify(folder: str, name: str, longest: int) -> Part:
    """Read a part file back and check every list; GRU4RecError names the file and row where one is wrong.

    Checked: items and scores are equally long, at most `longest`; the items of a list are distinct; scores
    are finite and do not rise.
    """
    path = storage.join(folder, name)
    parts = []
    filesystem, inner = storage.locate(path)
    with filesystem.open_input_file(inner) as file:
        first = 0
        for batch in pq.ParquetFile(file).iter_batches(batch_size=65_536):
            parts.append(_verify_batch(batch, longest, path, first))
            first += len(batch)
    return Part(name, *(int(sum(column)) for column in zip(*parts, strict=True)) if parts else (0, 0, 0, 0))


def _verify_batch(batch: pa.RecordBatch, longest: int, path: str, first: int) -> tuple[int, int, int, int]:
    items, scores = batch["items"], batch["scores"]
    lengths = pc.list_value_length(items).fill_null(0).to_numpy(zero_copy_only=False)
    scored = pc.list_value_length(scores).fill_null(0).to_numpy(zero_copy_only=False)
    row = np.repeat(np.arange(len(batch)), lengths)
    ids = pc.list_flatten(items)

    def refuse(wrong: np.ndarray, what: str, of: np.ndarray | None = None) -> None:
        """Where an entry of `wrong` is true; it belongs to row `of[i]`, or row i."""
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            number = first + int(at if of is None else of[at])
            raise GRU4RecError(f"{shown(path)}: row {number}: {what}; nothing was published")

    refuse(lengths != scored, "items and scores differ in length")
    refuse(lengths > longest, f"the list is longer than {longest}")
    values = pc.list_flatten(scores).to_numpy(zero_copy_only=False)
    refuse(~np.isfinite(values), "a score is not finite", row)
    refuse((row[1:] == row[:-1]) & (values[1:] > values[:-1]), "the scores are not sorted", row[1:])
    refuse(ids.is_null().to_numpy(zero_copy_only=False), "an item has no id", row)
    codes = ids.dictionary_encode()
    width = max(len(codes.dictionary), 1)
    keys = np.sort(row * width + codes.indices.to_numpy(zero_copy_only=False))
    refuse(keys[1:] == keys[:-1], "an item is listed twice", keys[1:] // width)
    return (
        len(batch),
        pc.sum(batch["fallback"]).as_py() or 0,
        int((lengths < longest).sum()),
        pc.sum(batch["unknown_clicks"]).as_py() or 0,
    )


def partitions(rows: int) -> int:
    """Into how many partitions `distinct_sessions` should cut so many rows, to hold few at a time."""
    return max(1, -(-rows // PARTITION_ROWS))


def distinct_sessions(folder: str, names: Sequence[str], partition: int = 0, of: int = 1) -> int:
    """Distinct session ids of the part files, counting only those that hash to `partition` of `of`.

    The counts of all partitions add up to the total. Each call reads the whole session_id column and holds
    8 bytes for each of its own rows. Ids are told apart by 64-bit hashes.
    """
    kept = []
    for name in names:
        filesystem, inner = storage.locate(storage.join(folder, name))
        with filesystem.open_input_file(inner) as file:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=262_144, columns=["session_id"]):
                hashes = pd.util.hash_array(batch["session_id"].to_pandas().to_numpy(), categorize=False)
                kept.append(np.unique(hashes[hashes % np.uint64(of) == partition]))
    return len(np.unique(np.concatenate(kept))) if kept else 0


def check_out(out: str, sessions: str) -> None:
    """Raises InputError where `out` holds the input, or anything but a recommendations folder."""
    target = storage.absolute(out)
    (filesystem, inner), (source, place) = storage.locate(target), storage.locate(storage.absolute(sessions))
    if filesystem == source and f"{place}/".startswith(f"{inner}/"):
        raise InputError(f"--out {shown(out)}: holds the sessions to score; name another folder")
    kind = filesystem.get_file_info(inner).type
    if kind == fs.FileType.File:
        raise InputError(f"--out {shown(out)}: is a file; name a folder")
    if kind == fs.FileType.NotFound:
        return
    held = filesystem.get_file_info(fs.FileSelector(inner))
    if held and not _is_result(target):
        raise InputError(f"--out {shown(out)}: holds something else ({held[0].base_name}); name a new folder")


def _is_result(folder: str) -> bool:
    try:
        return storage.read_json(storage.join(folder, MANIFEST)).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False


def describe(
    model: dict[str, Any],
    source: dict[str, Any],
    settings: dict[str, Any],
    parts: Sequence[Part],
    seconds: float,
    **totals: Any,
) -> dict[str, Any]:
    """The content of manifest.json."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": model,
        "input": source,
        "settings": settings,
        "files": [{"name": part.name, "rows": part.rows} for part in parts],
        "totals": {
            "sessions": sum(part.rows for part in parts),
            "fallback": sum(part.fallback for part in parts),
            "unknown_clicks": sum(part.unknown_clicks for part in parts),
            "short_lists": sum(part.short for part in parts),
            **totals,
        },
        "seconds": round(seconds, 3),
    }
