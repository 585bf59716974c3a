"""Search spaces: what they draw, and what is wrong with one, by line."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gru4rec.errors import InputError
from gru4rec.tuning import algorithms, records, report, space
from gru4rec.tuning.space import Dimension
from gru4rec.tuning.trials import Trial

BOTH = """
loss = { choices = ["cross-entropy", "bpr-max"] }
learning_rate = { low = 0.01, high = 0.25, step = 0.005 }
[bpreg]
low = 0.0
high = 2.0
step = 0.05
when = { loss = "bpr-max" }
[n_sample]
low = 256
high = 8192
log = true
"""


def test_the_published_spaces():
    assert space.names() == ["bpr-max", "cross-entropy"]
    for name in space.names():
        found, _ = space.load(name)
        grids = {dimension.name: dimension.grid for dimension in found.dimensions}
        assert grids["layers"] == list(range(64, 513, 32))
        assert grids["batch_size"] == list(range(32, 257, 16))
        assert (grids["learning_rate"][0], grids["learning_rate"][-1], len(grids["learning_rate"])) == (0.01, 0.25, 49)
        assert grids["dropout_hidden"] == [round(0.05 * n, 2) for n in range(15)]
        settings = found.hyperparameters(found.draw(np.random.default_rng(1)), epochs=3)
        assert (settings.loss, settings.epochs, settings.n_sample) == (name, 3, 2048)
        assert len(settings.layers) == 1


SPACE = space.parse(BOTH, "s.toml")


@given(seed=st.integers(0, 1000))
def test_what_is_drawn_is_inside_and_meets_its_condition(seed):
    found = SPACE
    values = found.draw(np.random.default_rng(seed))
    assert ("bpreg" in values) == (values["loss"] == "bpr-max")
    assert 256 <= values["n_sample"] <= 8192
    assert isinstance(values["n_sample"], int)
    assert values["learning_rate"] in found.dimensions[1].grid
    found.hyperparameters(values)


def test_a_condition_does_not_change_what_the_others_draw():
    plain = space.parse(BOTH.replace('when = { loss = "bpr-max" }', ""), "s.toml")
    conditional = space.parse(BOTH, "s.toml")
    for seed in range(20):
        one, other = (s.draw(np.random.default_rng(seed)) for s in (plain, conditional))
        assert {k: v for k, v in one.items() if k in other} == other


LISTS = """
feed_forward = [8, 4]
layers = { choices = [[100], [100, 50], [16, 8]] }
learning_rate = { low = 0.1, high = 0.3, step = 0.1 }
bpreg = { low = 0.0, high = 2.0, when = { layers = [[16, 8], [100, 50]], feed_forward = [[8, 4]] } }
"""


def test_values_that_are_lists_come_back_as_they_were(tmp_path):
    found = space.parse(LISTS, "s.toml")
    whole = {n: Trial(n, found.draw(np.random.default_rng(n)), (0.1 * n,), "finished") for n in range(30)}
    for one in whole.values():
        assert ("bpreg" in one.values) == (one.values["layers"] != (100,))
        assert found.hyperparameters(one.values).feed_forward == (8, 4)
        records.keep_point(str(tmp_path), one)
        records.keep_result(str(tmp_path), one)
    assert len({one.values["layers"] for one in whole.values()}) == 3
    kept = records.trials(str(tmp_path))
    assert kept == whole
    for suggest in algorithms.SUGGEST.values():
        for number in range(30):
            before = {n: kept[n] for n in range(number)}
            assert suggest(found, 1, before, number) == suggest(found, 1, {n: whole[n] for n in before}, number)
    assert "How much" in report.page(RESULT, found, kept)


FIGURES = {"recall_at_20": 0.1, "mrr_at_20": 0.1, "ndcg_at_20": 0.1}
RESULT = {
    "search": "s",
    "trials": 30,
    "stopped": 0,
    "failed": 0,
    "epochs": 30,
    "data_fingerprint": "f",
    "best": {"trial": 29, "settings": {"epochs": 1}, "metric": "mrr_at_20", "value": 2.9},
    "test": {"predictions": 1, "metrics": {}, "intervals": {}, "mean": FIGURES, "deviation": FIGURES},
}


ranges = st.builds(
    lambda low, steps, step, log: Dimension("x", low=low, high=low + steps * step, step=step, log=log),
    st.integers(1, 50).map(float),
    st.integers(1, 40),
    st.sampled_from([1.0, 2.0, 0.5]),
    st.booleans(),
)


@given(dimension=ranges, place=st.integers(0, 40))
def test_values_around_are_others_of_the_grid(dimension, place):
    grid = dimension.grid
    value = grid[min(place, len(grid) - 1)]
    near = dimension.around(value)
    assert value not in near
    assert set(near) <= set(grid)
    assert len(near) == len(set(near)) <= 4
    assert near or dimension.log


def test_a_log_range_is_drawn_by_ratio():
    dimension = Dimension("learning_rate", low=0.001, high=1.0, log=True)
    generator = np.random.default_rng(3)
    drawn = np.array([dimension.draw(generator) for _ in range(3000)])
    assert (drawn < 0.001**0.5).mean() == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("\nunits = 100\nlayers = { low = 1, high = 2 }", 2, "units: unknown setting; known are: loss"),
        ("learning_rate = { low = 0.2, high = 0.1 }", 1, "the range is empty: low is 0.2, high 0.1"),
        ("loss = 'bpr'\n\n[learning_rate]\nlow = 'a'\nhigh = 1", 3, "low must be a number, got 'a'"),
        ("loss = 'hinge'\nbatch_size = { low = 1, high = 2 }", 1, "Input should be 'cross-entropy'"),
        ("batch_size = { choices = [32, 'many'] }", 1, "Input should be a valid integer"),
        ("batch_size = { choices = [] }", 1, "choices must be a list with a value or more"),
        ("batch_size = { low = 0, high = 8 }", 1, "greater than or equal to 1, got 0"),
        ("batch_size = { low = 8, high = 16, step = 0.5 }", 1, "takes whole numbers only"),
        ("learning_rate = { low = 0.1, high = 0.2, step = 1 }", 1, "step must be above 0 and no more than the range"),
        ("momentum = { low = 0, high = 0.5, log = true }", 1, "log needs a low above 0"),
        ("momentum = { low = 0, high = 0.5, choices = [0] }", 1, "give choices, or low and high, not both"),
        ("momentum = { low = 0 }", 1, "has no high"),
        ("momentum = { low = 0, high = 0.5, steps = 1 }", 1, "unknown key steps"),
        ("momentum = { low = 0, high = 0.5 }\nbpreg = { low = 0, high = 1, when = { loss = 'bpr-max' } }", 2, "loss"),
        ("seed = 3", 1, "the search sets this"),
        ("loss = 'bpr'\nepochs = { low = 2, high = 5 }", 2, "epochs: the search sets this"),
    ],
)
def test_what_is_wrong_is_named_by_line(text, line, why):
    with pytest.raises(InputError) as raised:
        space.parse(text, "my.toml")
    assert str(raised.value).startswith(f"my.toml, line {line}: ")
    assert why in str(raised.value)


def test_what_is_wrong_as_a_whole(tmp_path):
    for text, why in (
        ("loss = 'bpr'", "varies nothing"),
        ("loss = ", "not valid TOML"),
        ("embedding = 'tied'\nembedding_size = { low = 10, high = 20 }", "do not go together"),
    ):
        with pytest.raises(InputError, match=why):
            space.parse(text, "my.toml")
    with pytest.raises(InputError, match="no such file, nor one of bpr-max, cross-entropy"):
        space.load(str(tmp_path / "none.toml"))
