"""The result depends on the rows alone: not on files, their order, partitions or CPUs."""

import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gru4rec import cli, config
from gru4rec.sessions import ingest, layout, sources
from gru4rec.sessions.prepare import prepare
from gru4rec.sessions.prepared import Prepared


@pytest.fixture
def small_parts(monkeypatch):
    """Many files and reads, as of a log of millions."""
    monkeypatch.setattr(layout, "CLICKS_PER_FILE", 300)
    pieces = sources.pieces
    monkeypatch.setattr(ingest.sources, "pieces", lambda files: pieces(files, 3000))


def log(unique):
    """Interleaved sessions; with `unique`, no two clicks have one time, otherwise all of an hour have."""
    random = np.random.default_rng(11)
    rows = []
    for session in random.permutation(400).tolist():
        start = int(random.integers(0, 5 * 86_400))
        rows += [
            (session, int(random.integers(0, 60) ** 1.2), start + 30 * step) for step in range(random.integers(1, 9))
        ]
    if not unique:
        return [(session, item, time // 3600 * 3_600_000_000) for session, item, time in rows]
    apart = random.permutation(len(rows)).tolist()
    return [
        (session, item, time * 1_000_000 + 1000 * ms) for (session, item, time), ms in zip(rows, apart, strict=True)
    ]


def fingerprint(out, *paths, **given):
    prepare(
        cli.check(
            config.Prepare,
            {"clicks": paths, "out": str(out), "valid_days": 1, "shards": 9, "time_unit": "us", "force": True} | given,
        )
    )
    found = Prepared(str(out))
    digests = [[file["digest"] for file in split["files"]] for split in found.summary["splits"].values()]
    assert len(digests[0]) > 1
    return found.fingerprint, digests


def text(rows):
    return "SessionId,ItemId,Time\n" + "".join(f"{session},{item},{time}\n" for session, item, time in rows)


def parquet(rows, path, row_group):
    session, item, time = (np.array(column) for column in zip(*rows, strict=True))
    pq.write_table(pa.table({"ItemId": item, "Time": time, "SessionId": session}), path, row_group_size=row_group)


@pytest.mark.ray
def test_shuffled_and_cut_anew(tmp_path, ray_local, small_parts):
    rows = log(unique=True)
    (tmp_path / "one.csv").write_text(text(rows))
    one = fingerprint(tmp_path / "out", str(tmp_path / "one.csv"), partitions=1)
    random = np.random.default_rng(2)
    for files, partitions in ((7, 3), (2, 1)):
        folder = tmp_path / f"in-{files}"
        folder.mkdir()
        order = random.permutation(len(rows))
        for number, part in enumerate(np.array_split(order, files)):
            mine = [rows[place] for place in part]
            if number % 2:
                parquet(mine, folder / f"{number}.parquet", 50)
            else:
                (folder / f"{number}.csv").write_text(text(mine))
        assert fingerprint(tmp_path / "out", str(folder), partitions=partitions) == one


@pytest.mark.ray
def test_among_clicks_of_one_time_names_of_files_tell(tmp_path, ray_local, small_parts):
    """In order of (time, file, row): not of how the files are given, read or shared out."""
    rows = log(unique=False)
    names = []
    for number, part in enumerate(np.array_split(np.arange(len(rows)), 3)):
        names.append(str(tmp_path / f"{number}.csv"))
        (tmp_path / f"{number}.csv").write_text(text([rows[place] for place in part]))
    one = fingerprint(tmp_path / "out", *names, partitions=1)
    assert fingerprint(tmp_path / "out", *names[::-1], partitions=4) == one
    (tmp_path / "all.csv").write_text(text(rows))
    assert fingerprint(tmp_path / "out", str(tmp_path / "all.csv"), partitions=2) == one
    (tmp_path / "all.csv").write_text(text(rows[::-1]))
    assert fingerprint(tmp_path / "out", str(tmp_path / "all.csv")) != one


@pytest.mark.ray
def test_one_cpu(tmp_path, ray_local, small_parts):
    rows = log(unique=False)
    (tmp_path / "log.csv").write_text(text(rows))
    given = {"clicks": [str(tmp_path / "log.csv")], "partitions": 3, "time_unit": "us"}
    prepare(cli.check(config.Prepare, {**given, "out": str(tmp_path / "here")}))
    code = (
        "import ray, sys\n"
        "from gru4rec import cli, config\n"
        "from gru4rec.sessions import layout\n"
        "from gru4rec.sessions.prepare import prepare\n"
        f"layout.CLICKS_PER_FILE = {layout.CLICKS_PER_FILE}\n"
        f"ray.init('local', num_cpus=1, object_store_memory=100_000_000, include_dashboard=False)\n"
        f"prepare(cli.check(config.Prepare, {given | {'out': str(tmp_path / 'there')}!r}))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    here, there = Prepared(str(tmp_path / "here")), Prepared(str(tmp_path / "there"))
    assert here.fingerprint == there.fingerprint
    assert here.summary["splits"] == there.summary["splits"]
    assert len(here.files("train")) > 1
