"""Sessions at the edges, each with its rule, through the whole job; and input that cannot be read."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gru4rec.config import Hyperparameters, Score
from gru4rec.errors import InputError
from gru4rec.model.network import initialise
from gru4rec.scoring import batch, gates, source
from gru4rec.tracking.folder import LoadedModel

V = 60
IDS = list(range(100, 100 + V))
SUPPORT = [V - i for i in range(V)]
ITEMS = pa.table({"item_id": IDS, "item_index": pa.array(range(V), pa.int32()), "support": SUPPORT})
LOADED = LoadedModel(initialise(Hyperparameters(layers=(8,), seed=2), V), ITEMS, {})
UNKNOWN = 7


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "PIECES_HERE", 1000)
    monkeypatch.setattr(source, "SMALLEST_PIECE", 40)
    (tmp_path / "in").mkdir()
    none = {"max_fallback_share": 1.0, "min_overlap": 0.0}
    return Score(model="m", sessions=str(tmp_path / "in"), out=str(tmp_path / "out"), top_k=10, **none)


def scored(settings, sessions=None, loaded=LOADED):
    """The result's rows and its manifest."""
    if sessions is not None:
        table = {"session_id": range(len(sessions)), "items": pa.array(sessions, pa.list_(pa.int64()))}
        pq.write_table(pa.table(table), f"{settings.sessions}/a.parquet")
    done = batch.run(batch.find(settings, loaded, None, "m"))
    place = settings.out
    found = [pq.read_table(f"{place}/{file['name']}") for file in done.content["files"]]
    return pa.concat_tables(found), done.content


def test_a_session_of_one_click_and_one_of_five_thousand(settings):
    long = [IDS[i] for i in np.random.default_rng(0).integers(0, V, 5000)]
    found, _ = scored(settings, [[IDS[3]], long, [IDS[3]]])
    alone, _ = scored(replace(settings, out=settings.out + "-alone"), [long])
    lists = found["items"].to_pylist()
    assert lists[0] == lists[2] != lists[1]
    assert lists[1] == alone["items"].to_pylist()[0]
    assert [len(row) for row in lists] == [10] * 3
    assert found["fallback"].to_pylist() == [False] * 3


@pytest.mark.parametrize("clicks", [5, 5000])
@pytest.mark.parametrize("place", ["start", "middle", "end", "between", "all three"])
def test_unknown_clicks_are_as_if_they_had_not_been(settings, place, clicks):
    known = [IDS[i] for i in np.random.default_rng(1).integers(0, V, clicks)]
    half = clicks // 2
    mixed = {
        "start": [UNKNOWN, *known],
        "middle": [*known[:half], UNKNOWN, UNKNOWN, *known[half:]],
        "end": [*known, UNKNOWN],
        "between": [item for click in known for item in (click, UNKNOWN)],
        "all three": [UNKNOWN, *known[:half], UNKNOWN, *known[half:], None],
    }[place]
    found, content = scored(settings, [known, mixed])
    assert found["items"][0] == found["items"][1]
    np.testing.assert_array_equal(*(np.array(found["scores"][row].as_py()) for row in (0, 1)))
    assert found["unknown_clicks"].to_pylist() == [0, len(mixed) - clicks]
    assert content["totals"]["fallback"] == 0


def test_unknown_everywhere_no_clicks_and_none_at_all_get_the_popular_items(settings):
    found, content = scored(settings, [[UNKNOWN] * 3, [], None, [IDS[0]]])
    assert found["items"].to_pylist()[:3] == [IDS[:10]] * 3  # support falls with the index
    assert found["scores"].to_pylist()[0] == SUPPORT[:10]
    assert found["fallback"].to_pylist() == [True, True, True, False]
    assert found["unknown_clicks"].to_pylist() == [3, 0, 0, 0]
    assert content["totals"]["fallback"] == 3


def test_popular_items_are_those_that_may_be_shown_whatever_they_score(settings, tmp_path):
    (tmp_path / "out.txt").write_text("100\n102\n")
    limited = replace(settings, exclude_items=str(tmp_path / "out.txt"), min_score=1e9)
    found, _ = scored(limited, [[UNKNOWN], [IDS[5]]])
    assert found["items"].to_pylist() == [[101, *IDS[3:12]], []]


def test_a_catalogue_smaller_than_k(settings, tmp_path):
    (tmp_path / "in.txt").write_text("100\n101\n150\n")
    for limited, longest in (
        (replace(settings, top_k=500), V),
        (replace(settings, only_items=str(tmp_path / "in.txt")), 3),
    ):
        found, content = scored(replace(limited, out=f"{settings.out}-{longest}"), [[IDS[0]], []])
        assert [len(row) for row in found["items"].to_pylist()] == [longest, longest]
        assert content["totals"]["list_length"] == longest


