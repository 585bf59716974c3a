"""The network: clicked items in, states and scores out.

GRU4Rec (Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks", ICLR 2016) and its tied
("constrained") item embedding (Hidasi & Karatzoglou, "Recurrent Neural Networks with Top-k Gains for Session-based
Recommendations", CIKM 2018). From below: the item input x, a row of a table; recurrent layers, the first fed by x, the
others by the layer below and, with `input_to_all_layers`, by x as well (figure 1 of the paper of 2016); feed-forward
layers; the scores, products with the rows of the item table.

The item input is the row of the item table ('tied'), of a table of its own ('separate'), or, where the input is the
item's 'one-hot' vector, what the product with that vector would give: the item's row of the input weights of all gates
of all layers that are fed. The product is then left out.

Shapes: B lanes or sessions, V items, D size of a row of the item table, E size of an item's input row, H units of a
layer, G gates of the cell, S states of a unit (2 for LSTM, else 1).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gru4rec.config import Hyperparameters
from gru4rec.model import kernels
from gru4rec.model.cells import CELLS, Cell, Weights, gru_reset_first

_TABLES = ("item_table", "item_bias", "item_input")


@dataclass
class GRU4Rec:
    """The weights of a model.

    `item_table` [V, D], `item_bias` [V] and, unless the embedding is tied, `item_input` [V, E] are the tables, of which
    a step touches few rows; the rows of a table need not lie next to each other in memory. `dense` holds the weights
    that every step touches. For layer i of cell c: `c.i.weight_input` [G·H, inputs], `c.i.weight_hidden` [G·H, H],
    `c.i.bias_input` [G·H] and `c.i.bias_hidden` [G·H], gates in the order of the cell; for feed-forward layer j:
    `feed_forward.j.weight` [out, in] and `feed_forward.j.bias` [out]. With one-hot input the first layer has no
    `weight_input`, and as a GRU no `bias_hidden`.
    """

    hyperparameters: Hyperparameters
    item_table: Tensor
    item_bias: Tensor
    item_input: Tensor | None
    dense: dict[str, Tensor]

    @property
    def item_count(self) -> int:
        return self.item_table.shape[0]

    @property
    def device(self) -> torch.device:
        return self.item_table.device

    @property
    def input_table(self) -> Tensor:
        """The table whose rows are the item input, [V, E]."""
        return self.item_table if self.item_input is None else self.item_input

    def tensors(self) -> dict[str, Tensor]:
        """All weights by name."""
        tables = {"item_table": self.item_table, "item_bias": self.item_bias}
        if self.item_input is not None:
            tables["item_input"] = self.item_input
        return {**tables, **self.dense}

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
        dense = {name: tensors[name] for name in expected if name not in _TABLES}
        return cls(hyperparameters, tensors["item_table"], tensors["item_bias"], tensors.get("item_input"), dense)

    def to(self, device: torch.device | str) -> "GRU4Rec":
        return GRU4Rec.from_tensors(
            self.hyperparameters, {name: weight.to(device) for name, weight in self.tensors().items()}
        )


def cell_of(settings: Hyperparameters, layer: int) -> Cell:
    """The cell of a layer: with one-hot input, the first layer of a GRU is that of the original form."""
    if layer == 0 and settings.cell == "gru" and settings.embedding == "one-hot":
        return gru_reset_first
    return CELLS[settings.cell]


def input_width(settings: Hyperparameters) -> int:
    """E, the size of an item's input row."""
    match settings.embedding:
        case "tied":
            return settings.width
        case "separate":
            return settings.embedding_size or settings.layers[0]
        case _:
            return sum(_looked_up(settings))


def _looked_up(settings: Hyperparameters) -> list[int]:
    """G · H of each layer that is fed with the one-hot input: how an item's input row is divided."""
    fed = settings.layers if settings.input_to_all_layers else settings.layers[:1]
    return [CELLS[settings.cell].GATES * units for units in fed]


