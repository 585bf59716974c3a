"""Activations and their gradients against their formulas in float64 and autograd."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gru4rec.model import activations

FORMULAS = {
    "linear": lambda x, alpha, slope: x,
    "tanh": lambda x, alpha, slope: torch.tanh(x),
    "relu": lambda x, alpha, slope: torch.where(x > 0, x, 0 * x),
    "leaky-relu": lambda x, alpha, slope: torch.where(x > 0, x, slope * x),
    "elu": lambda x, alpha, slope: torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0))),
    # The constants for which a standard normal input gives mean 0 and variance 1: scale, and scale · alpha below 0.
    "selu": lambda x, alpha, slope: (
        1.0507009873554805 * torch.where(x > 0, x, 1.6732632423543772 * torch.expm1(x.clamp(max=0)))
    ),
}


@given(
    st.sampled_from(sorted(FORMULAS)),
    st.lists(st.floats(-200, 200, width=32).filter(lambda x: x != 0), min_size=6, max_size=6),
    st.sampled_from([0.0, 0.5, 1.0, 1.9]),
    st.sampled_from([0.0, 0.01, 0.3]),
    st.booleans(),
)
def test_value_and_gradient(name, values, elu_param, leaky_slope, column_major):
    scores = torch.tensor(values).view(2, 3)
    given_back = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])
    if column_major:
        scores, given_back = scores.t().contiguous().t(), given_back.t().contiguous().t()
    r = activations.forward(name, scores, elu_param, leaky_slope)
    gradient = activations.backward(name, scores, r, given_back.clone(), elu_param, leaky_slope)

    x = scores.double().requires_grad_()
    wanted = FORMULAS[name](x, elu_param, leaky_slope)
    wanted_gradient = torch.autograd.grad((wanted * given_back).sum(), x)[0]
    torch.testing.assert_close(r.double(), wanted.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient.double(), wanted_gradient, rtol=1e-6, atol=1e-6)
    assert r.stride() == gradient.stride() == scores.stride()


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_scores_are_left_alone_and_ranked_alike(name):
    scores = torch.linspace(-3, 3, 101)
    before = scores.clone()
    r = activations.forward(name, scores, 0.5, 0.01)
    assert torch.equal(scores, before)
    assert (r.diff() >= 0).all()


def test_linear_makes_no_copy():
    scores, gradient = torch.ones(2, 3), torch.ones(2, 3)
    assert activations.forward("linear", scores, 0.5, 0.01) is scores
    assert activations.backward("linear", scores, scores, gradient, 0.5, 0.01) is gradient


def test_unknown_names_are_errors():
    with pytest.raises(ValueError, match="unknown activation gelu"):
        activations.forward("gelu", torch.ones(1), 0.5, 0.01)
    with pytest.raises(ValueError, match="unknown activation gelu"):
        activations.backward("gelu", torch.ones(1), torch.ones(1), torch.ones(1), 0.5, 0.01)
