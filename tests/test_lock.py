"""One run at a time: the second stops, the dead are no obstacle."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gru4rec import lock, storage
from gru4rec.errors import GRU4RecError

HOLDER = """
import sys, time
from gru4rec import lock
with lock.held(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(params=["local", "store"])
def folder(request, tmp_path, monkeypatch):
    """A folder to lock, on a disk and on an object store."""
    monkeypatch.setattr(lock, "BEAT_S", 0.2)
    monkeypatch.setattr(lock, "SETTLE_S", 1.1)
    if request.param == "local":
        return str(tmp_path / "out")
    _, uri = request.getfixturevalue("bucket")
    return uri("out")


def test_the_second_stops_and_says_who_has_it(folder):
    with lock.held(folder) as check:
        with pytest.raises(GRU4RecError, match=r"another run is writing here \(process \d+ on "), lock.held(folder):
            pass
        check()
    with lock.held(folder):
        pass


def test_a_killed_run_is_no_obstacle(folder):
    command = [sys.executable, "-c", HOLDER, folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(GRU4RecError, match="another run"), lock.held(folder):
            pass
        holder.kill()
        holder.wait()
        with lock.held(folder) as check:
            check()


def test_of_two_at_once_exactly_one_wins(folder):
    """Both begin at the same moment; whoever has the lock keeps it until both know."""
    ready, over = threading.Barrier(2), threading.Barrier(2)
    found = []

    def run():
        ready.wait()
        try:
            with lock.held(folder):
                found.append("won")
                over.wait(60)
        except GRU4RecError:
            found.append("stopped")
            over.wait(60)

    both = [threading.Thread(target=run) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert sorted(found) == ["stopped", "won"]


def test_a_run_whose_lock_was_taken_away_notices(folder):
    with lock.held(folder) as check:
        for name in storage.list_files(folder):
            storage.remove_file(storage.join(folder, name))
        for name in storage.list_files(storage.join(folder, lock.CLAIMS)):
            storage.remove_file(storage.join(folder, lock.CLAIMS, name))
        with pytest.raises(GRU4RecError, match=r"deleted or replaced|taken over"):
            check()


def test_of_another_machine_the_beat_tells(bucket, monkeypatch):
    _, uri = bucket
    monkeypatch.setattr(lock, "SETTLE_S", 1.1)
    monkeypatch.setattr(lock, "PATIENCE_S", 4.0)
    claims = storage.join(uri("out"), lock.CLAIMS)
    storage.write_json(storage.join(claims, "0.json"), {"who": "process 7 on far", "machine": "far", "pid": 7})
    storage.write_bytes(storage.join(claims, "0.beat"), b"alive")
    over = threading.Event()

    def beat():
        while not over.wait(0.3):
            storage.write_bytes(storage.join(claims, "0.beat"), b"alive")

    beating = threading.Thread(target=beat)
    beating.start()
    with pytest.raises(GRU4RecError, match="process 7 on far"), lock.held(uri("out")):
        pass
    over.set()
    beating.join()
    with lock.held(uri("out")):
        held = storage.list_files(claims, ".json")
        assert len(held) == 1
        assert json.loads(storage.read_bytes(storage.join(claims, held[0])))["pid"] != 7
    assert storage.list_files(claims) == []
