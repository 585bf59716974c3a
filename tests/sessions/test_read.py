"""Files → clicks and rejected rows: formats, ids, row numbers, and cuts of a file into pieces."""

import itertools

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gru4rec import config
from gru4rec.errors import InputError
from gru4rec.sessions import file_names, formats, read, sources

COLUMNS = formats.Format(session="SessionId", item="ItemId", time=("Time",))
FLAGS = {"SessionId": "--session-column", "ItemId": "--item-column", "Time": "--time-column"}


def open_files(paths, form=COLUMNS):
    return sources.open_all([sources.paths_of([str(path) for path in paths], "--clicks").files], form, FLAGS)


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
    [
        ("a.csv", ",", ""),
        ("a.tsv", "\t", ""),
        ("a.dat", ",", ""),
        ("a.csv", ";", ";"),
        ("a.TSV", "\t", ""),
        ("a.txt", "\t", ""),
        ("a.inter", "\t", ""),
        ("a.log", ",", ""),
        ("a.csv", "\t", "\\t"),
    ],
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
        found = sources.paths_of([str(folder)], "--clicks")
        assert found.files == [f"{folder}/{name}" for name in ("a.csv", "b.csv", "deep/c.tsv")]
        assert found.skipped == [f"{folder}/notes.md"]

    def test_every_visible_file_of_a_folder_is_read_or_skipped(self, folder):
        """Names in any case; a file that is named itself is read, and not skipped as well."""
        known = [f"deep/{number}{suffix}" for number, suffix in enumerate(sources.KNOWN)] + ["x.CSV", "y.Parquet"]
        others = ["part-00000", "d.log", "deep/part.csv~", "e.json"]
        for name in (*known, *others, "_SUCCESS", ".part.crc", "deep/_tmp/f.log"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).touch()
        found = sources.paths_of([str(folder), f"{folder}/d.log"], "--clicks")
        assert found.files == sorted(f"{folder}/{name}" for name in (*known, "a.csv", "b.csv", "deep/c.tsv", "d.log"))
        assert found.skipped == sorted(f"{folder}/{name}" for name in {*others, "notes.md"} - {"d.log"})

    @pytest.mark.parametrize("suffix", file_names.PACKED)
    def test_a_compressed_file_of_a_folder_stops_it_by_name(self, folder, suffix):
        (folder / "_old").mkdir()
        (folder / "_old" / f"a.csv{suffix}").touch()
        sources.paths_of([str(folder)], "--clicks")
        (folder / "deep" / f"b.csv{suffix.upper()}").touch()
        with pytest.raises(InputError, match=rf"deep/b\.csv\{suffix.upper()}: compressed .* unpack it first"):
            sources.paths_of([str(folder)], "--clicks")

    def test_uri(self, folder):
        found = sources.paths_of([folder.as_uri()], "--clicks")
        assert (found.files[0], found.skipped) == (f"{folder.as_uri()}/a.csv", [f"{folder.as_uri()}/notes.md"])

    def test_glob_and_file_twice(self, folder):
        found = sources.paths_of([f"{folder}/[ab].*", f"{folder}/b.csv"], "--clicks")
        assert found == ([f"{folder}/a.csv", f"{folder}/b.csv"], [])
        assert sources.paths_of([f"{folder}/*/c.*"], "--clicks").files == [f"{folder}/deep/c.tsv"]

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
        ("a.csv", "SessionId,ItemId,Time\n1,2,3\n".encode("utf-16"), r"a\.csv: is text in UTF-16"),
        ("a.csv", "SessionId,ItemId,Time\n1,2,3\n".encode("utf-16-le"), r"a\.csv: is text in UTF-16"),
        ("a.csv", "SessionId,ItemId,Time\n1,2,3\n".encode("utf-16-be"), r"a\.csv: is text in UTF-16"),
        ("a.csv", b"SessionId,ItemId,Time\r1,2,3\r", "the header has a carriage return inside"),
        ("a.csv", b'"' + b"h" * 200_000 + b'",ItemId,Time\n1,2,3\n', "the first line is no header"),
        ("a.csv", b"SessionId,SessionId,ItemId,Time\n1,1,2,3\n", "has column 'SessionId' twice"),
        ("a.csv", b"\0" * 5000, "no column 'SessionId'"),
        ("a.parquet", b"", r"a\.parquet: is empty \(0 bytes\), which no Parquet file is"),
        ("a.csv.gz", b"x", "unpack it first"),
        ("a.parquet", b"PAR1 no", r"a\.parquet: cannot be read"),
    ],
)
def test_files_that_cannot_be_a_log(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_files([tmp_path / name])


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_text_in_utf_16_without_a_header_is_named(tmp_path, encoding, mark):
    path = tmp_path / "clicks.dat"
    path.write_bytes((mark + "1,2014-04-07T10:51:09.277Z,2,0\n").encode(encoding))
    with pytest.raises(InputError, match=r"clicks\.dat: is text in UTF-16"):
        open_files([path], formats.FORMATS["yoochoose"])


def test_more_text_than_an_array_holds_is_said_with_its_column_and_a_remedy(monkeypatch):
    column = pa.chunked_array([["a"], ["b"]])
    assert read._plain(column, "SessionId").to_pylist() == ["a", "b"]

    def full(_):
        raise pa.ArrowInvalid("offset overflow while concatenating arrays")

    monkeypatch.setattr(pa, "concat_arrays", full)
    with pytest.raises(pa.ArrowInvalid, match=r"^column 'SessionId': offset .*: write it with smaller row groups$"):
        read._plain(column, "SessionId")


def test_help_and_the_line_on_stderr_name_what_is_read():
    assert " ".join(sources.KNOWN) in config.Prepare.__dataclass_fields__["clicks"].metadata["help"]
    said = file_names.not_read("--clicks", [f"s3://key:hush@bucket/{i}" for i in range(7)], sources.KNOWN)
    assert said.startswith(
        f"--clicks: 7 file(s) are not read, whose names do not end in {' '.join(sources.KNOWN)}: s3://"
    )
    assert said.endswith("bucket/4, …")
    assert "hush" not in said


def test_a_published_log_with_another_separator_is_not_sent_to_a_setting_that_it_has_no_use_for(tmp_path):
    (tmp_path / "a.csv").write_text("session_id,item_id,eventdate,timeframe\n")
    settings = config.Prepare(clicks=("x",), out="x", format="diginetica")
    with pytest.raises(InputError, match=r"no column 'session_id'; it has .* \(read with separator ';'\)"):
        open_files([tmp_path / "a.csv"], formats.chosen(settings))


def test_a_header_alone_is_no_rows(tmp_path):
    for name, content in (("a.csv", "SessionId,ItemId,Time\n"), ("b.csv", "SessionId,ItemId,Time\n1,2,3\n")):
        (tmp_path / name).write_text(content)
    files = open_files([tmp_path])
    assert [source.rows for source in files] == [False, True]
    assert read_all([tmp_path])[0].num_rows == 1


def written(tmp_path, name, content):
    path = tmp_path / name
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
    else:
        path.write_bytes(content)
    return path


HEADER = b"SessionId,ItemId,Time\n"


@pytest.mark.parametrize(
    ("time", "ms"),
    [
        (b"0", 0),
        (b"1e3", 1_000_000),
        (b"253402300799", 253_402_300_799_000),
        (b"9999-12-31T23:59:59.999Z", 253_402_300_799_999),
        (b"", None),
        (b"-5", None),
        (b"1969-12-31T23:59:59Z", None),
        (b"253402300800", None),
        (b"10000-01-01", None),
        (b"99999999999999999999", None),
        (b"nan", None),
    ],
)
def test_times_before_1970_and_after_9999_are_rejected(tmp_path, time, ms):
    clicks, rejected = read_all([written(tmp_path, "a.csv", HEADER + b"1,2," + time + b"\n")])
    assert clicks["time"].to_pylist() == ([] if ms is None else [ms])
    assert rejected["reason"].to_pylist() == ["no readable time between 1970 and 9999"] * (ms is None)


@pytest.mark.parametrize(
    ("unit", "time", "hint"),
    [
        ("s", "1700000000000", "ms it would be in 2023"),
        ("s", "1700000000000.5", "ms it would be in 2023"),
        ("s", "1700000000000000", "us it would be in 2023"),
        ("s", "1700000000000000000", "ns it would be in 2023"),
        ("ms", "631152000000000", "us it would be in 1990"),
        ("ms", "4102444799999000", "us it would be in 2099"),
        ("ms", "4102444800000000", ""),
        ("s", "253402300800", ""),
        ("s", "99999999999999999999999", ""),
        ("s", "-1700000000000", ""),
        ("s", "1969-12-31", ""),
        ("s", "", ""),
    ],
)
def test_a_time_that_would_be_one_in_another_unit_says_so(tmp_path, unit, time, hint):
    form = formats.chosen(config.Prepare(clicks=("x",), out="x", time_unit=unit))
    path = written(tmp_path, "a.csv", HEADER + f"1,2,{time}\n1,,{time}\n1,2,never\n".encode())
    reasons = read_all([path], form)[1]["reason"].to_pylist()
    plain = "no readable time between 1970 and 9999"
    assert reasons == [plain + f" (with --time-unit {hint})" * bool(hint), "no readable item id", plain]


def test_numbers_of_parquet_in_another_unit_and_a_log_with_a_unit_of_its_own(tmp_path):
    rows = pa.table({"SessionId": [1, 1], "ItemId": [2, 2], "Time": [5, 1_700_000_000_000]})
    reasons = read_all([written(tmp_path, "a.parquet", rows)])[1]["reason"].to_pylist()
    assert reasons == ["no readable time between 1970 and 9999 (with --time-unit ms it would be in 2023)"]
    form = formats.chosen(config.Prepare(clicks=("x",), out="x", format="movielens"))
    header = b"user_id:token\titem_id:token\ttimestamp:float\n"
    path = written(tmp_path, "a.inter", header + b"1\t2\t1700000000000\n")
    assert read_all([path], form)[1]["reason"].to_pylist() == ["no readable time between 1970 and 9999"]


def test_ids_of_64_bits_and_of_any_length_stay_what_they_are(tmp_path):
    long = "x" * 200_000
    ids = [str(2**63 - 1), str(-(2**63)), str(2**64), "1.0", "1e3", " 1", long]
    path = written(tmp_path, "a.csv", HEADER + "".join(f"{i},{i},1\n" for i in ids).encode())
    clicks, rejected = read_all([path])
    assert clicks["session"].to_pylist() == clicks["item"].to_pylist() == ids
    assert rejected.num_rows == 0
    numbers = pa.table({name: pa.array([2**64 - 1, 0], pa.uint64()) for name in ("SessionId", "ItemId")})
    path = written(tmp_path, "a.parquet", numbers.append_column("Time", pa.array([1, 2])))
    clicks, _ = read_all([path])
    assert clicks["session"].to_pylist() == [2**64 - 1, 0]


def test_files_of_different_schemas(tmp_path):
    """Columns are found by name in each file, ids become text where one type does not hold them all."""
    paths = [
        written(tmp_path, "a.csv", HEADER + b"007,a,1\n"),
        written(tmp_path, "b.tsv", b"\xef\xbb\xbfTime\tx\tItemId\tSessionId\r\n2\t\tb\t7\r\n"),
        written(
            tmp_path, "c.parquet", pa.table({"Time": ["3"], "SessionId": pa.array([8], pa.int32()), "ItemId": ["c"]})
        ),
        written(
            tmp_path,
            "d.parquet",
            pa.table({"ItemId": [1], "SessionId": ["s"], "Time": pa.array([4_000], pa.timestamp("ms"))}),
        ),
        written(tmp_path, "e.csv", b""),
    ]
    clicks, rejected = read_all(paths)
    assert values(clicks) == [("007", "a", 1000), ("7", "b", 2000), ("8", "c", 3000), ("s", "1", 4000)]
    assert rejected.num_rows == 0
    assert [source.rows for source in open_files(paths)] == [True, True, True, True, False]


def test_integers_of_types_that_no_one_integer_type_holds(tmp_path):
    for number, kind in enumerate((pa.int64(), pa.uint64())):
        ids = pa.array([2**63 - 1 + number], kind)
        written(tmp_path, f"{number}.parquet", pa.table({"SessionId": ids, "ItemId": ids, "Time": [1]}))
    assert read_all([tmp_path])[0]["item"].to_pylist() == [str(2**63 - 1), str(2**63)]


def test_parquet_times_of_a_type_that_is_no_time(tmp_path):
    times = pa.array([True, False])
    path = written(tmp_path, "a.parquet", pa.table({"SessionId": [1, 2], "ItemId": [1, 2], "Time": times}))
    clicks, rejected = read_all([path])
    assert clicks.num_rows == 0
    assert rejected["row"].to_pylist() == [1, 2]


@pytest.mark.parametrize("size", [10, 64, 10**6])
@pytest.mark.parametrize("filler", [b"\0", b"x", b","])
def test_a_line_without_an_end_is_given_up_and_counted_once(tmp_path, monkeypatch, size, filler):
    monkeypatch.setattr(read, "LONGEST_ROW", 2**17)
    path = written(tmp_path, "a.csv", HEADER + b"1,2,3\n" + filler * 2**19 + b"\n4,5,6\n")
    files = open_files([path])
    pieces = [read.Piece(files[0], 0, size), read.Piece(files[0], size, size + 7)]
    pieces.append(read.Piece(files[0], size + 7, path.stat().st_size))
    found = [read.read(piece, COLUMNS, [pa.string()] * 2) for piece in pieces if piece.start < piece.end]
    assert values(pa.concat_tables([f.clicks for f in found])) == [("1", "2", 3000), ("4", "5", 6000)]
    rejected = pa.concat_tables([f.rejected for f in found])
    assert rejected.num_rows == 1
    assert len(rejected["text"][0].as_py()) == 200
    assert [sum(f.rows for f in found), sum(f.lines for f in found)] == [3, 4]