def shapes(settings: Hyperparameters, items: int) -> dict[str, tuple[int, ...]]:
    """Shape of every weight by name, in a fixed order. Raises ValueError for an unknown cell or embedding."""
    if settings.cell not in CELLS:
        raise ValueError(f"unknown cell {settings.cell}")
    if settings.embedding not in ("tied", "separate", "one-hot"):
        raise ValueError(f"unknown embedding {settings.embedding}")
    one_hot = settings.embedding == "one-hot"
    found: dict[str, tuple[int, ...]] = {"item_table": (items, settings.width), "item_bias": (items,)}
    if settings.embedding != "tied":
        found["item_input"] = (items, input_width(settings))
    below, x = 0, 0 if one_hot else input_width(settings)
    for layer, units in enumerate(settings.layers):
        name, gates = f"{settings.cell}.{layer}", CELLS[settings.cell].GATES * units
        inputs = below + (x if layer == 0 or settings.input_to_all_layers else 0)
        if inputs:
            found[f"{name}.weight_input"] = (gates, inputs)
        found[f"{name}.weight_hidden"] = (gates, units)
        found[f"{name}.bias_input"] = (gates,)
        if cell_of(settings, layer) is not gru_reset_first:
            found[f"{name}.bias_hidden"] = (gates,)
        below = units
    for layer, units in enumerate(settings.feed_forward):
        found[f"feed_forward.{layer}.weight"] = (units, below)
        found[f"feed_forward.{layer}.bias"] = (units,)
        below = units
    return found


