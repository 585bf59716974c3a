"""What the README tells readers of the lists to write, run as it stands there."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gru4rec.config import Hyperparameters, Score
from gru4rec.model.network import initialise
from gru4rec.scoring import batch
from gru4rec.tracking.folder import LoadedModel

README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture
def here(tmp_path):
    """A folder with a result of two versions; the lists of that which counts, by session."""
    ids = pa.array(range(100, 130))
    items = pa.table({"item_id": ids, "item_index": pa.array(range(30), pa.int32()), "support": [1] * 30})
    pq.write_table(pa.table({"session_id": ["a", "b", "c"], "items": [[100, 101], [5], [129]]}), tmp_path / "s.parquet")
    given = {"sessions": str(tmp_path / "s.parquet"), "out": str(tmp_path / "recommendations"), "date": "2026-11-22"}
    settings = Score(model="m", top_k=7, max_fallback_share=1.0, **given)
    for version in ("1", "2"):
        model = initialise(Hyperparameters(layers=(4,), seed=int(version)), 30)
        done = batch.run(batch.find(settings, LoadedModel(model, items, {}), version, "m"))
    (file,) = done.content["files"]
    table = pq.read_table(tmp_path / "recommendations" / "date=2026-11-22" / file["name"])
    return tmp_path, dict(zip(table["session_id"].to_pylist(), table["items"].to_pylist(), strict=True))


def block(word: str) -> str:
    """The README's code for readers that has the word in it."""
    text = README.read_text().partition("### Reading the lists")[2]
    (found,) = [code for code in re.findall(r"```python\n(.*?)```", text, re.S) if word in code]
    assert len(found.splitlines()) <= 10
    return found


def run(folder: Path, code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_with_pandas(here):
    folder, lists = here
    printed = run(folder, block("pandas") + "\nprint(lists['items'].map(lambda row: row.tolist()).to_dict())")
    assert printed.splitlines()[-1] == str(lists)


def test_as_key_and_value(here):
    folder, lists = here
    code = block("dbm") + "\nwith dbm.open('lists') as store:\n    print(store['a'].decode(), len(store.keys()))"
    assert run(folder, code) == f"{lists['a']} 3\n"


@pytest.mark.skipif(importlib.util.find_spec("duckdb") is None, reason="duckdb is not installed")
def test_with_duckdb(here):
    folder, lists = here
    code = block("duckdb") + "\nprint(sorted(lists.project('session_id, items').fetchall()))"
    assert run(folder, code).splitlines()[-1] == str(sorted(lists.items()))


@pytest.mark.skipif(importlib.util.find_spec("duckdb") is None, reason="duckdb is not installed")
def test_sessions_from_clicks(tmp_path):
    (tmp_path / "clicks").mkdir()
    rows = {"SessionId": [7, 8, 7], "ItemId": [100, 101, 102], "Time": [3, 2, 1]}
    pq.write_table(pa.table(rows), tmp_path / "clicks" / "a.parquet")
    (code,) = re.findall(r"```python\n(import duckdb.*?copy.*?)```", README.read_text(), re.S)
    run(tmp_path, code)
    found = pq.read_table(tmp_path / "sessions.parquet").to_pylist()
    assert sorted((row["session_id"], row["items"]) for row in found) == [(7, [102, 100]), (8, [101])]
