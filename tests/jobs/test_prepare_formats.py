"""Prepare on each form of log: every row and session accounted for, no click of the future in training."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gru4rec import cli, config
from gru4rec.errors import InputError
from gru4rec.sessions.prepare import prepare
from gru4rec.sessions.prepared import SPLITS, Prepared

pytestmark = pytest.mark.ray
RETAILROCKET = "timestamp,visitorid,event,itemid,transactionid\n"
DAY = 86_400_000  # ms


def prepared(tmp_path, *clicks, **given):
    """(summary, {split: rows}) of the prepared log."""
    settings = {"min_item_support": 1, **given, "clicks": tuple(map(str, clicks)), "out": str(tmp_path / "out")}
    prepare(cli.check(config.Prepare, settings))
    found = Prepared(settings["out"])
    everything_counted(found.summary)
    return found.summary, {
        split: [row for path in found.files(split) for row in pq.read_table(path).to_pylist()] for split in SPLITS
    }


def everything_counted(summary):
    splits, steps = summary["splits"].values(), summary["steps"]
    removed = sum(step["clicks"] for step in steps)
    assert summary["rows_in"] == summary["rejected"] + removed + sum(split["clicks"] for split in splits)
    removed = sum(step["sessions"] for step in steps)
    assert summary["sessions_in"] == removed + sum(split["sessions"] for split in splits)


def step(summary, name):
    return next((row["sessions"], row["clicks"]) for row in summary["steps"] if row["name"] == name)


@pytest.mark.parametrize(
    ("name", "path", "settings", "counts"),
    [
        ("yoochoose-head", "yoochoose-clicks-head.dat", {"format": "yoochoose"}, (99_364, 23_917)),
        ("uci-eshop", "", {"format": "uci-eshop", "test_days": 7}, (165_474, 24_026)),
        ("movielens-100k", "", {"format": "movielens", "test_days": 7, "valid_days": 14}, (100_000, 943)),
        ("diginetica-sample", "", {"format": "diginetica", "test_days": 7}, (12_391, 2_986)),
    ],
)
def test_by_end_no_training_click_is_at_or_after_the_split(
    shared_data, tmp_path, ray_local, name, path, settings, counts
):
    summary, rows = prepared(tmp_path, shared_data / name / path, **settings)
    assert (summary["rows_in"], summary["sessions_in"], summary["rejected"]) == (*counts, 0)
    by_end(summary, rows)


def by_end(summary, rows):
    assert summary["split"]["by"] == "end"
    assert summary["split"]["later_train_clicks"] == 0
    assert rows["train"]
    assert rows["test"]
    last = max(time for row in rows["train"] for time in row["times"])
    assert f"{last.isoformat(timespec='milliseconds')}Z" < (
        summary["split"]["valid_from"] or summary["split"]["test_from"]
    )


def test_globo_by_start_no_training_session_starts_at_or_after_the_split(shared_data, tmp_path, ray_local):
    """Hours 90 to 104; in the file of hour 100 there is a header only."""
    hours = [shared_data / "globo" / f"clicks_hour_{hour:03d}.csv" for hour in range(90, 105)]
    summary, rows = prepared(tmp_path, *hours, format="globo", test_days=0.25)
    lines = [line.split(",") for path in hours for line in path.read_text().splitlines()[1:]]
    began = {int(line[1]): int(line[2]) for line in lines}
    assert (summary["rows_in"], summary["sessions_in"]) == (len(lines), len(began))
    assert summary["logs"][0]["empty_files"] == 1
    assert summary["split"]["by"] == "start"
    test_from = max(began.values()) - DAY // 4
    assert max(began[row["session_id"]] for row in rows["train"]) < test_from
    assert min(began[row["session_id"]] for row in rows["test"]) >= test_from
    later = [t for row in rows["train"] for t in row["times"] if t.isoformat() >= summary["split"]["test_from"][:-1]]
    assert summary["split"]["later_train_clicks"] == len(later) > 0


def test_retailrocket_views_of_visitors(tmp_path, ray_local):
    lines = [
        f"{visit * DAY + click * 60_000},{visitor},{event},{click},\n"
        for visit in range(3)
        for visitor in (11, 12)
        for click in range(3)
        for event in ("view", "addtocart")
    ]
    (tmp_path / "events.csv").write_text(RETAILROCKET + "".join(reversed(lines)))
    summary, rows = prepared(tmp_path, tmp_path / "events.csv", format="retailrocket")
    assert step(summary, "rows whose event is not view") == (0, 18)
    assert (summary["rows_in"], summary["sessions_in"]) == (36, 6)
    assert [row["session_id"] for row in rows["train"]] == ["12_0", "11_0"]  # ties by first row
    assert sorted(row["session_id"] for row in rows["test"]) == [f"{v}_{d * DAY}" for v in (11, 12) for d in (2, 1)]


def test_sessions_of_users_do_not_depend_on_files_and_partitions(tmp_path, ray_local):
    rows = [(user, item, user * 7 + item * 100 * (1 + item % 2)) for user in range(9) for item in range(12)]
    found = []
    for name, parts in (("one", [rows]), ("three", [rows[::-3], rows[-2::-3], rows[-3::-3]])):
        (tmp_path / name).mkdir()
        for number, part in enumerate(parts):
            text = "".join(f"{u}\t{i}\t{t}\n" for u, i, t in part)
            (tmp_path / name / f"{number}.tsv").write_text("who\tItemId\tTime\n" + text)
        given = {"user_column": "who", "session_gap": "150s", "test_days": 0, "partitions": len(parts)}
        summary, read = prepared(tmp_path, tmp_path / name, **given)
        by_id = sorted((row["session_id"], row["items"], row["start"]) for row in read["train"])
        found.append((summary["sessions_in"], len(by_id), [(s, len(i), t) for s, i, t in by_id]))
    assert found[0] == found[1]
    assert found[0][0] > 9


def test_every_step_in_one_log_with_a_fixpoint(tmp_path, ray_local):
    minute = 60
    sessions = {
        "double": [("a", 0), ("b", 1), ("b", 1), ("a", 2)],
        "repeat": [("a", 0), ("a", 5), ("b", 9)],
        "short": [("a", 3)],
        "long": [(c, n * minute) for n, c in enumerate("ababababa")],
        "robot": [(c, n) for n, c in enumerate("ababab")],
        "first": [("y", 1), ("x", 2)],  # y is rare, then this is too short,
        "second": [("x", 7), ("a", 9)],  # then x is rare, and this too short
        "good": [("a", 2), ("x", 7), ("b", 100)],
    }
    text = "".join(f"{name},{item},{time}\n" for name, clicks in sessions.items() for item, time in clicks)
    (tmp_path / "a.csv").write_text("SessionId,ItemId,Time\n" + text)
    given = {"drop_duplicates": True, "drop_repeats": True, "max_session_length": 8, "max_clicks_per_minute": 5}
    given |= {"test_days": 0, "min_item_support": 3}
    wanted = {"once": ((0, 1), (1, 1), ["double", "good", "repeat", "second"])}
    wanted["fixpoint"] = ((0, 4), (2, 1), ["double", "good", "repeat"])
    for rule, (rare, short, kept) in wanted.items():
        summary, rows = prepared(tmp_path, tmp_path / "a.csv", filter=rule, **given)
        assert step(summary, "exact duplicates") == (0, 1)
        assert step(summary, "consecutive repeats") == (0, 1)
        assert step(summary, "sessions too short") == (1, 1)
        assert step(summary, "sessions too long") == (1, 9)
        assert step(summary, "sessions with too many clicks a minute") == (1, 6)
        assert step(summary, "rare items (train)") == rare
        assert step(summary, "sessions too short now (train)") == short
        assert sorted(row["session_id"] for row in rows["train"]) == kept


def test_a_robot_rule_for_times_that_are_none(tmp_path):
    with pytest.raises(InputError, match=r"--max-clicks-per-minute: --format uci-eshop has the order of clicks"):
        prepared(tmp_path, "x.csv", format="uci-eshop", max_clicks_per_minute=5)


def test_a_file_without_a_byte_among_others(tmp_path, ray_local):
    (tmp_path / "a.csv").touch()
    (tmp_path / "b.csv").write_text("SessionId,ItemId,Time\n1,2,3\n1,3,4\n")
    summary, rows = prepared(tmp_path, tmp_path, test_days=0)
    assert (summary["logs"][0]["files"], summary["logs"][0]["empty_files"], len(rows["train"])) == (2, 1, 1)


def test_a_session_that_starts_after_all_others_once_its_rare_clicks_are_gone(tmp_path, ray_local):
    """Its start is after the window of starts that files are cut by."""
    text = "".join(f"{s},a,{s}\n{s},b,{s + 1}\n" for s in range(10)) + "late,rare,5\nlate,a,900000\nlate,b,900001\n"
    (tmp_path / "a.csv").write_text("SessionId,ItemId,Time\n" + text)
    _, rows = prepared(tmp_path, tmp_path / "a.csv", min_item_support=2, test_days=0)
    assert [row["session_id"] for row in rows["train"]] == [*map(str, range(10)), "late"]


def test_a_session_of_a_million_clicks(tmp_path, ray_local):
    count = 1_000_000
    session = np.concatenate([np.zeros(count, np.int64), np.arange(2, 2_002) // 2])
    log = {"SessionId": session, "ItemId": np.arange(len(session)) % 5, "Time": np.arange(len(session))[::-1] // 100}
    pq.write_table(pa.table(log), tmp_path / "a.parquet")
    settings = {"clicks": (str(tmp_path / "a.parquet"),), "out": str(tmp_path / "out"), "partitions": 2, "test_days": 0}
    for most, longest in ((0, count), (5_999, 2)):
        prepare(cli.check(config.Prepare, {**settings, "max_clicks_per_minute": most}))
        found = Prepared(settings["out"])
        everything_counted(found.summary)
        assert found.summary["sessions_in"] == 1_001
        assert found.read("train").lengths.max() == longest
    assert step(found.summary, "sessions with too many clicks a minute") == (1, count)


def test_all_that_can_be_wrong_in_one_log(tmp_path, ray_local):
    """What is good in each file is kept; each bad row is set aside with its file, its number and a reason."""
    good = b"1,2,3\n1,3,4\n"
    header = b"SessionId,ItemId,Time\n"
    files = {
        "a.csv": header + b"1,2,\n1,2,-5\n1,2,99999999999999\n" + good,
        "b.csv": header + b'1,"2,3\n' + good + b"\xff,2,3\n1,\xc3\x28,3\n",
        "c.csv": header + good + b"1,2,3\0\n" + b"\0" * 9_999,
        "d.csv": b"",
        "e.csv": header,
        "f.tsv": b"Time\tSessionId\tItemId\r\n5\t9223372036854775808\t" + b"long" * 50_000 + b"\r\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    summary, rows = prepared(tmp_path, tmp_path, test_days=0, min_session_length=1)
    rejected = pq.read_table(tmp_path / "out" / "rejected").to_pylist()
    assert [(row["file"].rpartition("/")[2], row["row"]) for row in rejected] == [
        *(("a.csv", 2), ("a.csv", 3), ("a.csv", 4)),
        *(("b.csv", 2), ("b.csv", 5), ("b.csv", 6)),
        *(("c.csv", 4), ("c.csv", 5)),
    ]
    assert all(row["reason"] for row in rejected)
    assert (summary["rows_in"], summary["rejected"]) == (15, 8)
    assert (summary["logs"][0]["files"], summary["logs"][0]["empty_files"]) == (6, 2)
    assert {row["session_id"]: len(row["items"]) for row in rows["train"]} == {"1": 6, "9223372036854775808": 1}
    assert "long" * 50_000 in pq.read_table(tmp_path / "out" / "items.parquet")["item_id"].to_pylist()
