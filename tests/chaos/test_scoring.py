"""Disturbed scoring runs: what counts is the old result or the new one, whole, and a rerun finishes the new."""

import hashlib
import http.client
import itertools
import random
import shutil
import signal
import subprocess
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from chaos.cluster import Cluster
from chaos.processes import signalled
from chaos.scoring import DATE, FILES, SESSIONS, Inputs, ScoreJob, make_inputs, next_night

from gru4rec import storage

pytestmark = pytest.mark.chaos
_NUMBERS = itertools.count()
PIECES = 25  # of 4,096 sessions


@pytest.fixture(scope="module")
def inputs(place):
    """Sessions and two models, each with the digest of the result of a run that nothing disturbs."""
    sessions, models = make_inputs(place / "s")
    made = Inputs(sessions, models, {}, place / "s-results")
    for name in models:
        job = ScoreJob(place / f"s-{name}", made)
        job.start(name)
        assert job.end() == 0, job.errors[-3000:]
        assert job.result()["sessions_out"] == SESSIONS
        made.expected[name] = job.digest()
        job.nothing_left()
        if name == "old":
            shutil.copytree(job.out, made.old)
        job.remove()
    return made


@pytest.fixture
def start(place, inputs):
    """A function that makes a job for which a result of the old model counts."""
    made = []

    def started(old: bool = True, **options) -> ScoreJob:
        job = ScoreJob(place / f"s{next(_NUMBERS)}", inputs, **options)
        made.append(job)
        if old:
            shutil.copytree(inputs.old, job.out)
            assert job.whole() == "old"
        return job

    yield started
    for job in made:
        job.close()
        job.remove()


def finished(job: ScoreJob) -> None:
    """Assert that the job has ended well and left exactly the new result."""
    assert job.end() == 0, job.errors[-3000:]
    assert job.whole() == "new"
    assert job.result()["sessions_out"] == SESSIONS
    job.nothing_left()


def test_actors_killed(start, moments, inject):
    job = start()
    job.start()
    for share in sorted(moments.uniform(0, 0.5) for _ in range(2)):
        job.until(lambda share=share: job.parts() >= share * PIECES and job.actors())
        assert signalled(moments.choice(job.until(job.actors)), signal.SIGKILL)
        inject(f"scoring actor killed after {job.parts()} parts")
        assert job.whole() == "old"
    finished(job)


def test_the_driver_killed_while_it_scores(start, moments, inject):
    job = start()
    kept = 0
    for share in sorted(moments.uniform(0.05, 0.8) for _ in range(2)):
        job.start()
        job.until(lambda share=share: job.parts() >= share * PIECES and job.actors())
        job.kill_driver()
        kept = job.parts()
        inject(f"driver killed after {kept} parts")
        assert job.whole() == "old"
    job.start()
    finished(job)
    assert job.result()["kept_files"] == kept > 0


