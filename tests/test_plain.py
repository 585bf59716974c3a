"""The plain implementation by other means: numbers worked out by hand, torch's own losses, cells and optimizers."""

import dataclasses
import math
from typing import get_args, get_type_hints

import numpy as np
import plain
import pytest
import torch
import torch.nn.functional as F
from variants import MASKS, VARIANTS

from gru4rec.config import Hyperparameters

BASE = Hyperparameters(layers=(4,), batch_size=3, n_sample=0, dropout_hidden=0.0, learning_rate=0.1, momentum=0.0)
ITEMS = 9
SUPPORT = np.array([5, 1, 2, 9, 4, 3, 3, 1, 7])
SCORES = torch.tensor([[0.5, 2.0, -1.0]], dtype=torch.float64)  # one lane: its target, two extra negatives
INPUTS, TARGETS, EXTRA = torch.tensor([3, 0, 3]), torch.tensor([1, 4, 2]), torch.tensor([1, 5, 5, 3])
STARTS = torch.tensor([True, True, True])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trainer(settings: Hyperparameters, seed: int = 0) -> plain.PlainTrainer:
    return plain.PlainTrainer(settings, plain.initial(settings, ITEMS, seed), SUPPORT)


def change(settings: Hyperparameters, **arguments) -> dict[str, torch.Tensor]:
    """What one step adds to each weight."""
    obvious = trainer(settings)
    before = {name: weight.clone() for name, weight in obvious.weights.items()}
    obvious.step(INPUTS, TARGETS, STARTS, EXTRA, **arguments)
    return {name: weight - before[name] for name, weight in obvious.weights.items()}


# Losses.