def initialise(settings: Hyperparameters, items: int, device: torch.device | str = "cpu") -> GRU4Rec:
    """A new model: every matrix uniform in ±sqrt(6 / (rows + columns)), gate by gate, or in ±init_range; biases 0.

    Drawn on the CPU from the seed, so that it is the same on every device and worker.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    gates = CELLS[settings.cell].GATES
    weights = {}
    for name, shape in shapes(settings, items).items():
        weight = torch.zeros(shape)
        parts = (weight,) if len(shape) == 2 else ()
        across = down = 1  # gates side by side, and one below the other
        if name == "item_input" and settings.embedding == "one-hot":
            parts, across = weight.split(_looked_up(settings), dim=1), gates
        elif name.startswith(f"{settings.cell}."):
            down = gates
        for part in parts:
            rows, columns = part.shape[0] // down, part.shape[1] // across
            bound = settings.init_range or math.sqrt(6.0 / (rows + columns))
            part.uniform_(-bound, bound, generator=generator)
        weights[name] = weight
    return GRU4Rec.from_tensors(settings, weights).to(device)


def zero_states(settings: Hyperparameters, rows: int, device: torch.device | str = "cpu") -> list[Tensor]:
    """State [rows, S·H] of each layer at the start of a session."""
    states = CELLS[settings.cell].STATES
    return [torch.zeros(rows, states * units, device=device) for units in settings.layers]


def input_rows(model: GRU4Rec, items: Tensor) -> Tensor:
    """The item input x [B, E] of clicked items [B] int64."""
    return model.input_table.index_select(0, items)


class Saved(NamedTuple):
    """What the gradient needs of a forward step."""

    inputs: list[Tensor | None]  # of each recurrent layer, what weight_input multiplies; None where it has none
    cells: list[Any]
    outputs: list[Tensor]  # of the last recurrent layer, then of each feed-forward layer


def forward(
    settings: Hyperparameters,
    dense: Mapping[str, Tensor],
    x: Tensor,
    states: Sequence[Tensor],
    drop: Sequence[Tensor] | None = None,
) -> tuple[list[Tensor], Tensor, Saved]:
    """One click further, from the item input x [B, E] and the old state [B, S·H] of each layer.

    Returns the new states, the output [B, D] that scores the items, and what `backward` needs. `drop`, one [B, H] for
    each layer (0, or 1 / (1 − p)), multiplies a layer's output before it is passed on and carried; the memory of an
    LSTM is not dropped.
    """
    one_hot = settings.embedding == "one-hot"
    looked_up = x.split(_looked_up(settings), dim=1) if one_hot else ()
    new: list[Tensor] = []
    inputs: list[Tensor | None] = []
    cells: list[Any] = []
    below: list[Tensor] = []  # the output of the layer below, if there is one
    for layer, (state, units) in enumerate(zip(states, settings.layers, strict=True)):
        name, fed = f"{settings.cell}.{layer}", _is_fed(settings, layer)
        gates_x = dense[f"{name}.bias_input"]
        if one_hot and fed:
            gates_x = looked_up[layer] + gates_x
        parts = [*below, x] if fed and not one_hot else below
        multiplied = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0] if parts else None
        if multiplied is not None:
            gates_x = torch.addmm(gates_x, multiplied, dense[f"{name}.weight_input"].t())
        state, saved = cell_of(settings, layer).forward(_cell_weights(dense, name), gates_x, state)
        if drop is not None:
            state = _dropped(state, drop[layer])
        new.append(state)
        inputs.append(multiplied)
        cells.append(saved)
        below = [state if state.shape[1] == units else state[:, :units]]
    outputs = _fed_forward(settings, dense, below[0])
    return new, outputs[-1], Saved(inputs, cells, outputs)


def output_of(settings: Hyperparameters, dense: Mapping[str, Tensor], states: Sequence[Tensor]) -> Tensor:
    """The output [B, D] that `forward` gave with these new states [B, S·H] of each layer."""
    return _fed_forward(settings, dense, states[-1][:, : settings.layers[-1]])[-1]


def _fed_forward(settings: Hyperparameters, dense: Mapping[str, Tensor], output: Tensor) -> list[Tensor]:
    """The output of the last recurrent layer [B, H], then that of each feed-forward layer."""
    outputs = [output]
    for layer in range(len(settings.feed_forward)):
        weight, bias = dense[f"feed_forward.{layer}.weight"], dense[f"feed_forward.{layer}.bias"]
        outputs.append(torch.tanh(torch.addmm(bias, outputs[-1], weight.t())))
    return outputs


def backward(
    settings: Hyperparameters,
    dense: Mapping[str, Tensor],
    saved: Saved,
    d_output: Tensor,
    out: Mapping[str, Tensor],
    drop: Sequence[Tensor] | None = None,
) -> Tensor:
    """Gradient of the item input x [B, E] from that of the output [B, D]; that of `dense` goes to `out`."""
    for layer in reversed(range(len(settings.feed_forward))):
        name, y = f"feed_forward.{layer}", saved.outputs[layer + 1]
        d_sums = d_output * (1 - y * y)
        torch.mm(d_sums.t(), saved.outputs[layer], out=out[f"{name}.weight"])
        kernels.column_sums(d_sums, out[f"{name}.bias"])
        d_output = d_sums @ dense[f"{name}.weight"]

    one_hot = settings.embedding == "one-hot"
    d_x: list[Tensor] = []  # from each layer that is fed, the lowest first
    for layer in reversed(range(len(settings.layers))):
        name, fed = f"{settings.cell}.{layer}", _is_fed(settings, layer)
        if drop is not None:
            d_output = d_output * drop[layer]
        weights, d_weights = _cell_weights(dense, name), _cell_weights(out, name)
        d_gates_x = cell_of(settings, layer).backward(weights, saved.cells[layer], d_output, d_weights)
        kernels.column_sums(d_gates_x, out[f"{name}.bias_input"])
        if one_hot and fed:
            d_x.insert(0, d_gates_x)
        multiplied = saved.inputs[layer]
        if multiplied is not None:
            torch.mm(d_gates_x.t(), multiplied, out=out[f"{name}.weight_input"])
            d_output = d_gates_x @ dense[f"{name}.weight_input"]
            if layer == 0:
                d_x.insert(0, d_output)
            elif fed and not one_hot:
                below = settings.layers[layer - 1]
                d_x.insert(0, d_output[:, below:])
                d_output = d_output[:, :below]
    if len(d_x) == 1:
        return d_x[0]
    return torch.cat(d_x, dim=1) if one_hot else sum(d_x[1:], start=d_x[0])


def _is_fed(settings: Hyperparameters, layer: int) -> bool:
    """Whether the item input reaches a layer directly."""
    return layer == 0 or settings.input_to_all_layers


def _cell_weights(dense: Mapping[str, Tensor], name: str) -> Weights:
    return Weights(dense[f"{name}.weight_hidden"], dense.get(f"{name}.bias_hidden"))


def _dropped(state: Tensor, factors: Tensor) -> Tensor:
    """A state [B, S·H] with its output, the first H columns, multiplied by `factors` [B, H]."""
    units = factors.shape[1]
    if state.shape[1] == units:
        return state * factors
    return torch.cat([state[:, :units] * factors, state[:, units:]], dim=1)


def scores(model: GRU4Rec, output: Tensor, into: Tensor | None = None) -> Tensor:
    """Scores of all items [B, V] for outputs of the network [B, D]; in the first rows of `into` [B or more, V]."""
    out = None if into is None else into[: len(output)]
    return torch.addmm(model.item_bias, output, model.item_table.t(), out=out)
