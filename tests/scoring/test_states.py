"""Going on from an earlier result: the same lists and states, to the last bit, as from the first clicks."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gru4rec.config import Hyperparameters, Score
from gru4rec.model.encode import Start, final
from gru4rec.model.network import initialise
from gru4rec.scoring import batch, source, states, steady
from gru4rec.scoring.scorer import Scorer, Work
from gru4rec.sessions.prepared import Sessions
from gru4rec.tracking.folder import LoadedModel

V = 300
IDS = [f"item-{i}" for i in range(V)]
ITEMS = pa.table({"item_id": IDS, "item_index": pa.array(range(V), pa.int32()), "support": list(range(V, 0, -1))})
KINDS = [
    {"layers": (16,)},
    {"layers": (8, 12), "feed_forward": (10,)},
    {"layers": (8,), "cell": "lstm"},
    {"layers": (8,), "embedding": "one-hot"},
    {"layers": (12,), "embedding": "separate", "embedding_size": 6},
]
MODELS = [initialise(Hyperparameters(**kind, seed=5), V) for kind in KINDS]
LOADED = LoadedModel(MODELS[0], ITEMS, {})
OTHER = LoadedModel(initialise(Hyperparameters(layers=(16,), seed=6), V), ITEMS, {})


def table(rows):
    """Sessions by id; −1 is an unknown item."""
    items = [None if clicks is None else [IDS[i] if i >= 0 else "unknown" for i in clicks] for clicks in rows.values()]
    return pa.table({"session_id": list(rows), "items": pa.array(items, pa.list_(pa.string()))})


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_clicks_may_be_given_at_once_or_later(kind):
    model, random = MODELS[kind], np.random.default_rng(kind)
    lengths = random.integers(0, 9, 500)
    first = random.integers(0, lengths + 1)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    clicks = Sessions(offsets, random.integers(0, V, offsets[-1]).astype(np.int32))
    begun = Sessions(
        np.concatenate([[0], np.cumsum(first)]),
        np.concatenate([clicks.items[at : at + n] for at, n in zip(offsets, first, strict=False)]),
    )
    rest = states.select(clicks, np.arange(500), first)
    assert steady.steady(model, Scorer(model, work()).within)
    multiple = steady.rows(model)
    at_once = final(model, clicks, multiple=multiple)
    before = final(model, begun, multiple=multiple)
    ended = final(model, rest, Start(before.of, before.states), multiple)
    some = lengths > 0
    assert np.array_equal(at_once.of >= 0, some)
    assert np.array_equal(ended.of >= 0, some)
    for one, two in zip([at_once.output, *at_once.states], [ended.output, *ended.states], strict=True):
        assert np.array_equal(one[at_once.of[some]], two[ended.of[some]])


def work(**more):
    settings = {"folder": "", "key": "now", "top_k": 7, "exclude_seen": False, "allowed": None, "min_score": None}
    kinds = {"embeddings": False, "skip_corrupt": False, "items": ITEMS, "prepared": None, "session_id": pa.string()}
    return Work(**{**settings, **kinds, "remember": True, **more})


clicks = st.lists(st.integers(-1, V - 1), max_size=5)


@st.composite
def nights(draw):
    """Sessions of one night, and of the next: as they were, with clicks more, less or others, gone, or new."""
    before = draw(st.dictionaries(st.integers(0, 40).map(str), clicks, max_size=12))
    after = {}
    for name in draw(st.permutations(sorted(before))):
        change = draw(st.sampled_from(["same", "same", "more", "fewer", "other", "gone"]))
        if change != "gone":
            more = draw(clicks) if change == "more" else []
            fewer = before[name][:-1] if change == "fewer" else before[name]
            after[name] = draw(clicks) if change == "other" else fewer + more
    for name in draw(st.lists(st.integers(50, 60).map(str), unique=True, max_size=4)):
        after[name] = draw(clicks)
    return before, after


@hypothesis.settings(max_examples=40)
@given(nights(), st.sampled_from(range(len(KINDS))), st.booleans(), st.booleans(), st.integers(1, 5))
def test_a_night_that_goes_on_is_a_night_from_scratch(tmp_path_factory, both, kind, same_settings, options, parts_of):
    before, after = both
    folder = str(tmp_path_factory.mktemp("night"))
    model = MODELS[kind]
    given = {"exclude_seen": options, "embeddings": options, "min_score": 0.0 if options else None}
    then = Scorer(model, work(folder=folder, key="then", **given))
    whole = table(before)
    cuts = [whole.slice(at, parts_of) for at in range(0, len(whole), parts_of)]
    for number, cut in enumerate(cuts):
        found, of, reached, _ = then.score_on(cut)
        states.write(folder, number, of, reached, {"key": "then", "piece": number})
        batch.parts.write_part(folder, number, found, "then")
    earlier = states.Earlier(folder, "then", "then", tuple(len(cut) for cut in cuts), same_settings)
    allowed = None if same_settings else np.arange(0, V, 2)
    now = Scorer(model, work(allowed=allowed, earlier=earlier, **given), states.index(earlier))
    scratch = Scorer(model, work(allowed=allowed, **given))
    found, of, reached, counts = now.score_on(table(after))
    expected, of_expected, reached_expected, none = scratch.score_on(table(after))
    assert found.equals(expected)
    assert found.equals(scratch.score(table(after)))
    assert np.array_equal(of.items, of_expected.items)
    assert np.array_equal(reached, reached_expected)
    assert none == {"taken_over": 0, "continued": 0, "unused": 0}
    known = {name: [i for i in row if i >= 0] for name, row in after.items()}
    was = {name: [i for i in row if i >= 0] for name, row in before.items()}
    begin = [name for name in known if was.get(name) and known[name][: len(was[name])] == was[name]]
    same = [name for name in begin if known[name] == was[name]]
    expected_counts = (len(same), len(begin) - len(same)) if same_settings else (0, len(begin))
    assert (counts["taken_over"], counts["continued"], counts["unused"]) == (*expected_counts, 0)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """A dated job of several pieces, in this process."""
    monkeypatch.setattr(source, "SMALLEST_PIECE", 40)
    monkeypatch.setattr(batch, "PIECES_HERE", 1000)
    monkeypatch.setattr(states, "SMALLEST_SHARE", 0)
    out = str(tmp_path / "out")
    return Score(model="m", sessions=str(tmp_path / "in"), out=out, top_k=7, incremental=True, min_overlap=0)


def run(settings, rows, date, loaded=LOADED, **changes):
    place = Path(settings.sessions) / f"{date}.parquet"
    place.parent.mkdir(exist_ok=True)
    pq.write_table(table(rows), place)
    given = replace(settings, sessions=str(place), date=date, **changes)
    return batch.run(batch.find(given, loaded, "3", "models:/gru4rec/3"))


def lists(settings, date):
    place = Path(settings.out) / f"date={date}"
    content = json.loads((place / "manifest.json").read_text())
    return pa.concat_tables([pq.read_table(place / file["name"]) for file in content["files"]])


def counts(done):
    return done.content["totals"]["taken_over"], done.content["totals"]["continued"]


def drawn(count, seed=0):
    random = np.random.default_rng(seed)
    return {f"s{i}": random.integers(0, V, random.integers(1, 6)).tolist() for i in range(count)}


def next_night(rows, called="new"):
    """Every fourth session has a click more, every tenth is gone, and 30 are new, in another order."""
    after = {name: [*row, 7] if i % 4 == 0 else row for i, (name, row) in enumerate(rows.items()) if i % 10}
    after = {**{f"{called} {i}": [i] for i in range(30)}, **after}
    return dict(sorted(after.items(), key=lambda one: hash(tuple(one[1]))))


def test_night_after_night(settings):
    first = drawn(200)
    second, third = next_night(first), next_night(next_night(first), "newer")
    assert counts(run(settings, first, "2026-11-20")) == (0, 0)
    assert counts(run(settings, second, "2026-11-21")) == (140, 40)
    done = run(settings, third, "2026-11-22")
    assert sum(counts(done)) == len(third) - 30
    scratch = replace(settings, incremental=False, out=settings.out + "-scratch")
    run(scratch, third, "2026-11-22")
    assert lists(settings, "2026-11-22").equals(lists(scratch, "2026-11-22"))
    held = {path.parts[-3] for path in Path(settings.out).rglob("states-*")}
    assert held == {"date=2026-11-21", "date=2026-11-22"}  # older ones are of no use any more
    again = run(settings, third, "2026-11-22")
    assert again.unchanged


@pytest.mark.ray
def test_night_after_night_on_several_actors(ray_local, settings, monkeypatch):
    monkeypatch.setattr(batch, "PIECES_HERE", 1)
    first = drawn(200)
    second = next_night(first)
    run(settings, first, "2026-11-20")
    taken_over, continued = counts(run(settings, second, "2026-11-21"))
    # Of 140 and 40: actors leave out parts that hold few of a piece's sessions.
    assert 100 < taken_over <= 140
    assert 30 < continued <= 40
    monkeypatch.setattr(batch, "PIECES_HERE", 1000)
    scratch = replace(settings, incremental=False, out=settings.out + "-scratch")
    run(scratch, second, "2026-11-21")
    assert lists(settings, "2026-11-21").equals(lists(scratch, "2026-11-21"))


def test_other_items_in_stock_go_on_from_states_alone(settings, tmp_path):
    rows = drawn(200)
    run(settings, rows, "2026-11-20")
    (tmp_path / "out_of_stock.csv").write_text("item_id\nitem-3\nitem-5\n")
    gone = {"exclude_items": str(tmp_path / "out_of_stock.csv")}
    assert counts(run(settings, rows, "2026-11-21", **gone)) == (0, 200)
    scratch = replace(settings, incremental=False, out=settings.out + "-scratch")
    run(scratch, rows, "2026-11-21", **gone)
    assert lists(settings, "2026-11-21").equals(lists(scratch, "2026-11-21"))


def test_another_model_or_none_begins_anew(settings, capfd):
    rows = drawn(60)
    run(settings, rows, "2026-11-20", OTHER)
    run(settings, rows, "2026-11-21", incremental=False)
    assert counts(run(settings, rows, "2026-11-22")) == (0, 0)
    assert "no earlier result of this model has states" in capfd.readouterr().err
    assert counts(run(settings, next_night(rows), "2026-11-22")) == (42, 12)  # of the same date, for other sessions
    assert "going on from date=2026-11-22/v3-" in capfd.readouterr().err


@pytest.mark.parametrize("damage", ["flipped", "truncated", "gone", "foreign"])
def test_a_damaged_earlier_result_is_not_used(settings, damage):
    rows = drawn(200)
    first = run(settings, rows, "2026-11-20")
    path = Path(settings.out) / "date=2026-11-20" / first.content["states"]["files"][1]["name"]
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    elif damage == "truncated":
        content = content[:-9]
    elif damage == "foreign":
        content = (path.parent / "states-00002.parquet").read_bytes()
    path.write_bytes(content)
    if damage == "gone":
        path.unlink()
    done = run(settings, rows, "2026-11-21")
    assert done.content["totals"]["sessions"] == 200
    if damage in ("truncated", "gone") or len(content) != first.content["states"]["files"][1]["bytes"]:
        assert counts(done) == (0, 0)  # it is seen before anything is begun
    else:
        assert counts(done) == (160, 0)
        assert done.content["states"]["unused"] == 1
    scratch = replace(settings, incremental=False, out=settings.out + "-scratch")
    run(scratch, rows, "2026-11-21")
    assert lists(settings, "2026-11-21").equals(lists(scratch, "2026-11-21"))


def test_where_figures_depend_on_the_batch_nothing_is_gone_on_from(settings, monkeypatch):
    rows = drawn(60)
    run(settings, rows, "2026-11-20")
    monkeypatch.setattr(steady, "steady", lambda *given: False)
    done = run(settings, rows, "2026-11-21")
    assert counts(done) == (0, 0)
    assert done.content["states"]["unused"] == 2


def test_a_part_without_its_states_is_made_again(settings):
    rows = drawn(200)
    first = run(settings, rows, "2026-11-20")
    place = Path(settings.out) / "date=2026-11-20"
    (place / "manifest.json").unlink()
    (place / first.content["states"]["files"][3]["name"]).unlink()
    done = run(settings, rows, "2026-11-20")
    assert (done.kept, done.scored) == (4, 40)


def test_states_of_results_that_others_took_the_place_of_go_too(settings):
    rows = drawn(120)
    for date in ("2026-11-20", "2026-11-21", "2026-11-22"):
        run(settings, rows, date)
        run(settings, next_night(rows), date)  # late sessions: the same date once more
    held = {path.parts[-3] for path in Path(settings.out).rglob("states-*")}
    assert held == {"date=2026-11-21", "date=2026-11-22"}


def test_on_a_gpu_scores_of_a_batch_fit_the_block():
    def rows(items):
        return steady.rows(SimpleNamespace(device=torch.device("cuda"), item_count=items))

    assert [rows(items) for items in (1_000, 50_000, 1_000_000, 5_000_000, 10**9)] == [4096, 4096, 256, 64, 64]


def test_steadiness_is_seen(monkeypatch):
    """A product that is rounded otherwise for few rows is found out."""
    model = MODELS[0]
    within = Scorer(model, work()).within
    assert steady.steady(model, within)
    forward = steady.forward

    def other(settings, dense, x, before):
        new, output, saved = forward(settings, dense, x, before)
        return new, output * (1 + 2**-22 * (len(x) < 200)), saved

    monkeypatch.setattr(steady, "forward", other)
    assert not steady.steady(model, within)
