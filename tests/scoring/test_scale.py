"""Five million sessions on two CPUs: within 4 GiB over all processes, and no more at the end than early on."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gru4rec.config import Hyperparameters
from gru4rec.model.network import initialise
from gru4rec.peak_memory import Sampler, own_memory
from gru4rec.tracking import folder

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads the memory of processes in /proc"),
]

ROOT = Path(__file__).resolve().parents[2]
SESSIONS, FILES, ITEMS = 5_000_000, 20, 3_000
GIB = 2**30


@pytest.fixture
def given(tmp_path):
    """A folder of sessions and a model."""
    drawn = np.random.default_rng(1)
    (tmp_path / "in").mkdir()
    rows = SESSIONS // FILES
    for number in range(FILES):
        lengths = drawn.integers(1, 9, rows)
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
        clicks = np.minimum(drawn.zipf(1.3, lengths.sum()), ITEMS) - 1
        items = pa.ListArray.from_arrays(offsets, pa.array(clicks))
        table = pa.table({"session_id": np.arange(number * rows, (number + 1) * rows), "items": items})
        pq.write_table(table, tmp_path / "in" / f"{number:02d}.parquet")
    model = initialise(Hyperparameters(layers=(100,)), ITEMS)
    items = {"item_id": range(ITEMS), "item_index": pa.array(range(ITEMS), pa.int32()), "support": [1] * ITEMS}
    folder.save(model, pa.table(items), str(tmp_path / "model"))
    return tmp_path


def test_five_million_sessions_within_4_gib(given, record_property):
    command = [sys.executable, str(ROOT / "jobs" / "score.py"), "--model", "model", "--sessions", "in", "--out", "out"]
    command += ["--date", "2026-11-22", "--experiment", ""]
    driver = []
    with open(given / "stdout", "w") as output, open(given / "stderr", "w") as errors:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, cwd=given, env=env, stdout=output, stderr=errors)
        with Sampler(process.pid, 0.5) as memory:
            while process.poll() is None:
                driver.append(own_memory(process.pid))
                time.sleep(0.5)
    assert process.returncode == 0, (given / "stderr").read_text()[-3000:]
    result = json.loads((given / "stdout").read_text().splitlines()[-1])
    assert result["sessions_in"] == result["sessions_out"] == result["distinct_sessions"] == SESSIONS
    totals = [sample.total for sample in memory.samples]
    fifths = [max(part) for part in np.array_split(totals, 5)]
    of_driver = [max(part) for part in np.array_split(driver, 5)]
    shown = f"{result['seconds']:.0f} s; GiB by fifths of the time, at most: " + ", ".join(
        f"{all_ / GIB:.2f} (driver {own / GIB:.2f})" for all_, own in zip(fifths, of_driver, strict=True)
    )
    print(shown)
    record_property("memory", shown)
    assert max(totals) < 4 * GIB, shown
    assert max(fifths[2:]) < 1.25 * fifths[1], shown
    assert max(of_driver[2:4]) < 1.25 * of_driver[1], shown
    assert of_driver[4] < GIB, shown  # it counts distinct sessions, of which it holds five million at most
