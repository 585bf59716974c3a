"""Metrics and rankings against slow, obvious implementations, ties and all."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from simple_log import simple_log

from gru4rec.config import Hyperparameters
from gru4rec.evaluation import ranking
from gru4rec.evaluation.metrics import RankingMetrics, ranks
from gru4rec.model import encode, network
from gru4rec.sessions.prepared import Sessions


def obvious_rank(scores: list[float], target: int, ties: str) -> float:
    above = sum(score > scores[target] for score in scores)
    others_level = sum(score == scores[target] for score in scores) - 1
    return above + 1 + {"standard": 0, "conservative": others_level, "median": others_level / 2}[ties]


def obvious_metrics(found: list[float], cutoff: int) -> tuple[float, float, float]:
    hits = [rank for rank in found if rank <= cutoff]
    return (
        len(hits) / len(found),
        sum(1 / rank for rank in hits) / len(found),
        sum(1 / math.log2(rank + 1) for rank in hits) / len(found),
    )


score_rows = st.integers(1, 12).flatmap(
    lambda items: st.lists(
        st.tuples(
            st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=items, max_size=items),
            st.integers(0, items - 1),
        ),
        min_size=1,
        max_size=20,
    )
)


@given(rows=score_rows, ties=st.sampled_from(["standard", "conservative", "median"]), cutoff=st.integers(1, 12))
def test_ranks_and_metrics(rows, ties, cutoff):
    scores = torch.tensor([row for row, _ in rows])
    targets = torch.tensor([target for _, target in rows])
    found = ranks(scores, targets, ties).tolist()
    assert found == [obvious_rank(row, target, ties) for row, target in rows]
    assert found == ranks(scores.double(), targets, ties).tolist()  # which the kernel does not count
    assert found == ranks(scores.t().contiguous().t(), targets, ties).tolist()
    metrics = RankingMetrics([cutoff])
    for rank in found:  # one at a time: no average of batches
        metrics.add(torch.tensor([float(rank)]))
    wanted = obvious_metrics(found, cutoff)
    for name, value in zip(("recall", "mrr", "ndcg"), wanted, strict=True):
        assert metrics.result()[f"{name}_at_{cutoff}"] == pytest.approx(value)


def test_a_score_that_is_not_a_number_ranks_last():
    scores = torch.tensor([[1.0, torch.nan, 3.0], [1.0, torch.nan, 3.0]])
    for kind in (torch.float32, torch.float64):
        assert ranks(scores.to(kind), torch.tensor([1, 0])).tolist() == [3, 2]


def test_states_of_several_workers_add_up():
    parts = [torch.tensor([1.0, 4.0]), torch.tensor([2.0])]
    whole = RankingMetrics([1, 3])
    whole.add(torch.cat(parts))
    states = []
    for part in parts:
        metrics = RankingMetrics([1, 3])
        metrics.add(part)
        states.append(metrics.state())
    summed = RankingMetrics([1, 3])
    summed.restore(sum(states))
    assert summed.result() == whole.result()
    assert summed.predictions == 3


@pytest.mark.parametrize("ties", ["standard", "conservative", "median"])
def test_evaluation_ranks_every_next_click_over_the_whole_catalogue(ties, monkeypatch):
    monkeypatch.setattr(ranking, "SCORES_AT_ONCE", 100)
    model = network.initialise(Hyperparameters(layers=(8,)), 40)
    model.item_table[:20] = model.item_table[20:]  # ties
    sessions, _ = simple_log(30, 40)
    one_click = Sessions(
        np.concatenate([sessions.offsets, sessions.offsets[-1:] + 1]),
        np.append(sessions.items, 3).astype(np.int32),
    )
    found = ranking.evaluate(model, one_click, (5, 20), ties)
    wanted = []
    for session in range(sessions.count):
        clicks = sessions.items[sessions.offsets[session] : sessions.offsets[session + 1]]
        for seen in range(1, len(clicks)):
            part = Sessions(np.array([0, seen]), clicks[:seen])
            scores = network.scores(model, encode.final_states(model, part))[0]
            wanted.append(obvious_rank([round(s, 5) for s in scores.tolist()], int(clicks[seen]), ties))
    assert found.predictions == sessions.transitions
    for cutoff in (5, 20):
        recall, mrr, _ = obvious_metrics(wanted, cutoff)
        assert found.result()[f"recall_at_{cutoff}"] == pytest.approx(recall)
        assert found.result()[f"mrr_at_{cutoff}"] == pytest.approx(mrr)
