"""The model folder: weights, settings and the item ids that give the indices their meaning.

    FOLDER/model.safetensors   the weights by name
    FOLDER/config.json         format version, hyperparameters, and what else the writer wants known
    FOLDER/items.parquet       item_id (the log's own type), item_index int32 0…n−1, support int64
    FOLDER/optimizer.safetensors   where training was to go on: the optimizer's state by weight; not needed otherwise
    FOLDER/README.md           the model card, for people (model_card.py); nothing reads it

Reading it executes no code from it. Equal models give equal bytes.
"""

import dataclasses
import json
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors
import safetensors.torch
from pyarrow import fs
from torch import Tensor

from gru4rec import storage
from gru4rec.config import Hyperparameters
from gru4rec.errors import InputError
from gru4rec.model.network import GRU4Rec
from gru4rec.storage import shown

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
ITEMS = "items.parquet"
OPTIMIZER = "optimizer.safetensors"
CARD = "README.md"
_HALF = re.compile(re.escape(CARD) + r"\.[0-9a-f]{32}\.tmp")  # a card that was not written to its end
COLUMNS = ["item_id", "item_index", "support"]
FORMAT = "gru4rec model"
FORMAT_VERSION = 1


class LoadedModel(NamedTuple):
    """A model with its catalogue."""

    model: GRU4Rec
    items: pa.Table  # item_id, item_index int32, support int64, in order of the index
    config: dict[str, Any]


def save(
    model: GRU4Rec,
    items: pa.Table,
    folder: str,
    extra: Mapping[str, Any] | None = None,
    optimizer: Mapping[str, Tensor] | None = None,
    card: str = "",
) -> None:
    """Write the model folder; a local `folder` changes from old to new as a whole.

    `items` has item_id, item_index 0…n−1 and support. `extra` joins config.json. `optimizer` is the state by weight
    (`Trainer.optimizer_tensors`), for a training that goes on from this model; `card` the text of the model card. On an
    object store config.json is written last: a folder without it is not a model. Raises InputError where `folder` holds
    something else.
    """
    check_free(folder)
    files = contents(model, items, extra, optimizer)
    if card:
        files = {CARD: card.encode, **files}
    target = storage.absolute(folder)
    local = storage.is_local(target)
    written = f"{target}.{uuid.uuid4().hex}.tmp" if local else target
    try:
        storage.make_folder(written)
        for name, content in files.items():
            storage.write_bytes(storage.join(written, name), content())
        if local:
            storage.publish(written, target, CONFIG)
    finally:
        if local:
            storage.remove_folder(written)


def contents(
    model: GRU4Rec,
    items: pa.Table,
    extra: Mapping[str, Any] | None = None,
    optimizer: Mapping[str, Tensor] | None = None,
) -> dict[str, Callable[[], bytes]]:
    """The files of the model folder by name, config.json last; each is made when it is called.

    So a writer needs no more memory than the largest takes. The tensors are read then: call before they change.
    Arguments as in `save`; raises ValueError where `items` are not as many as the model has.
    """
    if len(items) != model.item_count:
        raise ValueError(f"{len(items)} items for a model of {model.item_count}")
    config = {
        **(extra or {}),
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "items": model.item_count,
        "hyperparameters": dataclasses.asdict(model.hyperparameters),
    }
    text = (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
    files: dict[str, Callable[[], bytes]] = {WEIGHTS: lambda: _tensors(model.tensors())}
    if optimizer:
        files[OPTIMIZER] = lambda: _tensors(optimizer)
    return {**files, ITEMS: lambda: _parquet(items.select(COLUMNS)), CONFIG: lambda: text}


def write_card(folder: str, card: str) -> None:
    """Put the text of the model card into a model folder, in place of an earlier one."""
    storage.write_bytes(storage.join(folder, CARD), card.encode())


def read_card(folder: str) -> str:
    """The text of the model card; empty where there is none."""
    return _read(folder, CARD).decode() if CARD in storage.list_files(folder) else ""


def check_free(folder: str) -> None:
    """Raises InputError where `save` would not write `folder`: it is a file, or holds something else than a model."""
    reason = _not_ours(folder)
    if reason:
        raise InputError(f"{shown(folder)}: {reason}; name a new folder for the model")


def _not_ours(folder: str) -> str:
    """Why `folder` must not be replaced; empty where it may be."""
    filesystem, inner = storage.locate(folder)
    info = filesystem.get_file_info(inner)
    if info.type == fs.FileType.File:
        return "is a file"
    found = set(storage.list_files(folder))
    ours = {WEIGHTS, CONFIG, ITEMS, OPTIMIZER}
    if CONFIG in found:  # many folders have a README.md that are no models
        ours |= {CARD, *filter(_HALF.fullmatch, found)}
    others = found - ours | set(storage.list_folders(folder))
    return f"holds other files ({min(others)})" if others else ""


def _tensors(tensors: Mapping[str, Tensor]) -> bytes:
    return safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(None), sink)
    return sink.getvalue().to_pybytes()


