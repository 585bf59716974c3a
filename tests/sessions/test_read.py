"""Files → clicks and rejected rows: formats, ids, row numbers, and cuts of a file into pieces."""

import itertools

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gru4rec import config
from gru4rec.errors import InputError
from gru4rec.sessions import formats, read, sources

COLUMNS = formats.Format(session="SessionId", item="ItemId", time=("Time",))
FLAGS = {"SessionId": "--session-column", "ItemId": "--item-column", "Time": "--time-column"}


def open_files(paths, form=COLUMNS):
    return sources.open_all([sources.paths_of([str(path) for path in paths], "--clicks")], form, FLAGS)


def read_all(paths, form=COLUMNS, read_bytes=sources.READ_BYTES):
    """(clicks, rejected) of all files, in order."""
    files = open_files(paths, form)
    types = sources.carried_types(files)
    found = [read.read(piece, form, types) for task in sources.pieces(files, read_bytes) for piece in task]
    return pa.concat_tables([f.clicks for f in found]), pa.concat_tables([f.rejected for f in found])


def values(clicks):
    return list(zip(*(clicks[name].to_pylist() for name in ("session", "item", "time")), strict=True))


def test_yoochoose(tmp_path):
    path = tmp_path / "clicks.dat"
    path.write_text("1,2014-04-07T10:51:09.277Z,214536502,0\n1,2014-04-07T10:54:09.868Z,214536500,S\n")
    settings = config.Prepare(clicks=(str(path),), out="x", format="yoochoose")
    clicks, rejected = read_all([path], formats.chosen(settings))
    assert values(clicks) == [("1", "214536502", 1396867869277), ("1", "214536500", 1396868049868)]
    assert rejected.num_rows == 0


@pytest.mark.parametrize(
    ("name", "separator", "given"),
    [("a.csv", ",", ""), ("a.tsv", "\t", ""), ("a.dat", ",", ""), ("a.csv", ";", ";"), ("a.TSV", "\t", "")],
)
def test_columns_by_name_and_separator_by_suffix(tmp_path, name, separator, given):
    path = tmp_path / name
    path.write_text("\ufeffTime|ItemId|x|SessionId\n5|i|y|s\n".replace("|", separator))
    form = formats.chosen(config.Prepare(clicks=(str(path),), out="x", separator=given, time_unit="ms"))
    assert values(read_all([path], form)[0]) == [("s", "i", 5)]


def test_rows_that_cannot_be_read_are_set_aside_with_their_number(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(
        b"SessionId,ItemId,Time\n1,2,3\n\n1,2\n,2,3\n1,,3\n1,2,never\n1,2,-9\n\xff,2,3\n1,2,3\0\n4,5,6\n1,2,3,4"
        + b"x" * 300
    )
    clicks, rejected = read_all([path])
    assert values(clicks) == [("1", "2", 3000), ("4", "5", 6000)]
    assert list(zip(rejected["row"].to_pylist(), rejected["reason"].to_pylist(), strict=True)) == [
        (4, "2 columns instead of 3"),
        (5, "no readable session id"),
        (6, "no readable item id"),
        (7, "no readable time between 1970 and 9999"),
        (8, "no readable time between 1970 and 9999"),
        (9, "no readable session id"),
        (10, "a NUL byte"),
        (12, "4 columns instead of 3"),
    ]
    assert set(rejected["file"].to_pylist()) == {str(path)}
    assert rejected["text"][0].as_py() == "1,2"
    assert len(rejected["text"][-1].as_py()) == 200


def test_parquet_rows_and_types(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table(
        {
            "SessionId": pa.array([1, 2, None, 4], pa.int32()),
            "ItemId": pa.array(["a", "", "c", "d"]).dictionary_encode(),
            "Time": pa.array([0, 1, 2, 3], pa.timestamp("s")),
        }
    )
    pq.write_table(table, path, row_group_size=2)
    clicks, rejected = read_all([path])
    assert clicks.schema.field("session").type == pa.int32()
    assert values(clicks) == [(1, "a", 0), (4, "d", 3000)]
    assert rejected["row"].to_pylist() == [2, 3]


def test_parquet_ids_of_no_known_type(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"SessionId": [1.5], "ItemId": [1], "Time": [1]}), path)
    with pytest.raises(InputError, match=r"a\.parquet.*'SessionId'.*double"):
        open_files([path])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [1, 7, 50, 10_000])
