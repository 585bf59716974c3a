"""What a result remembers of its sessions for the next night, and what the next night finds of it.

    v7-1a2b3c4d/states-00000.parquet    beside each part: a row a session, in the same order
        clicks   list<int32>     indices of its known clicks
        state    list<float32>   the network's state after them, of all layers, [Σ S·H]; null where there are none

A session's list depends on the model, on the settings and on its known clicks, and on nothing else. So where a night
finds a session whose first clicks are those of a stored state, it goes on from that state; where there are no others,
and the settings are the same, it takes the list as it is. Sessions are looked for by a hash of their ids, which need
not be right: whether a state is used is decided by comparing the clicks themselves.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from gru4rec import storage
from gru4rec.scoring import manifest, parts
from gru4rec.scoring.recommend import select
from gru4rec.sessions.prepared import Sessions, flatten

NIGHTS = 7  # so far back an earlier result is looked for
SMALLEST_SHARE = 1 / 32  # of an earlier part's sessions: where fewer are in a piece, reading them would cost more
_GROUP = 16_384  # sessions of a row group
_ROW = 2**32  # a place is part · _ROW + row


class Earlier(NamedTuple):
    """An earlier result of the same model, with states."""

    folder: str
    name: str  # date and result
    key: str
    rows: tuple[int, ...]  # sessions of each part
    lists: bool  # whether a list of the same clicks would be the same now


class Index(NamedTuple):
    """Where an earlier result's sessions are, 16 bytes a session."""

    hashes: np.ndarray  # [n] uint64, ascending
    places: np.ndarray  # [n] int64
    usable: bool = True  # the earlier result can be read


class Known(NamedTuple):
    """What an earlier result knows of the n sessions of a piece."""

    clicks: np.ndarray  # [n] int64: of how many of its known clicks each has a state, 0 without one
    states: np.ndarray  # [m, Σ S·H] float32 of those that have one, in order
    lists: pa.Table | None  # rows of those of `unchanged`, in order
    unchanged: np.ndarray  # [u] int64: sessions whose list can be taken over, ascending


def states_name(number: int) -> str:
    return f"states-{number:05d}.parquet"


def digest(settings: Mapping[str, Any]) -> str:
    """Of the settings that lists depend on."""
    return hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode()).hexdigest()


def find(out: str, date: str, model: str, lists: str) -> Earlier | None:
    """The newest result with states of the model with digest `model`: of the same date, or of those before it.

    `lists` is the `digest` of the settings.
    """
    found = [manifest.current(manifest.place(out, date)), *(manifest.nights(out, date, NIGHTS) if date else [])]
    for content in found:
        about = (content or {}).get("states")
        if not content or not about or about["model"] != model:
            continue
        place = manifest.place(out, content["date"] or "")
        if storage.sizes(place, [file["name"] for file in about["files"]]) != [f["bytes"] for f in about["files"]]:
            continue
        name = storage.join(f"date={content['date']}" if content["date"] else ".", content["result"])
        rows = tuple(file["rows"] for file in content["files"])
        return Earlier(storage.join(place, content["result"]), name, content["key"], rows, about["lists"] == lists)
    return None


def index(earlier: Earlier) -> Index:
    """The index of its sessions; of several with the same id, any."""
    hashes, places = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    try:
        for part in range(len(earlier.rows)):
            filesystem, inner = storage.locate(storage.join(earlier.folder, parts.part_name(part)))
            with filesystem.open_input_file(inner) as file:
                found = parts.hashes(pq.read_table(file, columns=["session_id"])["session_id"])
            hashes.append(found)
            places.append(part * _ROW + np.arange(len(found)))
    except (OSError, pa.ArrowException):
        return Index(hashes[0], places[0], usable=False)
    flat = np.concatenate(hashes)
    order = np.argsort(flat, kind="stable")
    return Index(flat[order], np.concatenate(places)[order])


def known(earlier: Earlier, at: Index, session_id: pa.ChunkedArray, clicks: Sessions, width: int) -> Known:
    """What an earlier result knows of sessions with these known clicks; `width` is Σ S·H.

    Raises OSError or Arrow's errors where its files cannot be read, or are damaged.
    """
    count, lengths = clicks.count, clicks.lengths
    seen, states, taken = np.zeros(count, np.int64), np.zeros((count, width), np.float32), []
    unchanged = [np.zeros(0, np.int64)]
    place = _places(at, parts.hashes(session_id), lengths)
    for part in np.unique(place[place >= 0] // _ROW):
        wanted = np.flatnonzero(place // _ROW == part)
        if len(wanted) < SMALLEST_SHARE * earlier.rows[part]:
            continue
        rows = place[wanted] % _ROW
        used, found, same = _states(earlier, int(part), rows, select(clicks, wanted), width)
        seen[wanted[used]] = found.clicks
        states[wanted[used]] = found.states
        if earlier.lists and len(same):
            taken.append(_lists(earlier, int(part), rows[same]))
            unchanged.append(wanted[same])
    ours = np.concatenate(unchanged)
    order = np.argsort(ours)
    lists = pa.concat_tables(taken).take(pa.array(order)) if taken else None
    return Known(seen, states[seen > 0], lists, ours[order])


def nothing(count: int, width: int) -> Known:
    """Of sessions that no earlier result knows."""
    return Known(np.zeros(count, np.int64), np.zeros((0, width), np.float32), None, np.zeros(0, np.int64))


def write(folder: str, number: int, clicks: Sessions, states: np.ndarray, footer: Mapping[str, Any]) -> None:
    """Write the states [n, Σ S·H] of a part, rows of sessions without clicks being nobody's; whole or not at all."""
    known = clicks.lengths > 0
    offsets = np.concatenate([[0], np.cumsum(known * states.shape[1])]).astype(np.int32)
    state = pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(np.ascontiguousarray(states[known]).reshape(-1)), mask=pa.array(~known)
    )
    table = pa.table(
        {"clicks": pa.ListArray.from_arrays(pa.array(clicks.offsets.astype(np.int32)), clicks.items), "state": state}
    )
    noted = {parts.FOOTER: json.dumps(dict(footer), sort_keys=True)}
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(noted),
        sink,
        row_group_size=_GROUP,
        use_dictionary=False,
        compression="zstd",
        compression_level=1,
        write_page_checksum=True,  # a wrong bit here would be a wrong list there
    )
    storage.write_bytes(storage.join(folder, states_name(number)), sink.getvalue())


