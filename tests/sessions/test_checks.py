"""Checks of a prepared folder: a good one passes, and each kind of damage is named with its file and row."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared_folder import prepared_folder

from gru4rec.errors import GRU4RecError
from gru4rec.sessions import checks, clean, layout, summary
from gru4rec.sessions.digest import digest
from gru4rec.sessions.prepared import Sessions

ITEMS = 30


def sessions(count, seed):
    random = np.random.default_rng(seed)
    lengths = random.integers(2, 7, count)
    items = random.integers(0, ITEMS, lengths.sum()).astype(np.int32)
    return Sessions(np.concatenate([[0], np.cumsum(lengths)]), items)


class Folder:
    """A prepared folder in which tests change what they like; ids of train and test do not meet."""

    def __init__(self, path):
        self.path = str(path)
        prepared_folder(path, {"train": sessions(60, 0), "test": sessions(20, 1)}, ITEMS)
        (path / "rejected").mkdir()
        (path / "valid").mkdir(exist_ok=True)
        (path / "left_out").mkdir()
        pq.write_table(pa.table({"session_id": range(7)}), path / "left_out" / "clicks-0.parquet")
        splits = json.loads((path / "prepare.json").read_text())["splits"]
        left = sum(split["clicks"] for split in splits.values())
        self.summary = {
            "rows_in": left + 7,
            "rejected": 0,
            "left_out": 7,
            "steps": [{"name": "sessions too short", "sessions": 7, "clicks": 7}],
            "logs": [{"log": "clicks"}],
            "splits": splits,
            "items": ITEMS,
            "settings": {"min_session_length": 2, "max_session_length": 6},
        }
        self.change("test/part-00000.parquet", session_id=lambda ids: pa.array(ids.to_numpy() + 1000))

    def table(self, name):
        return pq.ParquetFile(f"{self.path}/{name}").read()

    def write(self, name, table):
        """Put a table in a file's place, with the counts and the digest that go with it."""
        pq.write_table(table, f"{self.path}/{name}")
        if name != "items.parquet":
            split, _, file = name.partition("/")
            entry = next(entry for entry in self.summary["splits"][split]["files"] if entry["name"] == file)
            entry["digest"] = digest(table["session_id"].type, lambda column: table[column].chunks)
        items = self.table("items.parquet")["item_id"]
        self.summary["fingerprint"] = summary.fingerprint(items, self.summary["splits"])

    def change(self, name, **columns):
        table = self.table(name)
        for column, change in columns.items():
            place = table.schema.get_field_index(column)
            table = table.set_column(place, column, change(table[column].combine_chunks()))
        self.write(name, table)

    def set(self, name, column, row, value):
        def changed(array):
            values = array.to_pylist()
            values[row] = value(values[row]) if callable(value) else value
            return pa.array(values, array.type)

        self.change(name, **{column: changed})

    def check(self):
        checks.check(self.path, self.summary)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "data")


FIRST, SECOND, TEST = "train/part-00000.parquet", "train/part-00001.parquet", "test/part-00000.parquet"


def test_a_good_folder_passes(folder):
    folder.check()


def test_rows_must_add_up(folder):
    folder.summary["rows_in"] += 1
    with pytest.raises(GRU4RecError, match=r"counts: \d+ rows came in, .* are accounted for; nothing was published"):
        folder.check()


@pytest.mark.parametrize("count", ["sessions", "clicks", "transitions"])
def test_files_must_add_up_to_their_split(folder, count):
    folder.summary["splits"]["train"]["files"][1][count] += 1
    with pytest.raises(GRU4RecError, match=f"counts: train has .* {count}, its files"):
        folder.check()


def test_a_file_must_have_the_rows_that_it_is_said_to_have(folder):
    folder.write(FIRST, folder.table(FIRST).slice(0, 20))
    with pytest.raises(GRU4RecError, match=rf"counts: {FIRST}: 20 sessions, prepare.json says 30"):
        folder.check()


