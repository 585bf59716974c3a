"""What can go wrong while prepare runs: the output is the old one or the new one, whole, and the next run succeeds."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from gru4rec import cli, config, storage
from gru4rec.errors import GRU4RecError
from gru4rec.sessions import checks, ingest, sources, write
from gru4rec.sessions.prepare import prepare
from gru4rec.sessions.prepared import SPLITS, Prepared


def settings(**given):
    return cli.check(config.Prepare, given)


def clicks(path, sessions=200, bad=3):
    """A log with some rows that cannot be read; no two clicks have one time."""
    random = np.random.default_rng(1)
    lines = []
    for session in range(sessions):
        start = session * 4000
        lines += [f"{session},{random.integers(0, 30)},{start + 7 * step}" for step in range(random.integers(2, 9))]
    for number in range(bad):
        lines.insert(len(lines) * (number + 1) // (bad + 1), f"bad{number}")
    path.write_text("SessionId,ItemId,Time\n" + "\n".join(lines) + "\n")
    return len(lines)


def check_whole(out):
    found = Prepared(str(out))
    for split in SPLITS:
        found.verify(split)
    found.verify_items()
    checks.check(found.folder, found.summary)
    return found


@pytest.mark.ray
def test_a_reader_task_that_is_killed_is_run_again_and_counts_once(tmp_path, ray_local, monkeypatch):
    rows = clicks(tmp_path / "log.csv")
    given = {"clicks": (str(tmp_path / "log.csv"),), "partitions": 2}
    monkeypatch.setattr(sources, "READ_BYTES", 4000)
    read, killed = ingest._read, str(tmp_path / "killed")

    def dies_once(batch, **rest):
        found = read(batch, **rest)
        if batch["read"][0].as_py() == 1 and not os.path.exists(killed):
            open(killed, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)  # when all is written but nothing handed on
        return found

    pieces = sources.pieces
    monkeypatch.setattr(sources, "pieces", lambda files: pieces(files, 4000))
    monkeypatch.setattr(ingest, "_read", dies_once)
    result = prepare(settings(out=str(tmp_path / "killed-once"), **given))
    assert os.path.exists(killed)
    assert (result["rows_in"], result["rejected"]) == (rows, 3)
    found = check_whole(tmp_path / "killed-once")
    folders = {"left_out", "rejected", "test", "train", "valid"}
    assert set(os.listdir(found.folder)) == folders | {"files.parquet", "items.parquet", "prepare.json", "report.html"}
    shown = pq.read_table(f"{found.folder}/rejected").to_pylist()
    lines = (tmp_path / "log.csv").read_text().split("\n")
    assert [(row["row"], row["text"]) for row in shown] == [
        (number + 1, line) for number, line in enumerate(lines) if line.startswith("bad")
    ]
    monkeypatch.undo()
    prepare(settings(out=str(tmp_path / "undisturbed"), **given))
    assert Prepared(str(tmp_path / "undisturbed")).fingerprint == found.fingerprint


@pytest.mark.ray
def test_a_failed_check_leaves_the_earlier_output(tmp_path, ray_local, monkeypatch, capsys):
    clicks(tmp_path / "log.csv")
    arguments = ["--clicks", str(tmp_path / "log.csv"), "--out", str(tmp_path / "out")]
    assert cli.run(config.Prepare, prepare, arguments) == 0
    before = check_whole(tmp_path / "out").fingerprint
    write_items = write.write_items

    def miscounts(firsts, staging):
        place = firsts.schema.get_field_index("support")
        write_items(firsts.set_column(place, "support", [firsts["support"].to_numpy()[::-1]]), staging)

    monkeypatch.setattr(write, "write_items", miscounts)
    capsys.readouterr()
    assert cli.run(config.Prepare, prepare, [*arguments, "--test-days", "2"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"error: a check of the prepared data failed: items\.parquet: row \d+: support is not", error)
    assert check_whole(tmp_path / "out").fingerprint == before
    assert sorted(os.listdir(tmp_path)) == ["log.csv", "out"]


@pytest.mark.ray
def test_a_rerun_does_nothing_and_says_so(tmp_path, ray_local, capsys):
    log, out = tmp_path / "log.csv", tmp_path / "out"
    clicks(log)
    given = {"clicks": (str(log),), "out": str(out)}
    first = prepare(settings(**given))
    assert first["unchanged"] is False
    made = storage.stamp(f"{out}/prepare.json")
    capsys.readouterr()
    again = prepare(settings(**given, partitions=3))  # which changes nothing in the folder
    assert again == {**first, "unchanged": True}
    assert "is already made of these files with these settings, nothing to do (--force" in capsys.readouterr().err
    assert storage.stamp(f"{out}/prepare.json") == made
    forced = prepare(settings(**given, force=True))
    assert forced == first
    assert storage.stamp(f"{out}/prepare.json") != made
    (next((out / "train").iterdir())).unlink()
    assert prepare(settings(**given))["unchanged"] is False
    check_whole(out)
    damaged = next((out / "train").iterdir())
    flip_in_page(damaged)
    capsys.readouterr()
    assert prepare(settings(**given)) == first
    assert re.search(rf"^{damaged}: is damaged: .*: preparing again$", capsys.readouterr().err, re.MULTILINE)
    check_whole(out)


def flip_in_page(path):
    """Change a byte of the item index of clicks; the file's footer stays whole."""
    group = pq.ParquetFile(path).metadata.row_group(0)
    column = next(group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema[:5] == "items")
    content = bytearray(path.read_bytes())
    content[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.ray
def test_a_full_disk(tmp_path, small_disk, ray_local, capfd):
    clicks(tmp_path / "log.csv")
    arguments = ["--clicks", str(tmp_path / "log.csv"), "--out", str(small_disk / "out"), "--shards", "4"]
    assert cli.run(config.Prepare, prepare, arguments) == 0
    before = check_whole(small_disk / "out").fingerprint
    clicks(tmp_path / "log.csv", sessions=30_000, bad=0)
    capfd.readouterr()
    assert cli.run(config.Prepare, prepare, arguments) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: no space is left on a device while writing --out {small_disk}/out: free some")
    assert check_whole(small_disk / "out").fingerprint == before
    assert os.listdir(small_disk) == ["out"]
    subprocess.run(["mount", "-o", "remount,size=30m", small_disk], check=True)
    assert cli.run(config.Prepare, prepare, arguments) == 0
    assert check_whole(small_disk / "out").fingerprint != before


KILLED = textwrap.dedent("""
    import os, signal, sys
    from gru4rec import cli, config, storage
    from gru4rec.sessions.prepare import prepare
    where = sys.argv.pop(1)
    exchange = storage._exchange
    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)
    def dies_after(*given):
        exchange(*given)
        die()
    if where == "before":
        storage.publish = die
    elif where == "after":
        storage._exchange = dies_after
    cli.run(config.Prepare, prepare, sys.argv[1:])
""")


@pytest.mark.ray
@pytest.mark.parametrize("where", ["before", "after"])
def test_killed_at_the_moment_of_publishing(tmp_path, where, ray_local):
    """Right before the new folder takes its place, and right after, when the old one is still to be deleted."""
    log, out = tmp_path / "log.csv", tmp_path / "out"
    clicks(log)
    given = {"clicks": (str(log),), "out": str(out)}
    prepare(settings(**given))
    old = Prepared(str(out)).fingerprint
    clicks(log, sessions=300)
    arguments = ["--clicks", str(log), "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    job = subprocess.run([sys.executable, "-c", KILLED, where, *arguments], env=environment, capture_output=True)
    assert job.returncode == -signal.SIGKILL, job.stderr.decode()
    left = [name for name in os.listdir(tmp_path) if name.endswith(".staging")]
    assert len(left) == 1
    found = check_whole(out)
    assert (found.fingerprint == old) == (where == "before")
    # Until the killed job's own processes have gone, they may still write.
    deadline = time.monotonic() + 60
    result = prepare(settings(**given))
    while sorted(os.listdir(tmp_path)) != ["log.csv", "out"] and time.monotonic() < deadline:
        time.sleep(1)
        prepare(settings(**given))
    assert sorted(os.listdir(tmp_path)) == ["log.csv", "out"]
    assert result["unchanged"] == (where == "after")
    assert check_whole(out).fingerprint != old


def test_errors_that_are_no_full_disk_stay_what_they_are(tmp_path, monkeypatch):
    clicks(tmp_path / "log.csv")

    def fails(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("gru4rec.sessions.staging.staged", fails)
    with pytest.raises(OSError, match="Input/output") as error:
        prepare(settings(clicks=(str(tmp_path / "log.csv"),), out=str(tmp_path / "out")))
    assert not isinstance(error.value, GRU4RecError)
