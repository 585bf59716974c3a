"""Ranks of a model on another catalogue than its own, against one prediction at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gru4rec.config import Hyperparameters
from gru4rec.evaluation import metrics, model_ranks, per_session, ranking
from gru4rec.model.encode import final_states
from gru4rec.model.network import initialise, scores
from gru4rec.sessions.prepared import Sessions

V = 9
MODEL = initialise(Hyperparameters(layers=(5,), seed=3), V)
SUPPORT = np.array([5, 5, 9, 1, 2, 2, 2, 7, 3])


def flat(rows):
    return Sessions(
        np.cumsum([0] + [len(row) for row in rows]), np.array([item for row in rows for item in row], np.int32)
    )


def slow(rows, index, ties):
    found, unknown, unstarted = [], 0, 0
    for row in rows:
        for place in range(len(row) - 1):
            past = [index[item] for item in row[: place + 1] if index[item] >= 0]
            target = index[row[place + 1]]
            unstarted += not past
            if target < 0:
                unknown += 1
                found.append(np.inf)
                continue
            if past:
                given = scores(MODEL, final_states(MODEL, flat([past])))
            else:
                given = torch.from_numpy(SUPPORT.astype(np.float64))[None]
            found.append(float(metrics.ranks(given, torch.tensor([target]), ties)[0]))
    return found, unknown, unstarted


@given(
    rows=st.lists(st.lists(st.integers(0, 11), max_size=7), max_size=8),
    index=st.permutations([*range(V), -1, -1, -1]),
    ties=st.sampled_from(["standard", "conservative", "median"]),
)
def test_one_prediction_at_a_time(rows, index, ties):
    found = model_ranks.rank(MODEL, SUPPORT, flat(rows), np.array(index), ties)
    ranks, unknown, unstarted = slow(rows, index, ties)
    assert found.ranks.tolist() == ranks
    assert (found.unknown, found.unstarted) == (unknown, unstarted)


def test_in_its_own_catalogue_it_is_the_evaluation(monkeypatch):
    random = np.random.default_rng(1)
    sessions = flat([random.integers(0, V, random.integers(1, 9)).tolist() for _ in range(60)])
    monkeypatch.setattr(model_ranks, "SCORES_AT_ONCE", 40)
    found = model_ranks.rank(MODEL, SUPPORT, sessions, np.arange(V))
    wanted = ranking.evaluate(MODEL, sessions, (1, 3, 5)).result()
    counts = per_session.predictions(sessions)
    for name in per_session.METRICS:
        for cutoff in (1, 3, 5):
            sums = per_session.sums(per_session.gains(found.ranks, name, cutoff), counts)
            assert len(sums) == sessions.count
            assert sums.sum() / counts.sum() == pytest.approx(wanted[f"{name}_at_{cutoff}"])
    with pytest.raises(ValueError, match="unknown metric 'map'"):
        per_session.gains(found.ranks, "map", 5)


def test_gains_go_to_their_sessions():
    sessions = flat([[1, 2, 3], [4], [], [5, 6]])
    gains = per_session.gains(np.array([1.0, 2.0, np.inf]), "mrr", 2)
    assert per_session.sums(gains, per_session.predictions(sessions)).tolist() == [1.5, 0, 0, 0]
