"""Where prepare writes: published in one step, left-over folders of killed jobs deleted, those of live ones not."""

import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from prepared_folder import prepared_folder

from gru4rec import storage
from gru4rec.errors import InputError
from gru4rec.sessions import staging
from gru4rec.sessions.prepared import Prepared, Sessions

OTHER = "0" * 8  # a machine that is not this one


def sessions(item, count=5):
    """Sessions that all click on one item: data of two versions can never be taken for one."""
    return Sessions(np.arange(0, 3 * count + 1, 3), np.full(3 * count, item, np.int32))


def put(out, tmp_path, item):
    """Publish a prepared folder at `out`, as prepare does."""
    made = tmp_path / f"made-{item}"
    prepared_folder(made, {"train": sessions(item), "test": sessions(item)}, 50, shards=4)
    summary = json.loads((made / "prepare.json").read_text())
    (made / "prepare.json").unlink()
    with staging.staged(out) as place:
        for path in made.rglob("*"):
            if path.is_file():
                name = path.relative_to(made).as_posix()
                storage.make_folder(storage.join(place.folder, *name.split("/")[:-1]))
                storage.write_bytes(storage.join(place.folder, *name.split("/")), path.read_bytes())
        place.publish(summary)


def items_of(prepared):
    found = {split: np.unique(prepared.read(split).items).tolist() for split in ("train", "test")}
    support = prepared.support
    return {*found["train"], *found["test"], *np.flatnonzero(support).tolist()}


class TestLocal:
    def test_nothing_is_left_of_what_is_not_published(self, tmp_path):
        with pytest.raises(RuntimeError), staging.staged(str(tmp_path / "out")) as place:  # noqa: PT012
            storage.write_bytes(f"{place.folder}/x", b"")
            raise RuntimeError
        assert os.listdir(tmp_path) == []

    def test_a_link_stays_a_link(self, tmp_path):
        (tmp_path / "disk").mkdir()
        (tmp_path / "out").symlink_to(tmp_path / "disk" / "data")
        for item in (1, 2):
            put(str(tmp_path / "out"), tmp_path, item)
            assert items_of(Prepared(str(tmp_path / "out"))) == {item}
        assert (tmp_path / "out").is_symlink()
        assert os.listdir(tmp_path / "disk") == ["data"]

    def test_a_reader_of_the_old_is_told(self, tmp_path):
        out = str(tmp_path / "out")
        put(out, tmp_path, 1)
        old = Prepared(out)
        shard = old.shards()[0]
        batches = old.shards()[1].batches(sessions=1)
        assert set(next(batches).items) == {1}
        put(out, tmp_path, 2)
        assert {item for batch in batches for item in batch.items} == {1}  # what is open is the old to its end
        for read in (shard.read, old.shards, lambda: old.items, lambda: old.verify("test"), lambda: old.read("test")):
            with pytest.raises(InputError, match="was prepared anew while it was read; run again"):
                read()
        assert items_of(Prepared(out)) == {2}

    def test_folders_of_dead_jobs_go_those_of_live_ones_stay(self, tmp_path):
        out = str(tmp_path / "out")
        code = (
            "import sys, time\nfrom gru4rec.sessions import staging\n"
            "with staging.staged(sys.argv[1]) as place:\n"
            "    print(place.folder, flush=True)\n    time.sleep(600)"
        )
        jobs = [subprocess.Popen([sys.executable, "-c", code, out], stdout=subprocess.PIPE, text=True) for _ in "ab"]
        try:
            dead, alive = (job.stdout.readline().strip() for job in jobs)
            jobs[0].kill()
            jobs[0].wait()
            assert os.path.isdir(dead)
            staging.tidy(out)
            assert not os.path.exists(dead)
            assert os.path.isdir(alive)
        finally:
            for job in jobs:
                job.kill()
                job.wait()
                job.stdout.close()

    def test_folders_of_other_machines_go_by_age(self, tmp_path):
        new, old = (tmp_path / f"out.{OTHER}-{number * 8}.staging" for number in "12")
        for folder in (new, old):
            (folder / "train").mkdir(parents=True)
            (folder / "train" / "x").touch()
        for path in (old / "train" / "x", old / "train", old):
            os.utime(path, (time.time() - 2 * staging.ABANDONED,) * 2)
        (tmp_path / "out2.00000000-33333333.staging").mkdir()  # of another folder
        staging.tidy(str(tmp_path / "out"))
        assert sorted(os.listdir(tmp_path)) == [new.name, "out2.00000000-33333333.staging"]

    def test_where_locks_do_not_work_age_tells(self, tmp_path, monkeypatch):
        def fails(*_):
            raise OSError(95, "no locks here")

        monkeypatch.setattr(staging.fcntl, "flock", fails)
        with staging.staged(str(tmp_path / "out")) as place:
            staging.tidy(str(tmp_path / "out"))
            assert os.path.isdir(place.folder)
            for path in (place.folder, *(entry.path for entry in os.scandir(place.folder))):
                os.utime(path, (0, 0))
            staging.tidy(str(tmp_path / "out"))
            assert not os.path.exists(place.folder)


