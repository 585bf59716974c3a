"""What every baseline must do, and each against a slow, obvious implementation."""

import functools
import typing

import numpy as np
import pandas as pd
import plain_baselines as plain
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from simple_log import simple_log

from gru4rec import config
from gru4rec.evaluation import baselines
from gru4rec.evaluation.baselines import bpr_mf, item_knn, markov, sparse, v_sknn
from gru4rec.evaluation.histories import histories, places
from gru4rec.sessions import simulate
from gru4rec.sessions.prepared import Sessions, concatenate

ITEMS = 40
TIES = ("standard", "conservative", "median")

every_baseline = pytest.mark.parametrize("name", baselines.NAMES)


def flat(sessions: list[list[int]]) -> Sessions:
    offsets = np.cumsum([0] + [len(session) for session in sessions])
    return Sessions(offsets, np.array([click for session in sessions for click in session], np.int32))


def listed(sessions: Sessions) -> list[list[int]]:
    return [part.tolist() for part in np.split(sessions.items, sessions.offsets[1:-1])] if sessions.count else []


@functools.cache
def train_log() -> Sessions:
    """Sessions of the first 38 of 40 items: the others are in the catalogue and were never clicked."""
    return simple_log(150, ITEMS - 2, seed=1)[0]


@functools.cache
def learnt(name: str) -> baselines.Scorer:
    return baselines.learn(name, train_log(), ITEMS)


def ranks(name: str, test: Sessions, ties="conservative", **how) -> np.ndarray:
    return baselines.ranks_of(learnt(name), test, ITEMS, ties, **how).numpy()


@functools.cache
def test_log() -> Sessions:
    return simple_log(60, ITEMS - 2, seed=2)[0]


test_log.__test__ = False  # a log of the test split, no test


def test_all_can_be_asked_for():
    field = config.Evaluate.__dataclass_fields__["baselines"].type
    assert typing.get_args(typing.get_args(field)[0]) == baselines.NAMES
    with pytest.raises(ValueError, match=r"unknown baseline 'best'; known are pop, s-pop, item-knn"):
        baselines.learn("best", train_log(), ITEMS)


def test_histories_end_with_the_current_click():
    sessions = flat([[], [5], [1, 2, 1], [], [], [3, 4], []])
    at = places(sessions)
    assert listed(histories(sessions, at)) == [[1], [1, 2], [3]]
    given_clicks, following = baselines.transitions(sessions)
    assert (given_clicks.tolist(), following.tolist()) == ([1, 2, 3], [2, 1, 4])
    assert listed(histories(sessions, at[:0])) == []


@every_baseline
def test_scores_are_finite_numbers_for_every_item(name):
    test = test_log()
    scores = learnt(name)(histories(test, places(test)))
    assert scores.shape == (test.transitions, ITEMS)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()


@every_baseline
def test_a_prediction_knows_the_past_alone(name):
    """Other clicks after a target, or more of them, change no rank up to it."""
    rng = np.random.default_rng(3)
    sessions = listed(test_log())
    kept = [int(rng.integers(2, len(session) + 1)) for session in sessions]
    other = [
        session[:cut] + rng.integers(0, ITEMS, rng.integers(0, 6)).tolist()
        for session, cut in zip(sessions, kept, strict=True)
    ]
    before, after = ranks(name, test_log()), ranks(name, flat(other))
    compared = 0
    for session, changed, cut in zip(sessions, other, kept, strict=True):
        np.testing.assert_array_equal(before[: cut - 1], after[: cut - 1])
        before, after = before[len(session) - 1 :], after[len(changed) - 1 :]
        compared += cut - 1
    assert len(before) == len(after) == 0
    assert compared > 100


@every_baseline
@pytest.mark.parametrize("ties", TIES)
def test_nor_does_it_know_its_target(name, ties):
    """Sessions cut by hand before each target give the scores by which it is ranked."""
    cut = [(session[:n], session[n]) for session in listed(test_log()) for n in range(1, len(session))]
    scores = learnt(name)(flat([past for past, _ in cut]))
    own = scores[np.arange(len(cut)), [target for _, target in cut]][:, None]
    above, level = (scores > own).sum(1), (scores == own).sum(1)
    wanted = {"standard": above + 1, "conservative": above + level, "median": above + (level + 1) / 2}[ties]
    np.testing.assert_array_equal(ranks(name, test_log(), ties), wanted)


