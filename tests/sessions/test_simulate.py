"""Simulated logs: a function of the settings, skewed, drifting, with a structure beyond the last click."""

import os

import numpy as np
import pyarrow.parquet as pq
import pytest

from gru4rec import cli, config
from gru4rec.errors import InputError
from gru4rec.sessions import file_names, simulate
from gru4rec.sessions.simulate import SUMMARY


def settings(**given):
    return cli.check(config.Simulation, given)


@pytest.fixture(scope="module")
def log():
    given = settings()
    return given, simulate.chunk(given, simulate.world(given), 0)


def sequences(table):
    return table["SessionId"].to_numpy(), table["ItemId"].to_numpy()


def test_the_log_is_a_function_of_the_settings(tmp_path, monkeypatch):
    monkeypatch.setattr(simulate, "CHUNK", 300)
    given = settings(sessions=1000, items=50)
    result = simulate.simulate(given, str(tmp_path / "a"))
    simulate.simulate(given, str(tmp_path / "b"))
    names = sorted(os.listdir(tmp_path / "a"))
    parts = [f"part-0000{i}.parquet" for i in range(4)]
    assert names == [SUMMARY, *parts]
    assert not file_names.visible(SUMMARY), "prepare would say that it is not read"
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    table = pq.read_table([tmp_path / "a" / name for name in parts])
    assert result["clicks"] == table.num_rows
    simulate.simulate(settings(sessions=1000, items=50, simulation_seed=8), str(tmp_path / "a"))
    assert not pq.read_table([tmp_path / "a" / name for name in parts]).equals(table)
    # a folder of an earlier release, whose counts had another name
    (tmp_path / "a" / SUMMARY).rename(tmp_path / "a" / "simulate.json")
    simulate.simulate(given, str(tmp_path / "a"))
    assert sorted(os.listdir(tmp_path / "a")) == names
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(InputError, match="holds something"):
        simulate.simulate(settings(sessions=10), str(tmp_path))


@pytest.mark.parametrize(("sessions", "items"), [(1, 2), (3, 2), (50, 7), (50, 41)])
def test_any_size(tmp_path, sessions, items):
    result = simulate.simulate(settings(sessions=sessions, items=items), str(tmp_path / "log"))
    table = pq.read_table(tmp_path / "log" / "part-00000.parquet")
    assert np.unique(table["SessionId"].to_numpy()).tolist() == list(range(sessions))
    assert 0 <= table["ItemId"].to_numpy().min() <= table["ItemId"].to_numpy().max() < items
    assert result["clicks"] == table.num_rows


def test_sessions_start_in_order_over_the_days_and_clicks_follow_each_other(log):
    given, table = log
    session, _ = sequences(table)
    time = table["Time"].to_numpy().astype("datetime64[ms]").astype(np.int64)
    new = np.diff(session, prepend=-1) != 0
    assert (np.diff(time)[~new[1:]] >= 0).all()
    start = time[new]
    assert (np.diff(start) >= 0).all()
    assert start[-1] - start[0] == pytest.approx(given.days * 86_400_000, rel=0.01)


@pytest.mark.parametrize("mean", [1.0, 1.5, 5.0, 20.0])
def test_lengths_have_their_mean_and_a_long_tail(mean):
    normal = np.random.default_rng(0).standard_normal(200_000)
    lengths = simulate.lengths_from(normal, simulate.length_location(mean))
    assert lengths.min() == 1
    assert lengths.mean() == pytest.approx(mean, rel=0.03)
    if mean == 5:
        geometric = 1 + np.log(0.001) / np.log(1 - 1 / mean)
        assert np.quantile(lengths, 0.999) > 1.5 * geometric


def test_skew_and_drift(log):
    _, table = log
    _, item = sequences(table)
    counts = np.sort(np.bincount(item))[::-1]
    assert counts[:100].sum() > 0.3 * counts.sum()
    flat = settings(skew=0.0, drift=0.0)
    _, item = sequences(simulate.chunk(flat, simulate.world(flat), 0))
    counts = np.sort(np.bincount(item))[::-1]
    assert counts[:100].sum() < 0.25 * counts.sum()

    def shift(drift):
        given = settings(drift=drift)
        _, item = sequences(simulate.chunk(given, simulate.world(given), 0))
        half = len(item) // 4
        early, late = (np.bincount(part, minlength=given.items) / half for part in (item[:half], item[-half:]))
        return np.abs(early - late).sum() / 2

    assert shift(1.0) > 1.5 * shift(0.0)


def recall_of_counts(session, item, items):
    """Recall@20 on the last tenth of the sessions of (popularity, the last click's followers)."""
    train = session < 0.9 * session.max()
    inside = np.diff(session) == 0
    follows = np.zeros((items, items))
    np.add.at(follows, (item[:-1][inside & train[1:]], item[1:][inside & train[1:]]), 1)
    popular = np.bincount(item[train], minlength=items)
    last, target = item[:-1][inside & ~train[1:]], item[1:][inside & ~train[1:]]
    top = np.argsort(-popular)[:20]
    scores = follows[last] + 1e-9 * popular
    rank = (scores > scores[np.arange(len(target)), target][:, None]).sum(axis=1)
    return np.isin(target, top).mean(), (rank < 20).mean()


def test_the_last_click_says_more_than_popularity_and_leaves_much_open(log):
    given, table = log
    popularity, markov = recall_of_counts(*sequences(table), given.items)
    assert popularity < 0.25
    assert 0.3 < markov < 0.5
