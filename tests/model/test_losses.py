"""Losses and their gradients against float64, autograd, and one column for each target and negative."""

import itertools

import numpy as np
import plain
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from gru4rec.config import Hyperparameters
from gru4rec.model import kernels, losses

LANES, CATALOGUE = 6, 12
LOSSES = ["cross-entropy", "full-cross-entropy", "bpr-max", "top1-max", "bpr", "top1"]
ACTIVATIONS = {
    "linear": lambda x: x,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "leaky-relu": lambda x: F.leaky_relu(x, 0.1),
    "elu": lambda x: F.elu(x, 0.7),
    "selu": torch.selu,
}
MASKING = list(itertools.product([False, True], repeat=2))  # hits, seen


def case_of(seed: int, lanes: int = LANES, catalogue: int = CATALOGUE, extra: int = 20, size: float = 3.0) -> dict:
    """Targets and negatives from a small catalogue, so that items occur many times, among them lanes' own targets."""
    rng = np.random.default_rng(seed)
    columns = rng.integers(0, catalogue, lanes + extra)
    items, place = np.unique(columns, return_inverse=True)
    weight = np.full(lanes, 1 / lanes)
    weight[2:3] = 0
    return {
        "place": torch.from_numpy(place),  # column -> distinct item
        "positive": torch.from_numpy(place[:lanes]),
        "own": list(range(lanes)),  # each lane's own target column
        "scores": torch.from_numpy(rng.normal(0, size, (lanes, len(items))).astype(np.float32)),
        "correction": torch.from_numpy(rng.random(len(columns)) * 2),
        "multiplicity": torch.from_numpy(np.bincount(place)).float(),
        "weight": torch.from_numpy(weight.astype(np.float32)),
        "seen": torch.from_numpy(rng.random((lanes, len(items))) < 0.3),  # clicked already in the lane's session
    }


def of_all_items(case: dict) -> dict:
    """The case with every item as one column, without correction."""
    count = len(case["multiplicity"])
    return case | {
        "place": torch.arange(count),
        "own": case["positive"].tolist(),
        "correction": torch.zeros(count, dtype=torch.float64),
        "multiplicity": torch.ones(count),
    }


def log_weight_and_offset(case: dict) -> tuple[torch.Tensor, torch.Tensor]:
    # A correction belongs to a column: the same item may have several.
    mass = torch.zeros(len(case["multiplicity"]), dtype=torch.float64)
    mass.index_add_(0, case["place"], torch.exp(-case["correction"]))
    log_weight = mass.log()
    return log_weight.float(), (log_weight[case["positive"]] + case["correction"][case["own"]]).float()


def lane_loss(settings: Hyperparameters, r, own: int, columns: list[int], place, correction) -> torch.Tensor:
    """The loss of one lane, r [columns of all], of which `columns`, its own target's among them, count."""
    if settings.loss.endswith("cross-entropy"):
        p = torch.softmax((r - correction)[columns], dim=0)
        loss, e = -torch.log(p[columns.index(own)] + 1e-24), settings.label_smoothing
        if not e:
            return loss
        items, number = torch.unique(place[columns], return_inverse=True)
        of_item = torch.zeros(len(items), dtype=torch.float64).index_add(0, number, p)
        return (1 - e) * loss - e * torch.log(of_item + 1e-24).mean()
    negatives = r[[column for column in columns if column != own]]
    s = torch.softmax(negatives, dim=0) if settings.loss.endswith("max") else 1 / max(len(negatives), 1)
    match settings.loss:
        case "bpr-max":
            chance = (s * torch.sigmoid(r[own] - negatives)).sum()
            return -torch.log(chance + 1e-24) + settings.bpreg * (s * negatives**2).sum()
        case "bpr":
            return -(s * F.logsigmoid(r[own] - negatives)).sum()
    return (s * (torch.sigmoid(negatives - r[own]) + torch.sigmoid(negatives**2))).sum()