@every_baseline
def test_items_that_were_never_clicked_in_training(name):
    test = flat([[ITEMS - 1, 3, ITEMS - 2], [4, ITEMS - 1, ITEMS - 1]])
    found = ranks(name, test)
    assert len(found) == 4
    assert ((found >= 1) & (found <= ITEMS)).all()


@every_baseline
def test_sessions_without_a_next_click_give_no_prediction(name):
    sessions = listed(test_log())
    mixed = [[], [3]] + [part for session in sessions for part in (session, [7], [])]
    np.testing.assert_array_equal(ranks(name, flat(mixed)), ranks(name, test_log()))
    assert ranks(name, flat([[3], [], [5]])).shape == (0,)
    assert ranks(name, flat([])).shape == (0,)
    metrics = baselines.evaluate(name, train_log(), flat([]), ITEMS, (20,))
    assert metrics.predictions == 0
    assert metrics.result()["recall_at_20"] == 0


@every_baseline
def test_blocks_and_order_of_the_test_sessions_change_nothing(name):
    wanted = ranks(name, test_log())
    for scores_at_once in (1, 7 * ITEMS + 1, 64 * ITEMS):
        np.testing.assert_array_equal(ranks(name, test_log(), scores_at_once=scores_at_once), wanted)
    sessions = listed(test_log())
    by_session = np.split(wanted, np.cumsum([len(session) - 1 for session in sessions])[:-1])
    order = np.random.default_rng(4).permutation(len(sessions))
    found = ranks(name, flat([sessions[i] for i in order]))
    np.testing.assert_array_equal(found, np.concatenate([by_session[i] for i in order]))


@every_baseline
def test_learning_again_gives_the_same_bits(name):
    at = places(test_log())
    again = baselines.learn(name, train_log(), ITEMS)
    np.testing.assert_array_equal(again(histories(test_log(), at)), learnt(name)(histories(test_log(), at)))


@every_baseline
@pytest.mark.parametrize("sessions", [[], [[2]], [[2, 2]], [[2, 3]]], ids=str)
def test_hardly_anything_to_learn_from(name, sessions):
    scores = baselines.learn(name, flat(sessions), 5)(flat([[2], [0, 4]]))
    assert scores.shape == (2, 5)
    assert np.isfinite(scores).all()
    assert len(baselines.ranks(name, flat(sessions), flat([[2, 3, 4]]), 5)) == 2


@every_baseline
@pytest.mark.parametrize("ties", TIES)
def test_ranks_and_metrics_by_name(name, ties):
    """Also where they are counted without scores."""
    found = baselines.ranks(name, train_log(), test_log(), ITEMS, ties)
    np.testing.assert_array_equal(found.numpy(), ranks(name, test_log(), ties))
    metrics = baselines.evaluate(name, train_log(), test_log(), ITEMS, (1, 5), ties)
    assert metrics.predictions == test_log().transitions
    for cutoff in (1, 5):
        hit = found[found <= cutoff]
        assert metrics.result()[f"recall_at_{cutoff}"] == pytest.approx(len(hit) / len(found))
        assert metrics.result()[f"mrr_at_{cutoff}"] == pytest.approx(float((1 / hit).sum()) / len(found))


@every_baseline
@pytest.mark.parametrize("k", [1, 3, ITEMS + 1])
def test_the_best_items_are_those_of_a_full_sort(name, k):
    sessions = test_log()
    scores = learnt(name)(sessions)
    wanted = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    found_scores, found = baselines.best_items(learnt(name), sessions, ITEMS, k)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(found_scores, np.take_along_axis(scores, wanted, axis=1))
    _, in_blocks = baselines.best_items(learnt(name), sessions, ITEMS, k, scores_at_once=5 * ITEMS)
    np.testing.assert_array_equal(in_blocks, wanted)
    with pytest.raises(ValueError, match="a session has no click"):
        baselines.best_items(learnt(name), flat([[1], []]), ITEMS, k)


