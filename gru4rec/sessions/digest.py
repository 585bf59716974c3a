"""The digest of a file of sessions: of the values in their order, however they are chunked, encoded or compressed."""

import hashlib
from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def digest(ids: pa.DataType, column: Callable[[str], Iterable[pa.Array]]) -> str:
    """SHA-256 of session_id, items and times (start is the first of the times).

    `ids`: type of session_id, whole numbers or text. `column(name)`: the arrays of that column in their order; asked
    for a second time where its lengths come before its values, so that no column need ever be held whole.
    """
    if pa.types.is_integer(ids):
        parts = [("session_id", _numbers)]
    else:
        parts = [("session_id", _text_lengths), ("session_id", _text)]
    parts += [("items", _list_lengths), ("items", _listed), ("times", _listed)]
    found = hashlib.sha256()
    for name, content in parts:
        for array in column(name):
            found.update(content(array))
    return found.hexdigest()


def _numbers(array: pa.Array) -> bytes:
    if array.null_count:
        return b"null"  # prepare writes none: where one is, the digest must differ
    return array.to_numpy(zero_copy_only=False).astype("<i8").tobytes()


def _text_lengths(array: pa.Array) -> bytes:
    return _numbers(pc.binary_length(array))


def _text(array: pa.Array) -> bytes:
    """The text of all strings, one after the other, as it lies in the array's buffer."""
    _, bounds, text = array.buffers()
    if not len(array) or text is None:
        return b""
    wide = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    offsets = np.frombuffer(bounds, np.int64 if wide else np.int32)[array.offset :]
    return memoryview(text)[offsets[0] : offsets[len(array)]].tobytes()


def _list_lengths(array: pa.Array) -> bytes:
    return _numbers(pc.list_value_length(array))


def _listed(array: pa.Array) -> bytes:
    return _numbers(array.flatten().cast(pa.int64()))
