"""Recommendations for a table of sessions: item ids in, the k best item ids and their scores out."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gru4rec.model.encode import Final, final
from gru4rec.model.network import GRU4Rec
from gru4rec.scoring.topk import Assortment, assortment, best_items
from gru4rec.sessions.catalogue import UNKNOWN, Catalogue, Encoder, encoder
from gru4rec.sessions.prepared import Sessions


class Rules(NamedTuple):
    """What a list may show, and how long it is; see `recommend`."""

    k: int = 20
    exclude_seen: bool = False
    banned: np.ndarray | None = None  # [n] int64: indices of items
    within: Assortment | None = None
    min_score: float | None = None
    embeddings: bool = False
    multiple: int = 1


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


def select(sessions: Sessions, rows: np.ndarray, first: np.ndarray | None = None) -> Sessions:
    """The sessions at positions `rows`, each from its click number `first` on (0, where that is not given)."""
    skipped = np.zeros(len(rows), np.int64) if first is None else first
    lengths = sessions.lengths[rows] - skipped
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    at = np.arange(offsets[-1]) + np.repeat(sessions.offsets[rows] + skipped - offsets[:-1], lengths)
    return Sessions(offsets, sessions.items[at])


def recommend(
    model: GRU4Rec,
    known: Catalogue,
    sessions: pa.Table,
    k: int = 20,
    exclude_seen: bool = False,
    encode: Encoder | None = None,
    banned: np.ndarray | None = None,
    within: Assortment | None = None,
    min_score: float | None = None,
    embeddings: bool = False,
    multiple: int = 1,
) -> pa.Table:
    """The k best items for the next click of each session; one row in, one row out, in the same order.

    `sessions` has `items` (lists of item ids) and `session_id`; `banned` [n] int64 are indices of items that no list
    shows; with `within`, lists are of those items alone, with `min_score`, of items that score as much. The result has
    `session_id`, `items` list<item id>, `scores` list<float32>, best first, ties by item index; `fallback`, true where
    no click was known and the list is by popularity (its scores are supports); and `unknown_clicks` int32; with
    `embeddings`, `embedding`, D float32: the network's output after the last known click, which scores an item by the
    product with its row, plus its bias; null where there was none. Lists have k items, or as many as there are (the
    catalogue or `within`, less what is banned, with `exclude_seen` what was clicked, and what scores less than
    `min_score`, which is not asked of lists by popularity). For `multiple` see `steady`. Raises InputError for ids of a
    type that cannot match and ValueError where a score is not finite.
    """
    clicks, unknown = known_clicks(sessions["items"], encode or encoder(known))
    rules = Rules(k, exclude_seen, banned, within, min_score, embeddings, multiple)
    return lists(model, known, sessions["session_id"], clicks, unknown, final(model, clicks, None, multiple), rules)


def lists(
    model: GRU4Rec,
    known: Catalogue,
    session_id: pa.ChunkedArray | pa.Array,
    clicks: Sessions,
    unknown: np.ndarray,
    ended: Final,
    rules: Rules,
) -> pa.Table:
    """What `recommend` gives for sessions with these known clicks, after which they are as in `ended`.

    `unknown` [n] counts the unknown clicks of each. Sessions that clicked the same are ranked once.
    """
    within = rules.within or assortment(model)
    count, width = clicks.count, min(rules.k, len(within.table))
    rows = np.flatnonzero(ended.of >= 0)
    popular = _popular(known, within, rules.banned, width)
    indices, scores = np.zeros((count, width), np.int64), np.full((count, width), -np.inf, np.float32)
    indices[:, : len(popular)] = popular
    scores[:, : len(popular)] = known.support[popular]
    if len(rows):
        excluded = None
        if rules.exclude_seen:  # those of any session that stands for a row
            excluded = select(clicks, rows[np.unique(ended.of[rows], return_index=True)[1]])
        found = best_items(
            model, ended.output, rules.k, excluded, banned=rules.banned, within=within, multiple=rules.multiple
        )
        best, places = (part.cpu().numpy() for part in found)
        if rules.min_score is not None:
            best = np.where(best >= np.float32(rules.min_score), best, -np.inf)
        indices[rows], scores[rows] = places[ended.of[rows]], best[ended.of[rows]]
    listed = scores > -np.inf
    if listed.all():
        offsets = pa.array(np.arange(count + 1, dtype=np.int32) * width)
        shown, of_shown = indices.reshape(-1), scores.reshape(-1)
    else:
        offsets = pa.array(np.concatenate([[0], np.cumsum(listed.sum(1))]).astype(np.int32))
        shown, of_shown = indices[listed], scores[listed]
    table = {
        "session_id": session_id,
        "items": pa.ListArray.from_arrays(offsets, known.ids.take(pa.array(shown))),
        "scores": pa.ListArray.from_arrays(offsets, pa.array(of_shown)),
        "fallback": pa.array(clicks.lengths == 0),
        "unknown_clicks": pa.array(unknown.astype(np.int32)),
    }
    if rules.embeddings:
        table["embedding"] = _embeddings(ended, model.hyperparameters.width)
    return pa.table(table)


def _popular(known: Catalogue, within: Assortment, banned: np.ndarray | None, width: int) -> np.ndarray:
    """The items by popularity that lists may show, `width` at most."""
    popular = known.popular
    if within.items is not None:
        popular = popular[within.places(popular)[1]]
    if banned is not None:
        popular = popular[~np.isin(popular, banned)]
    return popular[:width]


def _embeddings(ended: Final, width: int) -> pa.Array:
    """[sessions] lists of `width` float32: each session's output; null where it has none.

    No fixed-size lists: Parquet does not give those back where some are null.
    """
    known = ended.of >= 0
    values = ended.output.cpu().numpy()[ended.of[known]].reshape(-1)
    offsets = np.concatenate([[0], np.cumsum(known * width)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), mask=pa.array(~known))