@functools.cache
def structured_log() -> tuple[Sessions, Sessions]:
    world = simulate.world(config.Simulation(sessions=2400, items=200))
    rng = np.random.default_rng(5)
    lengths = rng.integers(2, 9, 2400)
    items = simulate.walk(rng, world, lengths, np.zeros(len(lengths)))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    cut = offsets[2000]
    return Sessions(offsets[:2001], items[:cut]), Sessions(offsets[2000:] - cut, items[cut:])


@every_baseline
def test_better_than_random_where_there_is_something_to_learn(name):
    train, test = structured_log()
    recall = baselines.evaluate(name, train, test, 200, (20,)).result()["recall_at_20"]
    at_random = 20 / 200
    assert recall > at_random * (1.5 if name in ("pop", "s-pop") else 2.5)


# Each against its definition.

sessions_of_seven = st.lists(st.lists(st.integers(0, 5), max_size=6), max_size=12)  # item 6: never in training
history_of_seven = st.lists(st.integers(0, 6), min_size=1, max_size=7)


def order(scores) -> list[list[int]]:
    """Items by level of score, best first: equal where two give the same ranks, ties and all."""
    return [[i for i, score in enumerate(scores) if score == level] for level in sorted(set(scores), reverse=True)]


@pytest.mark.parametrize("most", [1, 7, 100])
def test_markov_counts_in_parts_what_it_counts_at_once(monkeypatch, most):
    """Also which of two successors came first, where they came as often."""
    whole = markov._successors(train_log(), ITEMS)
    monkeypatch.setattr(markov, "parts", functools.partial(sparse.parts, most=most))
    for found, wanted in zip(markov._successors(train_log(), ITEMS), whole, strict=True):
        np.testing.assert_array_equal(found, wanted)


@given(train=sessions_of_seven, history=history_of_seven)
@pytest.mark.parametrize(("name", "obvious"), [("pop", plain.pop), ("s-pop", plain.s_pop), ("markov", plain.markov)])
def test_counts(name, obvious, train, history):
    scores = baselines.learn(name, flat(train), 7)(flat([history]))[0]
    assert order(scores.tolist()) == order(obvious(train, 7, history))


@given(
    train=sessions_of_seven,
    history=history_of_seven,
    damping=st.sampled_from([0.0, 1.0, 20.0]),
    alpha=st.sampled_from([0.25, 0.5, 1.0]),
)
def test_item_knn(train, history, damping, alpha):
    scores = item_knn.learn(flat(train), 7, damping, alpha)(flat([history]))[0]
    np.testing.assert_allclose(scores, plain.item_knn(train, 7, history, damping, alpha), rtol=1e-6)


@given(
    train=sessions_of_seven,
    sessions=st.lists(history_of_seven, min_size=1, max_size=4),
    neighbours=st.integers(1, 6),
    recent=st.integers(1, 8),
)
def test_v_sknn(train, sessions, neighbours, recent):
    scores = v_sknn.learn(flat(train), 7, neighbours, recent)(flat(sessions))
    wanted = [plain.v_sknn(train, 7, history, neighbours, recent) for history in sessions]
    np.testing.assert_allclose(scores, wanted, rtol=1e-6, atol=1e-7)


@settings(max_examples=20)
@given(train=sessions_of_seven, history=history_of_seven)
def test_bpr_mf_scores_by_the_mean_of_the_items_so_far(train, history):
    vectors = bpr_mf.train_vectors(flat(train), 7, 3, 2, 0.2, 0.005, 4, 1)
    scores = bpr_mf.learn(flat(train), 7, 3, 2, 0.2, 0.005, 4, 1)(flat([history]))[0]
    np.testing.assert_allclose(scores, plain.bpr_mf(vectors.tolist(), history), rtol=1e-4, atol=1e-6)


def test_a_step_of_bpr_mf_goes_up_the_gradient():
    random = torch.Generator().manual_seed(0)
    of_sessions, of_items = (torch.randn(n, 4, generator=random, dtype=torch.float64) for n in (5, 9))
    s, i, j = (torch.randint(n, (30,), generator=random) for n in (5, 9, 9))
    p, q = of_sessions.clone().requires_grad_(), of_items.clone().requires_grad_()
    x = (p[s] * (q[i] - q[j])).sum(1)
    objective = torch.sigmoid(x).log() - 0.05 / 2 * (p[s].square() + q[i].square() + q[j].square()).sum(1)
    objective.sum().backward()
    wanted = [(table + 0.3 * table.grad).detach() for table in (p, q)]
    bpr_mf.step(of_sessions, of_items, s, i, j, learning_rate=0.3, l2=0.05)
    for found, table in zip((of_sessions, of_items), wanted, strict=True):
        torch.testing.assert_close(found, table)


