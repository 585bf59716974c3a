"""Losses and their gradients against float64, autograd, and one column for each target and negative."""

import numpy as np
import plain
import pytest
import torch

from gru4rec.model import kernels, losses

LANES, CATALOGUE = 6, 12


def sampled(seed: int) -> dict[str, torch.Tensor]:
    """Targets and negatives from a small catalogue, so that items occur many times, among them lanes' own targets."""
    rng = np.random.default_rng(seed)
    columns = rng.integers(0, CATALOGUE, LANES + 20)
    items, place = np.unique(columns, return_inverse=True)
    return {
        "place": torch.from_numpy(place),  # column -> distinct item
        "positive": torch.from_numpy(place[:LANES]),
        "scores": torch.from_numpy(rng.normal(0, 3, (LANES, len(items)))),
        "correction": torch.from_numpy(rng.random(len(columns)) * 2),
        "multiplicity": torch.from_numpy(np.bincount(place)),
        "weight": torch.from_numpy(np.array([1, 1, 0, 1, 1, 1]) / LANES),
    }


def expected(case, loss_of_columns) -> tuple[float, torch.Tensor]:
    scores = case["scores"].clone().requires_grad_()
    total = (loss_of_columns(scores[:, case["place"]]) * case["weight"]).sum()
    return float(total.detach()), torch.autograd.grad(total, scores)[0]


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("corrected", [True, False])
def test_cross_entropy(seed, corrected):
    case = sampled(seed)
    correction = case["correction"] * corrected
    # A correction belongs to a column: the same item may have several.
    mass = torch.zeros(len(case["multiplicity"]), dtype=torch.float64)
    mass.index_add_(0, case["place"], torch.exp(-correction))
    log_weight = mass.log()
    offset = log_weight[case["positive"]] + correction[:LANES]
    loss, gradient = losses.cross_entropy(
        (case["scores"] + log_weight).float(), case["positive"], case["weight"].float(), offset.float()
    )
    wanted, wanted_gradient = expected(case, lambda scores: plain.cross_entropy(scores, correction))
    assert float(loss) == pytest.approx(wanted, rel=1e-5)
    assert relative_error(gradient, wanted_gradient) < 1e-5


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("bpreg", "elu_param"), [(0.0, 0.0), (0.5, 0.5), (1.95, 1.0)])
@pytest.mark.parametrize("fused", [True, False])
def test_bpr_max(seed, bpreg, elu_param, fused, monkeypatch):
    monkeypatch.setattr(kernels, "FUSED", fused and kernels.FUSED)
    case = sampled(seed)
    loss, gradient = losses.bpr_max(
        case["scores"].float(),
        case["positive"],
        case["weight"].float(),
        case["multiplicity"].float(),
        bpreg,
        elu_param,
    )
    wanted, wanted_gradient = expected(case, lambda scores: plain.bpr_max(scores, bpreg, elu_param))
    assert float(loss) == pytest.approx(wanted, rel=1e-5)
    assert relative_error(gradient, wanted_gradient) < 1e-5


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["top1", "bpr", "top1_max"])
def test_losses_of_pairs(name, seed):
    case = sampled(seed)
    loss, gradient = getattr(losses, name)(
        case["scores"].float(), case["positive"], case["weight"].float(), case["multiplicity"].float()
    )
    wanted, wanted_gradient = expected(case, getattr(plain, name))
    assert float(loss) == pytest.approx(wanted, rel=1e-5)
    assert relative_error(gradient, wanted_gradient) < 1e-5


def test_bpr_max_of_a_lane_without_negatives_is_finite_and_still():
    loss, gradient = losses.bpr_max(
        torch.tensor([[1.0]]), torch.tensor([0]), torch.tensor([1.0]), torch.tensor([1.0]), 0.5, 0.5
    )
    assert torch.isfinite(loss)
    assert not gradient.any()


@pytest.mark.parametrize("size", [60.0, 200.0])
def test_losses_of_very_large_scores_are_finite(size):
    scores = torch.tensor([[size, -size, size, 0.0]])
    weight, positive = torch.tensor([1.0]), torch.tensor([1])
    for loss, gradient in (
        losses.cross_entropy(scores.clone(), positive, weight, torch.zeros(1)),
        losses.bpr_max(scores.clone(), positive, weight, torch.ones(4), 0.5, 0.5),
        losses.top1_max(scores, positive, weight, torch.ones(4)),
        losses.bpr(scores, positive, weight, torch.ones(4)),
    ):
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()
