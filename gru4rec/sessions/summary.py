"""prepare.json: its shape, and the digests in it by which items.parquet is known to be the one that was prepared."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

NAME = "prepare.json"
SPLITS = ("train", "valid", "test")

_COUNTS = ("sessions", "clicks", "transitions")


def parsed(content: bytes) -> dict[str, Any]:
    """What prepare.json says. Raises ValueError that says what is wrong with it: no JSON, or not what readers need."""
    try:
        found = json.loads(content)
    except ValueError as error:
        raise ValueError(f"not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError("does not describe prepared data")
    if not isinstance(found.get("fingerprint"), str):
        raise ValueError("does not describe prepared data: it has no fingerprint")
    if not isinstance(found.get("data", ""), str):
        raise ValueError("does not describe prepared data: data is no name of a folder")
    splits = found.get("splits")
    for name in SPLITS:
        split = splits.get(name) if isinstance(splits, dict) else None
        if not isinstance(split, dict):
            raise ValueError(f"does not describe prepared data: it has no {name} split")
        for count in _COUNTS:
            if type(split.get(count)) is not int:
                raise ValueError(f"does not describe prepared data: the {name} split has no number of {count}")
        files = split.get("files")
        named = isinstance(files, list) and all(
            isinstance(of, dict) and isinstance(of.get("name"), str) for of in files
        )
        if not named:
            raise ValueError(f"does not describe prepared data: the {name} split has no list of files")
    return found


def fingerprint(item_ids: pa.ChunkedArray, splits: Mapping[str, Any]) -> str:
    """Digest of items and sessions in their order; the same for any number of partitions.

    `item_ids`: in order of the index, whole numbers or text. `splits`: of prepare.json; a file without a digest counts
    as one whose digest is empty.
    """
    found = hashlib.sha256()
    items = item_ids.combine_chunks()
    found.update(str(items.type).encode())
    if pa.types.is_integer(items.type):
        found.update(items.to_numpy().astype("<i8").tobytes())
    else:
        found.update("\0".join(items.to_pylist()).encode())
    for name in SPLITS:
        found.update(name.encode())
        for file in splits[name]["files"]:
            found.update(file.get("digest", "").encode())
    return found.hexdigest()


def support_digest(support: pa.ChunkedArray) -> str:
    """Digest of the clicks of each item in the training split, in order of the index."""
    return hashlib.sha256(support.to_numpy().astype("<i8").tobytes()).hexdigest()


def fits(items: pa.Table, summary: Mapping[str, Any]) -> bool:
    """Whether `items`, the content of items.parquet, is the one that was prepared.

    Where `summary`, what prepare.json says, is of a release that kept no digest of the supports, their sum is compared
    with the clicks of the training split.
    """
    for name, kind in (("item_id", None), ("item_index", pa.int32()), ("support", pa.int64())):
        if name not in items.column_names or items[name].null_count or items[name].type != (kind or items[name].type):
            return False
    if not np.array_equal(items["item_index"].to_numpy(), np.arange(len(items))):
        return False
    if fingerprint(items["item_id"], summary["splits"]) != summary["fingerprint"]:
        return False
    if "support_digest" in summary:
        return support_digest(items["support"]) == summary["support_digest"]
    return int(items["support"].to_numpy().sum()) == summary["splits"]["train"]["clicks"]