def test_losses_of_pairs_by_hand():
    square = [sigmoid(4.0), sigmoid(1.0)]
    share = math.exp(2.0) / (math.exp(2.0) + math.exp(-1.0))
    wanted = {
        plain.top1: (sigmoid(1.5) + square[0] + sigmoid(-1.5) + square[1]) / 2,
        plain.bpr: -(math.log(sigmoid(-1.5)) + math.log(sigmoid(1.5))) / 2,
        plain.top1_max: share * (sigmoid(1.5) + square[0]) + (1 - share) * (sigmoid(-1.5) + square[1]),
    }
    for loss, value in wanted.items():
        assert float(loss(SCORES)) == pytest.approx(value)
    chance = share * sigmoid(-1.5) + (1 - share) * sigmoid(1.5)
    found = plain.bpr_max(SCORES, 0.7, 0.0)
    assert float(found) == pytest.approx(-math.log(chance) + 0.7 * (share * 4 + (1 - share)))
    low = 0.5 * (math.exp(-1.0) - 1)  # after ELU
    share = math.exp(2.0) / (math.exp(2.0) + math.exp(low))
    chance = share * sigmoid(-1.5) + (1 - share) * sigmoid(0.5 - low)
    found = plain.bpr_max(SCORES, 0.7, 0.5)
    assert float(found) == pytest.approx(-math.log(chance) + 0.7 * (share * 4 + (1 - share) * low**2))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_equals_torch(smoothing):
    scores, correction = random(4, 7), random(7, seed=1)
    found = plain.cross_entropy(scores, correction, items=torch.arange(7), smoothing=smoothing)
    wanted = F.cross_entropy(scores - correction, torch.arange(4), reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(found, wanted)


def test_smoothing_shares_out_over_items_not_columns():
    """Item 8 has two columns: it counts once, with the sum of their probabilities."""
    scores = torch.log(torch.tensor([[0.5, 0.2, 0.3]], dtype=torch.float64))
    items, none = torch.tensor([3, 8, 8]), torch.zeros(3)
    found = plain.cross_entropy(scores, none, None, None, items, 0.1)
    assert float(found) == pytest.approx(-0.9 * math.log(0.5) - 0.1 / 2 * (math.log(0.5) + math.log(0.5)))
    masked = torch.tensor([[False, True, False]])
    found = plain.cross_entropy(scores, none, masked, None, items, 0.1)
    p = 0.5 / 0.8
    assert float(found) == pytest.approx(-0.9 * math.log(p) - 0.1 / 2 * (math.log(p) + math.log(1 - p)))
    masked = torch.tensor([[False, True, True]])
    assert float(plain.cross_entropy(scores, none, masked, None, items, 0.1)) == pytest.approx(0.0)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_masked_columns_are_as_if_absent(smoothing):
    scores, correction, items = random(1, 6), random(6, seed=1), torch.tensor([3, 1, 1, 4, 2, 4])
    masked = torch.tensor([[False, True, False, True, False, True]])
    left = ~masked[0]
    for loss in (plain.top1, plain.bpr, plain.top1_max, lambda *r: plain.bpr_max(r[0], 0.5, 0.5, *r[1:])):
        torch.testing.assert_close(loss(scores, masked), loss(scores[:, left]))
    torch.testing.assert_close(
        plain.cross_entropy(scores, correction, masked, None, items, smoothing),
        plain.cross_entropy(scores[:, left], correction[left], None, None, items[left], smoothing),
    )


def test_a_lane_without_negatives_has_a_finite_loss_and_no_gradient():
    scores = SCORES.clone().requires_grad_()
    masked = torch.tensor([[False, True, True]])
    for value, loss in (
        (0.0, plain.top1(scores, masked)),
        (0.0, plain.bpr(scores, masked)),
        (0.0, plain.top1_max(scores, masked)),
        (-math.log(1e-24), plain.bpr_max(scores, 0.5, 0.5, masked)),
    ):
        assert float(loss.detach()) == pytest.approx(value)
        assert not torch.autograd.grad(loss.sum(), scores)[0].any()


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("linear", -2.0, 3.0),
        ("tanh", math.tanh(-2), math.tanh(3)),
        ("relu", 0.0, 3.0),
        ("leaky-relu", -0.4, 3.0),
        ("elu", 0.7 * (math.exp(-2) - 1), 3.0),
        ("selu", 1.0507009873554805 * 1.6732632423543772 * (math.exp(-2) - 1), 1.0507009873554805 * 3),
    ],
)
def test_activations_by_hand(name, low, high):
    settings = dataclasses.replace(BASE, final_act=name, leaky_slope=0.2, elu_param=0.7)
    found = plain.activation(settings, torch.tensor([-2.0, 3.0], dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([low, high], dtype=torch.float64))


def test_logq_correction_of_targets_and_extra_negatives():
    """One lane, so that the loss is that of one softmax over its target and the extra negatives."""
    settings = dataclasses.replace(BASE, batch_size=1, logq=0.8, sample_alpha=0.5)
    obvious = trainer(settings)
    w = {name: weight.clone() for name, weight in obvious.weights.items()}
    found = obvious.step(INPUTS[:1], TARGETS[:1], STARTS[:1], EXTRA)
    gru = (w[f"gru.0.{name}"] for name in ("weight_input", "weight_hidden", "bias_input", "bias_hidden"))
    h = torch.gru_cell(w["item_table"][INPUTS[:1]], torch.zeros(1, 4, dtype=torch.float64), *gru)
    mass = [
        math.exp(float(h[0] @ w["item_table"][item] + w["item_bias"][item])) / SUPPORT[item] ** (0.8 * alpha)
        for item, alpha in zip([1, 1, 5, 5, 3], [1.0, 0.5, 0.5, 0.5, 0.5], strict=True)
    ]
    assert found == pytest.approx(-math.log(mass[0] / sum(mass)))


# What does not count.


def masks(settings: Hyperparameters, clicked: list[set[int]]) -> list[list[int]]:
    """The columns that do not count for each lane; the columns are of items 1, 4, 2, 1, 5, 5, 3."""
    obvious = trainer(settings)
    obvious.seen = clicked
    columns, lanes = torch.cat([TARGETS, EXTRA]), torch.arange(3)
    return [row.nonzero().squeeze(1).tolist() for row in obvious._masked(columns, TARGETS, lanes, lanes)]


def test_masks_by_hand():
    clicked = [{3}, {0, 5, 4}, {1, 3, 2}]  # lanes 1 and 2 have clicked their target already
    assert masks(BASE, clicked) == [[], [], []]
    assert masks(dataclasses.replace(BASE, mask_hits=True), clicked) == [[3], [], []]
    assert masks(dataclasses.replace(BASE, mask_seen=True), clicked) == [[6], [4, 5], [0, 3, 6]]
    assert masks(dataclasses.replace(BASE, **MASKS), clicked) == [[3, 6], [4, 5], [0, 3, 6]]


def test_an_already_clicked_target_among_the_negatives_is_left_to_mask_hits():
    obvious = trainer(dataclasses.replace(BASE, mask_seen=True))
    obvious.seen = [{1, 3}, set(), set()]
    columns, lanes = torch.cat([TARGETS, EXTRA]), torch.arange(3)
    assert obvious._masked(columns, TARGETS, lanes, lanes)[0].tolist() == [False] * 6 + [True]


def test_clicked_items_are_those_since_the_sessions_start():
    obvious = trainer(BASE)
    goes_on = torch.tensor([False, True, False])
    obvious.step(INPUTS, TARGETS, STARTS, EXTRA)
    obvious.step(TARGETS, INPUTS, goes_on, EXTRA, active=torch.tensor([True, True, False]))
    assert obvious.seen == [{3, 1}, {4}, {3}]


@pytest.mark.parametrize("loss", ["cross-entropy", "full-cross-entropy", "bpr-max"])
def test_retired_lanes_are_as_if_absent(loss):
    """Two steps: the states that are carried belong to the right lanes."""
    settings = dataclasses.replace(
        BASE, loss=loss, cell="lstm", label_smoothing=0.1 * loss.endswith("cross-entropy"), **MASKS
    )
    some, all_of_them = trainer(settings), trainer(settings)
    active = torch.tensor([True, False, True])
    drop_embed, drop_hidden = random(3, 4).abs(), random(3, 4, seed=1).abs()
    for resets in (STARTS, torch.tensor([False, False, True])):
        found = some.step(INPUTS, TARGETS, resets, EXTRA, active, drop_embed, [drop_hidden])
        wanted = all_of_them.step(
            INPUTS[active],
            TARGETS[active],
            resets[active],
            EXTRA,
            drop_embed=drop_embed[active],
            drop_hidden=[drop_hidden[active]],
        )
        assert found == wanted
    for name, weight in some.weights.items():
        assert torch.equal(weight, all_of_them.weights[name])


# The network.


@pytest.mark.parametrize("cell", ["lstm", "rnn"])
def test_one_hot_equals_a_layer_that_reads_one_hot_vectors(cell):
    settings = dataclasses.replace(BASE, layers=(4, 5), cell=cell, embedding="one-hot", input_to_all_layers=True)
    obvious = trainer(settings)
    w, gates = obvious.weights, plain.GATES[cell]
    old = [random(3, 8 if cell == "lstm" else 4), random(3, 10 if cell == "lstm" else 5, seed=1)]
    drop = [random(3, 4, seed=2), random(3, 5, seed=3)]
    found, states = obvious._network(w, INPUTS, old, 1.0, drop)
    one_hot = F.one_hot(INPUTS, ITEMS).double()
    rows = w["item_input"].t()
    first, second = rows[: 4 * gates], torch.cat([w[f"{cell}.1.weight_input"], rows[4 * gates :]], dim=1)
    x = one_hot
    for layer, weight_input in enumerate((first, second)):
        rest = [w[f"{cell}.{layer}.{name}"] for name in ("weight_hidden", "bias_input", "bias_hidden")]
        module = {"lstm": torch.nn.LSTMCell, "rnn": torch.nn.RNNCell}[cell](
            x.shape[1], settings.layers[layer], dtype=torch.float64
        )
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        module.load_state_dict(dict(zip(names, (weight_input, *rest), strict=True)))
        if cell == "lstm":
            h, c = module(x, old[layer].chunk(2, dim=1))
            torch.testing.assert_close(states[layer], torch.cat([h * drop[layer], c], dim=1))
        else:
            h = module(x, old[layer])
            torch.testing.assert_close(states[layer], h * drop[layer])
        h = h * drop[layer]
        x = torch.cat([h, one_hot], dim=1)
    torch.testing.assert_close(found, h)


def test_one_hot_gru_by_hand():
    """One unit: the reset gate acts on the state before the product, and there is one bias."""
    settings = dataclasses.replace(BASE, layers=(1,), embedding="one-hot")
    obvious = trainer(settings)
    w = obvious.weights
    assert "gru.0.bias_hidden" not in w
    assert "gru.0.weight_input" not in w
    h = 0.6
    found, _ = obvious._network(w, torch.tensor([2]), [torch.tensor([[h]], dtype=torch.float64)], 0.5, [1.0])
    gate, u, b = w["item_input"][2].tolist(), w["gru.0.weight_hidden"].squeeze(1).tolist(), w["gru.0.bias_input"]
    b = b.tolist()
    r = sigmoid(0.5 * gate[0] + b[0] + u[0] * h)
    z = sigmoid(0.5 * gate[1] + b[1] + u[1] * h)
    n = math.tanh(0.5 * gate[2] + b[2] + u[2] * r * h)
    assert float(found) == pytest.approx((1 - z) * n + z * h)


def test_the_first_layer_reads_the_item_and_later_ones_the_layer_below_first():
    settings = dataclasses.replace(
        BASE, layers=(4, 5), embedding="separate", embedding_size=3, input_to_all_layers=True, feed_forward=(6, 2)
    )
    obvious = trainer(settings)
    w, drop_embed, drop = obvious.weights, random(3, 3), [random(3, 4, seed=1), random(3, 5, seed=2)]
    old = [random(3, 4, seed=3), random(3, 5, seed=4)]
    found, states = obvious._network(w, INPUTS, old, drop_embed, drop)
    e, names = w["item_input"][INPUTS] * drop_embed, ("weight_input", "weight_hidden", "bias_input", "bias_hidden")
    first = torch.gru_cell(e, old[0], *(w[f"gru.0.{name}"] for name in names)) * drop[0]
    both = torch.cat([first, e], dim=1)
    second = torch.gru_cell(both, old[1], *(w[f"gru.1.{name}"] for name in names)) * drop[1]
    y = torch.tanh(F.linear(second, w["feed_forward.0.weight"], w["feed_forward.0.bias"]))
    y = torch.tanh(F.linear(y, w["feed_forward.1.weight"], w["feed_forward.1.bias"]))
    torch.testing.assert_close(found, y)
    torch.testing.assert_close(states, [first, second])
    assert w["item_table"].shape == (ITEMS, 2)


# Optimizers and the whole step.

TORCH_OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {}),
    "adagrad": (torch.optim.Adagrad, {"eps": 1e-9}),
    "rmsprop": (torch.optim.RMSprop, {"alpha": 0.9, "eps": 1e-9}),
    "adadelta": (torch.optim.Adadelta, {"rho": 0.9, "eps": 1e-6}),
    "adam": (torch.optim.Adam, {"betas": (0.9, 0.999), "eps": 1e-8}),
}
# torch adds its small number to Adagrad's and RMSprop's root, not inside: equal but for so much.
ROUGH = {"adagrad": 1e-5, "rmsprop": 1e-5}