def wanted_of(settings: Hyperparameters, case: dict) -> tuple[float, torch.Tensor]:
    """Loss, and gradient with respect to the scores."""
    scores = case["scores"].double().requires_grad_()
    place, total = case["place"], 0.0
    for lane, own in enumerate(case["own"]):
        target, clicked, columns = int(case["positive"][lane]), case["seen"][lane].tolist(), []
        for column, item in enumerate(place.tolist()):
            hit = item == target and settings.mask_hits
            seen = item != target and settings.mask_seen and clicked[item]
            if column == own or not (hit or seen):
                columns.append(column)
        r = ACTIVATIONS[settings.activation](scores[lane])[place]
        total = total + case["weight"][lane] * lane_loss(settings, r, own, columns, place, case["correction"])
    return float(total.detach()), torch.autograd.grad(total, scores)[0]


def masked_cells(settings: Hyperparameters, case: dict) -> losses.Masked | None:
    if not settings.mask_seen:
        return None
    seen = case["seen"].clone()
    seen[torch.arange(len(seen)), case["positive"]] = False
    return losses.Masked(*seen.nonzero().unbind(1))


def found_of(settings, case, column_major=False, weighted=False) -> tuple[torch.Tensor, torch.Tensor]:
    scores = case["scores"]
    log_weight, offset = log_weight_and_offset(case)
    if weighted:
        scores = scores + log_weight
    scores = scores.t().clone(memory_format=torch.contiguous_format).t() if column_major else scores.clone()
    multiplicity = case["multiplicity"].clone()
    if settings.loss == "full-cross-entropy":
        multiplicity = log_weight = offset = None
    given = scores, case["positive"], case["weight"], multiplicity, log_weight, offset
    found = losses.loss_and_gradient(settings, *given, masked_cells(settings, case), weighted=weighted)
    if multiplicity is not None:
        assert torch.equal(multiplicity, case["multiplicity"])
    return found


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


def check(settings: Hyperparameters, case: dict, **how) -> torch.Tensor:
    loss, gradient = found_of(settings, case, **how)
    wanted, wanted_gradient = wanted_of(settings, case)
    assert float(loss) == pytest.approx(wanted, rel=1e-5, abs=1e-7)
    torch.testing.assert_close(
        gradient.double(), wanted_gradient, rtol=0, atol=1e-5 * float(wanted_gradient.abs().max()) + 5e-7
    )
    return gradient


def settings_of(loss: str, activation: str = "linear", hits=False, seen=False, **other) -> Hyperparameters:
    chosen = {"elu_param": 0.7, "leaky_slope": 0.1, "bpreg": 0.9, **other}
    return Hyperparameters(loss=loss, final_act=activation, mask_hits=hits, mask_seen=seen, **chosen)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("hits", "seen"), MASKING)
def test_losses_and_gradients(loss, activation, hits, seen, monkeypatch):
    """Each with rows and with columns contiguous; the cross-entropies with and without label smoothing."""
    monkeypatch.setattr(kernels, "FUSED", False)
    for seed, smoothing in itertools.product(range(2), [0.0, 0.2] if loss.endswith("cross-entropy") else [0.0]):
        case = of_all_items(case_of(seed)) if loss == "full-cross-entropy" else case_of(seed)
        settings = settings_of(loss, activation, hits, seen, label_smoothing=smoothing)
        gradient = check(settings, case)
        columnwise = found_of(settings, case, column_major=True)[1]
        torch.testing.assert_close(columnwise, gradient, rtol=1e-5, atol=1e-7)
        assert gradient.is_contiguous()
        assert columnwise.t().is_contiguous()
        if settings.mask_seen:
            assert not gradient[masked_cells(settings, case)].any()


@pytest.mark.skipif(not kernels.FUSED, reason="numba is not installed")
@pytest.mark.parametrize("activation", ["linear", "elu"])
@pytest.mark.parametrize("column_major", [True, False])
def test_bpr_max_fused(activation, column_major):
    for seed in range(5):
        check(settings_of("bpr-max", activation), case_of(seed), column_major=column_major)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(LOSSES),
    st.sampled_from(MASKING),
    st.sampled_from([0.0, 0.1, 0.9]),
    st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(0, 6)),
    st.booleans(),
)
@examples(max_examples=100, deadline=None)
def test_losses_of_any_shape(seed, loss, masking, smoothing, shape, column_major):
    """Few items and columns, so that lanes are often left with no negative at all."""
    case = case_of(seed, *shape)
    if loss == "full-cross-entropy":
        case = of_all_items(case)
    smoothing = smoothing if loss.endswith("cross-entropy") else 0.0
    check(settings_of(loss, "linear", *masking, label_smoothing=smoothing), case, column_major=column_major)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("corrected", [True, False])
