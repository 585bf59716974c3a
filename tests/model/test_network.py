"""The network against torch's own GRU cell, and walks over sessions of many lengths against one at a time."""

import math

import numpy as np
import pytest
import torch
from simple_log import simple_log

from gru4rec.config import Hyperparameters
from gru4rec.model import encode, gru, network
from gru4rec.sessions.prepared import Sessions


def test_gru_and_its_gradient_equal_autograd_in_float64():
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    weights = gru.Weights(random(21, 5), random(21, 7), random(21), random(21))
    x, h, d_new = random(4, 5), random(4, 7), random(4, 7)
    leaves = [x.requires_grad_(), *(weight.requires_grad_() for weight in weights)]
    wanted = torch.gru_cell(x, h, *weights)
    gradients = torch.autograd.grad(wanted, leaves, d_new)
    with torch.no_grad():
        found, saved = gru.forward(weights, x, h)
        out = gru.Weights(*(torch.empty_like(weight) for weight in weights))
        d_x = gru.backward(weights, saved, d_new, out)
    torch.testing.assert_close(found, wanted)
    for got, want in zip((d_x, *out), gradients, strict=True):
        torch.testing.assert_close(got, want)


def test_initial_weights_are_uniform_gate_by_gate():
    model = network.initialise(Hyperparameters(layers=(50,)), 1000)
    for weight, bound in (
        (model.item_table, math.sqrt(6 / 1050)),
        (model.dense["gru.0.weight_input"], math.sqrt(6 / 100)),
    ):
        assert 0.98 * bound < weight.abs().max() <= bound
        assert abs(float(weight.mean())) < bound / 50
    assert not model.item_bias.any()
    assert not model.dense["gru.0.bias_hidden"].any()


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_states_do_not_depend_on_which_sessions_are_walked_together(batch):
    model = network.initialise(Hyperparameters(layers=(8,)), 40)
    sessions, _ = simple_log(30, 40, longest=12)
    empty = Sessions(np.concatenate([sessions.offsets, sessions.offsets[-1:]]), sessions.items)
    states = encode.final_states(model, empty, batch)
    assert not states[-1].any()
    for session in range(sessions.count):
        h = torch.zeros(1, 8)
        for item in sessions.items[sessions.offsets[session] : sessions.offsets[session + 1]]:
            h = torch.gru_cell(
                model.item_table[int(item)].unsqueeze(0),
                h,
                *network.layer_weights(model.dense, 0),
            )
        torch.testing.assert_close(states[session], h[0])


def test_weights_of_another_shape_are_refused_by_name():
    model = network.initialise(Hyperparameters(layers=(8,)), 40)
    weights = model.tensors() | {"item_bias": torch.zeros(39)}
    with pytest.raises(ValueError, match="item_bias has shape"):
        network.GRU4Rec.from_tensors(model.hyperparameters, weights)
