"""Files of item ids: every form, and what is wrong in them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gru4rec.errors import InputError
from gru4rec.scoring.limits import limits
from gru4rec.sessions.catalogue import catalogue


def known(ids):
    index = pa.array(range(len(ids)), pa.int32())
    return catalogue(pa.table({"item_id": ids, "item_index": index, "support": [1] * len(ids)}))


INTS, TEXTS = known([10, 20, 30, 40]), known(["a", "b,c", "007", "é"])


def write(path, content):
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.parquet", pa.table({"other": [1, 2, 3, 4], "item_id": pa.array([40, 20, 20, 99], pa.int16())})),
        ("a.PQ", pa.table({"item_id": [40, 20, 20, 99]})),
        ("a.csv", "item_id\n40\n20\n20\n99\n"),
        ("a.csv", "\ufeffname,item_id\r\nx,40\r\n\r\ny, 20 \r\nz,20\r\nq,x\r\n"),
        ("a.txt", "40\n20\n\n 20\n20.0\n"),
        ("a", "item_id\n40\n20\n20\n99999999999999999999\n"),
    ],
)
def test_a_file_names_items_and_what_is_none_is_counted(tmp_path, name, content):
    path = write(tmp_path / name, content)
    only, without = limits(INTS, path, ""), limits(INTS, "", path)
    assert only.items.tolist() == [1, 3]
    assert without.items.tolist() == [0, 2]
    assert only.files == {"only_items": {"path": path, "ids": 4, "unknown": 1, "items": 2}}
    assert without.files == {"exclude_items": {"path": path, "ids": 4, "unknown": 1, "items": 2}}


def test_ids_of_text_are_taken_as_they_are(tmp_path):
    path = write(tmp_path / "a.csv", 'item_id\n"b,c"\n007\né\n7\n')
    assert limits(TEXTS, path, "").items.tolist() == [1, 2, 3]


def test_the_largest_whole_numbers(tmp_path):
    unsigned = known(pa.array([2**63 + 5, 7], pa.uint64()))
    assert limits(unsigned, "", write(tmp_path / "a.csv", f"item_id\n{2**63 + 5}\n-1\n{2**64}\n")).items.tolist() == [1]


def test_both_files_and_none(tmp_path):
    only, without = write(tmp_path / "only", "10\n20\n30\n"), write(tmp_path / "without", "20\n")
    assert limits(INTS, only, without).items.tolist() == [0, 2]
    assert limits(INTS, "", "") == (None, {})
    assert limits(INTS, "", write(tmp_path / "empty", "")).items.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "1\n2\n", r"--only-items: no item of the model is left"),
        ("a.csv", "ItemId\n10\n", r"a\.csv: has no column item_id; it has ItemId"),
        ("a.csv", "", r"a\.csv: has no column item_id; it has none"),
        ("a.parquet", pa.table({"id": [10]}), r"a\.parquet: has no column item_id; it has id"),
        ("a.parquet", pa.table({"item_id": ["10"]}), r"a\.parquet: .*none can match"),
        ("a.parquet", b"PAR1", r"a\.parquet: "),
        ("a.txt", b"\xff\xfe1\x00", r"a\.txt: .*decode"),
    ],
)
def test_a_file_that_is_no_such_is_named(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message):
        limits(INTS, write(tmp_path / name, content), "")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere: cannot be read"):
        limits(INTS, "", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="cannot be read"):
        limits(INTS, "", str(tmp_path))


def test_everything_excluded_leaves_nothing(tmp_path):
    path = write(tmp_path / "all", "\n".join(map(str, np.arange(0, 50))))
    with pytest.raises(InputError, match="--exclude-items: no item"):
        limits(INTS, "", path)
