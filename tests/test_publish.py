"""A folder that is published is the old one or the new one at every moment, whatever is killed when."""

import errno
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from gru4rec import storage

FILES = 20

PUBLISHER = textwrap.dedent("""
    import itertools, os, sys, uuid
    from gru4rec import storage
    if sys.argv[2] == "renames":
        storage._exchange = lambda one, other: False
    out = sys.argv[1]
    storage.recover(out)
    for number in itertools.count():
        staging = f"{out}.{uuid.uuid4().hex}.staging"
        os.makedirs(staging)
        for file in range(20):
            with open(f"{staging}/{file}", "w") as made:
                made.write(staging)
        storage.publish(staging, out, "0")
        if number == 0:
            print("begun", flush=True)
""")


def made(path, content):
    path.mkdir()
    for name in range(FILES):
        (path / str(name)).write_text(content)
    return str(path)


def whole(folder):
    """Whether all that is in the folder was published at once; read through one descriptor, as one version."""
    place = os.open(folder, os.O_RDONLY)
    try:
        contents = set()
        for name in range(FILES):
            file = os.open(str(name), os.O_RDONLY, dir_fd=place)
            contents.add(os.read(file, 1000))
            os.close(file)
        return len(contents) == 1 and len(os.listdir(place)) == FILES
    finally:
        os.close(place)


@pytest.mark.parametrize("exchange", [True, False])
def test_the_new_takes_the_place_of_the_old(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(storage, "_exchange", lambda one, other: False)
    out = tmp_path / "out"
    for content in ("a", "b", "c"):
        storage.publish(made(tmp_path / f"{content}.staging", content), str(out), "0")
        assert {path.read_text() for path in out.iterdir()} == {content}
        assert os.listdir(tmp_path) == ["out"]


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "out").mkdir()
    storage.publish(made(tmp_path / "staging", "a"), str(tmp_path / "out"), "0")
    assert whole(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]


def test_errors_of_the_system_are_raised(tmp_path):
    with pytest.raises(OSError, match="No such file") as error:
        storage._exchange(str(tmp_path / "a"), str(tmp_path / "b"))
    assert error.value.errno == errno.ENOENT


@pytest.mark.skipif(sys.platform != "linux", reason="other systems need two renames")
def test_a_reader_always_finds_a_folder(tmp_path):
    """A reader looks without pause while another thread publishes thirty times: never is there nothing."""
    out = str(tmp_path / "out")
    storage.publish(made(tmp_path / "first", "first"), out, "0")

    def publish():
        for number in range(30):
            storage.publish(made(tmp_path / f"staging-{number}", str(number)), out, "0")

    writer = threading.Thread(target=publish)
    writer.start()
    looks = 0
    while writer.is_alive():
        assert os.stat(out).st_mode  # FileNotFoundError where there is none
        looks += 1
    writer.join()
    assert looks > 30
    assert (tmp_path / "out" / "0").read_text() == "29"


def test_recover_gives_the_old_folder_its_name_back(tmp_path):
    out = tmp_path / "out"
    old = made(tmp_path / f"out.{'a' * 32}.old", "old")
    (tmp_path / "out.backup.old").mkdir()  # not ours
    storage.recover(str(out))
    assert whole(out)
    made(tmp_path / f"out.{'b' * 32}.old", "older")
    storage.recover(str(out))
    assert (out / "0").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["out", "out.backup.old"]
    assert not os.path.exists(old)
    storage.recover(str(tmp_path / "absent" / "out"))


@pytest.mark.parametrize("way", ["exchange", "renames"])
def test_killed_at_any_moment(tmp_path, way):
    """The old or the new folder, whole, is there after each kill; with two renames once the next job has begun."""
    out = str(tmp_path / "out")
    moments = random.Random(5)
    for _ in range(8):
        job = subprocess.Popen([sys.executable, "-c", PUBLISHER, out, way], stdout=subprocess.PIPE)
        try:
            assert job.stdout is not None
            assert job.stdout.readline() == b"begun\n"
            time.sleep(moments.uniform(0, 0.03))
        finally:
            job.send_signal(signal.SIGKILL)
            job.wait()
            job.stdout.close()
        if way == "renames":
            storage.recover(out)
        assert whole(out)
