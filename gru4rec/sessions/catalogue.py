"""The catalogue: which item an index means, and which index an item id has."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gru4rec.errors import InputError

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


def quick_encoder(known: Catalogue) -> Encoder:
    """As `encoder`, for a few clicks at a time: the catalogue is put into a table once, not at each call.

    The table takes some 150 bytes an item.
    """
    table = {item: index for index, item in enumerate(known.ids.to_pylist())}

    def translate(clicked: pa.Array) -> np.ndarray:
        found = [table.get(item, UNKNOWN) for item in _converted(clicked, known.ids).to_pylist()]
        return np.array(found, np.int64)

    return translate


def _lookup(clicked: pa.Array, ids: pa.Array) -> np.ndarray:
    found = pc.index_in(_converted(clicked, ids), value_set=ids, skip_nulls=True)
    return found.fill_null(UNKNOWN).to_numpy().astype(np.int64)


def _converted(clicked: pa.Array, ids: pa.Array) -> pa.Array:
    """The clicks in the type of the ids, null where that cannot hold them."""
    check_ids(clicked.type, ids.type)
    clicked = plain(clicked)
    if clicked.type != ids.type:
        if pa.types.is_integer(clicked.type) and pa.types.is_integer(ids.type):
            # A number that the catalogue's type cannot hold is an unknown item, not an error.
            low, high = _limits(ids.type)
            fits = pc.and_(_at_least(clicked, low), _at_most(clicked, high))
            clicked = pc.if_else(fits, clicked, pa.scalar(None, clicked.type))
        clicked = clicked.cast(ids.type)
    return clicked


def _limits(kind: pa.DataType) -> tuple[int, int]:
    limits = np.iinfo(kind.to_pandas_dtype())
    return int(limits.min), int(limits.max)


def _at_least(values: pa.Array, low: int) -> pa.Array:
    return pc.greater_equal(values, pa.scalar(max(low, _limits(values.type)[0]), values.type))


def _at_most(values: pa.Array, high: int) -> pa.Array:
    return pc.less_equal(values, pa.scalar(min(high, _limits(values.type)[1]), values.type))
