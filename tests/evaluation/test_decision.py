"""The decision: better with significance, all guards passed, the same data; otherwise the reason."""

import dataclasses

import numpy as np
import pytest

from gru4rec import cli, config
from gru4rec.evaluation.decision import Version, decide

COUNTS = np.full(400, 3)
RANDOM = np.random.default_rng(0)
EASE = RANDOM.random(400)
OLD = RANDOM.binomial(3, 0.4 + 0.2 * EASE).astype(float)
NEW = np.minimum(3, OLD + (RANDOM.random(400) < 0.3))
EQUAL = RANDOM.permutation(OLD)


def version(label, gains, **changed):
    given = {
        "fingerprint": "data",
        "unknown_share": 0.01,
        "coverage": 0.5,
        "latency_ms": 2.0,
        "size_mb": 10.0,
    }
    return Version(label, float(gains.sum() / COUNTS.sum()), **{**given, **changed})


def decided(*versions, champion="m/1", gains=None, **changed):
    settings = cli.check(config.Compare, {"models": ["x"], "data": "d", **changed})
    known = {"m/1": OLD, "m/2": NEW, "m/3": EQUAL} | (gains or {})
    return decide(versions, champion, known, COUNTS, "data", settings)


OLD_ONE, NEW_ONE = version("m/1", OLD), version("m/2", NEW)


def test_a_better_version_is_promoted_with_its_evidence():
    found = decided(OLD_ONE, NEW_ONE)
    assert (found.winner, found.promote) == ("m/2", True)
    assert found.tests["m/2"]["p"] < 0.001 < found.tests["m/2"]["low"]
    assert "mrr_at_20 of m/2 is" in found.reasons[0]
    assert "beyond the margin of 1.0%" in found.reasons[0]


def test_an_equal_version_is_not():
    found = decided(OLD_ONE, dataclasses.replace(version("m/3", EQUAL), value=OLD_ONE.value + 0.001))
    assert (found.winner, found.promote) == ("m/3", False)
    assert "not better than the champion m/1 by more than 1.0% with significance" in found.reasons[0]


def test_a_gain_below_the_margin_is_none():
    gains = OLD * 1.02
    better = version("m/2", gains)
    assert decided(OLD_ONE, better, gains={"m/2": gains}).promote
    assert not decided(OLD_ONE, better, gains={"m/2": gains}, margin=0.03).promote


def test_the_champion_that_is_still_the_best_stays():
    found = decided(OLD_ONE, version("m/2", OLD / 2), gains={"m/2": OLD / 2})
    assert found.reasons == ["m/1 is the champion and still the best"]
    assert found.tests["m/2"]["p"] == 1


def test_many_candidates_make_each_of_them_less_likely():
    alone = decided(OLD_ONE, NEW_ONE).tests["m/2"]["p"]
    among = decided(
        OLD_ONE, NEW_ONE, *[version(f"m/{n}", OLD) for n in range(4, 9)], gains={f"m/{n}": OLD for n in range(4, 9)}
    )
    assert among.tests["m/2"]["p"] == pytest.approx(6 * alone)


@pytest.mark.parametrize(
    ("changed", "settings", "reason"),
    [
        ({"coverage": 0.3}, {}, "guard coverage: the lists of m/2 show 30.0% of the catalogue, less than"),
        ({"unknown_share": 0.2}, {}, "guard unknown-share: m/2 has 20 % of test clicks unknown, more than"),
        ({"latency_ms": 9.0}, {"max_latency_ms": 5.0}, "guard latency-ms: m/2 has 9 ms for one session"),
        ({"size_mb": 99.0}, {"max_model_mb": 50.0}, "guard model-mb: m/2 has 99 MB"),
        ({"fingerprint": "else"}, {}, "m/2 was trained and evaluated on other data (else) than this comparison's"),
        ({"fingerprint": ""}, {}, "m/2 was trained and evaluated on other data (unknown data)"),
    ],
)
def test_a_guard_refuses_and_says_why(changed, settings, reason):
    found = decided(OLD_ONE, version("m/2", NEW, **changed), **settings)
    assert not found.promote
    assert any(text.startswith(reason) for text in found.reasons)
    assert len(found.reasons) == 1


def test_the_first_champion_only_has_to_pass_the_guards():
    assert decided(OLD_ONE, NEW_ONE, champion="").promote
    assert decided(version("m/2", NEW, unknown_share=0.5), champion="").reasons[0].startswith("guard unknown-share")
