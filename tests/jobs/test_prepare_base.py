"""`--base`: a prepared folder and new files give what all files give at once, and items keep their index."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from gru4rec import cli, config
from gru4rec.errors import InputError
from gru4rec.sessions import checks, ingest, layout, sources
from gru4rec.sessions.prepare import prepare
from gru4rec.sessions.prepared import SPLITS, Prepared

DAY = 86_400


@pytest.fixture
def small_parts(monkeypatch):
    """Many files and reads, as of a log of millions."""
    monkeypatch.setattr(layout, "CLICKS_PER_FILE", 300)
    pieces = sources.pieces
    monkeypatch.setattr(ingest.sources, "pieces", lambda files: pieces(files, 3000))


def made(out, *logs, **given):
    prepare(cli.check(config.Prepare, {"clicks": tuple(map(str, logs)), "out": str(out)} | given))
    found = Prepared(str(out))
    found.verify_items()
    checks.check(found.data, found.summary)
    return found


def content(prepared):
    """All sessions by split with item ids, in order; support by item id; clicks that were left out."""
    ids = prepared.items["item_id"].cast(pa.string()).combine_chunks()
    splits = {}
    for split in SPLITS:
        rows = []
        for path in prepared.files(split):
            for row in pq.read_table(path).to_pylist():
                rows.append((str(row["session_id"]), [ids[item].as_py() for item in row["items"]], row["times"]))
        splits[split] = rows
    support = {item: count for item, count in zip(ids.to_pylist(), prepared.support.tolist(), strict=True) if count}
    left = [pq.read_table(os.path.join(prepared.data, "left_out", name)) for name in left_out(prepared)]
    clicks = [tuple(map(str, row.values())) for table in left for row in table.to_pylist()]
    return splits, support, sorted(clicks)


def left_out(prepared):
    return sorted(os.listdir(os.path.join(prepared.data, "left_out")))


def log(seed, first_day, days, sessions, items, known=0):
    """(session, item, ms) by time, no two at one time; sessions of one click and rare items too, some past the end."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(sessions):
        start = first_day * DAY + float(random.uniform(0, days * DAY))
        for step in range(int(random.integers(1, 8))):
            item = known + int(items * random.random() ** 3)
            rows.append([f"{first_day}-{number}", item, round(1000 * (start + 60 * step))])
    for place, row in enumerate(rows):
        row[2] = row[2] * 1000 + place  # us
    return sorted(map(tuple, rows), key=lambda row: row[2])


def text(path, rows):
    path.write_text("s,i,t\n" + "".join(f"{session},{item},{time}\n" for session, item, time in rows))
    return path


COLUMNS = {
    "session_column": "s",
    "item_column": "i",
    "time_column": "t",
    "time_unit": "us",
    "shards": 9,
    "test_days": 0.4,
}


