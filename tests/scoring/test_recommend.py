"""Recommendations for a table: ids in, ids out, against the definition worked out one session at a time."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from gru4rec.config import Hyperparameters
from gru4rec.errors import InputError
from gru4rec.model.encode import final_states
from gru4rec.model.network import initialise, scores
from gru4rec.scoring.recommend import known_clicks, recommend
from gru4rec.sessions.catalogue import catalogue, encoder, quick_encoder
from gru4rec.sessions.prepared import Sessions

V = 120
MODEL = initialise(Hyperparameters(layers=(6,), seed=3), V)
SUPPORT = np.random.default_rng(0).integers(1, 9, V)
INT_IDS = [10 * i + 5 for i in range(V)]
TEXT_IDS = [f"item-{i}" for i in range(V)]


def items_table(ids, type=None):
    index = pa.array(range(V), pa.int32())
    return pa.table({"item_id": pa.array(ids, type), "item_index": index, "support": pa.array(SUPPORT)})


INTS = catalogue(items_table(INT_IDS))
TEXTS = catalogue(items_table(TEXT_IDS))


def sessions(rows, type=None):
    return pa.table({"session_id": pa.array(range(len(rows))), "items": pa.array(rows, type)})


def by_definition(clicks, ids, k, exclude_seen=False):
    """The ranked ids of one session of known ids."""
    session = Sessions(np.array([0, len(clicks)]), np.array([ids.index(click) for click in clicks], np.int32))
    ranked = torch.sort(scores(MODEL, final_states(MODEL, session))[0], descending=True, stable=True).indices
    listed = [ids[i] for i in ranked.tolist() if not (exclude_seen and ids[i] in clicks)]
    return listed[:k]


@pytest.mark.parametrize("exclude_seen", [False, True])
@pytest.mark.parametrize(("known", "ids"), [(INTS, INT_IDS), (TEXTS, TEXT_IDS)])
def test_every_session_gets_the_list_of_the_definition(known, ids, exclude_seen):
    drawn = np.random.default_rng(1)
    rows = [[ids[i] for i in drawn.integers(0, V, drawn.integers(1, 8))] for _ in range(40)]
    result = recommend(MODEL, known, sessions(rows), 20, exclude_seen)
    assert result["items"].to_pylist() == [by_definition(row, ids, 20, exclude_seen) for row in rows]
    assert result["session_id"].to_pylist() == list(range(40))
    for listed in result["scores"].to_pylist():
        assert listed == sorted(listed, reverse=True)


@pytest.mark.parametrize("exclude_seen", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.9, 1.0])
def test_banned_items_are_in_no_list(share, exclude_seen):
    drawn = np.random.default_rng(2)
    rows = [[INT_IDS[i] for i in drawn.integers(0, V, drawn.integers(0, 8))] for _ in range(30)]
    banned = drawn.permutation(V)[: round(share * V)]
    out = {INT_IDS[i] for i in banned}
    result = recommend(MODEL, INTS, sessions(rows, pa.list_(pa.int64())), 20, exclude_seen, banned=banned)
    popular = [INT_IDS[i] for i in np.argsort(-SUPPORT, kind="stable")]
    for row, listed in zip(rows, result["items"].to_pylist(), strict=True):
        ranked = by_definition(row, INT_IDS, V, exclude_seen) if row else popular
        assert listed == [item for item in ranked if item not in out][:20]


def test_the_types_are_those_of_the_contract():
    result = recommend(MODEL, TEXTS, sessions([["item-3"]]), 4)
    assert result.schema.field("items").type == pa.list_(pa.string())
    assert result.schema.field("scores").type == pa.list_(pa.float32())
    assert result.schema.field("session_id").type == pa.int64()


def test_unknown_and_missing_clicks_are_skipped_and_counted():
    rows = [[25, 7, 35], [25, None, 35], [25, 35]]
    result = recommend(MODEL, INTS, sessions(rows), 5)
    lists = result["items"].to_pylist()
    assert lists[0] == lists[1] == lists[2]
    assert result["unknown_clicks"].to_pylist() == [1, 1, 0]
    assert result["fallback"].to_pylist() == [False] * 3


def test_a_session_with_no_known_item_gets_the_popular_items():
    rows = [[], None, [7], [None], [25]]
    result = recommend(MODEL, INTS, sessions(rows), 6, exclude_seen=True)
    popular = sorted(range(V), key=lambda i: (-SUPPORT[i], i))[:6]
    assert result["fallback"].to_pylist() == [True, True, True, True, False]
    assert result["items"].to_pylist()[:4] == [[INT_IDS[i] for i in popular]] * 4
    assert result["scores"].to_pylist()[0] == [float(SUPPORT[i]) for i in popular]


def test_one_by_one_is_the_same_as_all_at_once():
    rows = [[INT_IDS[i % V], INT_IDS[(3 * i) % V]] for i in range(30)]
    alone = [recommend(MODEL, INTS, sessions([row]), 7)["items"].to_pylist()[0] for row in rows]
    assert recommend(MODEL, INTS, sessions(rows), 7)["items"].to_pylist() == alone


def test_a_catalogue_smaller_than_k():
    result = recommend(MODEL, INTS, sessions([[5], []]), 500)
    assert [len(listed) for listed in result["items"].to_pylist()] == [V, V]


def test_lists_are_shorter_where_the_rest_of_the_catalogue_was_seen():
    result = recommend(MODEL, INTS, sessions([INT_IDS, INT_IDS[:100], []]), 30, exclude_seen=True)
    assert [len(listed) for listed in result["items"].to_pylist()] == [0, 20, 30]


def test_no_sessions():
    result = recommend(MODEL, INTS, sessions([], pa.list_(pa.int64())))
    assert result.num_rows == 0
    assert result.schema.field("items").type == pa.list_(pa.int64())


def test_prepared_indices_go_through_the_item_ids():
    """The model's catalogue has another order, and lacks an item that the prepared folder has."""
    prepared = pa.table(
        {
            "item_id": [35, 999, 5],
            "item_index": pa.array([0, 1, 2], pa.int32()),
            "support": [1, 1, 1],
        }
    )
    by_index = sessions([[0, 2], [1], [2, 1, 0]], pa.list_(pa.int32()))
    result = recommend(MODEL, INTS, by_index, 5, encode=encoder(INTS, prepared))
    by_id = recommend(MODEL, INTS, sessions([[35, 5], [999], [5, 999, 35]]), 5)
    assert result.equals(by_id)


