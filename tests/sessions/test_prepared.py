"""Reading a prepared folder: streams of shards in bounded memory, and files checked against their digests."""

import hashlib
import itertools
import json
import struct
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prepared_folder import bare_summary, prepared_folder

from gru4rec.errors import InputError
from gru4rec.sessions import write
from gru4rec.sessions.digest import digest
from gru4rec.sessions.prepared import ITEMS, Prepared, Sessions, Shard, Shuffled, concatenate
from gru4rec.sessions.summary import fingerprint

PLAIN = {"use_dictionary": False, "compression": "none"}  # so that every byte of a page is a value's
CLICKS = [[(session * 7 + place) % 50 for place in range(2 + session % 5)] for session in range(200)]


def table(ids: pa.Array, clicks: list[list[int]]) -> pa.Table:
    """Sessions of the contract; session i begins at 1000 · i ms."""
    times = [[1000 * i + place for place in range(len(each))] for i, each in enumerate(clicks)]
    return pa.table(
        {
            "session_id": ids,
            "start": pa.array([1000 * i for i in range(len(clicks))], pa.int64()).cast(pa.timestamp("ms", "UTC")),
            "items": pa.array(clicks, pa.list_(pa.int32())),
            "times": pa.array(times, pa.list_(pa.int64())).cast(pa.list_(pa.timestamp("ms"))),
        }
    )


def packed(numbers: list[int]) -> bytes:
    return struct.pack(f"<{len(numbers)}q", *numbers)


def plain_digest(ids: list[int] | list[str], clicks: list[list[int]]) -> str:
    """What a digest is, number by number."""
    if ids and isinstance(ids[0], str):
        content = packed([len(each.encode()) for each in ids]) + "".join(ids).encode()
    else:
        content = packed(ids)
    content += packed([len(each) for each in clicks]) + packed([item for each in clicks for item in each])
    content += packed([1000 * i + place for i, each in enumerate(clicks) for place in range(len(each))])
    return hashlib.sha256(content).hexdigest()


def nested(sessions: Sessions) -> list[list[int]]:
    return [part.tolist() for part in np.split(sessions.items, sessions.offsets[1:-1])] if sessions.count else []


@pytest.fixture
def folder(tmp_path):
    """A prepared folder of three training files of several row groups each."""
    (tmp_path / "train").mkdir()
    files = []
    for number in range(3):
        name, ids = f"part-{number}.parquet", list(range(200))
        pq.write_table(table(pa.array(ids), CLICKS), tmp_path / "train" / name, row_group_size=70, **PLAIN)
        files.append({"name": name, "digest": plain_digest(ids, CLICKS)})
    (tmp_path / "prepare.json").write_text(json.dumps(bare_summary(train=files)))
    return tmp_path


class TestBatches:
    @pytest.mark.parametrize("size", [1, 7, 70, 65_536])
    def test_a_shard_in_batches_is_the_shard(self, folder, size):
        for shard in Prepared(str(folder)).shards():
            parts = list(shard.batches(size))
            assert all(0 < part.count <= size for part in parts)
            assert nested(concatenate(parts)) == nested(shard.read())
        assert nested(Prepared(str(folder)).read("train")) == 3 * CLICKS

    def test_sessions_in_memory_are_one_batch(self):
        sessions = Sessions(np.array([0, 2]), np.array([4, 5], np.int32))
        assert list(sessions.batches()) == [sessions]

    def test_a_shuffled_shard_has_all_its_sessions_always_in_the_same_order(self, folder):
        shard = Prepared(str(folder)).shards()[0]
        source = Shuffled(shard, lambda: np.random.default_rng(5))
        first, again = (nested(concatenate(list(source.batches()))) for _ in range(2))
        assert first == again != nested(shard.read())
        assert sorted(first) == sorted(nested(shard.read()))

    def test_a_row_group_that_cannot_be_read_is_named(self, folder):
        path = folder / "train" / "part-1.parquet"
        for row_group, content in ((9, path.read_bytes()), (1, b"PAR1 no longer"), (1, None)):
            path.unlink() if content is None else path.write_bytes(content)
            with pytest.raises(InputError, match=f"part-1.parquet: row group {row_group} cannot be read"):
                list(Shard(str(path), row_group).batches())

    def test_a_large_row_group_streams_through_little_memory(self, tmp_path):
        count, length = 400_000, 20
        items = pa.array(np.random.default_rng(0).integers(0, 2**31, count * length, dtype=np.int32))
        offsets = pa.array(np.arange(0, count * length + 1, length, dtype=np.int32))
        path = tmp_path / "part.parquet"
        whole = pa.table({"items": pa.ListArray.from_arrays(offsets, items)})
        pq.write_table(whole, path, row_group_size=count, **PLAIN)
        size = items.nbytes
        del whole, items
        pool, seen, most = pa.default_memory_pool(), 0, 0
        before = pool.bytes_allocated()
        tracemalloc.start()
        for batch in Shard(str(path), 0).batches(4096):
            seen += batch.count
            most = max(most, pool.bytes_allocated() - before)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert seen == count
        assert path.stat().st_size >= size == 32_000_000
        assert most + peak < size / 4


names = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5), max_size=12)


class TestDigest:
    @settings(max_examples=40)
    @given(
        ids=names, cuts=st.lists(st.integers(0, 12), max_size=3), kind=st.sampled_from([pa.string(), pa.large_string()])
    )
    def test_text_ids_however_they_are_chunked(self, ids, cuts, kind):
        clicks = CLICKS[: len(ids)]
        whole = table(pa.array(ids, kind), clicks)
        bounds = sorted({0, len(ids), *(min(cut, len(ids)) for cut in cuts)})
        pieces = [whole.slice(a, b - a) for a, b in itertools.pairwise(bounds)] or [whole]
        found = digest(kind, lambda name: pa.concat_tables(pieces)[name].chunks)
        assert found == plain_digest(ids, clicks)

    @pytest.mark.parametrize("kind", [pa.int32(), pa.int64(), pa.uint16()])
    def test_whole_numbers(self, kind):
        whole = table(pa.array(range(200), kind), CLICKS)
        assert digest(kind, lambda name: whole[name].chunks) == plain_digest(list(range(200)), CLICKS)

    def test_a_null_differs(self):
        whole = table(pa.array([0, *range(1, 200)]), CLICKS)
        holed = whole.set_column(0, "session_id", pa.array([None, *range(1, 200)]))
        assert len({digest(pa.int64(), lambda name, t=t: t[name].chunks) for t in (whole, holed)}) == 2


