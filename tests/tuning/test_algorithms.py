"""What is tried next and what is stopped, as functions of the trials so far."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gru4rec.tuning import algorithms, space
from gru4rec.tuning.trials import Trial, asha, best, median

SPACE = space.parse(
    """
loss = { choices = ["cross-entropy", "bpr-max"] }
learning_rate = { low = 0.05, high = 0.25, step = 0.05 }
dropout_hidden = { low = 0.0, high = 0.5, step = 0.1 }
bpreg = { low = 0.0, high = 2.0, step = 0.5, when = { loss = "bpr-max" } }
n_sample = { low = 16, high = 4096, log = true }
""",
    "s.toml",
)


def score(values):
    """The higher the nearer to one point."""
    found = 1 - abs(values["learning_rate"] - 0.15) - abs(values["dropout_hidden"] - 0.3)
    return found + 0.2 * (values["loss"] == "bpr-max") - 0.02 * abs(np.log2(values["n_sample"]) - 8)


def searched(suggest, seed, total, at_a_time=1):
    """Trials of a search, so many at a time; each group ends before the next begins."""
    trials, running = {}, []
    while len(trials) < total:
        number = len(trials)
        point = suggest(SPACE, seed, trials, number) if len(running) < at_a_time else None
        if point is None:
            assert running, "it waits for nothing"
            for one in running:
                trials[one] = Trial(one, trials[one].values, (score(trials[one].values),), "finished")
            running = []
            continue
        trials[number] = Trial(number, point)
        running.append(number)
    for one in running:
        trials[one] = Trial(one, trials[one].values, (score(trials[one].values),), "finished")
    return trials


@pytest.mark.parametrize("name", algorithms.SUGGEST)
def test_every_point_is_a_setting_and_an_interrupted_search_goes_on_alike(name):
    suggest = algorithms.SUGGEST[name]
    whole = searched(suggest, 3, 30)
    for number, trial in whole.items():
        SPACE.hyperparameters(trial.values)
        before = {n: whole[n] for n in range(number)}
        assert suggest(SPACE, 3, before, number) == trial.values  # from the trials alone
    assert searched(suggest, 4, 5) != searched(suggest, 3, 5)


def test_several_at_a_time_do_not_try_the_same():
    for name in ("random", "tpe", "star"):
        found = searched(algorithms.SUGGEST[name], 5, 24, at_a_time=4)
        points = [tuple(sorted(trial.values.items())) for trial in found.values()]
        assert len(set(points)) == len(points)


def test_who_looks_at_the_results_finds_better_points():
    values = {
        name: [best(searched(algorithms.SUGGEST[name], seed, 60)).value for seed in range(3)]
        for name in ("random", "tpe", "star")
    }
    assert np.mean(values["tpe"]) > np.mean(values["random"])
    assert np.mean(values["star"]) > np.mean(values["random"])


def test_star_varies_one_parameter_at_a_time():
    found = searched(algorithms.star, 1, 30)
    start = best({n: found[n] for n in range(20)})
    other = [name for name in start.values if found[20].values.get(name) != start.values[name]]
    assert len(other) == 1 or other == ["loss", "bpreg"] or set(other) <= {"loss", "bpreg"}


def test_star_varies_what_a_better_value_has_made_matter():
    found = space.parse(
        """
loss = { choices = ["cross-entropy", "bpr-max"] }
bpreg = { low = 1.0, high = 3.0, step = 0.5, when = { loss = "bpr-max" } }
elu_param = { choices = [0.5, 1], when = { loss = "bpr-max" } }
feed_forward = { low = 8, high = 64, step = 8, when = { loss = "bpr-max" } }
""",
        "s.toml",
    )
    trials = {n: Trial(n, {"loss": "cross-entropy"}, (0.1,), "finished") for n in range(20)}
    for number in range(20, 40):
        point = algorithms.star(found, 1, trials, number)
        trials[number] = Trial(number, point, (0.5 if point == {"loss": "bpr-max"} else 0.2,), "finished")
    varied = [{name: value for name, value in trials[n].values.items() if name != "loss"} for n in range(20, 40)]
    assert varied[0] == {}  # the defaults: bpreg 0.5, elu_param 0.5, no feed-forward layer
    assert varied[1:4] == [{"bpreg": value} for value in (1.0, 1.5, 2.0)]
    assert varied[4] == {"elu_param": 1}
    assert varied[5:8] == [{"feed_forward": value} for value in (8, 16, 24)]


def test_failed_trials_are_no_ones_best():
    trials = {0: Trial(0, {}, (0.9,), "failed", "exploded"), 1: Trial(1, {}, (0.1, 0.3), "stopped"), 2: Trial(2, {})}
    assert best(trials).number == 1
    assert best({0: trials[0]}) is None
    all_failed = {n: Trial(n, SPACE.draw(np.random.default_rng(n)), (), "failed") for n in range(20)}
    for suggest in algorithms.SUGGEST.values():
        assert suggest(SPACE, 0, all_failed, 20) is not None


curves = st.dictionaries(
    st.integers(0, 20), st.lists(st.floats(0, 1).map(lambda x: round(x, 3)), min_size=1, max_size=10), min_size=1
)


@settings(max_examples=300)
@given(curves=curves, grace=st.integers(1, 3), reduction=st.integers(2, 4))
def test_asha_stops_at_rungs_and_never_the_best(curves, grace, reduction):
    for number, curve in curves.items():
        rungs = [grace * reduction**power for power in range(6)]
        stopped = asha(curves, number, grace, reduction)
        reached = [max(other[: len(curve)]) for other in curves.values() if len(other) >= len(curve)]
        if len(curve) not in rungs or max(curve) == max(reached):
            assert not stopped
        else:
            better = sum(value > max(curve) for value in reached)
            assert stopped == (better >= max(1, len(reached) // reduction))


@given(curves=curves, grace=st.integers(1, 3))
def test_the_median_rule(curves, grace):
    for number, curve in curves.items():
        epochs = len(curve)
        means = [np.mean(other[:epochs]) for n, other in curves.items() if n != number and len(other) >= epochs]
        wanted = epochs >= grace and len(means) >= 3 and max(curve) < np.median(means) - 1e-12
        if not (len(means) >= 3 and abs(max(curve) - np.median(means)) < 1e-9):
            assert median(curves, number, grace) == wanted