@pytest.mark.parametrize("name", TORCH_OPTIMIZERS)
def test_optimizers_equal_torch_row_by_row(name):
    """A row that is touched now and then equals a weight of its own, which torch steps then only."""
    settings = dataclasses.replace(BASE, optimizer=name, l2=0.01, learning_rate=0.05)
    kind, options = TORCH_OPTIMIZERS[name]
    weight, start = random(3, 2), random(3, 2)
    rows = [weight[row].clone().requires_grad_() for row in range(3)]
    optimizers = [kind([row], lr=0.05, **options) for row in rows]
    decay = [row.detach() for row in rows]
    obvious = plain.PlainOptimizer(settings, weight)
    for step in range(20):
        gradient = random(3, 2, seed=step)
        gradient += 0.3 * gradient.sign()  # away from 0, where the small numbers count
        touched = torch.tensor([True, step % 2 == 0, step % 3 == 0])
        obvious.step(weight, gradient, touched, 0.05)
        for row in touched.nonzero().squeeze(1).tolist():
            rows[row].grad = gradient[row] + 0.01 * decay[row]
            optimizers[row].step()
    wanted = torch.stack([row.detach() for row in rows])
    assert not torch.equal(wanted, start)
    torch.testing.assert_close(weight, wanted, rtol=ROUGH.get(name, 1e-10), atol=ROUGH.get(name, 1e-12))


