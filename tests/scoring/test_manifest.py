"""Verification of what was written, and what may be overwritten."""

import json

import numpy as np
import pyarrow as pa
import pytest

from gru4rec.errors import GRU4RecError, InputError
from gru4rec.scoring import manifest


def table(items, scores, fallback=None, session_id=None):
    count = len(items)
    return pa.table(
        {
            "session_id": session_id or list(range(count)),
            "items": pa.array(items, pa.list_(pa.int64())),
            "scores": pa.array(scores, pa.list_(pa.float32())),
            "fallback": fallback or [False] * count,
            "unknown_clicks": pa.array([1] * count, pa.int32()),
        }
    )


def test_a_good_part_is_counted(tmp_path):
    good = table([[3, 1], [2], []], [[0.5, 0.5], [1.0], []], [False, True, False])
    name = manifest.write_part(str(tmp_path), 7, good)
    assert name == "part-00007.parquet"
    assert manifest.verify(str(tmp_path), name, 2) == manifest.Part(name, 3, fallback=1, short=2, unknown_clicks=3)


def test_an_empty_part_is_counted(tmp_path):
    name = manifest.write_part(str(tmp_path), 0, table([], []))
    assert manifest.verify(str(tmp_path), name, 2) == manifest.Part(name, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("items", "scores", "message"),
    [
        ([1, 2, 3], [3, 2, 1], "longer than 2"),
        ([1, 2], [1], "differ in length"),
        ([1, 2], [1, 2], "not sorted"),
        ([1, 1], [2, 1], "listed twice"),
        ([1, 2], [1, np.nan], "not finite"),
        ([1, 2], [np.inf, 1], "not finite"),
        ([1, None], [2, 1], "no id"),
        ([1, 2], [2, None], "not finite"),
        ([1, 2], None, "differ in length"),
    ],
)
def test_a_bad_list_is_named_with_its_row(tmp_path, items, scores, message):
    name = manifest.write_part(str(tmp_path), 0, table([[5, 6], items, [5, 6]], [[2, 1], scores, [2, 1]]))
    with pytest.raises(GRU4RecError, match=f"{name}: row 1: .*{message}"):
        manifest.verify(str(tmp_path), name, 2)


@pytest.mark.parametrize("ids", [[3, 1, 3, 2, 1, 9], ["c", "a", "c", "b", "a", "z"], ["c", None, "c", "b", None, "z"]])
@pytest.mark.parametrize("of", [1, 3])
def test_distinct_sessions_add_up_over_partitions(tmp_path, ids, of):
    names = [
        manifest.write_part(str(tmp_path), number, table([[]] * 3, [[]] * 3, session_id=ids[3 * number :][:3]))
        for number in range(2)
    ]
    assert sum(manifest.distinct_sessions(str(tmp_path), names, p, of) for p in range(of)) == 4


def test_partitions_grow_with_the_rows():
    assert [manifest.partitions(rows) for rows in (0, 1, 5_000_000, 5_000_001, 10**8)] == [1, 1, 1, 2, 20]


def test_out_may_be_new_empty_or_an_earlier_result(tmp_path):
    manifest.check_out(str(tmp_path / "new"), "/in")
    (tmp_path / "empty").mkdir()
    manifest.check_out(str(tmp_path / "empty"), "/in")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / manifest.MANIFEST).write_text(json.dumps({"format": manifest.FORMAT}))
    manifest.check_out(str(tmp_path / "old"), "/in")


@pytest.mark.parametrize("name", ["thesis.txt", "manifest.json"])
def test_out_may_not_be_anything_else(tmp_path, name):
    (tmp_path / name).write_text("[1]")
    with pytest.raises(InputError, match="holds something else"):
        manifest.check_out(str(tmp_path), "/in")
    with pytest.raises(InputError, match="is a file"):
        manifest.check_out(str(tmp_path / name), "/in")


def test_out_may_not_hold_the_input(tmp_path):
    for sessions in (tmp_path, tmp_path / "raw", tmp_path / "raw" / "a.parquet"):
        with pytest.raises(InputError, match="holds the sessions to score"):
            manifest.check_out(str(tmp_path), str(sessions))
