"""The bench runs and reports ratios; how large they are is not for a test to say."""

import importlib.util
import json
from pathlib import Path

from gru4rec import cli, config


def test_bench_of_training_reports_engine_plain_and_floor(capsys):
    path = Path(__file__).resolve().parents[2] / "jobs" / "bench.py"
    spec = importlib.util.spec_from_file_location("bench_job", path)
    job = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(job)
    arguments = ["--configurations", "lanes-32", "--seconds", "0.05", "--repeats", "2"]
    assert cli.run(config.Bench, job.run, arguments) == 0
    shown = capsys.readouterr()
    (row,) = json.loads(shown.out.splitlines()[-1])["rows"]
    assert row["engine"]["min"] <= row["engine"]["median"] <= row["engine"]["max"]
    assert row["engine_to_plain"] > 0
    assert row["engine_to_floor"] > 0
    assert "| lanes-32 |" in shown.err
