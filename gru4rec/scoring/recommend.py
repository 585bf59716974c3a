"""Recommendations for a table of sessions: item ids in, the k best item ids and their scores out."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gru4rec.model.encode import final_states
from gru4rec.model.network import GRU4Rec
from gru4rec.scoring.topk import best_items
from gru4rec.sessions.catalogue import UNKNOWN, Catalogue, Encoder, encoder
from gru4rec.sessions.prepared import Sessions


def known_clicks(column: pa.ChunkedArray | pa.Array, encode: Encoder) -> tuple[Sessions, np.ndarray]:
    """Sessions of known items only, and the number of unknown clicks of each, [sessions] int64.

    `column` is any Arrow list; a null list is an empty session, a null click an unknown one.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    clicked = encode(pc.list_flatten(array)) if lengths.any() else np.zeros(0, np.int64)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    known = clicked != UNKNOWN
    kept = np.bincount(owner[known], minlength=len(lengths))
    offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
    return Sessions(offsets, clicked[known].astype(np.int32)), lengths - kept


def select(sessions: Sessions, rows: np.ndarray) -> Sessions:
    """The sessions at positions `rows` (ascending), all others being empty."""
    return Sessions(np.concatenate([[0], np.cumsum(sessions.lengths[rows])]), sessions.items)


def recommend(
    model: GRU4Rec,
    known: Catalogue,
    sessions: pa.Table,
    k: int = 20,
    exclude_seen: bool = False,
    encode: Encoder | None = None,
    banned: np.ndarray | None = None,
) -> pa.Table:
    """The k best items for the next click of each session; one row in, one row out, in the same order.

    `sessions` has `items` (lists of item ids) and `session_id`; `banned` [n] int64 are indices of items that no list
    shows. The result has `session_id`, `items` list<item id>, `scores` list<float32>, best first, ties by item index;
    `fallback`, true where no click was known and the list is by popularity (its scores are supports); and
    `unknown_clicks` int32. Lists have k items, or as many as there are (the catalogue, less what is banned and, with
    `exclude_seen`, what was clicked). Raises InputError for ids of a type that cannot match and ValueError where a
    score is not finite.
    """
    clicks, unknown = known_clicks(sessions["items"], encode or encoder(known))
    count, width = clicks.count, min(k, model.item_count)
    rows = np.flatnonzero(clicks.lengths)
    popular = known.popular if banned is None else known.popular[~np.isin(known.popular, banned)]
    indices, scores = np.zeros((count, width), np.int64), np.full((count, width), -np.inf, np.float32)
    indices[:, : len(popular)] = popular[:width]
    scores[:, : len(popular)] = known.support[popular[:width]]
    if len(rows):
        active = select(clicks, rows)
        found = best_items(model, final_states(model, active), k, active if exclude_seen else None, banned=banned)
        scores[rows], indices[rows] = (part.cpu().numpy() for part in found)
    listed = scores > -np.inf
    offsets = pa.array(np.concatenate([[0], np.cumsum(listed.sum(1))]).astype(np.int32))
    return pa.table(
        {
            "session_id": sessions["session_id"],
            "items": pa.ListArray.from_arrays(offsets, known.ids.take(pa.array(indices[listed]))),
            "scores": pa.ListArray.from_arrays(offsets, pa.array(scores[listed])),
            "fallback": pa.array(clicks.lengths == 0),
            "unknown_clicks": pa.array(unknown.astype(np.int32)),
        }
    )
