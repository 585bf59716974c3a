"""Relevant items and the metrics of their ranks, against the definitions written out one prediction at a time."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gru4rec.evaluation import baselines, metrics, per_session, relevance
from gru4rec.evaluation.metrics import RankingMetrics
from gru4rec.sessions.prepared import Sessions

ITEMS = 6
TIES = st.sampled_from(["standard", "conservative", "median"])
SESSIONS = st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=8), max_size=6)


def flat(rows):
    return Sessions(
        np.cumsum([0] + [len(row) for row in rows]), np.array([item for row in rows for item in row], np.int32)
    )


def later(rows):
    """For each prediction in order: the items clicked later, each once, in order."""
    return [list(dict.fromkeys(row[place + 1 :])) for row in rows for place in range(len(row) - 1)]


@given(rows=SESSIONS)
def test_what_is_relevant(rows):
    sessions = flat(rows)
    given_items, following = baselines.transitions(sessions)
    for relevant in (relevance.next_click(sessions), relevance.rest(sessions)):
        assert sessions.items[relevant.at].tolist() == given_items.tolist()
    assert relevance.next_click(sessions).items.tolist() == following.tolist()
    rest = relevance.rest(sessions)
    found = [rest.items[rest.of == number].tolist() for number in range(len(rest.at))]
    assert found == later(rows)


def obvious(ranks, k):
    """Metrics of one prediction from the ranks of its relevant items, as a list of places that a user reads."""
    places = []
    for rank in sorted(ranks):
        places.append(max(rank, len(places) + 1))
    hits = [(number, place) for number, place in enumerate(places, 1) if place <= k]
    ideal = sum(1 / math.log2(1 + place) for place in range(1, min(len(ranks), k) + 1))
    return {
        "recall": len(hits) / len(ranks),
        "mrr": 1 / places[0] if places[0] <= k else 0,
        "ndcg": sum(1 / math.log2(1 + place) for _, place in hits) / ideal,
        "map": sum(number / place for number, place in hits) / min(len(ranks), k),
        "hit_rate": float(bool(hits)),
    }


@given(rows=SESSIONS, ties=TIES, cutoff=st.integers(1, 8), seed=st.integers(0, 99))
def test_all_metrics_of_random_scores_with_ties(rows, ties, cutoff, seed):
    sessions = flat(rows)
    table = np.random.default_rng(seed).integers(0, 3, (ITEMS, ITEMS)).astype(np.float32)

    def scorer(histories):
        return table[histories.items[histories.offsets[1:] - 1]]

    for relevant in (relevance.next_click(sessions), relevance.rest(sessions)):
        ranks = baselines.ranks_of(scorer, sessions, ITEMS, ties, scores_at_once=2 * ITEMS, relevant=relevant).numpy()
        scores = torch.from_numpy(table[sessions.items[relevant.at[relevant.of]]])
        assert ranks.tolist() == metrics.ranks(scores, torch.from_numpy(relevant.items).long(), ties).tolist()
        found = relevance.gains(ranks, relevant, [cutoff, 3])
        for number in range(len(relevant.at)):
            for column, k in enumerate((cutoff, 3)):
                wanted = obvious(ranks[relevant.of == number].tolist(), k)
                assert found[number, :, column] == pytest.approx([wanted[name] for name in relevance.METRICS])


@given(ranks=st.lists(st.sampled_from([1.0, 1.5, 2.0, 3.0, 7.0, math.inf]), min_size=1), cutoff=st.integers(1, 8))
def test_with_one_relevant_item_they_are_the_evaluations(ranks, cutoff):
    ranks = np.array(ranks)
    relevant = relevance.next_click(flat([[0] * (len(ranks) + 1)]))
    found = dict(zip(relevance.METRICS, relevance.gains(ranks, relevant, [cutoff])[:, :, 0].T, strict=True))
    for name in per_session.METRICS:
        assert found[name].tolist() == per_session.gains(ranks, name, cutoff).tolist()
    assert found["hit_rate"].tolist() == found["recall"].tolist()
    assert found["map"].tolist() == found["mrr"].tolist()
    counted = RankingMetrics([cutoff])
    counted.add(torch.from_numpy(ranks))
    assert counted.result()[f"ndcg_at_{cutoff}"] == pytest.approx(found["ndcg"].mean())


def test_a_perfect_list_is_worth_one():
    relevant = relevance.rest(flat([[0, 1, 2, 3]]))
    ranks = np.array([1.0, 2, 3, 1, 2, 1])
    found = relevance.gains(ranks, relevant, [2, 3])
    assert found[:, 2:, :] == pytest.approx(1)  # NDCG, MAP, hit rate
    assert found[0, 0].tolist() == [2 / 3, 1]  # Recall


def test_nothing_to_predict():
    relevant = relevance.rest(flat([[1], []]))
    assert relevance.gains(np.zeros(0), relevant, [5]).shape == (0, 5, 1)
