"""One worker's lanes in a checkpoint: where its epoch stands, and the hidden states."""

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from torch import Tensor

from gru4rec.training.curve import Mark
from gru4rec.training.lanes import Position
from gru4rec.training.progress import Point

_POINT = "point"


def name(rank: int) -> str:
    """The file of worker `rank`."""
    return f"lanes-{rank:05d}.safetensors"


def to_bytes(point: Point, hidden: list[Tensor]) -> bytes:
    """`point` and the hidden states [B, S·H] of each layer, in the form of safetensors."""
    arrays = {f"hidden.{layer}": state.cpu().numpy() for layer, state in enumerate(hidden)}
    places = []
    for group, position in enumerate(point.positions):
        places.append({"shard": int(position.shard), "sessions": int(position.sessions)})
        arrays |= _ragged(f"remaining.{group}", position.remaining)
    arrays |= _ragged("clicked", point.clicked)
    numbers = {**asdict(replace(point, positions=(), clicked=())), "positions": places, "layers": len(hidden)}
    # JSON writes a float so that it comes back bit for bit.
    arrays[_POINT] = np.frombuffer(json.dumps(numbers).encode(), np.uint8)
    return safetensors.numpy.save({key: np.ascontiguousarray(array) for key, array in arrays.items()})


def from_bytes(content: bytes) -> tuple[Point, list[Tensor]]:
    """What `to_bytes` was given."""
    arrays = safetensors.numpy.load(content)
    numbers: dict[str, Any] = json.loads(arrays[_POINT].tobytes())
    hidden = [torch.from_numpy(arrays[f"hidden.{layer}"]) for layer in range(numbers.pop("layers"))]
    positions = tuple(
        Position(place["shard"], place["sessions"], _lists(f"remaining.{group}", arrays))
        for group, place in enumerate(numbers.pop("positions"))
    )
    curve = tuple(Mark(*mark) for mark in numbers.get("curve", ()))
    parts = {"positions": positions, "clicked": _lists("clicked", arrays), "curve": curve}
    return Point(**{**numbers, **parts}), hidden


def _ragged(key: str, lists: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    """Lists of items laid flat."""
    flat = np.concatenate([np.zeros(0, np.int32), *lists]).astype(np.int32)
    return {f"{key}.items": flat, f"{key}.lengths": np.array([len(part) for part in lists], np.int64)}


def _lists(key: str, arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    lengths = arrays[f"{key}.lengths"]
    return tuple(np.split(arrays[f"{key}.items"], np.cumsum(lengths)[:-1])) if len(lengths) else ()
