"""The prepare job as a whole: its folder, its counts, its errors."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gru4rec import cli, config
from gru4rec.errors import InputError
from gru4rec.sessions import ingest, layout, sources
from gru4rec.sessions.prepare import prepare
from gru4rec.sessions.prepared import SPLITS, Prepared


def settings(**given):
    return cli.check(config.Prepare, given)


def content(folder):
    """All that is in the sessions of the folder, in order."""
    found = Prepared(str(folder))
    return {split: [pq.read_table(path).to_pylist() for path in found.files(split)] for split in SPLITS}


def rows_balance(summary):
    left = sum(summary["splits"][name]["clicks"] for name in SPLITS)
    removed = sum(step["clicks"] for step in summary["steps"])
    assert summary["rows_in"] == summary["rejected"] + removed + left


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A small log in two TSV files, sessions interleaved and cut by the files, one row spoilt."""
    random = np.random.default_rng(3)
    clicks = []
    for session in range(300):
        start = random.integers(0, 10 * 86_400)
        for step in range(random.integers(1, 9)):
            clicks.append((start + step * 20, session, int(random.integers(0, 40) ** 1.3)))
    clicks.sort()
    folder = tmp_path_factory.mktemp("log")
    for name, part in (("a.tsv", clicks[: len(clicks) // 3]), ("b.tsv", clicks[len(clicks) // 3 :])):
        lines = ["SessionId\tItemId\tTime", *(f"{s}\t{i}\t{t}" for t, s, i in part)]
        if name == "b.tsv":
            lines.insert(7, "12\t13")
        (folder / name).write_text("\n".join(lines))
    (folder / "c.tsv").write_text("SessionId\tItemId\tTime\n")
    (folder / "d.log").write_text("SessionId\tItemId\tTime\n1\t2\t3\n")
    return folder


@pytest.fixture(scope="module")
def small_files():
    """Several files a split, as of a log of millions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "CLICKS_PER_FILE", 400)
        yield


@pytest.fixture(scope="module")
def prepared(log, tmp_path_factory, ray_local, small_files):
    out = tmp_path_factory.mktemp("prepared") / "one"
    result = prepare(
        settings(clicks=(str(log),), out=str(out), valid_days=1, shards=7, max_session_length=7, partitions=1)
    )
    return out, result


@pytest.mark.ray
class TestFolder:
    def test_counts_balance_and_match_the_files(self, prepared):
        out, result = prepared
        summary = Prepared(str(out)).summary
        rows_balance(summary)
        assert result["rejected"] == 1
        assert summary["skipped_files"] == {"clicks": 1, "test_clicks": 0}
        assert result["skipped_files"] == 1
        assert result["sessions"] == sum(summary["splits"][name]["sessions"] for name in SPLITS)
        for split in SPLITS:
            sessions = Prepared(str(out)).read(split)
            assert result[f"{split}_sessions"] == sessions.count > 0
            assert result[f"{split}_clicks"] == len(sessions.items)
            assert summary["splits"][split]["transitions"] == sessions.transitions
        assert [step["sessions"] > 0 for step in summary["steps"][:2]] == [True, True]

    def test_columns_are_those_of_the_contract(self, prepared):
        out, _ = prepared
        schema = pq.read_schema(Prepared(str(out)).files("train")[0])
        assert schema.names == ["session_id", "start", "items", "times"]
        assert schema.field("session_id").type == pa.int64()
        assert schema.field("start").type == pa.timestamp("ms", "UTC")
        assert schema.field("items").type.value_type == pa.int32()
        assert schema.field("times").type.value_type == pa.timestamp("ms")
        items = pq.read_table(out / "items.parquet")
        assert items.schema.names == ["item_id", "item_index", "support"]
        assert items.schema.types == [pa.int64(), pa.int32(), pa.int64()]

    def test_sessions_are_in_order_and_items_in_order_of_first_click(self, prepared):
        out, _ = prepared
        found = Prepared(str(out))
        for files in content(out).values():
            starts = [row["start"] for rows in files for row in rows]
            assert starts == sorted(starts)
        train = found.read("train").items
        first = list(dict.fromkeys(train.tolist()))
        assert first == list(range(len(found.items)))
        np.testing.assert_array_equal(np.bincount(train), found.support)

    def test_splits_are_by_the_end_of_sessions(self, prepared):
        ends = {
            split: [row["times"][-1] for rows in files for row in rows] for split, files in content(prepared[0]).items()
        }
        assert max(ends["train"]) < min(ends["valid"])
        assert max(ends["valid"]) < min(ends["test"])

    def test_shards_are_row_groups(self, prepared):
        found = Prepared(str(prepared[0]))
        assert len(found.files("train")) > 1
        shards = found.shards()
        assert len(shards) == 7
        clicks = [len(shard.read().items) for shard in shards]
        assert max(clicks) - min(clicks) <= 4 * 7

    def test_rejected_rows_name_file_and_row(self, prepared, log):
        row = pq.read_table(prepared[0] / "rejected").to_pylist()
        assert row == [{"file": str(log / "b.tsv"), "row": 8, "reason": "2 columns instead of 3", "text": "12\t13"}]

    def test_three_partitions_make_the_same_folder_as_one(self, prepared, log, tmp_path, small_files):
        out = tmp_path / "three"
        prepare(settings(clicks=(str(log),), out=str(out), valid_days=1, shards=7, max_session_length=7, partitions=3))
        assert content(out) == content(prepared[0])
        one, three = Prepared(str(prepared[0])), Prepared(str(out))
        assert one.items.equals(three.items)
        assert one.fingerprint == three.fingerprint
        assert one.summary["splits"] == three.summary["splits"]
        assert one.summary["steps"] == three.summary["steps"]

    def test_an_earlier_folder_survives_a_failure_and_is_replaced_by_a_success(self, log, tmp_path, ray_local):
        out, good = tmp_path / "out", str(log / "b.tsv")
        prepare(settings(clicks=(good,), out=str(out)))
        before = Prepared(str(out)).fingerprint
        with pytest.raises(InputError, match="no session is left"):
            prepare(settings(clicks=(good,), out=str(out), min_session_length=1000))
        assert Prepared(str(out)).fingerprint == before
        prepare(settings(clicks=(good,), out=str(out), test_days=2))
        assert Prepared(str(out)).fingerprint != before
        assert os.listdir(tmp_path) == ["out"]

    def test_strict_stops_at_the_first_bad_row(self, log, tmp_path, ray_local):
        with pytest.raises(InputError, match=r"b\.tsv: row 8 cannot be read: 2 columns instead of 3"):
            prepare(settings(clicks=(str(log),), out=str(tmp_path / "out"), strict=True))
        assert os.listdir(tmp_path) == []

    def test_leading_zeros_and_text_in_a_second_file_keep_ids_text(self, tmp_path, ray_local):
        rows = "".join(f"{session},{item},{session}\n" for session in range(10, 16) for item in ("1", "2"))
        (tmp_path / "a.csv").write_text("SessionId,ItemId,Time\n" + rows)
        (tmp_path / "b.csv").write_text("SessionId,ItemId,Time\n7,007,7\n7,1,7\n")
        prepare(settings(clicks=(f"{tmp_path}/*.csv",), out=str(tmp_path / "out"), min_item_support=1, test_days=0))
        found = Prepared(str(tmp_path / "out"))
        assert found.items["item_id"].to_pylist() == ["007", "1", "2"]
        assert pq.read_schema(found.files("train")[0]).field("session_id").type == pa.int64()
        assert found.files("valid") == found.files("test") == []
        assert (tmp_path / "out" / "test").is_dir()

    def test_everything_in_the_test_days(self, log, tmp_path, ray_local):
        with pytest.raises(InputError, match=r"no training session is left.*--test-days 30"):
            prepare(settings(clicks=(str(log),), out=str(tmp_path / "out"), test_days=30))

    def test_nothing_readable(self, tmp_path, ray_local):
        (tmp_path / "a.csv").write_text("SessionId,ItemId,Time\n1,2,1700000000000\n1,2\n")
        said = r"a\.csv row 2: no readable time .*--time-unit ms .* 2023\); its text is '1,2,1700000000000'"
        with pytest.raises(InputError, match=rf"no session is left: of 2 rows 2 .*{said}"):
            prepare(settings(clicks=(str(tmp_path),), out=str(tmp_path / "out")))

    def test_corrupt_parquet_is_named(self, tmp_path, ray_local):
        path = tmp_path / "a.parquet"
        n = 50_000
        numbers = np.random.default_rng(0).integers(0, 10**9, n)
        pq.write_table(pa.table({"SessionId": numbers, "ItemId": numbers, "Time": numbers}), path)
        damaged = bytearray(path.read_bytes())
        damaged[1000:100_000] = bytes(99_000)
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"a\.parquet: cannot be read"):
            prepare(settings(clicks=(str(path),), out=str(tmp_path / "out")))


def run(capfd, *arguments):
    code = cli.run(config.Prepare, prepare, arguments)
    out, err = capfd.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clicks", "nowhere.csv"], "error: --clicks nowhere.csv: no such file"),
        (["--clicks", "*.none"], "no file matches"),
        (["--clicks", "empty.csv"], "is empty (0 bytes)"),
        (["--clicks", "header.csv"], "has a header but no rows"),
        (["--clicks", "good.csv", "--item-column", "Article"], "no column 'Article'"),
        (
            ["--clicks", "good.csv", "--out", "taken"],
            "--out taken: holds something that prepare did not write",
        ),
        (["--clicks", "good.csv", "--out", "good.csv"], "--out good.csv"),
        (["--clicks", "good.csv", "--format", "netflix"], "--format"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(tmp_path, monkeypatch, capfd, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.csv").touch()
    (tmp_path / "header.csv").write_text("SessionId,ItemId,Time\n")
    (tmp_path / "good.csv").write_text("SessionId,ItemId,Time\n1,2,3\n1,3,4\n")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").touch()
    out = [] if "--out" in arguments else ["--out", "out"]
    code, stdout, stderr = run(capfd, *arguments, *out)
    assert code == 2
    assert stdout == ""
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert message in stderr


@pytest.mark.ray
class TestRealLogs:
    def test_the_standard_rsc15_split(self, shared_data, tmp_path, ray_local, capfd):
        data = shared_data / "yoochoose64"
        code, stdout, stderr = run(
            capfd,
            *("--clicks", str(data / "train.parquet"), "--test-clicks", str(data / "test.parquet")),
            *("--min-item-support", "1", "--out", str(tmp_path / "out")),
        )
        assert code == 0, stderr
        result = json.loads(stdout.splitlines()[-1])
        assert result["rows_in"] == 486_026 + 71_222
        assert (result["train_sessions"], result["train_clicks"], result["items"]) == (
            116_167,
            486_026,
            17_376,
        )
        assert (result["test_sessions"], result["test_clicks"]) == (15_233, 70_633)
        assert Prepared(str(tmp_path / "out")).read("test").transitions == 55_400
        assert "486,026" in stderr

    def test_the_raw_challenge_files(self, shared_data, tmp_path, ray_local):
        data = shared_data / "yoochoose-head"
        result = prepare(
            settings(
                clicks=(str(data / "yoochoose-clicks-head.dat"),),
                test_clicks=(str(data / "yoochoose-test-head.dat"),),
                format="yoochoose",
                out=str(tmp_path / "out"),
            )
        )
        assert result["rows_in"] == 99_364 + 94_029
        assert result["rejected"] == 0
        rows_balance(Prepared(str(tmp_path / "out")).summary)

    def test_a_file_cut_off_in_a_row(self, shared_data, tmp_path, ray_local):
        result = prepare(
            settings(
                clicks=(str(shared_data / "dirty" / "clicks-truncated.tsv"),),
                session_column="sessionId",
                item_column="itemId",
                out=str(tmp_path / "out"),
            )
        )
        assert (result["rows_in"], result["rejected"]) == (19_770, 1)
        rejected = pq.read_table(tmp_path / "out" / "rejected").to_pylist()
        assert [(row["row"], row["reason"]) for row in rejected] == [(19_771, "a NUL byte")]


@pytest.mark.ray
@pytest.mark.parametrize("partitions", [1, 3])
def test_ids_that_begin_as_integers_and_are_text_later(tmp_path, ray_local, partitions, monkeypatch):
    """The log's beginning does not decide what ids are, and what is read twice counts once."""
    monkeypatch.setattr(ingest, "_HEAD", 100)
    pieces = sources.pieces
    monkeypatch.setattr(sources, "pieces", lambda files: pieces(files, 1000))
    rows = [(session, item, 1_700_000_000 + session * 9000 + item) for session in range(50) for item in range(1, 5)]
    lines = [f"{session},{item},{time}" for session, item, time in rows]
    lines[120] = "no click"
    for name, last in (("numbers", "50,1,1700450000"), ("text", "50,007,1700450000")):
        (tmp_path / f"{name}.csv").write_text("\n".join(["SessionId,ItemId,Time", *lines, last, last]) + "\n")
        out = tmp_path / name
        given = {"clicks": (str(tmp_path / f"{name}.csv"),), "partitions": partitions, "min_item_support": 1}
        result = prepare(settings(out=str(out), test_days=0, **given))
        assert (result["rows_in"], result["rejected"]) == (len(lines) + 2, 1)
        rows_balance(Prepared(str(out)).summary)
    numbers, text = (Prepared(str(tmp_path / name)) for name in ("numbers", "text"))
    assert numbers.items["item_id"].to_pylist() == [1, 2, 3, 4]
    assert text.items["item_id"].to_pylist() == ["1", "2", "3", "4", "007"]
    found = content(text.folder)["train"][0]
    assert [session["session_id"] for session in found] == list(range(51))
    assert found[-1]["items"] == [4, 4]
    assert found[:-1] == content(numbers.folder)["train"][0][:-1]
