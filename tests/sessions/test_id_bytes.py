"""How long ids are decides how many partitions a log of Parquet has; too much text for one is said with the remedy."""

from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gru4rec.sessions import base, formats, id_bytes, ingest, sources

COLUMNS = formats.Format(session="s", item="i", time=("t",))
TEXT = [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]


def url(number: int, length: int) -> str:
    return f"https://shop.example/{number:06d}/".ljust(length, "x")


def opened(path) -> sources.Source:
    return sources.open_all([[str(path)]], COLUMNS, {})[0]


@given(st.lists(st.one_of(st.none(), st.text(max_size=9)), max_size=20), st.sampled_from(TEXT))
def test_bytes_of_text(ids, kind):
    expected = sum(len((one or "").encode()) for one in ids)
    found = pa.array(ids, pa.string()).cast(kind)
    assert id_bytes.of_text(found) == id_bytes.of_text(pa.chunked_array([found[:3], found[3:]])) == expected


@pytest.mark.parametrize("kind", TEXT)
@pytest.mark.parametrize("packed", [True, False])
def test_parquet_weighs_what_it_is_as_text(tmp_path, kind, packed):
    """However small a file is that names each of a few long ids by its number."""
    items = pa.array([url(row % 7, 220) for row in range(5000)]).cast(kind)
    sessions = pa.array([url(row // 5, 60) for row in range(5000)])
    table = pa.table({"s": sessions, "i": items, "t": range(5000)})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=900, use_dictionary=packed)
    source = opened(path)
    assert source.weight == 5000 * (220 + 60 + 15)
    rows = [end - start for task in sources.pieces([source], source.weight // 5) for _, start, end in task]
    assert rows == [1, 1, 1, 1, 2]


def test_integers_and_short_ids_weigh_as_ever(tmp_path):
    for name, ids in {"a": pa.array(range(50)), "b": pa.array([f"{row}" for row in range(50)])}.items():
        pq.write_table(pa.table({"s": ids, "i": ids, "t": range(50)}), tmp_path / f"{name}.parquet")
        assert opened(tmp_path / f"{name}.parquet").weight == 50 * sources.BYTES_PER_ROW


def test_a_base_weighs_what_its_clicks_are_as_text(tmp_path):
    """In its sessions items are numbers, and a session's id stands once; as clicks both come back as text."""
    for folder in ("train", "left_out"):
        (tmp_path / folder).mkdir()
    ids = pa.table({"session_id": [url(row, 50) for row in range(30)]})
    sessions = ids.append_column("items", pa.array([[0, 1, 0]] * 30, pa.list_(pa.int32())))
    pq.write_table(sessions, tmp_path / "train" / "a.parquet")
    clicks = ids.append_column("item_id", pa.array([url(1, 100)] * 30)).append_column("time", pa.array(range(30)))
    pq.write_table(clicks, tmp_path / "left_out" / "a.parquet")
    items = pa.table({"item_id": [url(0, 150), url(1, 250)]})
    files = {"train": [str(tmp_path / "train" / "a.parquet")]}
    prepared = SimpleNamespace(data=str(tmp_path), items=items, files=lambda split: files.get(split, []))
    weights = [source.weight for source in base.sources(base.Base(prepared, [[], []]))]
    assert weights == [90 * (50 + 200 + 15), 30 * (50 + 100 + 15)]


def test_a_file_without_rows_or_with_a_damaged_page_is_opened_all_the_same(tmp_path):
    """What is damaged is said by who reads it."""
    path = tmp_path / "a.parquet"
    table = pa.table({"s": [url(row, 90) for row in range(99)], "i": range(99), "t": range(99)})
    pq.write_table(table.slice(0, 0), path)
    assert opened(path).weight == 0
    pq.write_table(table, path, use_dictionary=False, compression="zstd")
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(0)
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset : chunk.data_page_offset + chunk.total_compressed_size] = bytes(
        chunk.total_compressed_size
    )
    path.write_bytes(content)
    assert opened(path).weight == 99 * sources.BYTES_PER_ROW


@pytest.mark.parametrize("column", ["session", "item"])
def test_more_text_than_a_partition_holds_is_refused_with_the_remedy(monkeypatch, column):
    ids = {"session": pa.array([1, 1, 2]), "item": pa.array([1, 2, 3])} | {column: pa.array([url(1, 400)] * 3)}
    part = pa.table({"log": pa.array([0] * 3, pa.int8()), **ids, "time": [1, 2, 3], "position": [1, 2, 3]})
    monkeypatch.setattr(id_bytes, "MOST", 2400)
    sessions, wrong = ingest._together(0, 4, part, part)
    assert sessions.num_rows == (1 if column == "session" else 2)
    assert wrong == ""
    monkeypatch.setattr(id_bytes, "MOST", 2399)
    sessions, wrong = ingest._together(0, 4, part, part)
    assert sessions is None
    assert wrong.startswith(f"the {column} ids of one of 4 partitions have 2,400 bytes together, more than the 2,399")
    assert wrong.endswith("give --partitions 12 or more")