@pytest.mark.parametrize(
    ("name", "column", "row", "value", "message"),
    [
        (SECOND, "items", 4, lambda items: [*items[:-1], ITEMS], f"{SECOND}: row 4: an item is not in 0…{ITEMS - 1}"),
        (SECOND, "items", 4, lambda items: [-1, *items[1:]], f"{SECOND}: row 4: an item is not in"),
        (FIRST, "items", 4, lambda items: [None, *items[1:]], f"{FIRST}: row 4: a value in items is missing"),
        (FIRST, "session_id", 3, None, f"{FIRST}: row 3: session_id is missing"),
        (FIRST, "times", 5, lambda times: times[::-1], "row 5: times do not asc"),
        (FIRST, "times", 6, lambda times: times[:-1], f"{FIRST}: row 6: items and times differ in length"),
        (TEST, "start", 2, lambda start: start.replace(year=1971), f"{TEST}: row 2: start is not the first time"),
        ("items.parquet", "item_index", 9, 8, "items.parquet: row 9: items are not numbered"),
        ("items.parquet", "item_id", 9, 1008, "item ids: items.parquet: an item is there twice"),
        ("items.parquet", "support", 9, lambda support: support + 1, "items.parquet: row 9: support is not the number"),
    ],
)
def test_a_wrong_value_is_named(folder, name, column, row, value, message):
    folder.set(name, column, row, value)
    with pytest.raises(GRU4RecError, match=message):
        folder.check()


def test_any_other_value_is_seen_by_the_digest(folder):
    entry = folder.summary["splits"]["test"]["files"][0]
    before = entry["digest"]
    folder.set(TEST, "items", 3, lambda items: items[::-1])
    entry["digest"] = before
    folder.summary["fingerprint"] = summary.fingerprint(
        pa.chunked_array([np.arange(ITEMS) + 1000]), folder.summary["splits"]
    )
    with pytest.raises(GRU4RecError, match=f"digest: {TEST}"):
        folder.check()


def test_lengths_are_as_promised(folder):
    folder.summary["settings"]["max_session_length"] = 5
    with pytest.raises(GRU4RecError, match=r"row \d+: longer than 5 clicks"):
        folder.check()
    folder.summary["settings"] = {"min_session_length": 3, "max_session_length": 0}
    with pytest.raises(GRU4RecError, match=r"row \d+: shorter than 3 clicks"):
        folder.check()


def test_rows_are_in_order_of_start(folder):
    table = folder.table(SECOND)
    folder.write(SECOND, table.take([1, 0, *range(2, len(table))]))
    with pytest.raises(GRU4RecError, match=f"{SECOND}: row 1: sessions are not in order of start"):
        folder.check()


def test_files_are_in_order_of_start(folder):
    files = folder.summary["splits"]["train"]["files"]
    one, other = folder.table(FIRST), folder.table(SECOND)
    for count in ("sessions", "clicks", "transitions"):
        files[0][count], files[1][count] = files[1][count], files[0][count]
    folder.write(FIRST, other)
    folder.write(SECOND, one)
    with pytest.raises(GRU4RecError, match=f"order: {SECOND}: row 0: starts before the last session of the file"):
        folder.check()


@pytest.mark.parametrize(
    ("name", "column", "kind"),
    [
        (FIRST, "session_id", pa.float64()),
        (FIRST, "start", pa.timestamp("ms")),
        (FIRST, "items", pa.list_(pa.int64())),
        (FIRST, "times", pa.list_(pa.timestamp("us"))),
        ("items.parquet", "item_index", pa.int64()),
        ("items.parquet", "support", pa.int32()),
    ],
)
def test_types_are_those_of_the_contract(folder, name, column, kind):
    table = folder.table(name)
    pq.write_table(
        table.set_column(table.schema.get_field_index(column), column, table[column].cast(kind)),
        f"{folder.path}/{name}",
    )
    with pytest.raises(GRU4RecError, match=f"schema: {name}: {column} is"):
        folder.check()


def test_columns_are_those_of_the_contract(folder):
    folder.write(FIRST, folder.table(FIRST).append_column("price", pa.array(np.zeros(30))))
    with pytest.raises(GRU4RecError, match=f"schema: {FIRST}: has columns .* price"):
        folder.check()


def test_ids_of_all_files_have_one_type(folder):
    folder.change(TEST, session_id=lambda ids: ids.cast(pa.string()))
    with pytest.raises(GRU4RecError, match=f"schema: {TEST}: session_id is string, in the files before int64"):
        folder.check()


