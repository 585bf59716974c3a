"""Recommendations for a table of sessions: item ids in, the k best item ids and their scores out."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gru4rec.errors import InputError
from gru4rec.model.encode import final_states
from gru4rec.model.network import GRU4Rec
from gru4rec.scoring.topk import best_items
from gru4rec.sessions.prepared import Sessions

UNKNOWN = -1
Encoder = Callable[[pa.Array], np.ndarray]


class Catalogue(NamedTuple):
    """The items that a model knows."""

    ids: pa.Array  # [V] in the log's own type; position = item index
    support: np.ndarray  # [V] int64
    popular: np.ndarray  # [V] int64: item indices by support, ties by index


def catalogue(items: pa.Table) -> Catalogue:
    """The catalogue of an items table (item_id, item_index, support). InputError for gaps or doubles."""
    items = items.sort_by("item_index")
    if not np.array_equal(items["item_index"].to_numpy(), np.arange(len(items))):
        raise InputError("the items table does not number its items 0…n−1")
    ids = plain(items["item_id"])
    if len(pc.unique(ids)) != len(ids) or ids.null_count:
        raise InputError("the items table names an item twice, or has one without an id")
    support = items["support"].to_numpy()
    return Catalogue(ids, support, np.argsort(-support, kind="stable"))


def plain(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """One array of it, decoded where it is a dictionary; every kind of string as `string`."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # combine_chunks of more than 2 GB
        raise InputError("more than 2 GB of text in one batch")
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array.cast(pa.string()) if is_text(array.type) else array


def is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def is_integer(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return is_integer(kind.value_type)
    return pa.types.is_integer(kind)


def is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind)
        or pa.types.is_large_list_view(kind)
    )


def check_ids(clicked: pa.DataType, known: pa.DataType) -> None:
    """Raises InputError where ids of type `clicked` can never equal ids of type `known`."""
    same = (is_text(clicked) and is_text(known)) or (is_integer(clicked) and is_integer(known))
    if not same and not pa.types.is_null(clicked):
        raise InputError(
            f"items holds ids of type {clicked}, the model's item ids are {known}: none can match; "
            f"convert the ids to {known}"
        )


def encoder(known: Catalogue, prepared: pa.Table | None = None) -> Encoder:
    """From clicked ids to the model's item indices, [n] int64, UNKNOWN where the model has no such item.

    With `prepared`, the items table of a prepared folder, clicks are that folder's item indices and go
    through its item ids.
    """
    if prepared is None:
        return lambda clicked: _lookup(clicked, known.ids)
    table = _lookup(catalogue(prepared).ids, known.ids)

    def translate(clicked: pa.Array) -> np.ndarray:
        return table[clicked.to_numpy(zero_copy_only=False)]

    return translate


def _lookup(clicked: pa.Array, ids: pa.Array) -> np.ndarray:
    check_ids(clicked.type, ids.type)
    clicked = plain(clicked)
    if clicked.type != ids.type:
        if pa.types.is_integer(clicked.type) and pa.types.is_integer(ids.type):
            # A number that the catalogue's type cannot hold is an unknown item, not an error.
            low, high = _limits(ids.type)
            fits = pc.and_(_at_least(clicked, low), _at_most(clicked, high))
            clicked = pc.if_else(fits, clicked, pa.scalar(None, clicked.type))
        clicked = clicked.cast(ids.type)
    found = pc.index_in(clicked, value_set=ids, skip_nulls=True)
    return found.fill_null(UNKNOWN).to_numpy().astype(np.int64)


def _limits(kind: pa.DataType) -> tuple[int, int]:
    limits = np.iinfo(kind.to_pandas_dtype())
    return int(limits.min), int(limits.max)


def _at_least(values: pa.Array, low: int) -> pa.Array:
    return pc.greater_equal(values, pa.scalar(max(low, _limits(values.type)[0]), values.type))


def _at_most(values: pa.Array, high: int) -> pa.Array:
    return pc.less_equal(values, pa.scalar(min(high, _limits(values.type)[1]), values.type))


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
) -> pa.Table:
    """The k best items for the next click of each session; one row in, one row out, in the same order.

    `sessions` has `items` (lists of item ids) and `session_id`. The result has `session_id`, `items`
    list<item id>, `scores` list<float32>, best first, ties by item index; `fallback`, true where no click
    was known and the list is by popularity (its scores are supports); and `unknown_clicks` int32. Lists
    have k items, or as many as there are (the catalogue, with `exclude_seen` less what was clicked). Raises
    InputError for ids of a type that cannot match and ValueError where a score is not finite.
    """
    clicks, unknown = known_clicks(sessions["items"], encode or encoder(known))
    count, width = clicks.count, min(k, model.item_count)
    rows = np.flatnonzero(clicks.lengths)
    indices = np.broadcast_to(known.popular[:width], (count, width)).copy()
    scores = known.support[indices].astype(np.float32)
    if len(rows):
        active = select(clicks, rows)
        found = best_items(model, final_states(model, active), k, active if exclude_seen else None)
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
