"""The network: item rows in, hidden states and scores out.

GRU4Rec (Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks", ICLR 2016) with the tied
("constrained") item embedding of Hidasi & Karatzoglou, "Recurrent Neural Networks with Top-k Gains for
Session-based Recommendations", CIKM 2018: one table gives the input of the first layer and scores the items.

Shapes: B lanes or sessions, V items, D size of an item row (= units of the last layer), H units of a layer.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gru4rec.config import Hyperparameters
from gru4rec.model import gru


@dataclass
class GRU4Rec:
    """The weights of a model.

    `item_table` [V, D] and `item_bias` [V] are the tables, of which a step touches few rows; `dense` holds the
    weights that every step touches: for layer i `gru.i.weight_input` [3H, D or H], `gru.i.weight_hidden` [3H, H],
    `gru.i.bias_input` [3H] and `gru.i.bias_hidden` [3H], gates in the order reset, update, candidate.
    """

    hyperparameters: Hyperparameters
    item_table: Tensor
    item_bias: Tensor
    dense: dict[str, Tensor]

    @property
    def item_count(self) -> int:
        return self.item_table.shape[0]

    @property
    def device(self) -> torch.device:
        return self.item_table.device

    def tensors(self) -> dict[str, Tensor]:
        """All weights by name."""
        return {"item_table": self.item_table, "item_bias": self.item_bias, **self.dense}

    @classmethod
    def from_tensors(cls, hyperparameters: Hyperparameters, tensors: Mapping[str, Tensor]) -> "GRU4Rec":
        """The model of these weights. Raises ValueError where a weight is missing, unknown or of another shape."""
        if "item_table" not in tensors:
            raise ValueError("weight item_table is missing")
        expected = shapes(hyperparameters, tensors["item_table"].shape[0])
        for name in expected.keys() | tensors.keys():
            if name not in tensors:
                raise ValueError(f"weight {name} is missing")
            if name not in expected:
                raise ValueError(f"weight {name} is unknown")
            if tuple(tensors[name].shape) != expected[name]:
                raise ValueError(f"weight {name} has shape {tuple(tensors[name].shape)}, not {expected[name]}")
        dense = {name: tensors[name] for name in expected if name not in ("item_table", "item_bias")}
        return cls(hyperparameters, tensors["item_table"], tensors["item_bias"], dense)

    def to(self, device: torch.device | str) -> "GRU4Rec":
        return GRU4Rec.from_tensors(
            self.hyperparameters, {name: weight.to(device) for name, weight in self.tensors().items()}
        )


def shapes(hyperparameters: Hyperparameters, items: int) -> dict[str, tuple[int, ...]]:
    """Shape of every weight by name, in a fixed order."""
    width = hyperparameters.layers[-1]
    found: dict[str, tuple[int, ...]] = {"item_table": (items, width), "item_bias": (items,)}
    below = width
    for layer, units in enumerate(hyperparameters.layers):
        found[f"gru.{layer}.weight_input"] = (3 * units, below)
        found[f"gru.{layer}.weight_hidden"] = (3 * units, units)
        found[f"gru.{layer}.bias_input"] = (3 * units,)
        found[f"gru.{layer}.bias_hidden"] = (3 * units,)
        below = units
    return found


def initialise(hyperparameters: Hyperparameters, items: int, device: torch.device | str = "cpu") -> GRU4Rec:
    """A new model: every matrix uniform in ±sqrt(6 / (rows + columns)), gate by gate; biases 0.

    Drawn on the CPU from the seed, so that it is the same on every device and worker.
    """
    generator = torch.Generator().manual_seed(hyperparameters.seed)
    weights = {}
    for name, shape in shapes(hyperparameters, items).items():
        weight = torch.zeros(shape)
        if len(shape) == 2:
            rows = shape[0] if name == "item_table" else shape[0] // 3
            bound = math.sqrt(6.0 / (rows + shape[1]))
            weight.uniform_(-bound, bound, generator=generator)
        weights[name] = weight
    return GRU4Rec.from_tensors(hyperparameters, weights).to(device)


def zero_states(hyperparameters: Hyperparameters, rows: int, device: torch.device | str = "cpu") -> list[Tensor]:
    """Hidden state [rows, H] of each layer at the start of a session."""
    return [torch.zeros(rows, units, device=device) for units in hyperparameters.layers]


def layer_weights(dense: Mapping[str, Tensor], layer: int) -> gru.Weights:
    """The weights of one recurrent layer."""
    return gru.Weights(
        dense[f"gru.{layer}.weight_input"],
        dense[f"gru.{layer}.weight_hidden"],
        dense[f"gru.{layer}.bias_input"],
        dense[f"gru.{layer}.bias_hidden"],
    )


def forward(
    dense: Mapping[str, Tensor], x: Tensor, states: Sequence[Tensor], drop: Sequence[Tensor] | None = None
) -> tuple[list[Tensor], list[gru.Saved]]:
    """One click further: new states of all layers from the item rows x [B, D] and the old states [B, H].

    `drop`, one [B, H] for each layer (0, or 1 / (1 − p)), multiplies a layer's output before it is passed on and
    carried. Also returns what `backward` needs.
    """
    new, saved = [], []
    for layer, h in enumerate(states):
        x, kept = gru.forward(layer_weights(dense, layer), x, h)
        if drop is not None:
            x = x * drop[layer]
        new.append(x)
        saved.append(kept)
    return new, saved


def backward(
    dense: Mapping[str, Tensor],
    saved: Sequence[gru.Saved],
    gradient: Tensor,
    out: Mapping[str, Tensor],
    drop: Sequence[Tensor] | None = None,
) -> Tensor:
    """Gradient of the item rows x [B, D] from that of the last layer's state [B, D]; that of `dense` goes to `out`."""
    for layer in reversed(range(len(saved))):
        if drop is not None:
            gradient = gradient * drop[layer]
        gradient = gru.backward(layer_weights(dense, layer), saved[layer], gradient, layer_weights(out, layer))
    return gradient


def scores(model: GRU4Rec, hidden: Tensor) -> Tensor:
    """Scores of all items [B, V] for the last layer's hidden states [B, D]."""
    return torch.addmm(model.item_bias, hidden, model.item_table.t())
