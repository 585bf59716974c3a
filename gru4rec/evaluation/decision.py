"""Which version is to be champion, and why: a pure function of what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gru4rec.config import Compare
from gru4rec.evaluation import significance
from gru4rec.evaluation.significance import Test


@dataclass(frozen=True)
class Version:
    """What is known of a registered version that was compared."""

    label: str
    value: float  # of the metric that decides
    fingerprint: str  # of the data that it was trained on
    unknown_share: float  # of the test clicks, on items that it does not know
    coverage: float  # share of the catalogue that its lists show
    latency_ms: float  # median time of one session's list
    size_mb: float  # weights and catalogue


class Decision(NamedTuple):
    """What the comparison says."""

    winner: str  # label of the best version
    promote: bool
    reasons: list[str]  # for people, each a sentence's worth
    tests: dict[str, dict[str, Any]]  # by version: difference to the champion less the margin, interval, corrected p


def decide(
    versions: Sequence[Version],
    champion: str,
    gains: Mapping[str, np.ndarray],
    counts: np.ndarray,
    fingerprint: str,
    settings: Compare,
) -> Decision:
    """Whether the best version takes the place of the champion (a label; "": there is none).

    `gains` [sessions] by label are what sessions add to the metric, `counts` [sessions] their predictions. Every
    version but the champion is tested against it, and all are corrected together (`holm`): the best of many is better
    by chance. `fingerprint` is that of the data that all were compared on.
    """
    by_label = {version.label: version for version in versions}
    winner = max(versions, key=lambda version: version.value)
    others = [version.label for version in versions if version.label != champion]
    tests: dict[str, dict[str, Any]] = {}
    if champion and others:
        found: dict[str, Test] = {
            label: significance.better(gains[label], gains[champion], counts, settings.margin) for label in others
        }
        corrected = significance.holm(np.array([test.p for test in found.values()]))
        tests = {
            label: {**test._asdict(), "p": float(p)} for (label, test), p in zip(found.items(), corrected, strict=True)
        }
    refusals = [
        *_significance(winner.label, champion, tests, settings),
        *_guards(winner, by_label.get(champion), settings),
    ]
    if winner.fingerprint != fingerprint:
        trained = winner.fingerprint[:12] or "unknown data"
        refusals.append(
            f"{winner.label} was trained and evaluated on other data ({trained}) than this comparison's "
            f"({fingerprint[:12]}): what is test here may have been training there"
        )
    if refusals:
        return Decision(winner.label, False, refusals, tests)
    if not champion:
        reason = f"there is no champion; {winner.label} is the best version and passes the guards"
        return Decision(winner.label, True, [reason], tests)
    test = tests[winner.label]
    reason = (
        f"{settings.metric} of {winner.label} is {winner.value:.4f}, of {champion} {by_label[champion].value:.4f}: "
        f"{test['difference']:+.4f} beyond the margin of {settings.margin:.1%} "
        f"(95 % interval {test['low']:+.4f} to {test['high']:+.4f}, p = {test['p']:.2g})"
    )
    return Decision(winner.label, True, [reason], tests)


def _significance(winner: str, champion: str, tests: Mapping[str, Mapping[str, float]], settings: Compare) -> list[str]:
    if not champion:
        return []
    if winner == champion:
        return [f"{champion} is the champion and still the best"]
    test = tests[winner]
    if test["p"] <= settings.level and test["low"] > 0:
        return []
    return [
        f"{winner} is not better than the champion {champion} by more than {settings.margin:.1%} with significance: "
        f"{settings.metric} differs by {test['difference']:+.4f} less that margin (95 % interval {test['low']:+.4f} to "
        f"{test['high']:+.4f}, p = {test['p']:.2g}, level {settings.level:g})"
    ]


def _guards(winner: Version, champion: Version | None, settings: Compare) -> list[str]:
    found = []
    if champion and champion is not winner and winner.coverage < settings.min_coverage * champion.coverage:
        found.append(
            f"guard coverage: the lists of {winner.label} show {winner.coverage:.1%} of the catalogue, less than "
            f"--min-coverage {settings.min_coverage:g} of the champion's {champion.coverage:.1%}"
        )
    for name, value, limit, unit in (
        ("unknown-share", 100 * winner.unknown_share, 100 * settings.max_unknown_share, " % of test clicks unknown"),
        ("latency-ms", winner.latency_ms, settings.max_latency_ms, " ms for one session"),
        ("model-mb", winner.size_mb, settings.max_model_mb, " MB"),
    ):
        if limit and value > limit:
            found.append(
                f"guard {name}: {winner.label} has {value:.3g}{unit}, more than --max-{name} allows ({limit:g})"
            )
    return found