def nights(tmp_path, number=3):
    """A log a night, which cut sessions at midnight."""
    rows = log(1, 0, number, 150 * number, 60)
    rows += log(2, number - 1, 1, 60, 30, known=45)  # new items in the last night
    return [
        text(tmp_path / f"night-{night}.csv", [row for row in rows if row[2] // (DAY * 10**6) == night])
        for night in range(number)
    ]


@pytest.mark.ray
@pytest.mark.parametrize(
    "given",
    [
        {"partitions": 3, "valid_days": 0.3},
        {"filter": "fixpoint", "min_item_support": 9, "max_session_length": 6, "drop_duplicates": True},
    ],
)
def test_night_by_night_is_the_same_as_all_at_once(tmp_path, ray_local, small_parts, given):
    given = COLUMNS | given
    logs = nights(tmp_path)
    *_, last = [
        made(tmp_path / f"d{night}", logs[night], **given, base=str(tmp_path / f"d{night - 1}") if night else "")
        for night in range(3)
    ]
    whole = made(tmp_path / "whole", *logs, **given)
    found, wanted = content(last), content(whole)
    assert wanted[2]
    assert len(wanted[0]["train"]) > 100 < len(wanted[1]) * 10
    assert found == wanted
    for night in range(2):
        before = Prepared(str(tmp_path / f"d{night}")).items["item_id"]
        assert last.items["item_id"].slice(0, len(before)).equals(before)
    accounts = {entry["log"]: entry["rows_in"] for entry in last.summary["logs"]}
    rows = [path.read_text().count("\n") - 1 for path in logs]
    assert accounts == {"clicks": rows[2], "base": rows[0] + rows[1]}


@pytest.mark.ray
def test_only_new_files_are_read_and_a_rerun_does_nothing(tmp_path, ray_local, monkeypatch, capsys):
    first, second, _ = nights(tmp_path)
    out = tmp_path / "out"
    made(out, first, **COLUMNS)
    opened = []
    keep = sources._open

    def noted(number, log, path, *rest):
        opened.append(path)
        return keep(number, log, path, *rest)

    monkeypatch.setattr(sources, "_open", noted)
    once = content(made(out, first, second, **COLUMNS, base=str(out)))  # in place
    assert opened == [str(second)]
    capsys.readouterr()
    assert content(made(out, first, second, **COLUMNS, base=str(out))) == once
    assert content(made(out, second, **COLUMNS, base=str(out))) == once
    assert capsys.readouterr().err.count("nothing to do") == 2
    again = made(out, second, **COLUMNS, base=str(out), min_item_support=1)  # cleaned anew, from the folder alone
    assert opened == [str(second)]
    assert len(again.items) > len(once[1])
    assert content(again) == content(made(tmp_path / "whole", first, second, **COLUMNS, min_item_support=1))


@pytest.mark.ray
def test_items_stay_whatever_their_support_and_logs_stay_apart(tmp_path, ray_local):
    first, second, third = nights(tmp_path)
    base = made(tmp_path / "base", first, test_clicks=(str(third),), **COLUMNS)
    on = made(tmp_path / "on", second, base=str(tmp_path / "base"), min_item_support=40, **COLUMNS)
    assert on.items["item_id"].slice(0, len(base.items)).equals(base.items["item_id"])
    whole = made(tmp_path / "whole", first, second, test_clicks=(str(third),), **COLUMNS)
    names = {row[0] for row in content(whole)[0]["test"]}
    assert {row[0] for row in content(on)[0]["test"]} <= names
    assert any(name.startswith("test_") for name in left_out(base))


@pytest.mark.ray
def test_users_go_on_from_where_they_were(tmp_path, ray_local):
    given = {"user_column": "s", "session_gap": "30m", "item_column": "i", "time_column": "t", "min_item_support": 2}
    rows = [("u_1", item, 600 * item) for item in range(1, 5)] * 2 + [("u_2", item, 900 * item) for item in range(1, 5)]
    late = [("u_1", 4, 2400 + 1800), ("u_1", 3, 2400 + 1801), ("u_2", 2, 3600 + 1801), ("u_2", 1, 3600 + 1900)]
    logs = text(tmp_path / "a.csv", rows), text(tmp_path / "b.csv", late)
    given |= {"test_days": 0, "drop_duplicates": True}
    made(tmp_path / "base", logs[0], **given)
    found = content(made(tmp_path / "on", logs[1], base=str(tmp_path / "base"), **given))
    assert found == content(made(tmp_path / "whole", *logs, **given))
    assert [row[0] for row in found[0]["train"]] == ["u_1_600000", "u_2_900000", "u_2_5401000"]
    with pytest.raises(InputError, match="cuts sessions from users' clicks by a gap"):
        made(tmp_path / "no", logs[1], base=str(tmp_path / "base"), **COLUMNS)


@pytest.mark.ray
def test_ids_that_become_text(tmp_path, ray_local):
    first = text(tmp_path / "a.csv", [(session, item, 10 * item) for session in range(9) for item in (7, 8)])
    second = text(tmp_path / "b.csv", [(session, item, 500) for session in "xyzuv" for item in ("a7", "7")])
    given = COLUMNS | {"time_unit": "s", "test_days": 0}
    made(tmp_path / "base", first, **given)
    found = made(tmp_path / "on", second, base=str(tmp_path / "base"), **given)
    assert found.items.to_pydict() == {"item_id": ["7", "8", "a7"], "item_index": [0, 1, 2], "support": [14, 9, 5]}


@pytest.mark.ray
def test_what_cannot_be_gone_on_from_is_an_error_that_says_why(tmp_path, ray_local):
    first, second, _ = nights(tmp_path)
    base = tmp_path / "base"
    made(base, first, **COLUMNS)
    with open(first, "a") as file:
        file.write("9,9,9\n")
    with pytest.raises(InputError, match=r"night-0.csv: has changed since .*base was made of it"):
        made(tmp_path / "on", first, second, base=str(base), **COLUMNS)
    with pytest.raises(InputError, match="not for --format globo"):
        made(tmp_path / "on", second, base=str(base), format="globo")
    with pytest.raises(InputError, match="nowhere: no such folder"):
        made(tmp_path / "on", second, base=str(tmp_path / "nowhere"), **COLUMNS)
    (base / "files.parquet").unlink()
    with pytest.raises(InputError, match="was prepared before there was --base"):
        made(tmp_path / "on", second, base=str(base), **COLUMNS)
    assert not (tmp_path / "on").exists()
    assert pc.sum(Prepared(str(base)).items["support"]).as_py()
