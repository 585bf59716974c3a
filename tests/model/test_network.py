"""The network against autograd through torch's own cells, and walks over many sessions against one at a time."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from simple_log import simple_log

from gru4rec.config import Hyperparameters
from gru4rec.model import encode, network
from gru4rec.sessions.prepared import Sessions

CELLS = ["gru", "lstm", "rnn"]
EMBEDDINGS = ["tied", "separate", "one-hot"]
KINDS = list(itertools.product(CELLS, [(5,), (5, 4)], EMBEDDINGS, [False, True], [(), (6, 3)]))
ids = [
    "-".join(map(str, (cell, *layers, kind, "all" if fed else "first", *ff))) for cell, layers, kind, fed, ff in KINDS
]
GATES = {"gru": 3, "lstm": 4, "rnn": 1}


def settings_of(cell, layers, embedding, fed, feed_forward) -> Hyperparameters:
    return Hyperparameters(
        cell=cell,
        layers=layers,
        embedding=embedding,
        embedding_size=7 if embedding == "separate" else 0,
        input_to_all_layers=fed,
        feed_forward=feed_forward,
    )


def apart(rows):
    """The same rows with something else between them in memory."""
    return torch.cat([rows, torch.full_like(rows, torch.nan)], dim=1)[:, : rows.shape[1]]


def random_model(settings, items, dtype=torch.float64):
    """A model of random weights, biases included, with tables that are not contiguous."""
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: torch.randn(shape, generator=generator, dtype=dtype) / 2
        for name, shape in network.shapes(settings, items).items()
    }
    tensors |= {name: apart(tensors[name]) for name in ("item_table", "item_input") if name in tensors}
    return network.GRU4Rec.from_tensors(settings, tensors)


def step(settings, weights, clicked, states, drop=None):
    """One click in torch's own cells; one-hot input as the product with the one-hot vector that it stands for."""
    one_hot, parts = settings.embedding == "one-hot", []
    if one_hot:
        e = F.one_hot(clicked, len(weights["item_table"])).to(weights["item_table"].dtype)
        fed = settings.layers if settings.input_to_all_layers else settings.layers[:1]
        parts = weights["item_input"].t().split([GATES[settings.cell] * units for units in fed])
    else:
        e = weights["item_table" if settings.embedding == "tied" else "item_input"][clicked]
    below, new = None, []
    for layer, (units, state) in enumerate(zip(settings.layers, states, strict=True)):
        fed = layer == 0 or settings.input_to_all_layers
        x = torch.cat(([below] if layer else []) + ([e] if fed else []), dim=1)
        w, u, b, c = (
            weights.get(f"{settings.cell}.{layer}.{name}")
            for name in ("weight_input", "weight_hidden", "bias_input", "bias_hidden")
        )
        if one_hot and fed:
            w = torch.cat(([w] if layer else []) + [parts[layer]], dim=1)
        h, memory = state[:, :units], state[:, units:]
        if settings.cell == "lstm":
            h, memory = torch.lstm_cell(x, (h, memory), w, u, b, c)
        elif settings.cell == "rnn":
            h = torch.rnn_tanh_cell(x, h, w, u, b, c)
        elif c is not None:
            h = torch.gru_cell(x, h, w, u, b, c)
        else:
            (x_r, x_z, x_n), (u_r, u_z, u_n) = (x @ w.t() + b).chunk(3, dim=1), u.chunk(3)
            r, z = torch.sigmoid(x_r + h @ u_r.t()), torch.sigmoid(x_z + h @ u_z.t())
            h = (1 - z) * torch.tanh(x_n + (r * h) @ u_n.t()) + z * h
        below = h if drop is None else h * drop[layer]
        new.append(torch.cat([below, memory], dim=1))
    for layer in range(len(settings.feed_forward)):
        w, b = weights[f"feed_forward.{layer}.weight"], weights[f"feed_forward.{layer}.bias"]
        below = torch.tanh(below @ w.t() + b)
    return new, below