def test_adagrad_and_rmsprop_have_their_small_number_inside_the_root():
    for name, scale in (("adagrad", 1.0), ("rmsprop", 0.1)):
        settings, weight = dataclasses.replace(BASE, optimizer=name), torch.zeros(1, dtype=torch.float64)
        plain.PlainOptimizer(settings, weight).step(weight, torch.tensor([1e-3]).double(), torch.tensor([True]), 1.0)
        assert float(weight) == pytest.approx(-1e-3 / math.sqrt(scale * 1e-6 + 1e-6))


def test_momentum_equals_torch():
    settings, weight = dataclasses.replace(BASE, optimizer="sgd", momentum=0.6), random(4)
    wanted = weight.clone().requires_grad_()
    obvious, torchs = plain.PlainOptimizer(settings, weight), torch.optim.SGD([wanted], lr=0.1, momentum=0.6)
    for step in range(10):
        wanted.grad = random(4, seed=step)
        torchs.step()
        obvious.step(weight, wanted.grad, torch.ones(4, dtype=torch.bool), 0.1)
    torch.testing.assert_close(weight, wanted.detach())


def test_a_change_of_the_learning_rate_leaves_the_velocity():
    settings, weight = dataclasses.replace(BASE, optimizer="sgd", momentum=0.5), torch.zeros(1, dtype=torch.float64)
    obvious, one = plain.PlainOptimizer(settings, weight), torch.ones(1, dtype=torch.float64)
    for rate in (1.0, 0.1):
        obvious.step(weight, one, torch.tensor([True]), rate)
    assert float(weight) == pytest.approx(-1.0 + (-0.5 - 0.1))