def load(folder: str) -> LoadedModel:
    """The model in `folder`. Raises InputError naming the file that is missing, damaged or does not fit."""
    filesystem, inner = storage.locate(folder)
    kind = filesystem.get_file_info(inner).type
    if kind == fs.FileType.File:
        raise InputError(f"{shown(folder)}: is a file; name the folder of a model")
    if kind == fs.FileType.NotFound:
        raise InputError(f"{shown(folder)}: no such model folder; a version is named as models:/NAME/VERSION")
    return LoadedModel(*_checked(folder))


def load_optimizer(folder: str) -> dict[str, Tensor]:
    """The optimizer's state that was saved with the model; empty where none was. Raises InputError where damaged."""
    if OPTIMIZER not in storage.list_files(folder):
        return {}
    try:
        return safetensors.torch.load(_read(folder, OPTIMIZER))
    except safetensors.SafetensorError as error:
        raise InputError(f"{shown(storage.join(folder, OPTIMIZER))}: cannot be read: {error}") from error


def _checked(folder: str) -> tuple[GRU4Rec, pa.Table, dict[str, Any]]:
    config = _read_config(folder)
    hyperparameters = _hyperparameters(config["hyperparameters"], storage.join(folder, CONFIG))
    path = storage.join(folder, WEIGHTS)
    try:
        model = GRU4Rec.from_tensors(hyperparameters, safetensors.torch.load(_read(folder, WEIGHTS)))
    except (safetensors.SafetensorError, ValueError, TypeError) as error:
        raise InputError(f"{shown(path)}: not the weights of this model: {error}") from error
    path = storage.join(folder, ITEMS)
    try:
        items = pq.read_table(pa.BufferReader(_read(folder, ITEMS)))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{shown(path)}: cannot be read: {error}") from error
    missing = [name for name in COLUMNS if name not in items.column_names]
    if missing:
        raise InputError(f"{shown(path)}: has no column {missing[0]}; it has {' '.join(items.column_names)}")
    items = items.select(COLUMNS).sort_by("item_index")
    if not np.array_equal(items["item_index"].to_numpy(), np.arange(model.item_count)):
        raise InputError(f"{shown(path)}: does not number the {model.item_count} items of {WEIGHTS} from 0 on")
    return model, items, config


def _hyperparameters(given: dict[str, Any], path: str) -> Hyperparameters:
    unknown = set(given) - {field.name for field in dataclasses.fields(Hyperparameters)}
    if unknown:
        raise InputError(f"{shown(path)}: unknown hyperparameter {min(unknown)}; use the release that wrote it")
    try:
        return Hyperparameters(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})  # type: ignore[arg-type]
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{shown(path)}: not the hyperparameters of a model: {error}") from error


def _read_config(folder: str) -> dict[str, Any]:
    path = storage.join(folder, CONFIG)
    try:
        config = json.loads(_read(folder, CONFIG))
    except ValueError as error:
        raise InputError(f"{shown(path)}: not valid JSON: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise InputError(f"{shown(path)}: does not describe a {FORMAT}")
    if config.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{shown(path)}: format version {config.get('format_version')} is not {FORMAT_VERSION}; "
            "use the release that wrote it"
        )
    if not isinstance(config.get("hyperparameters"), dict):
        raise InputError(f"{shown(path)}: has no hyperparameters")
    return config


def _read(folder: str, name: str) -> bytes:
    path = storage.join(folder, name)
    try:
        return storage.read_bytes(path)
    except FileNotFoundError as error:
        raise InputError(f"{shown(path)}: is missing; {shown(folder)} is not a whole model folder") from error
    except OSError as error:
        raise InputError(f"{shown(path)}: cannot be read: {error}") from error