@pytest.mark.parametrize("kind", KINDS, ids=ids)
@pytest.mark.parametrize("dropout", [False, True])
def test_network_and_all_its_gradients_equal_autograd_in_float64(kind, dropout):
    settings, items, clicked = settings_of(*kind), 9, torch.tensor([3, 8, 3, 0])
    model = random_model(settings, items)
    generator = torch.Generator().manual_seed(2)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    states = [random(*state.shape) for state in network.zero_states(settings, len(clicked))]
    drop = [(random(len(clicked), units) > 0) / 0.5 for units in settings.layers] if dropout else None
    d_output = random(len(clicked), settings.width)
    names = {"item_input" if model.item_input is not None else "item_table", *model.dense}
    leaves = {name: weight.clone().requires_grad_() for name, weight in model.tensors().items()}
    new, wanted = step(settings, leaves, clicked, states, drop)
    gradients = torch.autograd.grad(wanted, [leaves[name] for name in names], d_output)

    x = network.input_rows(model, clicked)
    found, output, saved = network.forward(settings, model.dense, x, states, drop)
    out = {name: torch.full_like(weight, torch.nan) for name, weight in model.dense.items()}
    d_x = network.backward(settings, model.dense, saved, d_output, out, drop)
    assert x.shape == d_x.shape == (len(clicked), network.input_width(settings))
    torch.testing.assert_close(output, wanted)
    for got, want in zip(found, new, strict=True):
        torch.testing.assert_close(got, want)
    d_table = torch.zeros(model.input_table.shape, dtype=torch.float64).index_add_(0, clicked, d_x)
    for name, want in zip(names, gradients, strict=True):
        torch.testing.assert_close(out.get(name, d_table), want, msg=lambda message, name=name: f"{name}: {message}")


def test_default_weights_are_drawn_in_the_order_of_their_names():
    settings = Hyperparameters(layers=(6, 4), seed=5)
    generator = torch.Generator().manual_seed(5)
    model = network.initialise(settings, 30)
    names = ["item_table"] + [f"gru.{layer}.weight_{side}" for layer in (0, 1) for side in ("input", "hidden")]
    for name, rows in zip(names, (30, 6, 6, 4, 4), strict=True):
        weight = model.tensors()[name]
        bound = math.sqrt(6 / (rows + weight.shape[1]))
        assert torch.equal(weight, torch.empty(weight.shape).uniform_(-bound, bound, generator=generator))
    assert not any(weight.any() for name, weight in model.tensors().items() if "bias" in name)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("embedding", EMBEDDINGS)
@pytest.mark.parametrize("init_range", [0.0, 0.03])
def test_initial_weights_are_uniform_gate_by_gate(cell, embedding, init_range):
    settings = Hyperparameters(
        cell=cell,
        layers=(60, 40),
        embedding=embedding,
        input_to_all_layers=True,
        feed_forward=(50,),
        init_range=init_range,
    )
    model, gates, items = network.initialise(settings, 500), GATES[cell], 500
    fed = {"tied": 50, "separate": 60, "one-hot": 0}[embedding]
    parts = [
        (model.item_table, items + 50),
        (model.dense[f"{cell}.0.weight_hidden"], 60 + 60),
        (model.dense[f"{cell}.1.weight_input"], 40 + 60 + fed),
        (model.dense[f"{cell}.1.weight_hidden"], 40 + 40),
        (model.dense["feed_forward.0.weight"], 50 + 40),
    ]
    if embedding == "one-hot":
        assert f"{cell}.0.weight_input" not in model.dense
        assert (f"{cell}.0.bias_hidden" in model.dense) == (cell != "gru")
        parts.append((model.item_input[:, : gates * 60], items + 60))
        parts.append((model.item_input[:, gates * 60 :], items + 40))
    else:
        parts.append((model.dense[f"{cell}.0.weight_input"], 60 + fed))
    if embedding == "separate":
        parts.append((model.item_input, items + 60))
    for weight, extent in parts:
        bound = init_range or math.sqrt(6 / extent)
        assert 0.98 * bound < weight.abs().max() <= bound
        assert abs(float(weight.mean())) < bound / 15
    assert not any(weight.any() for name, weight in model.tensors().items() if "bias" in name)


