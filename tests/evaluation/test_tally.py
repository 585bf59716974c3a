"""Pieces of a split, groups of sessions and classes of predictions."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from prepared_folder import prepared_folder
from simple_log import simple_log

from gru4rec.evaluation import pieces, significance
from gru4rec.evaluation.tally import Breakdown, Total, breakdowns, intervals
from gru4rec.sessions.prepared import concatenate


def test_pieces_are_the_split_in_order(tmp_path, monkeypatch):
    log = simple_log(90, 20, seed=3)[0]
    prepared = prepared_folder(tmp_path / "data", {"train": log}, 20)  # two files, 16 row groups
    monkeypatch.setattr(pieces, "SESSIONS", 4)
    cut = pieces.cut(prepared, "train")
    assert [piece.number for piece in cut] == list(range(len(cut)))
    assert [piece.first for piece in cut] == [0, *np.cumsum([piece.rows for piece in cut]).tolist()[:-1]]
    assert max(piece.rows for piece in cut) <= 4
    read = [pieces.read(piece) for piece in cut]
    whole = concatenate([sessions for sessions, _ in read])
    assert (whole.offsets.tolist(), whole.items.tolist()) == (log.offsets.tolist(), log.items.tolist())
    assert [row for _, about in read for row in about["session_id"].to_pylist()] == list(range(90))


def test_groups_do_not_depend_on_the_cut():
    sessions = 3 * significance.GROUPS
    whole = significance.group_of(0, sessions, sessions)
    parts = [significance.group_of(first, 1000, sessions) for first in range(0, sessions, 1000)]
    assert (np.concatenate(parts) == whole).all()
    sizes = np.bincount(whole, minlength=significance.GROUPS)
    assert (sizes.max() < 20) & (0.2 < (sizes == 3).mean() < 0.25)  # as chance would have it: Poisson(3) has 0.224
    assert significance.group_of(5, 3, 100).tolist() == [5, 6, 7]  # few sessions are groups of one


@given(st.lists(st.integers(0, 40), min_size=1), st.lists(st.integers(0, 60)))
def test_each_popularity_is_in_one_class(support, values):
    popularity = breakdowns(np.array(support))[2]
    found = popularity.of(np.array(values, np.int64))
    for value, place in zip(values, found.tolist(), strict=True):
        low, high = popularity.ranges[place]
        assert low <= value <= (high if high is not None else value)
    assert len(popularity.labels) == len(set(popularity.labels)) == len(popularity.ranges)


def test_labels():
    shown = Breakdown("lengths", "By length", "clicks", ((2, 2), (3, 1999), (2000, None)))
    assert shown.labels == ["2", "3 to 1,999", "2,000 or more"]
    assert shown.of(np.array([1, 2, 3, 2000])).tolist() == [-1, 0, 1, 2]


def test_without_any_prediction():
    total = Total(0, [20], 3, 4, np.array([1, 2, 3, 4]))
    assert total.metrics([20])["recall_at_20"] == 0
    assert np.isnan(total.classes("mrr_at_20")).all()
    assert intervals({}, ["recall_at_20"]) == {}
