"""The simulate job as a command."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments, cwd):
    return subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "simulate.py"), *arguments],
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
    )


def test_writes_the_log_and_says_so_in_the_last_line(tmp_path):
    done = run("--sessions", "200", "--items", "30", "--out", "log", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    table = pq.read_table(tmp_path / "log" / "part-00000.parquet")
    assert table.schema.names == ["SessionId", "ItemId", "Time"]
    assert result == {"sessions": 200, "items": 30, "clicks": table.num_rows, "files": 1, "out": "log"}


def test_an_impossible_setting_is_named(tmp_path):
    done = run("--items", "1", "--out", "log", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: --items")
