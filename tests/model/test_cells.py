"""Each cell and its gradient against autograd through torch's own cells, in float64."""

import pytest
import torch

from gru4rec.model.cells import CELLS, Weights, gru_reset_first

LANES, UNITS = 4, 7


def gru(gates_x, h, weight, bias):
    eye, zero = torch.eye(3 * UNITS, dtype=torch.float64), torch.zeros(3 * UNITS, dtype=torch.float64)
    return torch.gru_cell(gates_x, h, eye, weight, zero, bias)


def reset_first(gates_x, h, weight, bias):
    (x_r, x_z, x_n), (u_r, u_z, u_n) = gates_x.chunk(3, dim=1), weight.chunk(3)
    r, z = torch.sigmoid(x_r + h @ u_r.t()), torch.sigmoid(x_z + h @ u_z.t())
    return (1 - z) * torch.tanh(x_n + (r * h) @ u_n.t()) + z * h


def lstm(gates_x, state, weight, bias):
    eye, zero = torch.eye(4 * UNITS, dtype=torch.float64), torch.zeros(4 * UNITS, dtype=torch.float64)
    return torch.cat(torch.lstm_cell(gates_x, state.chunk(2, dim=1), eye, weight, zero, bias), dim=1)


def rnn(gates_x, h, weight, bias):
    eye, zero = torch.eye(UNITS, dtype=torch.float64), torch.zeros(UNITS, dtype=torch.float64)
    return torch.rnn_tanh_cell(gates_x, h, eye, weight, zero, bias)


@pytest.mark.parametrize(
    ("cell", "wanted", "gates", "states", "biased"),
    [
        (CELLS["gru"], gru, 3, 1, True),
        (gru_reset_first, reset_first, 3, 1, False),
        (CELLS["lstm"], lstm, 4, 2, True),
        (CELLS["rnn"], rnn, 1, 1, True),
    ],
    ids=["gru", "gru, reset first", "lstm", "rnn"],
)
def test_cell_and_its_gradient_equal_autograd(cell, wanted, gates, states, biased):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    assert (gates, states) == (cell.GATES, cell.STATES)
    weights = Weights(random(gates * UNITS, UNITS), random(gates * UNITS) if biased else None)
    gates_x, state, d_output = random(LANES, gates * UNITS), random(LANES, states * UNITS), random(LANES, UNITS)
    leaves = [part.requires_grad_() for part in (gates_x, *weights) if part is not None]
    new = wanted(gates_x, state, *weights)
    gradients = torch.autograd.grad(new[:, :UNITS], leaves, d_output)
    before = state.clone()
    with torch.no_grad():
        found, saved = cell.forward(weights, gates_x, state)
        out = Weights(*(None if part is None else torch.full_like(part, torch.nan) for part in weights))
        d_gates_x = cell.backward(weights, saved, d_output, out)
    torch.testing.assert_close(found, new)
    assert torch.equal(state, before)
    for got, want in zip((d_gates_x, *(part for part in out if part is not None)), gradients, strict=True):
        torch.testing.assert_close(got, want)