class Network(torch.nn.Module):
    """Tied embedding, two GRU layers, scores of all items: as a user of torch would write it."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.items = torch.nn.Embedding(ITEMS, 4, dtype=torch.float64)
        self.bias = torch.nn.Parameter(weights["item_bias"].clone())
        self.cells = torch.nn.ModuleList(torch.nn.GRUCell(size, size, dtype=torch.float64) for size in (4, 4))
        with torch.no_grad():
            self.items.weight.copy_(weights["item_table"])
            for layer, cell in enumerate(self.cells):
                for name, parameter in cell.named_parameters():
                    long = name.replace("_ih", "_input").replace("_hh", "_hidden")
                    parameter.copy_(weights[f"gru.{layer}.{long}"])

    def forward(self, inputs, states):
        x, new = self.items(inputs), []
        for cell, h in zip(self.cells, states, strict=True):
            x = cell(x, h)
            new.append(x)
        return x @ self.items.weight.t() + self.bias, new


@pytest.mark.parametrize("name", sorted(TORCH_OPTIMIZERS.keys() - ROUGH.keys()))
def test_steps_of_full_cross_entropy_equal_torch(name):
    """Every row is touched, so that torch's own loss, clipping and optimizers do the same."""
    settings = dataclasses.replace(
        BASE, layers=(4, 4), loss="full-cross-entropy", optimizer=name, label_smoothing=0.2, grad_clip=0.5
    )
    obvious = trainer(settings)
    network = Network(obvious.weights)
    kind, options = TORCH_OPTIMIZERS[name]
    optimizer = kind(network.parameters(), lr=settings.learning_rate, **options)
    states = [torch.zeros(3, 4, dtype=torch.float64)] * 2
    rng = np.random.default_rng(0)
    clipped = 0
    for step in range(12):
        inputs, targets = torch.from_numpy(rng.integers(0, ITEMS, (2, 3)))
        resets = torch.from_numpy(rng.random(3) < (0.3 if step else 1.0))
        found = obvious.step(inputs, targets, resets, EXTRA)
        old = [torch.where(resets.unsqueeze(1), 0.0, h.detach()) for h in states]
        scores, states = network(inputs, old)
        loss = F.cross_entropy(scores, targets, label_smoothing=0.2)
        optimizer.zero_grad()
        loss.backward()
        clipped += int(torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5) > 0.5)
        optimizer.step()
        assert found == pytest.approx(float(loss.detach()), rel=1e-9)
    assert clipped > 0
    torch.testing.assert_close(obvious.weights["item_table"], network.items.weight.detach(), rtol=0, atol=1e-8)


