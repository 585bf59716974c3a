"""How many actors there are, and actors that cannot do their work."""

import pyarrow as pa
import pytest

from gru4rec.config import Hyperparameters, Score
from gru4rec.errors import InputError
from gru4rec.model.network import initialise
from gru4rec.scoring import pool, reach, scorer


@pytest.mark.parametrize(
    ("given", "have", "first", "most"),
    [
        ({}, {}, 1, 9),  # scales from zero
        ({}, {"CPU": 4.0}, 4, 9),
        ({}, {"CPU": 40.0}, 9, 9),
        ({"threads": 2}, {"CPU": 5.0}, 2, 9),
        ({"gpus_per_actor": 0.5}, {"CPU": 8.0, "GPU": 1.0}, 2, 9),
        ({"actors": 3}, {}, 3, 3),
    ],
)
def test_actors_are_as_many_as_fit_and_grow_where_nodes_may_join(monkeypatch, given, have, first, most):
    settings = Score(model="m", sessions="in", out="out", **given)
    monkeypatch.setattr(pool.ray, "cluster_resources", lambda: have)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    found = pool._actors(settings, pieces=9)
    assert (found.min_size, found.initial_size, found.max_size) == (1, first, most)
    monkeypatch.delenv("RAY_ADDRESS")
    if have:
        found = pool._actors(settings, pieces=9)
        assert (found.min_size, found.initial_size, found.max_size) == (1, first, first)
    else:
        with pytest.raises(InputError, match="Ray has 0"):
            pool._actors(settings, pieces=9)


@pytest.mark.parametrize("gpus", [0.0, 0.5])
def test_room_for_one_actor_is_waited_for(monkeypatch, capsys, gpus):
    monkeypatch.setattr(pool.on_ray, "await_room", lambda *asked: asked[-1](f"waiting for {asked[:-1]}"))
    pool.await_room(Score(model="m", sessions="in", out="out", threads=3, gpus_per_actor=gpus))
    assert capsys.readouterr().err == f"waiting for {(0, gpus) if gpus else (3, 0.0)}\n"


def test_an_actor_that_does_not_see_the_result_refuses_its_first_piece(tmp_path, monkeypatch):
    items = pa.table({"item_id": ["a", "b"], "item_index": pa.array(range(2), pa.int32()), "support": [2, 1]})
    work = scorer.Work(str(tmp_path), "key", 1, False, None, None, False, False, items, None, pa.string())
    model = scorer.given(initialise(Hyperparameters(layers=(4,)), 2))
    monkeypatch.setattr(pool.ray, "get", lambda given: given)
    piece = pa.table({"number": [0], "spans": ["[]"]})
    with reach.marked(str(tmp_path)) as mark:
        done = pool.ScoringActor([(model, work)], 1, "cpu", mark)(piece).to_pylist()
        assert scorer.outcome(done[0], 2).part.rows == 0
        refused = pool.ScoringActor([(model, work)], 1, "cpu", ".run-of-another")(piece).to_pylist()
    with pytest.raises(InputError, match=r"--out: the node .* does not see .*: give a folder that all nodes reach"):
        scorer.outcome(refused[0], 2)