def test_a_night_that_goes_on_from_another(place, inputs, moments, inject):
    """Killed actors and drivers and a damaged state: the lists are those of a night from the first clicks."""
    later = place / "s-later"
    next_night(inputs.sessions, later)
    anew = ScoreJob(place / f"s{next(_NUMBERS)}", inputs)
    job = ScoreJob(place / f"s{next(_NUMBERS)}", inputs)
    try:
        anew.start(sessions=later, more="--incremental")  # with nothing to go on from
        job.start(more="--incremental", date="2026-11-21")
        assert (anew.end(), job.end()) == (0, 0), anew.errors[-2000:] + job.errors[-2000:]
        job.inputs = inputs._replace(sessions=later, expected={"new": anew.digest()})
        job.start(more="--incremental")
        job.until(lambda: job.parts() >= moments.uniform(0, 0.3) * PIECES and job.actors())
        assert signalled(moments.choice(job.until(job.actors)), signal.SIGKILL)
        inject(f"actor killed after {job.parts()} parts of an incremental night")
        before = job.parts()
        job.until(lambda: job.parts() > before and job.actors())
        job.kill_driver()
        kept = job.parts()
        inject(f"driver killed after {kept} parts of an incremental night")
        assert job.whole() == ""
        state = moments.choice(sorted(Path(job.out).glob("date=2026-11-21/model-*/states-*.parquet"))[kept + 3 :])
        content = bytearray(state.read_bytes())
        content[len(content) // 2] ^= 1
        state.write_bytes(content)
        inject(f"a bit of {state.name} flipped")
        job.start(more="--incremental")
        finished(job)
        assert job.result()["kept_files"] == kept
        assert job.result()["taken_over"] > 0 < job.result()["continued"]
        assert f"1 of {PIECES} parts were scored from the first clicks" in job.errors
    finally:
        for one in (anew, job):
            one.close()
            one.remove()


KILLED = """
import os, sys
from gru4rec import cli, config, storage
from gru4rec.scoring.job import score

replace, write, moment = os.replace, storage.write_bytes, "{moment}"

def replaced(source, target):
    if target == "{pointer}" and moment == "during":
        os.kill(os.getpid(), 9)
    replace(source, target)

def written(path, content):
    if path == "{pointer}" and moment == "before":
        os.kill(os.getpid(), 9)
    write(path, content)
    if path == "{pointer}" and moment == "after":
        os.kill(os.getpid(), 9)

os.replace, storage.write_bytes = replaced, written
sys.exit(cli.run(config.Score, score))
"""


@pytest.mark.parametrize("moment", ["before", "during", "after"])
def test_the_driver_killed_at_publishing(start, inject, moment):
    job = start()
    job.start(script=KILLED.format(moment=moment, pointer=job.place / "manifest.json"))
    assert job.end() == -signal.SIGKILL
    inject(f"driver killed {moment} publishing")
    assert job.whole() == ("new" if moment == "after" else "old")
    job.start()
    finished(job)
    assert job.result()["kept_files"] == PIECES
    assert job.result()["unchanged"] == (moment == "after")


def test_a_disk_that_fills(start, place, moments, inject):
    disk = place / "score-disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128m", "chaos", str(disk)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    try:
        job = start(out=str(disk / "out"))
        job.start()
        job.until(lambda: job.parts() >= moments.uniform(0.05, 0.5) * PIECES)
        ballast = fill(disk, leave=moments.choice([0, 200_000]))
        inject(f"disk full after {job.parts()} parts")
        assert job.end() == 1
        last = job.errors.splitlines()[-1]
        assert last.startswith("error: ")
        assert "No space left" in last
        assert "run the same command again" in last
        assert job.whole() == "old"
        ballast.unlink()
        job.start()
        finished(job)
        assert job.result()["kept_files"] > 0
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """A file that leaves so many bytes free."""
    ballast, piece = disk / "ballast", bytes(2**16)
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(piece)
        except OSError:
            file.truncate(max(file.tell() - leave, 0))
    return ballast


def test_a_corrupt_input_file(start, place, inputs, moments, inject):
    job = start()
    folder = place / f"damaged{next(_NUMBERS)}"
    folder.mkdir()
    for path in inputs.sessions.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    name = f"{moments.randrange(FILES)}.parquet"
    metadata = pq.ParquetFile(folder / name).metadata
    group = moments.randrange(metadata.num_row_groups)
    column = metadata.row_group(group).column(1)
    content = bytearray((folder / name).read_bytes())
    first = column.dictionary_page_offset or column.data_page_offset
    content[first : first + 60] = b"\xff" * 60
    (folder / name).write_bytes(content)
    inject(f"row group {group} of {name} overwritten")
    job.start(sessions=folder)
    assert job.end() == 2
    assert f"{name}: row group {group} cannot be read" in job.errors.splitlines()[-1]
    assert job.whole() == "old"
    job.start(sessions=folder, more="--skip-corrupt --max-rejected-share 0.1")
    assert job.end() == 0, job.errors[-3000:]
    lost = metadata.row_group(group).num_rows
    assert (job.result()["rejected"], job.result()["sessions_out"]) == (lost, SESSIONS - lost)


def test_a_node_killed(start, place, moments, inject):
    cluster = Cluster(place / "c3", "ab")
    try:
        job = start(old=False, cluster=cluster)
        job.start()
        job.until(lambda: job.parts() >= moments.uniform(0.05, 0.5) * PIECES)
        cluster.kill(moments.choice("ab"))
        inject(f"node killed after {job.parts()} parts of a scoring run")
        assert job.end() == 0, job.errors[-3000:]
        assert job.whole() == "new"
    finally:
        assert cluster.close() == []


def test_two_runs_at_once(start, place, inputs, moments, inject):
    job = start()
    other = ScoreJob(place / f"s{next(_NUMBERS)}", inputs, out=job.out)
    try:
        both = [job, other]
        for one in moments.sample(both, 2):
            one.start()
            time.sleep(moments.uniform(0, 1))
        inject("two runs at once")
        codes = [one.end() for one in both]
        assert sorted(codes) == [0, 1], job.errors[-2000:] + other.errors[-2000:]
        stopped = both[codes.index(1)]
        assert "another run is writing here" in stopped.errors.splitlines()[-1]
        assert job.whole() == "new"
    finally:
        other.close()
        other.remove()


class Unreliable(BaseHTTPRequestHandler):
    """Passes requests on to an object store; some are answered late or with an error, before or after being done."""

    store, moments, share, faults = "", random.Random(0), 0.0, 0
    protocol_version = "HTTP/1.1"

    def _body(self) -> bytes:
        """What was sent, in one piece: S3's clients send uploads in chunks of unknown number."""
        if "chunked" not in (self.headers.get("Transfer-Encoding") or "").lower():
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            found.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(found)

    def _pass_on(self) -> None:
        body = self._body()
        fault = self.moments.random() < type(self).share
        kind = self.moments.choice(["late", "error", "done and error"]) if fault else ""
        type(self).faults += fault
        if kind == "late":
            time.sleep(self.moments.uniform(0.2, 2))
        status, headers, content = 503, [], b""
        if kind != "error":
            passed = http.client.HTTPConnection(self.store, timeout=60)
            hop = ("transfer-encoding", "content-length", "expect", "connection")
            headers_in = {name: value for name, value in self.headers.items() if name.lower() not in hop}
            passed.request(self.command, self.path, body, headers_in)
            answer = passed.getresponse()
            status, headers, content = answer.status, answer.getheaders(), answer.read()
            passed.close()
        if kind == "done and error":
            status, headers, content = 500, [], b""
        self.send_response(status)
        lengths = [value for name, value in headers if name.lower() == "content-length"]
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "server", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", lengths[0] if self.command == "HEAD" and lengths else str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on

    def log_message(self, *given) -> None:
        pass


def test_an_object_store_that_fails_and_is_slow(start, bucket, inputs, moments, inject):
    _, uri = bucket
    direct = uri("out")
    endpoint = urllib.parse.urlsplit(urllib.parse.parse_qs(urllib.parse.urlsplit(direct).query)["endpoint_override"][0])
    Unreliable.store, Unreliable.moments, Unreliable.faults = endpoint.netloc, moments, 0
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Unreliable)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        out = direct.replace(endpoint.netloc, f"127.0.0.1:{proxy.server_address[1]}")
        job, place = start(old=False, out=out), storage.join(direct, f"date={DATE}")
        for path in inputs.old.rglob("*.*"):
            storage.write_bytes(storage.join(direct, path.relative_to(inputs.old).as_posix()), path.read_bytes())
        old = storage.read_json(storage.join(place, "manifest.json"))
        for share in (0.7, 0.4, 0.1, 0.02):
            Unreliable.share, before = share, Unreliable.faults
            job.start()
            code = job.end(600)
            inject(f"object store: {Unreliable.faults - before} answers late or wrong, exit {code}")
            Unreliable.share = 0.0
            found = storage.read_json(storage.join(place, "manifest.json"))
            parts = [storage.read_bytes(storage.join(place, file["name"])) for file in found["files"]]
            assert [len(part) for part in parts] == [file["bytes"] for file in found["files"]]
            if code == 0:
                break
            assert code == 1
            assert job.errors.splitlines()[-1].startswith("error: ")
            if found != old:
                break  # published, though no answer came
        else:
            job.start()
            assert job.end() == 0, job.errors[-3000:]
        content = storage.read_json(storage.join(place, "manifest.json"))
        assert content["key"] != old["key"]
        parts = [storage.read_bytes(storage.join(place, file["name"])) for file in content["files"]]
        assert hashlib.sha256(b"".join(parts)).hexdigest() == inputs.expected["new"]
    finally:
        proxy.shutdown()
        proxy.server_close()
