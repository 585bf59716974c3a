"""A split in pieces: so many sessions each, measured one at a time, here or on any machine.

The cut follows from the prepared folder alone, never from the number of workers: a piece is ranked in the same blocks
whoever does it, and what all pieces add up to has the same bits.
"""

from typing import NamedTuple

import pyarrow as pa

from gru4rec.sessions.prepared import Prepared, Sessions, Shard, flatten

SESSIONS = 4096
"""Sessions of a piece: as many as go through the network at once."""


class Piece(NamedTuple):
    """Sessions `skipped` … `skipped + rows − 1` of a row group, which are number `first` … of the split."""

    number: int
    shard: Shard
    skipped: int
    rows: int
    first: int


def cut(prepared: Prepared, split: str) -> list[Piece]:
    """The pieces of a split in the order of its sessions; at most `SESSIONS` each, none over two row groups.

    Raises InputError that names a bad file.
    """
    found: list[Piece] = []
    first = 0
    for shard in prepared.shards(split):
        for skipped in range(0, shard.sessions, SESSIONS):
            rows = min(SESSIONS, shard.sessions - skipped)
            found.append(Piece(len(found), shard, skipped, rows, first))
            first += rows
    return found


def read(piece: Piece) -> tuple[Sessions, pa.Table]:
    """The clicked items of the sessions, and the sessions' `session_id` and `start`.

    Raises InputError that names the file where it is missing or corrupt, or was prepared anew.
    """
    wanted, batches, left = piece.skipped, [], piece.rows
    for batch in piece.shard.tables(["session_id", "start", "items"]):
        part = batch.slice(min(wanted, len(batch)), left)
        wanted -= min(wanted, len(batch))
        left -= len(part)
        batches.append(part)
        if not left:
            break
    table = pa.Table.from_batches(batches)
    return flatten(table["items"]), table.select(["session_id", "start"])
