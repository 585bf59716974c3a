"""Optimizers against their definitions in float64 and against torch.optim; clipping; the schedule."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gru4rec.config import Hyperparameters
from gru4rec.model import kernels
from gru4rec.model.optimizers import Optimizer, clip, learning_rate, state_names

NAMES = ("sgd", "adagrad", "rmsprop", "adadelta", "adam")
ITEMS, WIDTH, STEPS = 30, 6, 20

every_optimizer = pytest.mark.parametrize("name", NAMES)
with_momentum = pytest.mark.parametrize("momentum", [0.0, 0.3])
with_l2 = pytest.mark.parametrize("l2", [0.0, 0.01])


@pytest.fixture(params=["fused", "plain torch"])
def kernel(request, monkeypatch):
    if request.param == "fused" and not kernels.FUSED:
        pytest.skip("numba is not installed")
    monkeypatch.setattr(kernels, "FUSED", request.param == "fused")


def chosen(name: str, **others) -> Hyperparameters:
    return Hyperparameters(optimizer=name, rho=0.8, beta1=0.85, beta2=0.99, **others)


class Plain:
    """The definitions in float64, a row at a time."""

    def __init__(self, settings: Hyperparameters, table: np.ndarray) -> None:
        self.settings = settings
        self.table = table.astype(np.float64)
        self.first, self.second, self.velocity = (np.zeros_like(self.table) for _ in range(3))
        self.updates = np.zeros(len(table), int)

    def step(self, rows, gradient, lr) -> None:
        for row, g in zip(rows, gradient.astype(np.float64), strict=True):
            g = g + self.settings.l2 * self.table[row]
            self.velocity[row] = self.settings.momentum * self.velocity[row] + self.change(row, g, lr)
            self.table[row] += self.velocity[row]

    def change(self, row, g, lr) -> np.ndarray:
        settings = self.settings
        rho, first, second = settings.rho, self.first[row], self.second[row]
        match settings.optimizer:
            case "sgd":
                return -lr * g
            case "adagrad":
                first[:] = first + g**2
                return -lr * g / np.sqrt(first + 1e-6)
            case "rmsprop":
                first[:] = rho * first + (1 - rho) * g**2
                return -lr * g / np.sqrt(first + 1e-6)
            case "adadelta":
                first[:] = rho * first + (1 - rho) * g**2
                d = g * np.sqrt(second + 1e-6) / np.sqrt(first + 1e-6)
                second[:] = rho * second + (1 - rho) * d**2
                return -lr * d
            case "adam":
                self.updates[row] += 1
                n = self.updates[row]
                first[:] = settings.beta1 * first + (1 - settings.beta1) * g
                second[:] = settings.beta2 * second + (1 - settings.beta2) * g**2
                mean, square = first / (1 - settings.beta1**n), second / (1 - settings.beta2**n)
                return -lr * mean / (np.sqrt(square) + 1e-8)


def sparse_steps(seed: int = 1):
    """Rows [M] (distinct, in any order), their gradient [M, D] and a learning rate, other ones each step."""
    rng = np.random.default_rng(seed)
    for _ in range(STEPS):
        rows = rng.permutation(ITEMS)[: rng.integers(1, ITEMS)]
        yield rows, rng.normal(0, 1, (len(rows), WIDTH)).astype(np.float32), float(rng.uniform(0.02, 0.1))


def start(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(0, 1, shape).astype(np.float32))


def everything(optimizer: Optimizer) -> dict[str, torch.Tensor]:
    return {**optimizer.states(), "table": optimizer.weights}


@every_optimizer
@with_momentum
@with_l2
def test_rows_follow_the_definition_and_all_others_keep_their_bits(name, momentum, l2, kernel):
    settings = chosen(name, momentum=momentum, l2=l2)
    table = start(ITEMS, WIDTH)
    plain, optimizer = Plain(settings, table.numpy()), Optimizer.of(settings, table)
    for rows, gradient, lr in sparse_steps():
        before = {key: t.clone() for key, t in everything(optimizer).items()}
        given = torch.from_numpy(gradient)
        optimizer.step(torch.from_numpy(rows), given, lr)
        plain.step(rows, gradient, lr)
        np.testing.assert_allclose(optimizer.weights.numpy(), plain.table, rtol=0, atol=1e-5)
        assert np.array_equal(given.numpy(), gradient)
        others = np.setdiff1d(np.arange(ITEMS), rows)
        for key, t in everything(optimizer).items():
            assert torch.equal(t[others], before[key][others]), key
    if name == "adam":
        assert np.array_equal(optimizer.states()["updates"].numpy(), plain.updates)


@every_optimizer
@with_momentum
def test_fused_and_plain_torch_agree(name, momentum, monkeypatch):
    settings = chosen(name, momentum=momentum, l2=0.01)
    found = []
    for fused in (kernels.FUSED, False):
        monkeypatch.setattr(kernels, "FUSED", fused)
        optimizer = Optimizer.of(settings, start(ITEMS, WIDTH))
        for rows, gradient, lr in sparse_steps():
            optimizer.step(torch.from_numpy(rows), torch.from_numpy(gradient), lr)
        found.append(everything(optimizer))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)


@every_optimizer
def test_without_momentum_a_whole_weight_goes_as_in_torch(name, kernel):
    """torch adds epsilon beside the square roots of Adagrad and RMSprop: there none, and no gradient near 0."""
    settings = chosen(name, momentum=0.0)
    theirs = start(50).requires_grad_()
    same = {
        "sgd": (torch.optim.SGD, {}),
        "adagrad": (torch.optim.Adagrad, {"eps": 0}),
        "rmsprop": (torch.optim.RMSprop, {"alpha": settings.rho, "eps": 0}),
        "adadelta": (torch.optim.Adadelta, {"rho": settings.rho, "eps": 1e-6}),
        "adam": (torch.optim.Adam, {"betas": (settings.beta1, settings.beta2), "eps": 1e-8}),
    }
    kind, options = same[name]
    wanted, optimizer = kind([theirs], lr=0.05, **options), Optimizer.of(settings, start(1, 50))
    rng = np.random.default_rng(3)
    for _ in range(STEPS):
        gradient = torch.from_numpy((rng.uniform(0.5, 2, 50) * rng.choice([-1, 1], 50)).astype(np.float32))
        theirs.grad = gradient
        wanted.step()
        optimizer.step(torch.zeros(1, dtype=torch.int64), gradient.unsqueeze(0), 0.05)
    torch.testing.assert_close(optimizer.weights[0], theirs.detach(), rtol=0, atol=2e-5)


@every_optimizer
@with_momentum
@pytest.mark.parametrize("rate", [0.1, torch.empty((), device="meta")], ids=["number", "tensor"])
def test_no_step_waits_for_the_device(name, momentum, rate):
    """On the meta device nothing can be read, which is what the capture of a CUDA graph asks for."""
    settings = chosen(name, momentum=momentum, l2=0.01)
    rows = torch.empty(4, dtype=torch.int64, device="meta")
    table, gradient = (torch.empty(n, WIDTH, device="meta") for n in (ITEMS, 4))
    Optimizer.of(settings, table).step(rows, gradient, rate)
    clip([table, gradient], 1.0)


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_adam_counts_long_and_forgets_at_once(beta1, kernel):
    """The first step of a row has the size of the learning rate, as has every one of a gradient that stays."""
    settings = Hyperparameters(optimizer="adam", momentum=0.0, beta1=beta1)
    table, rows, gradient = torch.zeros(2, 1), torch.tensor([1]), torch.tensor([[0.003]])
    optimizer = Optimizer.of(settings, table)
    for step in range(1, 1001):
        optimizer.step(rows, gradient, 0.01)
        assert float(optimizer.weights[1, 0]) == pytest.approx(-0.01 * step, rel=1e-4)


def test_state_has_the_names_of_the_settings():
    assert state_names(chosen("sgd", momentum=0.0)) == ()
    assert state_names(chosen("sgd", momentum=0.1)) == ("velocity",)
    assert state_names(chosen("adadelta", momentum=0.1)) == ("accumulator", "accumulated_change", "velocity")
    optimizer = Optimizer.of(chosen("adam", momentum=0.0), start(3, 2), spare=1)
    shapes = {name: tuple(state.shape) for name, state in optimizer.states().items()}
    assert shapes == {"mean": (4, 2), "square": (4, 2), "updates": (4,)}
    assert optimizer.states()["updates"].dtype == torch.int32


@given(st.lists(st.lists(st.floats(-100, 100, width=32), min_size=1), min_size=1, max_size=4), st.floats(0.01, 1000))
def test_clipped_gradients_have_the_limit_as_norm_and_their_direction(values, limit):
    gradients = [torch.tensor(part) for part in values]
    before = torch.cat(gradients).double()
    clip(gradients, limit)
    factor = min(1.0, limit / (float(before.norm()) + 1e-6))
    torch.testing.assert_close(torch.cat(gradients).double(), before * factor, rtol=1e-5, atol=1e-6)


def test_gradients_below_the_limit_keep_their_bits():
    alone = start(20)
    clip([alone], 100.0)
    assert torch.equal(alone, start(20))


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("constant", [1, 1, 1, 1, 1]),
        ("linear", [1, 0.79, 0.58, 0.37, 0.16]),
        ("exponential", [1, 0.16**0.25, 0.4, 0.16**0.75, 0.16]),
        ("cosine", [1, 0.58 + 0.42 / 2**0.5, 0.58, 0.58 - 0.42 / 2**0.5, 0.16]),
    ],
)
def test_learning_rates_of_the_epochs(schedule, shares):
    settings = Hyperparameters(epochs=5, learning_rate=0.2, lr_schedule=schedule, lr_final=0.16)
    assert [learning_rate(settings, epoch) for epoch in range(5)] == pytest.approx([0.2 * share for share in shares])
    assert learning_rate(dataclasses.replace(settings, epochs=1), 0) == 0.2


@given(
    st.sampled_from(["linear", "exponential", "cosine"]), st.integers(2, 30), st.floats(0.001, 1), st.floats(0.001, 1)
)
def test_a_learning_rate_never_rises_and_ends_at_its_share(schedule, epochs, final, first):
    settings = Hyperparameters(epochs=epochs, learning_rate=first, lr_schedule=schedule, lr_final=final)
    rates = [learning_rate(settings, epoch) for epoch in range(epochs)]
    assert rates[0] == pytest.approx(first)
    assert rates[-1] == pytest.approx(first * final)
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in itertools.pairwise(rates))