def remove_older(out: str, date: str) -> None:
    """Delete the states of the nights before the last one before `date`: nobody goes on from them any more.

    Of the last `NIGHTS` alone, since each night does this: manifests still name what is long deleted.
    """
    nights = manifest.nights(out, date, NIGHTS)
    newest = next((at for at, content in enumerate(nights) if content.get("states")), len(nights))
    for content in nights[newest + 1 :]:
        place = manifest.place(out, content["date"])
        for name in storage.list_folders(place):  # results that counted before, among them, but none that is being made
            folder = storage.join(place, name)
            if storage.exists(storage.join(folder, manifest.MANIFEST)):
                for file in storage.list_files(folder, ".parquet"):
                    if file.startswith("states-"):
                        storage.remove_file(storage.join(folder, file))


def _places(at: Index, hashes: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Where each session may be, [n] int64; −1 where it is not, or has no click to compare."""
    if not len(at.hashes):
        return np.full(len(hashes), -1)
    found = np.minimum(np.searchsorted(at.hashes, hashes), len(at.hashes) - 1)
    return np.where((at.hashes[found] == hashes) & (lengths > 0), at.places[found], -1)


class _Used(NamedTuple):
    """States of m sessions to go on from."""

    clicks: np.ndarray  # [m] int64: that each has seen
    states: np.ndarray  # [m, Σ S·H] float32


def _states(
    earlier: Earlier, part: int, rows: np.ndarray, clicks: Sessions, width: int
) -> tuple[np.ndarray, _Used, np.ndarray]:
    """Of sessions that may be the `rows` of a part: which have a state to go on from, what it is, which are the same.

    Both as positions in `rows`, ascending.
    """
    filesystem, inner = storage.locate(storage.join(earlier.folder, states_name(part)))
    used, seen, states = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros((0, width), np.float32)]
    with filesystem.open_input_file(inner) as file:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        parts.check_footer(parquet, earlier.key, part)
        start = 0
        for group in range(parquet.metadata.num_row_groups):
            stop = start + parquet.metadata.row_group(group).num_rows
            mine = np.flatnonzero((rows >= start) & (rows < stop))
            if len(mine):
                table = parquet.read_row_group(group).take(pa.array(rows[mine] - start))
                before = flatten(table["clicks"])
                fits = np.flatnonzero(_begin_with(select(clicks, mine), before))
                found = table["state"].combine_chunks().take(pa.array(fits)).flatten().to_numpy()
                used.append(mine[fits])
                seen.append(before.lengths[fits])
                states.append(found.reshape(len(fits), width))
            start = stop
    order = np.argsort(np.concatenate(used))
    at, of = np.concatenate(used)[order], np.concatenate(seen)[order]
    return at, _Used(of, np.concatenate(states)[order]), at[of == clicks.lengths[at]]


def _begin_with(sessions: Sessions, before: Sessions) -> np.ndarray:
    """Which of the sessions begin with all clicks of the one in the same place of `before`, and it has some, [n]."""
    lengths = before.lengths
    fits = (lengths > 0) & (lengths <= sessions.lengths)
    rows = np.flatnonzero(fits)
    old = select(before, rows)
    new = sessions.items[np.arange(len(old.items)) + np.repeat(sessions.offsets[rows] - old.offsets[:-1], old.lengths)]
    owner = np.repeat(rows, old.lengths)
    fits[owner[new != old.items]] = False
    return fits


def _lists(earlier: Earlier, part: int, rows: np.ndarray) -> pa.Table:
    filesystem, inner = storage.locate(storage.join(earlier.folder, parts.part_name(part)))
    with filesystem.open_input_file(inner) as file:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        parts.check_footer(parquet, earlier.key, part)
        return parquet.read().take(pa.array(rows)).replace_schema_metadata(None)


def layers(states: np.ndarray, widths: Sequence[int], device: torch.device) -> list[torch.Tensor]:
    """[n, Σ S·H] as the state [n, S·H] of each layer."""
    return [part.to(device) for part in torch.from_numpy(states).split(list(widths), dim=1)]