def test_pieces_hold_every_row_once(tmp_path, size, seed):
    """However a file is cut: the same clicks, positions that rise with the rows, the same rejected rows."""
    path = tmp_path / "a.csv"
    rows = [f"{i * seed},{i},{i}" if i % 5 else "bad" * seed for i in range(40)]
    path.write_text("\n".join(["SessionId,ItemId,Time", *rows]) + "\n" * (seed % 2))
    whole, rejected = read_all([path])
    cut, cut_rejected = read_all([path], read_bytes=size)
    assert cut.equals(whole)
    assert cut["position"].to_pylist() == sorted(cut["position"].to_pylist())
    assert cut_rejected["text"].equals(rejected["text"])


def test_pieces_of_parquet_hold_every_row_once(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"SessionId": range(100), "ItemId": range(100), "Time": range(100)})
    pq.write_table(table, path, row_group_size=9)
    whole, _ = read_all([path])
    assert read_all([path], read_bytes=100)[0].equals(whole)
    assert whole["position"].to_pylist() == list(range(100))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=10), st.integers(1, 40))
def test_tasks_cover_all_files(sizes, read_bytes):
    files = [sources.Source(i, 0, str(i), size, ",", 3, (0, 1, 2), (None, None)) for i, size in enumerate(sizes)]
    pieces = [piece for task in sources.pieces(files, read_bytes) for piece in task]
    for source in files:
        mine = [(piece.start, piece.end) for piece in pieces if piece.source is source]
        assert mine[0][0] == 0
        assert mine[-1][1] == source.size
        assert all(a[1] == b[0] for a, b in itertools.pairwise(mine))
    assert all(end - start <= read_bytes for _, start, end in pieces)


@pytest.mark.parametrize(
    ("types", "carried", "may"),
    [
        ([None, None], pa.string(), True),
        ([pa.int32(), pa.int32()], pa.int32(), False),
        ([pa.int32(), pa.int64()], pa.int64(), False),
        ([pa.string(), pa.int64()], pa.string(), False),
        ([None, pa.int64()], pa.string(), True),
        ([None, pa.string()], pa.string(), False),
    ],
)
def test_id_types_agree_over_all_files(types, carried, may):
    files = [sources.Source(i, 0, "", 1, ",", 3, (0, 1, 2), (t, t)) for i, t in enumerate(types)]
    assert sources.carried_types(files) == [carried] * 2
    assert sources.may_be_integers(files) == [may] * 2


class TestPaths:
    @pytest.fixture
    def folder(self, tmp_path):
        for name in ("b.csv", "a.csv", "deep/c.tsv", "_log.csv", ".hidden/d.csv", "notes.md"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("SessionId,ItemId,Time\n")
        return tmp_path

    def test_folder(self, folder):
        assert sources.paths_of([str(folder)], "--clicks") == [
            f"{folder}/{name}" for name in ("a.csv", "b.csv", "deep/c.tsv")
        ]

    def test_uri(self, folder):
        assert sources.paths_of([folder.as_uri()], "--clicks")[0] == f"{folder.as_uri()}/a.csv"

    def test_glob_and_file_twice(self, folder):
        found = sources.paths_of([f"{folder}/[ab].*", f"{folder}/b.csv"], "--clicks")
        assert found == [f"{folder}/a.csv", f"{folder}/b.csv"]
        assert sources.paths_of([f"{folder}/*/c.*"], "--clicks") == [f"{folder}/deep/c.tsv"]

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("x.csv", "no such file"),
            ("*.parquet", "no file matches"),
            ("empty", "no click log in this folder"),
        ],
    )
    def test_nothing_there(self, folder, path, message):
        (folder / "empty").mkdir()
        with pytest.raises(InputError, match=f"--test-clicks .*{message}"):
            sources.paths_of([f"{folder}/{path}"], "--test-clicks")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", r"a\.csv: is empty \(0 bytes\)"),
        (
            "a.csv",
            b"SessionId,Item,Time\n1,2,3\n",
            r"no column 'ItemId'; it has 'SessionId', 'Item', 'Time'.*--item-column",
        ),
        ("a.csv", b"SessionId;ItemId;Time\n1;2;3\n", r"separator ',', see --separator"),
        ("a.csv.gz", b"x", "unpack it first"),
        ("a.parquet", b"PAR1 no", r"a\.parquet: cannot be read"),
    ],
)
def test_files_that_cannot_be_a_log(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_files([tmp_path / name])


def test_a_header_alone_is_no_rows(tmp_path):
    for name, content in (("a.csv", "SessionId,ItemId,Time\n"), ("b.csv", "SessionId,ItemId,Time\n1,2,3\n")):
        (tmp_path / name).write_text(content)
    files = open_files([tmp_path])
    assert [source.rows for source in files] == [False, True]
    assert read_all([tmp_path])[0].num_rows == 1