class TestVerify:
    def test_whole_files_pass(self, folder):
        for part in range(4):
            Prepared(str(folder)).verify("train", part, 4)
        Prepared(str(folder)).verify("train")

    @pytest.mark.parametrize("ids", [pa.array(range(200)), pa.array([f"visitor-{i}" for i in range(200)])])
    def test_what_prepare_writes_passes(self, tmp_path, ids):
        given = table(ids, CLICKS)
        (tmp_path / "test").mkdir()
        sessions = pa.table(
            {
                "session": ids,
                "position": pa.array(range(200)),
                "items": given["items"],
                "times": given["times"].cast(pa.list_(pa.int64())),
            }
        )
        entry = write.write_file(sessions, str(tmp_path), 2, 0, 1)
        assert entry["digest"] == plain_digest(ids.to_pylist(), CLICKS)
        (tmp_path / "prepare.json").write_text(json.dumps(bare_summary(test=[entry])))
        Prepared(str(tmp_path)).verify("test")

    @pytest.mark.parametrize("column", [0, 1, 2, 3])
    def test_a_flipped_byte_in_a_data_page_is_found_and_its_file_named(self, folder, column):
        path = folder / "train" / "part-1.parquet"
        chunk = pq.ParquetFile(path).metadata.row_group(1).column(column)
        content = bytearray(path.read_bytes())
        content[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 0x10
        path.write_bytes(content)
        found = Prepared(str(folder))
        with pytest.raises(InputError, match=r"part-1\.parquet: is damaged: .*prepare again, .* --force"):
            found.verify("train")
        with pytest.raises(InputError, match=r"part-1\.parquet"):
            found.verify("train", 1, 3)
        found.verify("train", 0, 3)
        found.verify("train", 2, 3)

    def test_the_remedy_names_the_flag_with_which_prepare_looks_at_nothing(self, folder):
        path = folder / "train" / "part-1.parquet"
        chunk = pq.ParquetFile(path).metadata.row_group(0).column(2)
        content = bytearray(path.read_bytes())
        content[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 0x10
        path.write_bytes(content)
        with pytest.raises(InputError, match="--force"):
            Prepared(str(folder)).verify("train")

    def test_sessions_of_another_run_are_found(self, folder):
        pq.write_table(table(pa.array(range(199)), CLICKS[:199]), folder / "train" / "part-2.parquet")
        with pytest.raises(InputError, match=r"part-2\.parquet: is damaged: its sessions are not those"):
            Prepared(str(folder)).verify("train")

    def test_a_missing_file_is_named(self, folder):
        (folder / "train" / "part-2.parquet").unlink()
        with pytest.raises(InputError, match=r"part-2\.parquet: is missing"):
            Prepared(str(folder)).verify("train")

    def test_a_file_that_is_no_parquet_is_named(self, folder):
        (folder / "train" / "part-0.parquet").write_bytes(b"PAR1 no longer")
        with pytest.raises(InputError, match=r"part-0\.parquet: is damaged"):
            Prepared(str(folder)).verify("train")

    def test_a_folder_without_digests_is_refused(self, folder):
        (folder / "prepare.json").write_text(json.dumps(bare_summary(train=[{"name": "part-0.parquet"}])))
        with pytest.raises(InputError, match=r"part-0\.parquet: has no digest"):
            Prepared(str(folder)).verify("train")


class TestVerifyItems:
    @pytest.fixture
    def made(self, tmp_path):
        items = np.array([3, 1, 1, 0, 2, 2, 2], np.int32)
        sessions = Sessions(np.array([0, 3, 5, 7]), items)
        return prepared_folder(tmp_path / "data", {"train": sessions, "test": sessions}, 4)

    def put(self, made, **columns) -> Prepared:
        """The folder with another items.parquet, opened anew."""
        items = {name: made.items[name] for name in made.items.column_names} | columns
        pq.write_table(pa.table({name: of for name, of in items.items() if of is not None}), made.folder + "/" + ITEMS)
        return Prepared(made.folder)

    def test_what_prepare_writes_passes(self, made):
        made.verify_items()
        self.put(made).verify_items()

    @pytest.mark.parametrize(
        "columns",
        [
            {"item_id": pa.array([1003, 1002, 1001, 1000])},
            {"item_id": pa.array([1000, 1001, 1002, None])},
            {"item_id": pa.array(["1000", "1001", "1002", "1003"])},
            {"item_id": None},
            {"item_index": pa.array([1, 0, 2, 3], pa.int32())},
            {"support": pa.array([1, 2, 3, 2])},
            {"support": pa.array([2, 1, 3, 1])},  # their sum is right
            {"support": pa.array([1.0, 2.0, 3.0, 1.0])},
            {"support": None},
        ],
    )
    def test_other_items_are_found_and_the_file_named(self, made, columns):
        found = self.put(made, **columns)
        with pytest.raises(InputError, match=r"items\.parquet: is damaged: its items are not those.*--force"):
            found.verify_items()

    def test_items_of_another_number_are_found(self, made):
        pq.write_table(made.items.slice(0, 3), made.folder + "/" + ITEMS)
        with pytest.raises(InputError, match=r"items\.parquet: is damaged"):
            Prepared(made.folder).verify_items()

    def test_items_of_other_sessions_are_found(self, made, tmp_path):
        other = prepared_folder(tmp_path / "other", {"train": Sessions(np.array([0, 2]), np.zeros(2, np.int32))}, 4)
        pq.write_table(other.items, made.folder + "/" + ITEMS)
        with pytest.raises(InputError, match=r"items\.parquet: is damaged"):
            Prepared(made.folder).verify_items()

    def test_without_a_digest_of_the_supports_their_sum_must_fit(self, made, tmp_path):
        """A folder of an earlier release."""
        del made.summary["support_digest"]
        (tmp_path / "data" / "prepare.json").write_text(json.dumps(made.summary))
        made = Prepared(made.folder)
        made.verify_items()
        with pytest.raises(InputError, match=r"items\.parquet: is damaged"):
            self.put(made, support=pa.array([1, 2, 3, 2])).verify_items()


class TestSummary:
    @pytest.mark.parametrize(
        ("content", "why"),
        [
            ("{", "not valid JSON"),
            ("[]", "does not describe prepared data"),
            ("null", "does not describe prepared data"),
            ("{}", "it has no fingerprint"),
            ('{"fingerprint": 5}', "it has no fingerprint"),
            ('{"fingerprint": "x"}', "it has no train split"),
            ('{"fingerprint": "x", "splits": []}', "it has no train split"),
            ('{"fingerprint": "x", "splits": {"train": 1}}', "it has no train split"),
            ('{"fingerprint": "x", "data": 1}', "data is no name"),
            ('{"fingerprint": "x", "splits": {"train": {"sessions": 1}}}', "the train split has no number of clicks"),
        ],
    )
    def test_what_cannot_be_read_is_named_with_its_reason(self, tmp_path, content, why):
        (tmp_path / "prepare.json").write_text(content)
        with pytest.raises(InputError, match=rf"prepare\.json: .*{why}.*prepare again"):
            Prepared(str(tmp_path))

    @pytest.mark.parametrize("files", [None, {}, [1], [{}], [{"name": 1}]])
    def test_a_split_without_its_files(self, tmp_path, files):
        (tmp_path / "prepare.json").write_text(json.dumps(bare_summary(test=files)))
        with pytest.raises(InputError, match=r"prepare\.json: .*the test split has no list of files"):
            Prepared(str(tmp_path))

    def test_the_fingerprint_is_that_of_earlier_releases(self):
        """SHA-256 of the type, the ids, and each split's name and digests: folders stay what they are."""
        splits = bare_summary(train=[{"name": "a", "digest": "d1"}, {"name": "b", "digest": "d2"}])["splits"]
        numbers, text = pa.chunked_array([[7], [5]]), pa.chunked_array([["ü", "b"]])
        rest = b"traind1d2validtest"
        assert fingerprint(numbers, splits) == hashlib.sha256(b"int64" + packed([7, 5]) + rest).hexdigest()
        assert fingerprint(text, splits) == hashlib.sha256(b"string" + "ü\0b".encode() + rest).hexdigest()
