"""The batch job on a real Ray: what it publishes is what one process would have computed, or nothing."""

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gru4rec.config import Hyperparameters, Score
from gru4rec.errors import InputError
from gru4rec.model.network import initialise
from gru4rec.scoring import source
from gru4rec.scoring.manifest import FORMAT
from gru4rec.scoring.recommend import recommend
from gru4rec.sessions.catalogue import catalogue
from gru4rec.tracking.folder import LoadedModel

pytestmark = pytest.mark.ray

V = 300
MODEL = initialise(Hyperparameters(layers=(8,), seed=5), V)
IDS = [f"item-{i}" for i in range(V)]
ITEMS = pa.table({"item_id": IDS, "item_index": pa.array(range(V), pa.int32()), "support": list(range(V, 0, -1))})
LOADED = LoadedModel(MODEL, ITEMS, {"data_fingerprint": "abc"})


def sessions(count, seed=0):
    drawn = np.random.default_rng(seed)
    rows = [[IDS[i] for i in drawn.integers(0, V, drawn.integers(0, 6))] for _ in range(count)]
    rows[0] = ["nothing known"]
    return pa.table({"session_id": [f"s{i}" for i in range(count)], "items": pa.array(rows, pa.list_(pa.string()))})


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(source, "SMALLEST_PIECE", 40)


def run(settings):
    from gru4rec.scoring import batch

    found = batch.find(settings, LOADED)
    return batch.run(settings, found, LOADED, "3", "models:/gru4rec/3")


@pytest.fixture
def settings(tmp_path):
    return Score(model="m", sessions=str(tmp_path / "in"), out=str(tmp_path / "out"), top_k=7)


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "in").mkdir()
    table = sessions(250)
    pq.write_table(table.slice(0, 90), tmp_path / "in" / "a.parquet", row_group_size=33)
    pq.write_table(table.slice(90), tmp_path / "in" / "b.parquet")
    return table


def published(tmp_path):
    """The rows in the order of the manifest's files, and the manifest."""
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    parts = [pq.read_table(tmp_path / "out" / entry["name"]) for entry in manifest["files"]]
    assert [len(part) for part in parts] == [entry["rows"] for entry in manifest["files"]]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "manifest.json",
        *(entry["name"] for entry in manifest["files"]),
    }
    return pa.concat_tables(parts), manifest


def assert_same(found, expected):
    for name in ("session_id", "items", "fallback", "unknown_clicks"):
        assert found[name].to_pylist() == expected[name].to_pylist()
    found_scores, expected_scores = (np.concatenate(t["scores"].to_pylist()) for t in (found, expected))
    np.testing.assert_allclose(found_scores, expected_scores, rtol=1e-5, atol=1e-6)


def test_equals_one_process_in_the_order_of_the_input(ray_local, tmp_path, settings, raw, small_pieces, monkeypatch):
    from gru4rec.scoring import batch

    monkeypatch.setattr(batch, "VERIFY_HERE", 0)
    result = run(replace(settings, exclude_seen=True))
    found, manifest = published(tmp_path)
    assert_same(found, recommend(MODEL, catalogue(ITEMS), raw, 7, True))
    assert len(manifest["files"]) == 7
    fallback = sum(not set(row) & set(IDS) for row in raw["items"].to_pylist())
    expected = {"sessions_in": 250, "sessions_out": 250, "distinct_sessions": 250, "fallback": fallback}
    assert expected.items() <= result.items()
    assert result["sessions_per_second"] > 0
    assert manifest["model"] == {"uri": "models:/gru4rec/3", "version": "3", "data_fingerprint": "abc"}
    assert manifest["settings"] == {"top_k": 7, "exclude_seen": True}
    assert manifest["totals"]["unknown_clicks"] == result["unknown_clicks"] == 1
    assert not list(tmp_path.glob("*.staging"))


def test_a_failed_run_leaves_the_earlier_result_and_names_the_file(ray_local, tmp_path, settings, raw, small_pieces):
    (tmp_path / "out").mkdir()
    earlier = json.dumps({"format": FORMAT, "files": []})
    (tmp_path / "out" / "manifest.json").write_text(earlier)
    path = tmp_path / "in" / "b.parquet"
    content = bytearray(path.read_bytes())
    content[4:200] = b"\xff" * 196
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"b\.parquet: row group 0 cannot be read"):
        run(settings)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.json"]
    assert (tmp_path / "out" / "manifest.json").read_text() == earlier
    assert not list(tmp_path.glob("*.staging"))


def own_actor():
    """The process of a scoring actor that this process started, if there is one."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"Scorer" in (folder / "cmdline").read_bytes():
                ancestor = int(folder.name)
                while ancestor > 1:
                    status = Path("/proc", str(ancestor), "status").read_text()
                    ancestor = int(status.partition("PPid:")[2].split()[0])
                    if ancestor == os.getpid():
                        return int(folder.name)
        except OSError:  # it ended meanwhile
            continue
    return None


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="finds the actor's process in /proc")
def test_a_killed_actor_changes_nothing(ray_local, tmp_path, settings, small_pieces, monkeypatch):
    monkeypatch.setattr(source, "SMALLEST_PIECE", 500)
    monkeypatch.setattr(source, "PIECES", 10_000)
    (tmp_path / "in").mkdir()
    table = sessions(16_000)
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    killed = []

    def kill():
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            staged = next(iter(tmp_path.glob("*.staging")), None)
            if staged and len(list(staged.glob("*.parquet"))) >= 3:
                actor = own_actor()
                if actor:
                    os.kill(actor, signal.SIGKILL)
                    killed.append(actor)
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    result = run(settings)
    killer.join()
    assert killed
    assert result["sessions_out"] == 16_000
    found, _ = published(tmp_path)
    assert_same(found, recommend(MODEL, catalogue(ITEMS), table, 7))


def test_no_sessions_give_an_empty_result(ray_local, tmp_path, settings):
    (tmp_path / "in").mkdir()
    pq.write_table(sessions(1).slice(1), tmp_path / "in" / "a.parquet")
    result = run(settings)
    found, manifest = published(tmp_path)
    assert found.schema.names == ["session_id", "items", "scores", "fallback", "unknown_clicks"]
    assert found.schema.field("session_id").type == pa.string()
    assert found.schema.field("items").type == pa.list_(pa.string())
    assert (result["sessions_in"], result["sessions_out"], result["sessions_per_second"]) == (0, 0, 0)
    assert manifest["totals"]["sessions"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gpus_per_actor": 1.0}, "need 1 GPUs, Ray has 0"),
        ({"actors": 3}, "need 3 CPUs, Ray has 2"),
        ({"threads": 5}, "need 5 CPUs, Ray has 2"),
    ],
)
def test_what_this_machine_does_not_have_is_an_error_not_a_hang(ray_local, settings, raw, monkeypatch, change, message):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(InputError, match=message):
        run(replace(settings, **change))