@pytest.mark.parametrize("batch", [1, 3, 1000])
@pytest.mark.parametrize("embedding", EMBEDDINGS)
@pytest.mark.parametrize("cell", CELLS)
def test_outputs_do_not_depend_on_which_sessions_are_walked_together(cell, embedding, batch):
    settings = settings_of(cell, (8, 6), embedding, True, (5,))
    model = random_model(settings, 40, torch.float32)
    sessions, _ = simple_log(20, 40, longest=12)
    empty = Sessions(np.concatenate([sessions.offsets, sessions.offsets[-1:]]), sessions.items)
    wanted, last = {}, []
    for session in range(sessions.count):
        states = network.zero_states(settings, 1)
        for click, item in enumerate(sessions.items[sessions.offsets[session] : sessions.offsets[session + 1]]):
            states, output = step(settings, model.tensors(), torch.tensor([int(item)]), states)
            wanted[session, click] = output[0]
        last.append(output[0])
    found = {}
    for position in encode.walk(model, empty, batch):
        found |= {(int(row), position.click): y for row, y in zip(position.rows, position.output, strict=True)}
    assert found.keys() == wanted.keys()
    for key, output in wanted.items():
        torch.testing.assert_close(found[key], output)
    final = encode.final_states(model, empty)
    assert final.shape == (sessions.count + 1, settings.width)
    torch.testing.assert_close(final[:-1], torch.stack(last))
    assert not final[-1].any()


def test_scores_are_products_with_the_rows_of_the_item_table():
    model = random_model(settings_of("lstm", (8,), "separate", False, (5,)), 40)
    output = torch.randn(3, 5, dtype=torch.float64)
    torch.testing.assert_close(network.scores(model, output), output @ model.item_table.t() + model.item_bias)


@pytest.mark.parametrize("kind", KINDS, ids=ids)
def test_a_model_is_made_of_its_weights_again(kind):
    model = network.initialise(settings_of(*kind), 10)
    again = network.GRU4Rec.from_tensors(model.hyperparameters, model.tensors()).to("cpu")
    assert again.tensors().keys() == model.tensors().keys() == network.shapes(model.hyperparameters, 10).keys()
    assert all(torch.equal(again.tensors()[name], weight) for name, weight in model.tensors().items())
    assert again.item_count == 10


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_weights_that_do_not_fit_are_refused_by_name(cell, embedding):
    settings = Hyperparameters(layers=(8,), cell=cell, embedding=embedding, feed_forward=(4,))
    weights = network.initialise(settings, 40).tensors()
    for name, weight in weights.items():
        with pytest.raises(ValueError, match=f"{name} is missing"):
            network.GRU4Rec.from_tensors(settings, {key: kept for key, kept in weights.items() if key != name})
        if name != "item_table":
            with pytest.raises(ValueError, match=f"{name} has shape"):
                network.GRU4Rec.from_tensors(settings, weights | {name: weight[1:]})
    for name in {"item_input", "gru.0.bias_hidden", f"{cell}.1.bias_input", "feed_forward.1.bias"} - weights.keys():
        with pytest.raises(ValueError, match=f"{name} is unknown"):
            network.GRU4Rec.from_tensors(settings, weights | {name: torch.zeros(3)})


@pytest.mark.parametrize("unknown", ["cell", "embedding"])
def test_an_unknown_kind_of_model_is_refused_by_name(unknown):
    with pytest.raises(ValueError, match=f"unknown {unknown} other"):
        network.shapes(Hyperparameters(**{unknown: "other"}), 40)
