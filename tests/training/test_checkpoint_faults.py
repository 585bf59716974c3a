"""Checkpoints where something fails or is killed: what was whole stays, what is not whole does not count."""

import contextlib
import errno
import itertools
import os
import resource
import shutil
import subprocess
import sys

import pyarrow as pa
import pytest
from some_checkpoints import everything, fail_on, find_newest, put

from gru4rec import storage
from gru4rec.training.checkpoints import committed, load, prune, save


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A file system of 1 MB, to be filled."""
    if not shutil.which("mount"):
        pytest.skip("there is no `mount` here to make a small file system with")
    point = tmp_path_factory.mktemp("disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(point)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    yield point
    subprocess.run(["umount", str(point)], check=True)


def test_a_failed_write_leaves_nothing_and_keeps_the_earlier(place):
    put(place, "0001")
    before = everything(place)
    contents = {"weights": lambda: b"1" * 100, "model/config": lambda: b"2", "zz": lambda: b"3"}
    for kind, file in itertools.product((OSError, ValueError, KeyboardInterrupt, pa.ArrowInvalid), contents):
        with pytest.raises(kind, match="broken"):
            save(place, "0002", {**contents, file: fail_on(kind, "broken")}, {})
        assert everything(place) == before
    assert find_newest(place)[0].name == "0001"
    put(place, "0002")
    assert find_newest(place)[0].name == "0002"


@pytest.mark.parametrize("call", ["rename", "fsync", "replace"])
@pytest.mark.parametrize("again", [False, True])
def test_a_failing_call_of_the_system_leaves_nothing_and_keeps_the_earlier(tmp_path, monkeypatch, call, again):
    """Each call in turn fails, of a new checkpoint's and of one that replaces another."""
    place = str(tmp_path / "run")
    put(place, "0001", size=7)
    working, name = getattr(os, call), "0001" if again else "0002"
    for failing in itertools.count(1):
        calls = 0

        def broken(*given, failing=failing, **more):
            nonlocal calls
            calls += 1
            if calls == failing:
                raise OSError(errno.EIO, "Input/output error")
            return working(*given, **more)

        monkeypatch.setattr(os, call, broken)
        try:
            put(place, name, size=7)
        except OSError as error:
            assert error.errno == errno.EIO  # noqa: PT017
        monkeypatch.undo()
        assert not [path for path in everything(place) if path.endswith(".tmp")]
        for found in committed(place):
            load(place, found)
        assert "0001" in storage.list_folders(place)
        if calls < failing:
            break
    assert committed(place) == sorted({"0001", name})
    prune(place, 2)
    assert {path.split("/")[0] for path in everything(place)} == {"0001", name}