def test_l2_pulls_touched_weights_alone():
    settings = dataclasses.replace(BASE, optimizer="sgd", embedding="separate", grad_clip=0.05)
    start = trainer(settings).weights
    without, with_l2 = change(settings), change(dataclasses.replace(settings, l2=0.02))
    touched = {"item_table": [1, 2, 3, 4, 5], "item_bias": [1, 2, 3, 4, 5], "item_input": [0, 3]}
    for name, weight in start.items():
        pull = torch.zeros_like(weight)
        rows = touched.get(name, slice(None))
        pull[rows] = -0.1 * 0.02 * weight[rows]
        torch.testing.assert_close(with_l2[name], without[name] + pull)
        if name in touched:
            assert set(without[name].reshape(ITEMS, -1).any(dim=1).nonzero().squeeze(1).tolist()) == set(touched[name])
    norm = math.sqrt(sum(float((added**2).sum()) for added in without.values()))
    assert norm == pytest.approx(0.1 * 0.05, rel=1e-4)


def test_rows_of_inputs_are_touched_where_the_embedding_is_tied():
    added = change(BASE)
    assert added["item_table"].any(dim=1).nonzero().squeeze(1).tolist() == [0, 1, 2, 3, 4, 5]
    assert added["item_bias"].nonzero().squeeze(1).tolist() == [1, 2, 3, 4, 5]


def test_the_learning_rate_of_a_step_can_be_given():
    settings = dataclasses.replace(BASE, optimizer="sgd")
    usual, half = change(settings), change(settings, learning_rate=0.05)
    for name, added in usual.items():
        torch.testing.assert_close(half[name], added / 2)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.2, 0.2, 0.2]),
        ("linear", [0.2, 0.11, 0.02]),
        ("exponential", [0.2, 0.2 * math.sqrt(0.1), 0.02]),
        ("cosine", [0.2, 0.11, 0.02]),
    ],
)
def test_schedules(schedule, rates):
    settings = Hyperparameters(lr_schedule=schedule, learning_rate=0.2, lr_final=0.1, epochs=3)
    assert [plain.learning_rate(settings, epoch) for epoch in range(3)] == pytest.approx(rates)
    assert plain.learning_rate(dataclasses.replace(settings, epochs=1), 0) == 0.2


# The variants.


def test_variants_use_every_choice():
    names = [name for name, _ in VARIANTS]
    assert len(set(names)) == len(names)
    hints = get_type_hints(Hyperparameters)
    of_the_step = ("loss", "cell", "embedding", "final_act", "optimizer", "input_to_all_layers", *MASKS)
    for name in of_the_step:
        wanted = set(get_args(hints[name])) or {False, True}
        assert {getattr(settings, name) for _, settings in VARIANTS} == wanted, name
