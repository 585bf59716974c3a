"""Sessions of one file → Parquet with its row groups, and the digest of what it holds."""

import hashlib
import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gru4rec import storage
from gru4rec.sessions import clean, layout
from gru4rec.sessions.prepared import SPLITS

MOMENT = pa.timestamp("ms", "UTC")


def ordered(sessions: pa.Table) -> pa.Table:
    """In order of start, ties by first appearance."""
    start, _ = clean.starts_and_ends(sessions)
    return sessions.take(pa.array(np.lexsort((sessions["position"].to_numpy(), start))))


def contract(sessions: pa.Table) -> pa.Table:
    """The columns that readers see: session_id, start, items list<int32>, times list<timestamp[ms]>."""
    start, _ = clean.starts_and_ends(sessions)
    return pa.table(
        {
            "session_id": sessions["session"],
            "start": pa.array(start).cast(MOMENT),
            "items": sessions["items"],
            "times": sessions["times"].cast(pa.list_(pa.timestamp("ms"))),
        }
    )


def digest(sessions: pa.Table) -> str:
    """SHA-256 of the values of the sessions of the contract, in their order, however they are chunked."""
    found = hashlib.sha256()
    ids = sessions["session_id"].combine_chunks()
    if not pa.types.is_integer(ids.type):
        found.update(pc.binary_length(ids).to_numpy(zero_copy_only=False).astype("<i8").tobytes())
        found.update("".join(ids.to_pylist()).encode())
    else:
        found.update(ids.to_numpy(zero_copy_only=False).astype("<i8").tobytes())
    for column in (pc.list_value_length(sessions["items"]), pc.list_flatten(sessions["items"])):
        found.update(column.to_numpy().astype("<i8").tobytes())
    found.update(pc.list_flatten(sessions["times"]).cast(pa.int64()).to_numpy().astype("<i8").tobytes())
    return found.hexdigest()


def write_file(sessions: pa.Table, folder: str, split: int, number: int, shards: int) -> dict[str, Any]:
    """Write one file of a split.

    `sessions`: of this file, without empty ones, item indices, in any order. `shards`: its row groups.
    Returns the entry of the file for prepare.json, with its digest.
    """
    table = contract(ordered(sessions))
    lengths = clean.lengths(table)
    if split != clean.TRAIN:
        shards = -(-int(lengths.sum()) // layout.CLICKS_PER_ROW_GROUP)
    shard = layout.shard_of(lengths, shards)
    cuts = np.concatenate([np.flatnonzero(np.diff(shard, prepend=-1)), [len(shard)]])
    name = f"part-{number:05d}.parquet"
    filesystem, inner = storage.locate(storage.join(folder, SPLITS[split], name))
    with filesystem.open_output_stream(inner) as stream, pq.ParquetWriter(stream, table.schema) as writer:
        for start, end in itertools.pairwise(cuts.tolist()):
            writer.write_table(table.slice(start, end - start), row_group_size=end - start)
    return {
        "name": name,
        "sessions": len(table),
        "clicks": int(lengths.sum()),
        "transitions": int((lengths - 1).sum()),
        "row_groups": len(cuts) - 1,
        "digest": digest(table),
    }