def test_the_first_error_is_raised_where_cleaning_up_fails_too(tmp_path, monkeypatch):
    put(str(tmp_path), "0001")

    def broken(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(storage, "remove_folder", broken)
    monkeypatch.setattr(os, "unlink", broken)
    monkeypatch.setattr(os, "replace", lambda *_: fail_on(OSError, "No space left")())
    with pytest.raises(OSError, match="No space left"):
        put(str(tmp_path), "0002")
    monkeypatch.undo()
    assert committed(str(tmp_path)) == ["0001"]
    assert find_newest(str(tmp_path))[1] == []
    prune(str(tmp_path), 1)
    assert os.listdir(tmp_path) == ["0001"]


@pytest.mark.parametrize("sizes", [(2_000_000,), (300_000, 300_000, 300_000, 300_000)])
def test_a_full_disk_leaves_the_earlier_checkpoint(disk, sizes):
    place = str(disk / "run")
    put(place, "0001", size=100_000)
    before = everything(place)
    files = {str(i): lambda size=size: bytes(size) for i, size in enumerate(sizes)}
    for _ in range(3):  # what was staged is given back each time
        with pytest.raises(OSError, match="No space left") as error:
            save(place, "0002", files, {})
        assert error.value.errno == errno.ENOSPC
        assert everything(place) == before
        assert find_newest(place)[0].name == "0001"
    put(place, "0003", size=500_000)
    assert committed(place) == ["0001", "0003"]
    prune(place, 1)
    assert committed(place) == ["0003"]
    prune(place, 1)
    storage.remove_folder(place)


def test_a_file_that_grows_beyond_its_limit_leaves_the_earlier_checkpoint(tmp_path):
    put(str(tmp_path), "0001")
    before = everything(str(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            put(str(tmp_path), "0002", size=2_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert everything(str(tmp_path)) == before


def test_an_object_store_that_goes_away_fails_the_save_with_its_own_words(bucket):
    client, uri = bucket

    def lose():
        client.delete_object(Bucket="logs", Key="run/0001/a")
        client.delete_bucket(Bucket="logs")
        return b"late"

    with pytest.raises(OSError, match=r"(?i)bucket"):
        save(uri("run"), "0001", {"a": lambda: b"a", "b": lose}, {})


def test_killed_between_the_renames_of_a_replacement_the_old_one_counts(tmp_path):
    place = str(tmp_path)
    put(place, "0001")
    put(place, "0002", size=10)
    os.rename(tmp_path / "0002", tmp_path / f"0002.{'a' * 32}.old")
    (tmp_path / f"0002.{'b' * 32}.tmp").mkdir()
    assert committed(place) == ["0001", "0002"]
    assert find_newest(place)[0].read("weights") == load(place, "0002").read("weights") == bytes([10]) * 10
    prune(place, 2)
    assert committed(place) == ["0001", "0002"]
    put(place, "0002", size=20)
    assert sorted(os.listdir(place)) == ["0001", "0002"]
    assert load(place, "0002").read("weights") == bytes([20]) * 20


def test_what_others_left_unfinished_goes_and_what_is_being_written_stays(place):
    put(place, "0001")
    unfinished = f"0002.{'a' * 32}.tmp" if storage.is_local(place) else "0002"
    storage.make_folder(storage.join(place, unfinished))
    storage.write_bytes(storage.join(place, unfinished, "weights"), b"half")
    seen = []

    def look():
        prune(place, 1)
        seen.extend(storage.list_folders(place))
        return b""

    save(place, "0003", {"weights": lambda: b"here", "look": look}, {})
    assert len(seen) == 2
    assert unfinished not in seen
    assert load(place, "0003").read("weights") == b"here"
    assert committed(place) == ["0001", "0003"]


def test_killed_while_pruning_nothing_damaged_looks_committed(place, monkeypatch):
    """At each removal in turn."""
    remove_file = storage.remove_file
    for before in itertools.count():
        for name in ("0001", "0002", "0003"):
            put(place, name)
        left = itertools.count(before, -1)
        for name in ("remove_file", "remove_folder"):
            working = getattr(storage, name)

            def killed(path, working=working, left=left, name=name):
                if next(left) <= 0:
                    if name == "remove_folder":  # some of the folder is gone by then
                        remove_file(storage.join(path, "weights"))
                    raise KeyboardInterrupt
                working(path)

            monkeypatch.setattr(storage, name, killed)
        with contextlib.suppress(KeyboardInterrupt):
            prune(place, 1)
        monkeypatch.undo()
        assert find_newest(place)[0].name == "0003"
        for name in committed(place):
            load(place, name)
        prune(place, 1)
        assert {path.split("/")[0] for path in everything(place)} == {"0003"}
        if next(left) >= 0:
            break
    assert before >= 2


# A process of its own saves, replaces and prunes until it is killed, again and again from one parent.
KILLS = """
import os, random, signal, sys, time
from gru4rec.training.checkpoints import committed, load, newest, prune, save

place, kills = sys.argv[1], int(sys.argv[2])
dice = random.Random(0)
for kill in range(kills):
    child = os.fork()
    if child == 0:
        number = 0
        while True:
            for _ in range(2):  # the second replaces the first
                content = os.urandom(300_000)
                save(place, f"{kill:02d}-{number:04d}", {f"model/{i}": lambda: content for i in range(3)}, {"block": 0})
            prune(place, 2)
            number += 1
    time.sleep(dice.uniform(0.01, 0.12))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    left = os.listdir(place) if os.path.isdir(place) else []
    names = committed(place)
    for name in names:
        load(place, name)
    print(len(names), sum(".tmp" in name or ".old" in name for name in left))
"""


def test_killed_at_any_moment_every_committed_checkpoint_loads(tmp_path):
    place = str(tmp_path / "run")
    done = subprocess.run(
        [sys.executable, "-c", KILLS, place, "15"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    rows = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(rows) == 15
    assert max(names for names, _ in rows) >= 2
    assert any(left for _, left in rows), "no kill hit a save"
    names = committed(place)
    prune(place, 2)
    assert committed(place) == names[-2:]
    # A folder for each and no more; one that a kill between two renames has left aside still is its checkpoint's.
    left = {path.split("/")[0] for path in everything(place)}
    assert sorted(folder.partition(".")[0] for folder in left) == names[-2:]
    assert not any(folder.endswith(".tmp") for folder in left)
    put(place, "99")
    assert find_newest(place)[0].name == "99"
