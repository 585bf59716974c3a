"""Part files: known again by their footer, and read back with every list checked."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gru4rec.scoring import parts
from gru4rec.sessions.catalogue import catalogue, encoder

ITEMS = {"item_id": range(10), "item_index": pa.array(range(10), pa.int32()), "support": [1] * 10}
INDEX_OF = encoder(catalogue(pa.table(ITEMS)))


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


def verified(folder, given, longest=2):
    name = parts.write_part(str(folder), 0, given, "key")
    return parts.verify(str(folder), name, longest, 10, INDEX_OF)


def test_a_good_part_is_counted(tmp_path):
    good = table([[3, 1], [2], []], [[0.5, 0.5], [1.0], []], [False, True, False])
    name = parts.write_part(str(tmp_path), 7, good, "key", 4, ["why"])
    assert name == "part-00007.parquet"
    part, exposure = parts.verify(str(tmp_path), name, 2, 10, INDEX_OF)
    size = (tmp_path / name).stat().st_size
    counts = {
        "rows": 3,
        "rejected": 4,
        "corrupt": ("why",),
        "fallback": 1,
        "listed": 3,
        "short": 2,
        "unknown_clicks": 3,
    }
    wrong = {"too_long": 0, "repeated": 0, "unknown_items": 0, "bad_scores": 0, "first_wrong": ""}
    earlier = {"taken_over": 0, "continued": 0, "unused": 0, "states_bytes": 0}
    assert part._asdict() == {"name": name, "bytes": size, **counts, **wrong, **earlier}
    assert exposure.tolist() == [0, 1, 1, 1, 0, 0, 0, 0, 0, 0]


def test_an_empty_part_is_counted(tmp_path):
    part, exposure = verified(tmp_path, table([], []))
    assert (part.rows, part.short, part.first_wrong) == (0, 0, "")
    assert not exposure.any()


@pytest.mark.parametrize(
    ("items", "scores", "count", "message"),
    [
        ([1, 2, 3], [3, 2, 1], "too_long", "longer than 2"),
        ([1, 2], [1], "bad_scores", "differ in length"),
        ([1, 2], [1, 2], "bad_scores", "not sorted"),
        ([1, 1], [2, 1], "repeated", "listed twice"),
        ([1, 2], [1, np.nan], "bad_scores", "not finite"),
        ([1, 2], [np.inf, 1], "bad_scores", "not finite"),
        ([1, None], [2, 1], "unknown_items", "not in the catalogue"),
        ([1, 10], [2, 1], "unknown_items", "not in the catalogue"),
        ([1, 2], [2, None], "bad_scores", "not finite"),
        ([1, 2], None, "bad_scores", "differ in length"),
    ],
)
def test_a_bad_list_is_counted_and_the_first_is_named_with_its_row(tmp_path, items, scores, count, message):
    part, _ = verified(tmp_path, table([[5, 6], items, [5, 6]], [[2, 1], scores, [2, 1]]))
    found = {name: getattr(part, name) for name in ("too_long", "repeated", "unknown_items", "bad_scores")}
    assert found == {**dict.fromkeys(found, 0), count: 1}
    assert part.first_wrong.startswith("part-00000.parquet: row 1: ")
    assert message in part.first_wrong


def test_rows_are_numbered_over_the_whole_file(tmp_path):
    rows = 70_000
    lists = [[1, 2]] * (rows - 1) + [[3, 3]]
    part, exposure = verified(tmp_path, table(lists, [[2, 1]] * rows))
    assert part.first_wrong == f"part-00000.parquet: row {rows - 1}: an item is listed twice"
    assert exposure.tolist()[1:4] == [rows - 1, rows - 1, 2]


def test_a_part_is_known_by_key_and_number_and_only_whole(tmp_path):
    folder = str(tmp_path)
    assert not parts.kept(folder, 3, "key")
    name = parts.write_part(folder, 3, table([[1]], [[1]]), "key")
    content = (tmp_path / name).read_bytes()
    assert parts.kept(folder, 3, "key")
    assert not parts.kept(folder, 3, "another")
    (tmp_path / "part-00004.parquet").write_bytes(content)
    assert not parts.kept(folder, 4, "key")
    for cut in (0, 4, len(content) // 2, len(content) - 1):
        (tmp_path / name).write_bytes(content[:cut])
        assert not parts.kept(folder, 3, "key")


def test_equal_parts_have_equal_bytes(tmp_path):
    given = table([[1], [2]], [[1], [1]])
    name = parts.write_part(str(tmp_path), 3, given, "key")
    first = (tmp_path / name).read_bytes()
    parts.write_part(str(tmp_path), 3, pa.concat_tables([given.slice(0, 1), given.slice(1)]).combine_chunks(), "key")
    assert (tmp_path / name).read_bytes() == first


@pytest.mark.parametrize(
    "ids",
    [
        [3, 1, 3, 2, 1, 9],
        ["c", "a", "c", "b", "a", "z"],
        ["c", None, "c", "b", None, "z"],
        [3, None, 3, 1, None, 2**62 + 1],
    ],
)
@pytest.mark.parametrize("of", [1, 3])
def test_distinct_sessions_add_up_over_partitions(tmp_path, ids, of):
    names = [
        parts.write_part(str(tmp_path), number, table([[]] * 3, [[]] * 3, session_id=ids[3 * number :][:3]), "key")
        for number in range(2)
    ]
    assert sum(parts.distinct_sessions(str(tmp_path), names, p, of) for p in range(of)) == 4


def test_a_whole_number_has_the_same_hash_beside_a_missing_one():
    beside, alone = parts.hashes(pa.array([2**53 + 1, None, 2**53])), parts.hashes(pa.array([2**53 + 1, 2**53]))
    assert beside[[0, 2]].tolist() == alone.tolist()
    assert len(set(beside)) == 3


def test_every_wrong_bit_is_seen(tmp_path):
    """Of pages; what lies between them says where they are."""
    given = table([[1, 2]] * 500, [[1, 0.5]] * 500).append_column("embedding", pa.array([[0.5, 0.25]] * 500))
    name = parts.write_part(str(tmp_path), 0, given, "key")
    content = (tmp_path / name).read_bytes()
    expected, random = parts.verify(str(tmp_path), name, 2, 10, INDEX_OF)[0], np.random.default_rng(0)
    seen = 0
    for at in random.integers(4, len(content) // 2, 100):
        damaged = bytearray(content)
        damaged[at] ^= 1 << random.integers(8)
        (tmp_path / name).write_bytes(damaged)
        try:
            found = parts.verify(str(tmp_path), name, 2, 10, INDEX_OF)[0]
        except parts.DAMAGED:
            seen += 1
            continue
        read = pq.read_table(tmp_path / name)
        assert read.equals(pq.read_table(pa.BufferReader(content))) or found != expected
    assert seen > 50


def test_partitions_grow_with_the_rows():
    assert [parts.partitions(rows) for rows in (0, 1, 5_000_000, 5_000_001, 10**8)] == [1, 1, 1, 2, 20]