def test_cross_entropy(seed, corrected):
    case = case_of(seed)
    case["correction"] *= corrected
    log_weight, offset = log_weight_and_offset(case)
    loss, gradient = losses.cross_entropy(case["scores"] + log_weight, case["positive"], case["weight"], offset)
    scores = case["scores"].double().requires_grad_()
    total = (plain.cross_entropy(scores[:, case["place"]], case["correction"]) * case["weight"]).sum()
    assert float(loss) == pytest.approx(float(total.detach()), rel=1e-5)
    assert relative_error(gradient, torch.autograd.grad(total, scores)[0]) < 1e-5


@pytest.mark.parametrize(("hits", "seen"), MASKING)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_of_scores_that_have_the_columns_weights_in_already(hits, seen, smoothing):
    settings = settings_of("cross-entropy", "linear", hits, seen, label_smoothing=smoothing)
    check(settings, case_of(5), weighted=True)


def test_only_a_linear_cross_entropy_has_the_columns_weights_in_its_scores():
    with pytest.raises(ValueError, match="no weighted scores in cross-entropy with activation tanh"):
        found_of(settings_of("cross-entropy", "tanh"), case_of(0), weighted=True)
    with pytest.raises(ValueError, match="no weighted scores in bpr with activation linear"):
        found_of(settings_of("bpr"), case_of(0), weighted=True)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("bpreg", "elu_param"), [(0.0, 0.0), (0.5, 0.5), (1.95, 1.0)])
@pytest.mark.parametrize("fused", [True, False])
def test_bpr_max(seed, bpreg, elu_param, fused, monkeypatch):
    """With the activation that is its own; ELU with a parameter of 0 is linear."""
    monkeypatch.setattr(kernels, "FUSED", fused and kernels.FUSED)
    case = case_of(seed)
    loss, gradient = found_of(Hyperparameters(loss="bpr-max", bpreg=bpreg, elu_param=elu_param), case)
    scores = case["scores"].double().requires_grad_()
    total = (plain.bpr_max(scores[:, case["place"]], bpreg, elu_param) * case["weight"]).sum()
    assert float(loss) == pytest.approx(float(total.detach()), rel=1e-5)
    assert relative_error(gradient, torch.autograd.grad(total, scores)[0]) < 1e-5


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["top1", "bpr", "top1_max"])
def test_losses_of_pairs(name, seed):
    case = case_of(seed)
    loss, gradient = getattr(losses, name)(case["scores"], case["positive"], case["weight"], case["multiplicity"])
    scores = case["scores"].double().requires_grad_()
    total = (getattr(plain, name)(scores[:, case["place"]]) * case["weight"]).sum()
    assert float(loss) == pytest.approx(float(total.detach()), rel=1e-5)
    assert relative_error(gradient, torch.autograd.grad(total, scores)[0]) < 1e-5


@pytest.mark.skipif(not kernels.FUSED, reason="numba is not installed")
def test_bpr_max_is_fused_where_the_kernel_does_the_same(monkeypatch):
    calls = []
    kernel = kernels.bpr_max
    monkeypatch.setattr(kernels, "bpr_max", lambda *given: calls.append(given[-1]) or kernel(*given))
    case = case_of(0)
    found_of(Hyperparameters(loss="bpr-max", elu_param=0.7), case)
    found_of(settings_of("bpr-max", "linear"), case)
    found_of(settings_of("bpr-max", "elu", seen=True), case | {"seen": torch.zeros_like(case["seen"])})
    assert calls == [0.7, 0.0, 0.7]
    for settings in (
        settings_of("bpr-max", "tanh"),
        settings_of("bpr-max", "elu", hits=True),
        settings_of("bpr-max", "elu", seen=True),
        settings_of("bpr-max", "elu", elu_param=0.0),
    ):
        found_of(settings, case)
    assert len(calls) == 3


