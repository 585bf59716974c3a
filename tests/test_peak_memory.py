"""Memory of process trees: all processes, shared memory once."""

import os
import subprocess
import sys
import time

import pytest

from gru4rec import peak_memory
from gru4rec.peak_memory import Sampler, own_memory, tree

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="needs Linux's smaps_rollup")

MIB = 2**20
CHILD = f"import time; held = bytes(range(256)) * {100 * MIB // 256}; time.sleep(0.3); input()"
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdin=subprocess.PIPE)
print(child.pid, flush=True)
input()
child.communicate(b"\\n")
"""


def test_tree_holds_children_of_children_and_nothing_else():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        assert sorted(tree(parent.pid)) == sorted([parent.pid, child])
        assert {parent.pid, child} < set(tree(os.getpid()))
        parent.communicate(b"\n")
    assert tree(parent.pid) == [parent.pid]
    assert own_memory(parent.pid) == 0


def test_peak_is_of_all_processes_and_stays_when_they_have_ended():
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}], input=b'\\n')"
    with subprocess.Popen([sys.executable, "-c", code]) as process, Sampler(process.pid, period=0.01) as sampler:
        process.wait()
    assert 100 * MIB <= sampler.peak.own < 400 * MIB
    assert sampler.samples[-1].own < 100 * MIB
    assert sampler.peak.moment >= sampler.samples[0].moment


def test_memory_that_processes_share_is_not_their_own(tmp_path):
    code = f"""
import mmap, os, sys, tempfile
with tempfile.TemporaryFile(dir="/dev/shm") as file:
    file.truncate({100 * MIB})
    held = mmap.mmap(file.fileno(), 0)
    for _ in range(100):
        held.write(b"x" * {MIB})
    if os.fork():
        os.wait()
    else:
        sum(held[::4096])
        open({str(tmp_path / "ready")!r}, "w").close()
        sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        while not (tmp_path / "ready").exists() and process.poll() is None:
            time.sleep(0.01)
        assert len(tree(process.pid)) == 2
        assert 0 < sum(map(own_memory, tree(process.pid))) < 100 * MIB
        process.communicate(b"")


def test_shared_memory_is_what_has_been_added_since_the_sampler_was_made(monkeypatch):
    found = iter([50, 40, 70, *[60] * 10_000])
    monkeypatch.setattr(peak_memory, "_in_shared_memory", lambda: next(found))
    with Sampler(os.getpid(), period=0.001) as sampler:
        while len(sampler.samples) < 3:
            time.sleep(0.001)
    assert [sample.shared for sample in sampler.samples[:3]] == [0, 20, 10]
    assert max(sampler.samples).moment == sampler.samples[-1].moment
    assert sampler.peak.total == max(sample.own + sample.shared for sample in sampler.samples)
