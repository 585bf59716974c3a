"""Finding the sessions to score, and cutting them into pieces."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared_folder import bare_summary

from gru4rec.errors import InputError
from gru4rec.scoring import source
from gru4rec.sessions.prepared import Prepared

INT = pa.int64()


def write(path, rows, first=0, row_group_size=None, type=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"session_id": pa.array(range(first, first + len(rows))), "items": pa.array(rows, type)})
    pq.write_table(table, path, row_group_size=row_group_size)
    return str(path)


def read_all(found, size):
    pieces = source.pieces(found, size)
    reader = source.Reader()
    return [reader.read(piece).sessions for piece in pieces]


@pytest.mark.parametrize("size", [1, 3, 4, 7, 100])
def test_pieces_hold_every_session_once_and_in_order(tmp_path, size):
    """Over files and row groups of any length, empty ones among them."""
    lengths, first = [5, 0, 1, 9], 0
    for number, length in enumerate(lengths):
        write(tmp_path / f"{number}.parquet", [[i] for i in range(length)], first, 2, pa.list_(INT))
        first += length
    found = source.find(str(tmp_path), INT)
    assert found.rows == 15
    tables = read_all(found, size)
    assert pa.concat_tables(tables)["session_id"].to_pylist() == list(range(15))
    assert [len(table) for table in tables[:-1]] == [size] * (len(tables) - 1)


def test_the_cut_depends_on_the_number_of_sessions_alone(tmp_path):
    def sizes(rows):
        found = source.Source("", [("a", rows)], INT, "", "", None)
        return [sum(span.rows for span in piece) for piece in source.pieces(found)]

    assert sizes(0) == []
    assert sizes(1) == [1]
    assert sizes(10_000) == [4096, 4096, 1808]
    assert len(sizes(1_000_000)) == 64
    assert max(sizes(100_000_000)) == source.LARGEST_PIECE


def test_a_file_a_folder_and_folders_in_a_folder(tmp_path):
    one = write(tmp_path / "day=1" / "a.parquet", [[1]])
    write(tmp_path / "day=2" / "a.parquet", [[1], [2]])
    write(tmp_path / "_staging" / "a.parquet", [[1]])
    (tmp_path / "day=2" / "notes.txt").write_text("not sessions")
    assert source.find(one, INT).rows == 1
    found = source.find(str(tmp_path), INT)
    assert (found.rows, found.others) == (3, (f"{tmp_path}/day=2/notes.txt",))


def test_every_visible_file_of_a_folder_is_read_or_counted(tmp_path):
    for number, name in enumerate(("a.parquet", "b.pq", "c.PARQUET", "d.Pq", "part-0", "_old.pq", ".part.crc")):
        write(tmp_path / name, [[number]])
    found = source.find(str(tmp_path), INT)
    assert pa.concat_tables(read_all(found, 10))["items"].to_pylist() == [[0], [1], [2], [3]]
    assert found.others == (f"{tmp_path}/part-0",)
    assert source.find(f"{tmp_path}/part-0", INT).rows == 1


def test_a_compressed_file_is_named_or_left_out_and_counted(tmp_path):
    write(tmp_path / "a.parquet", [[1]])
    (tmp_path / "b.parquet.GZ").write_bytes(b"x")
    with pytest.raises(InputError, match=r"b\.parquet\.GZ: compressed files are not read; unpack it first"):
        source.find(str(tmp_path), INT)
    found = source.find(str(tmp_path), INT, skip_corrupt=True)
    assert (found.rows, found.count, len(found.skipped), found.others) == (1, 2, 1, ())


def test_the_fingerprint_is_that_of_the_content(tmp_path):
    def fingerprint(name, rows):
        write(tmp_path / name / "a.parquet", rows)
        return source.find(str(tmp_path / name), INT).fingerprint

    assert fingerprint("a", [[1, 2]]) == fingerprint("b", [[1, 2]])
    assert fingerprint("a", [[1, 2]]) != fingerprint("c", [[1, 3]])


def prepared(folder):
    write(folder / "test" / "part-0.parquet", [[0, 1], [1]], type=pa.list_(pa.int32()))
    write(folder / "test" / "left-over.parquet", [[7]], type=pa.list_(pa.int32()))
    items = pa.table({"item_id": ["a", "b"], "item_index": pa.array([0, 1], pa.int32()), "support": [2, 1]})
    pq.write_table(items, folder / "items.parquet")
    summary = bare_summary(items, test=[{"name": "part-0.parquet"}], train=[{"name": "x"}])
    (folder / "prepare.json").write_text(json.dumps(summary))
    return folder


def test_a_split_of_a_prepared_folder(tmp_path):
    found = source.find(str(prepared(tmp_path) / "test") + "/", pa.string())
    assert [path.rpartition("/")[2] for path, _ in found.files] == ["part-0.parquet"]
    assert found.fingerprint == f"{Prepared(str(tmp_path)).fingerprint}/test"
    assert found.prepared["item_id"].to_pylist() == ["a", "b"]


def test_an_item_index_of_other_data_is_named(tmp_path):
    prepared(tmp_path)
    items = pa.table({"item_id": ["b", "a"], "item_index": pa.array([0, 1], pa.int32()), "support": [2, 1]})
    pq.write_table(items, tmp_path / "items.parquet")
    with pytest.raises(InputError, match=r"items\.parquet: is damaged"):
        source.find(str(tmp_path / "test"), pa.string())


def test_a_prepared_folder_without_its_split_is_asked_for_it(tmp_path):
    with pytest.raises(InputError, match=r"name the split: .*/test"):
        source.find(str(prepared(tmp_path)), INT)


def test_a_file_that_prepare_wrote_and_someone_took_is_named(tmp_path):
    prepared(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(InputError, match="x: is missing"):
        source.find(str(tmp_path / "train"), INT)


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        source.find(str(tmp_path / "nowhere"), INT)
    with pytest.raises(InputError, match="holds no Parquet file"):
        source.find(str(tmp_path), INT)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"SessionId,ItemId\n1,2\n" * 40])
def test_a_file_that_is_not_parquet_is_named(tmp_path, content):
    write(tmp_path / "a.parquet", [[1]])
    (tmp_path / "b.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"b\.parquet: not a readable Parquet file"):
        source.find(str(tmp_path), INT)


def test_damage_inside_a_file_is_named_when_it_is_read(tmp_path):
    path = tmp_path / "a.parquet"
    write(path, [[i, i + 1] for i in range(20_000)])
    content = bytearray(path.read_bytes())
    content[4:2000] = b"\xff" * 1996
    path.write_bytes(content)
    found = source.find(str(path), INT)
    with pytest.raises(InputError, match=r"a\.parquet: row group 0 cannot be read"):
        read_all(found, 100_000)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"SessionId": [1], "items": [[1]]}, "no column session_id; it has SessionId items"),
        ({"session_id": [1], "ItemId": [1]}, "no column items; it has session_id ItemId"),
        ({"session_id": [1], "items": [1]}, "items holds int64, not lists"),
        ({"session_id": [1], "items": [["a"]]}, "none can match"),
        ({"session_id": [1], "items": [[1.5]]}, "none can match"),
    ],
)
def test_columns_that_cannot_be_scored_are_named(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=f"a.parquet: .*{message}"):
        source.find(str(tmp_path), INT)


def test_files_of_unlike_types_share_a_session_id_or_are_refused(tmp_path):
    pq.write_table(pa.table({"session_id": pa.array([1], pa.int32()), "items": [[1]]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"session_id": [2], "items": pa.array([[]])}), tmp_path / "b.parquet")
    found = source.find(str(tmp_path), INT)
    assert found.session_id == INT
    assert read_all(found, 10)[0]["session_id"].to_pylist() == [1, 2]
    pq.write_table(pa.table({"session_id": ["x"], "items": [[1]]}), tmp_path / "c.parquet")
    with pytest.raises(InputError, match=r"c\.parquet: session_id is string, in the files before int64"):
        source.find(str(tmp_path), INT)


def test_session_ids_that_would_change_are_refused(tmp_path):
    write(tmp_path / "a.parquet", [[1]])
    pq.write_table(pa.table({"session_id": [2.0], "items": [[1]]}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"b\.parquet: session_id is double, in .*a\.parquet a whole number"):
        source.find(str(tmp_path), INT)


def test_lists_that_cannot_be_read_together_are_refused(tmp_path):
    rows = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), pa.array(["x"]).dictionary_encode())
    pq.write_table(pa.table({"session_id": [1], "items": [["x"]]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"session_id": [2], "items": rows}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"b\.parquet: items is list<.*dictionary.*, in the files before list"):
        source.find(str(tmp_path), pa.string())


def test_longer_lists_make_smaller_pieces():
    found, few = (source.Source("", [("a", rows)], INT, "", "", None) for rows in (10**7, 3))
    sizes = {k: source.pieces(found, top_k=k)[0][0].rows for k in (20, 128, 500)}
    assert sizes == {20: 131_072, 128: 131_072, 500: source.ENTRIES // 500}
    assert [span.rows for (span,) in source.pieces(few, top_k=10**9)] == [1, 1, 1]


def test_a_file_that_is_written_anew_under_the_job_is_noticed(tmp_path):
    path = write(tmp_path / "a.parquet", [[1], [2], [3]])
    (spans,) = source.pieces(source.find(path, INT))
    assert source.Reader().read(spans).sessions.num_rows == 3
    write(tmp_path / "a.parquet", [[4], [5], [6]])
    with pytest.raises(InputError, match=r"a\.parquet: has changed since the job started; run the same"):
        source.Reader().read(spans)


def test_a_file_that_shrinks_under_the_job_is_noticed(tmp_path):
    path = write(tmp_path / "a.parquet", [[1], [2], [3]])
    with pytest.raises(InputError, match="has changed"):
        source.Reader().read([source.Span(path, 1, 5)])