@pytest.mark.parametrize("loss", ["bpr-max", "bpr"])
def test_elu_that_is_asked_for_with_a_parameter_of_0_is_relu(loss):
    case = case_of(0)
    wanted_loss, wanted = found_of(settings_of(loss, "relu"), case)
    found_loss, found = found_of(settings_of(loss, "elu", elu_param=0.0), case)
    assert torch.equal(found_loss, wanted_loss)
    assert torch.equal(found, wanted)


def test_cells_named_twice_are_masked_once():
    case = case_of(1)
    cells = masked_cells(settings_of("bpr", seen=True), case)
    twice = losses.Masked(*(torch.cat([part, part]) for part in cells))
    log_weight, offset = log_weight_and_offset(case)
    for name in LOSSES:
        settings = settings_of(name, label_smoothing=0.1 if name.endswith("cross-entropy") else 0.0)
        given = case["positive"], case["weight"], case["multiplicity"], log_weight, offset
        once, again = (
            losses.loss_and_gradient(settings, case["scores"].clone(), *given, masked) for masked in (cells, twice)
        )
        assert torch.equal(once[0], again[0])
        assert torch.equal(once[1], again[1])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_a_lane_without_negatives_is_finite_and_still(name, seen, fused, monkeypatch):
    """Lane 0 has none: all are masked, or there is but its own column. Lane 1, if any, learns."""
    monkeypatch.setattr(kernels, "FUSED", fused and kernels.FUSED)
    for size, smoothing in itertools.product([1.0, 200.0], [0.0, 0.3] if name.endswith("cross-entropy") else [0.0]):
        settings = settings_of(name, label_smoothing=smoothing)
        scores = torch.tensor([[-size, size, 0.0], [1.0, 2.0, -1.0]]) if seen else torch.tensor([[size]])
        lanes, count = scores.shape
        masked = losses.Masked(torch.tensor([0, 0]), torch.tensor([1, 2])) if seen else None
        loss, gradient = losses.loss_and_gradient(
            settings,
            scores,
            torch.arange(lanes),
            torch.full((lanes,), 0.5),
            torch.ones(count),
            torch.zeros(count),
            torch.zeros(lanes),
            masked,
        )
        assert torch.isfinite(loss)
        assert not gradient[0].any()
        assert gradient[1:].any() == seen


@pytest.mark.parametrize("size", [60.0, 200.0])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_losses_of_very_large_scores_are_finite(name, activation, size):
    rng = np.random.default_rng(0)
    signs = torch.from_numpy(rng.choice([-1.0, 0.0, 1.0], (LANES, len(case_of(0)["multiplicity"])))).float()
    case = case_of(0) | {"scores": signs * size}
    if name == "full-cross-entropy":
        case = of_all_items(case)
    for (hits, seen), smoothing in itertools.product(MASKING, [0.0, 0.3] if name.endswith("cross-entropy") else [0.0]):
        loss, gradient = found_of(settings_of(name, activation, hits, seen, label_smoothing=smoothing), case)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()
        assert not gradient[case["weight"] == 0].any()


@pytest.mark.skipif(not kernels.FUSED, reason="numba is not installed")
@pytest.mark.parametrize("lanes", [31, 32, 33, 70])
@pytest.mark.parametrize("loss", ["cross-entropy", "bpr-max"])
def test_the_fused_losses_equal_the_plain_ones_on_more_lanes_than_a_tile_holds(loss, lanes, monkeypatch):
    rng = np.random.default_rng(lanes)
    scores = torch.from_numpy(rng.normal(0, 2, (150, lanes)).astype(np.float32))
    given = {
        "positive": torch.from_numpy(rng.integers(0, 150, lanes)),
        "weight": torch.from_numpy((rng.random(lanes) < 0.8).astype(np.float32) / lanes),
        "multiplicity": torch.from_numpy(rng.integers(1, 4, 150).astype(np.float32)),
        "log_weight": torch.from_numpy(rng.normal(0, 1, 150).astype(np.float32)),
        "offset": torch.from_numpy(rng.random(lanes).astype(np.float32)),
    }
    found = []
    for fused in (True, False):
        monkeypatch.setattr(kernels, "FUSED", fused)
        found.append(losses.loss_and_gradient(Hyperparameters(loss=loss), scores.clone().t(), **given))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)