class TestObjectStore:
    def folders(self, client):
        keys = [entry["Key"] for entry in client.list_objects_v2(Bucket="logs").get("Contents", [])]
        return {key.split("/")[1] for key in keys if not key.endswith("/") and key.count("/") > 1}

    def test_readers_see_the_old_or_the_new(self, bucket, tmp_path):
        """One reader opens again and again while six versions are published; another goes on with what it opened."""
        _, uri = bucket
        out = uri("data")
        put(out, tmp_path, 0)
        seen, wrong, stop = [], [], threading.Event()

        def read():
            while not stop.is_set():
                try:
                    prepared = Prepared(out)
                    found = items_of(prepared)
                except Exception as error:
                    wrong.append(repr(error))
                    return
                seen.append(found)

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for item in range(1, 7):
            before = Prepared(out)
            put(out, tmp_path, item)
            assert items_of(before) == {item - 1}
            assert items_of(Prepared(out)) == {item}
            count = len(seen)
            deadline = time.monotonic() + 30
            while len(seen) < count + 2 and not wrong and time.monotonic() < deadline:
                time.sleep(0.01)  # no reader may be two versions behind: the grace is one
        stop.set()
        for reader in readers:
            reader.join()
        assert not wrong
        assert all(len(found) == 1 for found in seen)
        assert len({min(found) for found in seen}) > 1

    def test_two_versions_are_kept(self, bucket, tmp_path):
        client, uri = bucket
        for item in range(4):
            put(uri("data"), tmp_path, item)
            assert len(self.folders(client)) == min(item + 1, 2)
        summary = Prepared(uri("data")).summary
        assert self.folders(client) == {summary["data"], summary["data_before"]}

    def test_what_is_begun_is_neither_read_nor_in_the_way(self, bucket, tmp_path):
        client, uri = bucket
        storage.write_bytes(uri("data/data-0badf00d/train/part-00000.parquet"), b"half")
        with pytest.raises(InputError):
            Prepared(uri("data"))
        assert staging.free(uri("data"))
        assert not staging.free(uri("data/data-0badf00d"))
        put(uri("data"), tmp_path, 1)
        staging.tidy(uri("data"))
        assert "data-0badf00d" in self.folders(client)  # it may be of a job that runs
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(staging, "ABANDONED", -100)
            staging.tidy(uri("data"))
        assert "data-0badf00d" not in self.folders(client)
        assert items_of(Prepared(uri("data"))) == {1}

    @pytest.mark.parametrize("content", [b"{", b"[]", b'{"fingerprint": "x"}'])
    def test_a_summary_that_is_not_whole_is_named_and_what_it_may_have_named_stays(self, bucket, tmp_path, content):
        client, uri = bucket
        put(uri("data"), tmp_path, 1)
        before = self.folders(client)
        storage.write_bytes(uri("data/prepare.json"), content)
        with pytest.raises(InputError, match=r"data/prepare\.json.*: .*mend it or take it away"):
            staging.tidy(uri("data"))
        assert self.folders(client) == before

    def test_nothing_is_left_of_what_is_not_published(self, bucket):
        client, uri = bucket
        with pytest.raises(RuntimeError), staging.staged(uri("data")) as place:  # noqa: PT012
            storage.write_bytes(storage.join(place.folder, "x"), b"")
            raise RuntimeError
        assert self.folders(client) == set()

    def test_a_put_without_an_answer_loses_nothing(self, bucket, tmp_path, monkeypatch):
        """The object store may have done it all the same: what prepare.json names must then be there."""
        _, uri = bucket
        write = storage.write_json

        def answers_too_late(path, value):
            write(path, value)
            raise OSError("timeout")

        monkeypatch.setattr(storage, "write_json", answers_too_late)
        with pytest.raises(OSError, match="timeout"):
            put(uri("data"), tmp_path, 1)
        assert items_of(Prepared(uri("data"))) == {1}