def test_a_file_that_is_not_listed_or_not_there_is_named(folder, tmp_path):
    (tmp_path / "data" / "test" / "part-00009.parquet").touch()
    with pytest.raises(GRU4RecError, match=r"files: test/part-00009\.parquet"):
        folder.check()
    (tmp_path / "data" / "test" / "part-00009.parquet").unlink()
    (tmp_path / "data" / FIRST).unlink()
    with pytest.raises(GRU4RecError, match=f"files: {FIRST}"):
        folder.check()


def test_clicks_that_were_left_out_are_those_that_were_counted(folder):
    pq.write_table(pa.table({"session_id": range(6)}), f"{folder.path}/left_out/clicks-0.parquet")
    with pytest.raises(GRU4RecError, match=r"counts: left_out/: 6 rows, prepare\.json says 7"):
        folder.check()


def test_rejected_rows_are_those_that_were_counted(folder):
    pq.write_table(pa.table({"row": [1, 2]}), f"{folder.path}/rejected/part-000000.parquet")
    with pytest.raises(GRU4RecError, match=r"counts: rejected/: 2 rows, prepare\.json says 0"):
        folder.check()


def test_a_file_that_cannot_be_read_is_named(folder, tmp_path):
    path = tmp_path / "data" / SECOND
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(GRU4RecError, match=f"reading: {SECOND}"):
        folder.check()


def test_the_fingerprint_is_that_of_the_files(folder):
    folder.summary["fingerprint"] = "0" * 64
    with pytest.raises(GRU4RecError, match="fingerprint"):
        folder.check()


class TestOnce:
    """No session twice; partitions of ids of any number."""

    @pytest.fixture(autouse=True, params=[1000, 7])
    def partitions(self, request, monkeypatch):
        monkeypatch.setattr(checks, "HASHES_PER_PARTITION", request.param)

    @pytest.fixture(params=["numbers", "text"])
    def of_kind(self, request, folder):
        if request.param == "text":
            for name in (FIRST, SECOND, TEST):
                folder.change(name, session_id=lambda ids: pa.array([f"s{i}" for i in ids.to_pylist()]))
            return lambda number: f"s{number}"
        return lambda number: number

    def test_good(self, folder, of_kind):
        folder.check()

    @pytest.mark.parametrize(("name", "row"), [(FIRST, 9), (SECOND, 9), (TEST, 9)])
    def test_twice(self, folder, of_kind, name, row):
        folder.set(name, "session_id", row, of_kind(3))
        with pytest.raises(GRU4RecError, match=rf"sessions: {name}: row 9: session '?s?3'? is in {FIRST}: row 3 too"):
            folder.check()

    def test_ids_of_two_logs_are_two_kinds_of_ids(self, folder, of_kind):
        folder.summary["logs"].append({"log": "test_clicks"})
        folder.set(TEST, "session_id", 9, of_kind(3))
        folder.check()
        folder.set(TEST, "session_id", 8, of_kind(3))
        with pytest.raises(GRU4RecError, match=f"sessions: {TEST}: row 9"):
            folder.check()

    def test_ids_with_one_hash_are_no_fault(self, folder, of_kind, monkeypatch):
        monkeypatch.setattr(clean.pd.util, "hash_array", lambda values, categorize: np.zeros(len(values), np.uint64))
        folder.check()


@pytest.mark.ray
def test_tasks_find_what_one_process_finds(folder, ray_local, monkeypatch):
    monkeypatch.setattr(layout, "CLICKS_PER_FILE", 1)
    monkeypatch.setattr(checks, "HASHES_PER_PARTITION", 30)
    folder.check()
    folder.set(TEST, "session_id", 9, 3)
    with pytest.raises(GRU4RecError, match=rf"sessions: {TEST}: row 9: session 3 is in {FIRST}: row 3 too"):
        folder.check()
    folder.set(SECOND, "items", 4, lambda items: [*items[:-1], ITEMS])
    with pytest.raises(GRU4RecError, match=f"{SECOND}: row 4: an item is not in 0"):
        folder.check()
