"""Memory of process trees: all processes, shared memory once."""

import os
import subprocess
import sys
import time

import pytest

from gru4rec.peak_memory import Sampler, own_memory, tree

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="needs Linux's smaps_rollup")

MIB = 2**20
CHILD = f"held = bytes(range(256)) * {100 * MIB // 256}; input()"
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


def test_shared_memory_counts_once_though_two_processes_map_it(tmp_path):
    code = f"""
import mmap, os, sys, tempfile
with tempfile.TemporaryFile(dir="/dev/shm") as file:
    file.truncate({100 * MIB})
    held = mmap.mmap(file.fileno(), 0)
    held.write(b"x" * {100 * MIB})
    if os.fork():
        os.wait()
    else:
        sum(held[::4096])
        open({str(tmp_path / "ready")!r}, "w").close()
        sys.stdin.read()
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process, Sampler(process.pid, period=0.01) as sampler:
        while not (tmp_path / "ready").exists() and process.poll() is None:
            time.sleep(0.01)
        process.communicate(b"")
    assert 100 * MIB <= sampler.peak.shared < 190 * MIB
    assert sampler.peak.own < 250 * MIB