@pytest.mark.parametrize(
    "type",
    [
        pa.list_(pa.int16()),
        pa.list_(pa.uint64()),
        pa.large_list(pa.int64()),
        pa.list_(pa.int32(), 2),
        pa.list_view(pa.int64()),
        pa.list_(pa.dictionary(pa.int8(), pa.int64())),
    ],
)
def test_every_arrow_list_of_integers_is_read(type):
    rows = [[25, 35], [5, 15]]
    assert recommend(MODEL, INTS, sessions(rows, type), 5)["items"].to_pylist() == [
        by_definition(row, INT_IDS, 5) for row in rows
    ]


@pytest.mark.parametrize("type", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())])
def test_every_arrow_string_is_read(type):
    result = recommend(MODEL, TEXTS, sessions([["item-2"]], pa.list_(type)), 5)
    assert result["items"].to_pylist() == [by_definition(["item-2"], TEXT_IDS, 5)]


def test_an_id_beyond_the_catalogues_type_is_unknown():
    narrow = catalogue(items_table(INT_IDS, pa.int16()))
    result = recommend(MODEL, narrow, sessions([[2**40 + 5, 25]]), 5)
    assert result["unknown_clicks"].to_pylist() == [1]
    clicks, unknown = known_clicks(pa.array([[2**64 - 1, 5]], pa.list_(pa.uint64())), encoder(INTS))
    assert clicks.items.tolist() == [0]
    assert unknown.tolist() == [1]


@pytest.mark.parametrize(("known", "row"), [(INTS, ["5"]), (TEXTS, [5]), (INTS, [5.0])])
def test_ids_that_cannot_match_are_an_error(known, row):
    with pytest.raises(InputError, match="none can match"):
        recommend(MODEL, known, sessions([row]))


def test_sliced_and_chunked_input():
    rows = [[25], [35, 5], None, [15]]
    whole = sessions(rows)
    chunked = pa.concat_tables([whole.slice(1, 2), whole.slice(3)])
    found, expected = recommend(MODEL, INTS, chunked, 5), recommend(MODEL, INTS, whole, 5).slice(1)
    assert found.drop(["scores"]).equals(expected.drop(["scores"]))
    # Batches of two rows and of three: some processors round their sums differently (scoring/steady.py).
    for one, two in zip(found["scores"].to_pylist(), expected["scores"].to_pylist(), strict=True):
        assert one == pytest.approx(two, rel=1e-6, abs=1e-7)


def test_a_catalogue_with_a_gap_or_a_double_is_an_error():
    with pytest.raises(InputError, match="number its items"):
        catalogue(items_table(INT_IDS).slice(1))
    with pytest.raises(InputError, match="twice"):
        catalogue(items_table([1] * V))


@pytest.mark.parametrize(
    ("known", "clicked"),
    [
        (INTS, pa.array([5, 6, 15, None, -1, 2**40])),
        (INTS, pa.array([5, 255, 15], pa.uint8())),
        (catalogue(items_table(range(V), pa.int8())), pa.array([0, 119, 120, 2**40, None])),
        (TEXTS, pa.array(["item-3", "item-30", "item", "", None]).dictionary_encode()),
        (TEXTS, pa.array(["item-3", "x"], pa.large_string())),
        (INTS, pa.array([], pa.int64())),
        (TEXTS, pa.nulls(2)),
    ],
)
def test_the_quick_encoder_encodes_as_the_other(known, clicked):
    np.testing.assert_array_equal(quick_encoder(known)(clicked), encoder(known)(clicked))


def test_the_quick_encoder_refuses_what_cannot_match():
    with pytest.raises(InputError, match="none can match"):
        quick_encoder(INTS)(pa.array(["5"]))
