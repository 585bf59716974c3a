"""The job's lists on real sessions, every option, against a brute force in float64 that shares no code with it."""

import json
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest

from gru4rec.config import Hyperparameters, Score
from gru4rec.model.network import initialise
from gru4rec.scoring import batch
from gru4rec.tracking.folder import LoadedModel

SESSIONS, K = 5000, 20
CLOSE = 2e-5  # float32 and float64 scores, whose size is up to about 3, differ by less
OPTIONS = [
    {},
    {"exclude_seen": True},
    {"exclude_items": "out.txt"},
    {"only_items": "in.csv"},
    {"min_score": 0.9},
    {"exclude_seen": True, "exclude_items": "out.txt", "only_items": "in.csv", "min_score": 0.5, "top_k": 7},
]


class Log(NamedTuple):
    """Real sessions, and a model that knows the items of the older half."""

    sessions: list[list[int]]
    ids: np.ndarray
    loaded: LoadedModel
    scores: np.ndarray  # [sessions, V] float64, of all sessions that have a known click


@pytest.fixture(scope="module", params=["yoochoose64", "globo"])
def log(request, shared_data) -> Log:
    place = shared_data / request.param
    if not place.is_dir():
        pytest.skip(f"there are no real sessions at {place}")
    if request.param == "globo":
        files = sorted(place.glob("clicks_hour_0[0-3]*.csv"))
        clicks = pa.concat_tables([pc.read_csv(file) for file in files])
        names = ["session_id", "click_article_id", "click_timestamp"]
    else:
        clicks = pq.read_table(place / "train.parquet")
        names = ["SessionId", "ItemId", "Time"]
    clicks = clicks.select(names).sort_by([(names[0], "ascending"), (names[2], "ascending")])
    session, item = (clicks[name].to_numpy() for name in names[:2])
    starts = np.flatnonzero(np.diff(session, prepend=-1))
    sessions = [part.tolist() for part in np.split(item, starts[1:])]
    older, newer = sessions[: len(sessions) // 2], sessions[len(sessions) // 2 :]
    ids, support = np.unique(np.concatenate(older), return_counts=True)
    items = {"item_id": ids, "item_index": pa.array(range(len(ids)), pa.int32()), "support": support}
    model = initialise(Hyperparameters(layers=(16,), seed=3, init_range=0.5), len(ids))
    model.item_bias.copy_(initialise(Hyperparameters(layers=(1,), seed=4, init_range=0.3), len(ids)).item_table[:, 0])
    chosen = [newer[i] for i in np.linspace(0, len(newer) - 1, SESSIONS).astype(int)]
    return Log(chosen, ids, LoadedModel(model, pa.table(items), {}), brute_scores(model, ids, chosen))


def brute_scores(model, ids, sessions):
    """Session by session and click by click, in float64."""
    weights = {name: tensor.double().numpy() for name, tensor in model.tensors().items()}
    found = np.full((len(sessions), len(ids)), np.nan)
    for row, session in enumerate(sessions):
        state, known = np.zeros((1, 16)), False
        for item in session:
            index = np.searchsorted(ids, item)
            if index < len(ids) and ids[index] == item:
                state, known = gru(weights, weights["item_table"][index][None], state), True
        if known:
            found[row] = weights["item_table"] @ state[0] + weights["item_bias"]
    return found


def gru(weights, x, h):
    """Cho et al., EMNLP 2014, in the form that applies the reset gate after the product."""
    given = x @ weights["gru.0.weight_input"].T + weights["gru.0.bias_input"]
    kept = h @ weights["gru.0.weight_hidden"].T + weights["gru.0.bias_hidden"]
    r, z, n = np.split(given, 3, axis=1)
    hr, hz, hn = np.split(kept, 3, axis=1)
    r, z = 1 / (1 + np.exp(-(r + hr))), 1 / (1 + np.exp(-(z + hz)))
    n = np.tanh(n + r * hn)
    return (1 - z) * n + z * h


@pytest.mark.parametrize("options", OPTIONS, ids=lambda given: "-".join(given) or "plain")
def test_lists_are_those_of_brute_force(log, tmp_path, monkeypatch, options):
    monkeypatch.setattr(batch, "PIECES_HERE", 1000)
    drawn = np.random.default_rng(5)
    out_of_stock, in_stock = (drawn.choice(log.ids, len(log.ids) // 3, replace=False) for _ in range(2))
    (tmp_path / "out.txt").write_text("\n".join(map(str, out_of_stock)))
    (tmp_path / "in.csv").write_text("\n".join(map(str, ["item_id", *in_stock])))
    files = {name: str(tmp_path / value) for name, value in options.items() if isinstance(value, str)}
    rows = pa.table({"session_id": range(SESSIONS), "items": log.sessions})
    pq.write_table(rows, tmp_path / "sessions.parquet")
    settings = Score(model="m", sessions=str(tmp_path / "sessions.parquet"), out=str(tmp_path / "result"), top_k=K)
    settings = replace(settings, **{**options, **files})
    batch.run(batch.find(settings, log.loaded, None, "m"))
    content = json.loads((tmp_path / "result" / "manifest.json").read_text())
    found = pa.concat_tables([pq.read_table(tmp_path / "result" / file["name"]) for file in content["files"]])

    allowed = np.ones(len(log.ids), bool)
    if "only_items" in options:
        allowed &= np.isin(log.ids, in_stock)
    if "exclude_items" in options:
        allowed &= ~np.isin(log.ids, out_of_stock)
    support = log.loaded.items["support"].to_numpy()
    popular = [i for i in np.lexsort((np.arange(len(log.ids)), -support)) if allowed[i]][: settings.top_k]
    same = 0
    for row, listed in enumerate(found["items"].to_pylist()):
        exact = log.scores[row]
        places = np.searchsorted(log.ids, listed)
        if np.isnan(exact[0]):
            assert places.tolist() == popular
            assert found["fallback"][row].as_py()
            same += 1
            continue
        shown = allowed.copy()
        if settings.exclude_seen:
            clicked = np.minimum(np.searchsorted(log.ids, log.sessions[row]), len(log.ids) - 1)
            shown[clicked[log.ids[clicked] == log.sessions[row]]] = False
        best = np.flatnonzero(shown)
        best = best[exact[best] >= np.partition(exact[best], -settings.top_k)[-settings.top_k]]
        best = best[np.lexsort((best, -exact[best]))][: settings.top_k]
        if settings.min_score is not None:
            certain = (exact[best] >= settings.min_score + CLOSE).sum()
            possible = (exact[best] >= settings.min_score - CLOSE).sum()
            assert certain <= len(listed) <= possible
            best = best[: len(listed)]
        assert len(listed) == len(best) == len(set(listed))
        assert shown[places].all()
        np.testing.assert_allclose(exact[places], exact[best], rtol=0, atol=CLOSE)
        np.testing.assert_allclose(found["scores"][row].as_py(), exact[places], rtol=0, atol=CLOSE)
        # Only where float64 itself can hardly tell two items apart may they stand the other way round.
        for place in np.flatnonzero(places != best):
            assert abs(exact[places[place]] - exact[best[place]]) < CLOSE
        same += places.tolist() == best.tolist()
    assert same > 0.99 * SESSIONS
    assert content["totals"]["fallback"] == np.isnan(log.scores[:, 0]).sum()