def test_bpr_mf_by_seed():
    some, same, other = (bpr_mf.train_vectors(train_log(), ITEMS, 8, 2, 0.2, 0.005, 16, seed) for seed in (1, 1, 2))
    assert torch.equal(some, same)
    assert not torch.equal(some, other)


def test_bpr_mf_draws_no_negative_that_the_session_clicked(monkeypatch):
    drawn, step = [], bpr_mf.step

    def seen(of_sessions, of_items, s, i, j, *how):
        drawn.append(torch.stack([s, i, j]))
        step(of_sessions, of_items, s, i, j, *how)

    monkeypatch.setattr(bpr_mf, "step", seen)
    train = train_log()
    bpr_mf.learn(train, ITEMS, factors=2, epochs=3)
    clicked = {(s, click) for s, session in enumerate(listed(train)) for click in session}
    triples = torch.cat(drawn, dim=1).T.tolist()
    assert len(triples) > len(clicked)
    assert all((s, i) in clicked and (s, j) not in clicked for s, i, j in triples)


def test_parts_of_v_sknn_and_item_knn_change_nothing(monkeypatch):
    from gru4rec.evaluation.baselines import sparse

    wanted = {name: ranks(name, test_log()) for name in ("item-knn", "v-sknn")}
    monkeypatch.setattr(sparse.parts, "__defaults__", (50,))
    for name, found in wanted.items():
        scorer = baselines.learn(name, train_log(), ITEMS)
        np.testing.assert_array_equal(baselines.ranks_of(scorer, test_log(), ITEMS), found)


def test_recent_sessions_are_the_last_ones():
    """Of more candidates than are looked at, those at the end of the training sessions count."""
    train = concatenate([flat([[0, 1]] * 5), flat([[0, 2]] * 3), flat([[3, 4]])])
    scores = v_sknn.learn(train, 5, neighbours=9, recent=3)(flat([[0]]))[0]
    assert scores[2] > scores[0] > scores[1] == scores[3] == 0


def test_figures_of_a_published_split(shared_data):
    """POP and the Markov chain on a 64th of the RSC15 log, 55,400 predictions, as measured independently."""
    train, test, items = yoochoose64(shared_data / "yoochoose64")
    assert (items, test.transitions) == (17_376, 55_400)
    pop, markov = (baselines.evaluate(name, train, test, items, (20,)).result() for name in ("pop", "markov"))
    assert pop["recall_at_20"] == pytest.approx(0.0737, abs=5e-5)
    assert markov["recall_at_20"] == pytest.approx(0.6536, abs=5e-5)
    assert markov["mrr_at_20"] == pytest.approx(0.3002, abs=5e-5)


def yoochoose64(folder) -> tuple[Sessions, Sessions, int]:
    """Both splits, sessions in order of time, and the number of items; test clicks on other items are dropped."""
    parts = {}
    known = np.zeros(0, np.int64)
    for split in ("train", "test"):
        table = pq.read_table(folder / f"{split}.parquet").to_pandas()
        table = table.sort_values(["SessionId", "Time"], kind="stable")
        if split == "train":
            known = table["ItemId"].unique()
        table["start"] = table.groupby("SessionId")["Time"].transform("min")
        table = table.sort_values(["start", "SessionId"], kind="stable")
        index = pd.Index(known).get_indexer(table["ItemId"])
        table = table[index >= 0].assign(item=index[index >= 0])
        table = table[table.groupby("SessionId")["item"].transform("size") >= 2]
        lengths = table.groupby("SessionId", sort=False).size().to_numpy()
        parts[split] = Sessions(np.concatenate([[0], np.cumsum(lengths)]), table["item"].to_numpy(np.int32))
    return parts["train"], parts["test"], len(known)
