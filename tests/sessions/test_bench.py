"""The scripts that prepare is measured against give what prepare gives, and the comparison sees where they do not."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from gru4rec import cli, config
from gru4rec.sessions import bench, bench_scripts
from gru4rec.sessions.prepare import prepare
from gru4rec.sessions.prepared import Prepared


def write_hard_log(path):
    """Sessions in pieces, in no order, many of them with one start, and clicks of a session with one time."""
    random = np.random.default_rng(5)
    count = 3000
    session, item = random.integers(0, 800, count), random.integers(0, 300, count) ** 2 // 900
    time = np.datetime64("2025-03-01T00:00:00.000") + (session % 40 * 7200 + random.integers(0, 5, count)) * 1000
    lines = [f"{s},{t}Z,{i},0\n" for s, t, i in zip(session, time, item, strict=True)]
    path.write_text("".join(lines))


@pytest.fixture
def ours(tmp_path, ray_local):
    log, out = tmp_path / "clicks.dat", tmp_path / "prepared"
    write_hard_log(log)
    settings = {"clicks": (str(log),), "out": str(out), "format": "yoochoose", "report": False}
    prepare(cli.check(config.Prepare, settings))
    return log, out


@pytest.mark.ray
@pytest.mark.parametrize("name", bench_scripts.SCRIPTS)
def test_scripts_prepare_what_prepare_does(ours, tmp_path, name):
    if not bench.installed(name):
        pytest.skip(f"{name} is not installed (pip install -e '.[bench]')")
    log, out = ours
    bench_scripts.SCRIPTS[name](str(log), tmp_path / name)
    assert bench.same(out, tmp_path / name) == ""
    found = Prepared(str(out))
    assert found.summary["splits"]["test"]["sessions"] > 10
    groups = pq.ParquetFile(tmp_path / name / "train" / "part-00000.parquet").metadata.num_row_groups
    assert groups == len(found.shards("train"))


@pytest.mark.ray
def test_comparison_sees_every_difference(ours, tmp_path):
    _, out = ours
    assert bench.same(out, out) == ""
    table = pq.read_table(out / "test" / "part-00000.parquet")
    swapped = np.arange(len(table))
    swapped[[0, -1]] = swapped[[-1, 0]]
    changes = {
        "order": table.take(swapped),
        "missing": table.slice(1),
        "start": table.set_column(1, "start", table["start"].take(swapped)),
    }
    for name, changed in changes.items():
        other = shutil.copytree(out, tmp_path / name)
        pq.write_table(changed, other / "test" / "part-00000.parquet")
        assert bench.same(out, other) == "test"
    items = pq.read_table(out / "items.parquet")
    pq.write_table(items.slice(1), tmp_path / "order" / "items.parquet")
    assert bench.same(out, tmp_path / "order") == "items.parquet"


def test_linear_compares_time_a_click_of_the_largest_and_the_smallest_log():
    rows = [
        {"way": way, "clicks": clicks, "seconds": {"median": seconds}}
        for way, clicks, seconds in (
            ("prepare", 10, 2.0),
            ("prepare", 100, 25.0),
            ("pandas", 10, 4.0),
            ("pandas", 100, 20),
        )
    ]
    assert bench._linear(rows) == {"prepare": 1.25, "pandas": 0.5}
    assert bench._linear(rows[::2]) == {}


def test_log_has_about_as_many_clicks_as_wanted(tmp_path):
    about = bench.write_log(tmp_path / "clicks.dat", 20_000)
    lines = (tmp_path / "clicks.dat").read_text().splitlines()
    assert about["clicks"] == len(lines) == pytest.approx(20_000, rel=0.1)
    assert about["bytes"] == (tmp_path / "clicks.dat").stat().st_size
    session, time, item, category = lines[0].split(",")
    assert (session, category, len(time), time[-1]) == ("0", "0", 24, "Z")
    assert 0 <= int(item) < about["items"]