def test_embeddings_score_the_items(settings):
    found, _ = scored(replace(settings, with_embeddings=True), [[IDS[0], IDS[9]], [UNKNOWN], [IDS[4]]])
    model = LOADED.model
    assert found.schema.field("embedding").type == pa.list_(pa.float32())
    assert found["embedding"][1].as_py() is None
    for row in (0, 2):
        output = np.array(found["embedding"][row].as_py(), np.float32)
        scores = model.item_table.numpy() @ output + model.item_bias.numpy()
        best = np.argsort(-scores, kind="stable")[:10]
        assert found["items"][row].as_py() == [IDS[i] for i in best]
        np.testing.assert_allclose(found["scores"][row].as_py(), scores[best], rtol=1e-5)


# -- input that cannot be read ---------------------------------------------------------------------------------------


@pytest.fixture
def damaged(settings, tmp_path):
    """300 sessions in three files, of which b has one bad row group of three and c is no Parquet; the good rows."""
    table = pa.table({"session_id": range(300), "items": [[IDS[i % V], IDS[(7 * i) % V]] for i in range(300)]})
    for name, first in (("a", 0), ("b", 100), ("c", 200)):
        pq.write_table(table.slice(first, 100), tmp_path / "in" / f"{name}.parquet", row_group_size=40)
    path = tmp_path / "in" / "b.parquet"
    column = pq.ParquetFile(path).metadata.row_group(1).column(1)
    content = bytearray(path.read_bytes())
    content[column.data_page_offset : column.data_page_offset + 40] = b"\xff" * 40
    path.write_bytes(content)
    (tmp_path / "in" / "c.parquet").write_bytes(b"no Parquet" * 10)
    return pa.concat_tables([table.slice(0, 140), table.slice(180, 20)])


def test_corrupt_input_stops_the_job_and_is_named(settings, damaged, tmp_path):
    with pytest.raises(InputError, match=r"c\.parquet: not a readable Parquet file"):
        scored(settings)
    (tmp_path / "in" / "c.parquet").unlink()
    with pytest.raises(InputError, match=r"b\.parquet: row group 1 cannot be read"):
        scored(settings)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_corrupt_input_is_left_out_and_counted_where_asked(settings, damaged, tmp_path):
    skipping = replace(settings, skip_corrupt=True)
    with pytest.raises(gates.Closed, match=r"gate rejected_share: 0.333333 is not <= 0.01"):
        scored(skipping)
    found, content = scored(replace(skipping, max_rejected_share=0.5))
    assert found["session_id"].to_pylist() == damaged["session_id"].to_pylist()
    assert content["input"]["sessions"] == 200  # as far as files say
    assert (content["totals"]["sessions"], content["totals"]["rejected"]) == (160, 40)
    file, group = content["input"]["corrupt"]
    assert "c.parquet: not a readable Parquet file" in file
    assert "b.parquet: row group 1 cannot be read" in group
    (tmp_path / "good").mkdir()
    pq.write_table(damaged, tmp_path / "good" / "a.parquet")
    whole, _ = scored(replace(settings, sessions=str(tmp_path / "good"), out=f"{settings.out}-good"))
    assert found["items"].to_pylist() == whole["items"].to_pylist()


def test_a_piece_of_which_nothing_can_be_read_is_an_empty_part(settings, tmp_path):
    table = pa.table({"session_id": range(120), "items": [[IDS[0]]] * 120})
    path = tmp_path / "in" / "a.parquet"
    pq.write_table(table, path, row_group_size=40)
    content = bytearray(path.read_bytes())
    for column in (pq.ParquetFile(path).metadata.row_group(1).column(number) for number in range(2)):
        content[column.data_page_offset : column.data_page_offset + 20] = b"\xff" * 20
    path.write_bytes(content)
    found, content = scored(replace(settings, skip_corrupt=True, max_rejected_share=1.0))
    assert [file["rows"] for file in content["files"]] == [40, 0, 40]
    assert found["session_id"].to_pylist() == [*range(40), *range(80, 120)]


def test_input_that_is_not_there_is_not_corrupt(settings, tmp_path, monkeypatch):
    """A disk or a store that fails takes no session away, whatever may be skipped."""
    table = pa.table({"session_id": range(120), "items": [[IDS[0]]] * 120})
    pq.write_table(table, tmp_path / "in" / "a.parquet", row_group_size=40)
    job = batch.find(replace(settings, skip_corrupt=True), LOADED, None, "m")
    (tmp_path / "in" / "a.parquet").unlink()
    with pytest.raises(InputError, match=r"a\.parquet: "):
        batch.run(job)
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert json.loads(json.dumps(job.found.skipped)) == []
