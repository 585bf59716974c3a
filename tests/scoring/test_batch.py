"""One scoring run: what counts afterwards is what one process would have computed, or what counted before."""

import contextlib
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

from gru4rec import lock, storage
from gru4rec.config import Hyperparameters, Score
from gru4rec.errors import GRU4RecError, InputError
from gru4rec.model.network import initialise
from gru4rec.scoring import batch, parts, scorer, source
from gru4rec.scoring.recommend import lists, recommend
from gru4rec.sessions.catalogue import catalogue
from gru4rec.tracking.folder import LoadedModel

V = 300
MODEL = initialise(Hyperparameters(layers=(8,), seed=5), V)
IDS = [f"item-{i}" for i in range(V)]
ITEMS = pa.table({"item_id": IDS, "item_index": pa.array(range(V), pa.int32()), "support": list(range(V, 0, -1))})
LOADED = LoadedModel(MODEL, ITEMS, {"data_fingerprint": "abc"})
OTHER = LoadedModel(initialise(Hyperparameters(layers=(8,), seed=6), V), ITEMS, {})


def sessions(count, seed=0):
    drawn = np.random.default_rng(seed)
    rows = [[IDS[i] for i in drawn.integers(0, V, drawn.integers(0, 6))] for _ in range(count)]
    rows[0] = ["nothing known"]
    return pa.table({"session_id": [f"s{i}" for i in range(count)], "items": pa.array(rows, pa.list_(pa.string()))})


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(source, "SMALLEST_PIECE", 40)


@pytest.fixture
def here(small_pieces, monkeypatch):
    """Several pieces, all in this process."""
    monkeypatch.setattr(batch, "PIECES_HERE", 1000)


def run(settings, loaded=LOADED, version="3"):
    return batch.run(batch.find(settings, loaded, version, f"models:/gru4rec/{version}"))


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


def published(out):
    """The rows in the order of the manifest's files, and the manifest."""
    content = json.loads((out / "manifest.json").read_text())
    found = [pq.read_table(out / entry["name"]) for entry in content["files"]]
    assert [len(part) for part in found] == [entry["rows"] for entry in content["files"]]
    folder = out / content["result"]
    assert (folder / "manifest.json").read_bytes() == (out / "manifest.json").read_bytes()
    names = {"manifest.json", "exposure.parquet", *(Path(entry["name"]).name for entry in content["files"])}
    assert {path.name for path in folder.iterdir()} == names
    exposure = pq.read_table(out / content["exposure"]["name"])
    tables = pa.concat_tables(found)
    listed = [item for row in tables["items"].to_pylist() for item in row]
    assert dict(zip(*exposure.to_pydict().values(), strict=True)) == {item: listed.count(item) for item in set(listed)}
    return tables, content


def bytes_of(out):
    content = json.loads((out / "manifest.json").read_text())
    return [(out / entry["name"]).read_bytes() for entry in [*content["files"], content["exposure"]]]


def assert_same(found, expected):
    for name in ("session_id", "items", "fallback", "unknown_clicks"):
        assert found[name].to_pylist() == expected[name].to_pylist()
    found_scores, expected_scores = (np.concatenate(t["scores"].to_pylist()) for t in (found, expected))
    np.testing.assert_allclose(found_scores, expected_scores, rtol=1e-5, atol=1e-6)


@pytest.mark.ray
def test_equals_one_process_in_the_order_of_the_input(ray_local, tmp_path, settings, raw, small_pieces, monkeypatch):
    monkeypatch.setattr(batch, "DISTINCT_HERE", 0)
    done = run(replace(settings, exclude_seen=True))
    found, content = published(tmp_path / "out")
    assert_same(found, recommend(MODEL, catalogue(ITEMS), raw, 7, True))
    assert len(content["files"]) == 7
    fallback = sum(not set(row) & set(IDS) for row in raw["items"].to_pylist())
    assert (done.scored, done.kept, done.unchanged) == (250, 0, False)
    totals = {"sessions": 250, "rejected": 0, "distinct_sessions": 250, "fallback": fallback, "unknown_clicks": 1}
    assert totals.items() <= content["totals"].items()
    assert content["model"] == {"uri": "models:/gru4rec/3", "version": "3", "data_fingerprint": "abc"}
    assert {"top_k": 7, "exclude_seen": True}.items() <= content["settings"].items()
    assert content["input"]["sessions"] == 250
    assert all(check["passed"] for check in content["checks"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".lock", "manifest.json", content["result"]]
    assert content["result"] == f"v3-{content['key'][:8]}"

    monkeypatch.setattr(batch, "PIECES_HERE", 1000)
    run(replace(settings, exclude_seen=True, out=str(tmp_path / "again")))
    assert bytes_of(tmp_path / "again") == bytes_of(tmp_path / "out")


def test_run_again_it_does_nothing(tmp_path, settings, raw, here, monkeypatch):
    first = run(settings)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    monkeypatch.setattr(scorer, "Scorer", None)
    again = run(settings)
    assert again.unchanged
    assert again.content == first.content
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_a_date_is_a_folder_and_another_version_a_new_result(tmp_path, settings, raw, here):
    nightly = replace(settings, date="2026-11-22", keep=2, min_overlap=0)
    out = tmp_path / "out" / "date=2026-11-22"
    first = run(nightly).content["result"]
    second = run(nightly, OTHER, "4").content["result"]
    assert second.startswith("v4-")
    assert published(out)[1]["result"] == second
    assert sorted(path.name for path in out.iterdir()) == sorted([".lock", "manifest.json", first, second])
    back = run(nightly)  # the version before, whose parts are there
    assert (back.kept, back.scored, back.content["result"]) == (7, 0, first)
    third = run(replace(nightly, top_k=3), OTHER, "4").content["result"]
    assert sorted(path.name for path in out.iterdir()) == sorted([".lock", "manifest.json", first, third])
    run(replace(nightly, date="2026-11-23"))
    assert published(out)[1]["result"] == third


def test_the_same_model_as_another_version_is_another_result(tmp_path, settings, raw, here):
    first = run(settings, version="3").content["result"]
    again = run(settings, version="4")
    assert not again.unchanged
    assert again.content["model"]["version"] == "4"
    assert published(tmp_path / "out")[1]["result"] == again.content["result"] != first
    assert run(settings, version="4").unchanged


def test_what_the_next_night_reads_is_made_again_where_it_is_lost(tmp_path, settings, raw, here):
    first = run(settings).content
    (tmp_path / "out" / first["exposure"]["name"]).unlink()
    again = run(settings)
    assert not again.unchanged
    assert (again.kept, again.scored) == (7, 0)
    published(tmp_path / "out")


def test_a_damaged_part_of_a_run_that_was_killed_is_made_again(tmp_path, settings, raw, here):
    first = run(settings).content
    whole = bytes_of(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    path = tmp_path / "out" / first["files"][2]["name"]
    for at in (5, path.stat().st_size // 3):
        content = bytearray(path.read_bytes())
        content[at] ^= 255
        path.write_bytes(content)
        assert run(settings).kept == 6
        assert bytes_of(tmp_path / "out") == whole
        (tmp_path / "out" / "manifest.json").unlink()


def test_a_file_that_comes_damaged_after_the_result_is_told_of(tmp_path, settings, raw, here):
    given = replace(settings, skip_corrupt=True, max_rejected_share=0.2)
    run(given)
    (tmp_path / "in" / "c.parquet").write_bytes(b"half of one")
    with pytest.raises(GRU4RecError, match="gate rejected_share"):
        run(given)
    done = run(replace(given, max_rejected_share=0.5))
    assert not done.unchanged
    assert len(done.content["input"]["corrupt"]) == 1


def test_input_that_changes_while_it_is_scored_is_not_published(tmp_path, settings, raw, here, monkeypatch):
    run(settings, OTHER, "2")
    before, write = bytes_of(tmp_path / "out"), parts.write_part

    def changed(folder, number, *given):
        if number == 3:
            pq.write_table(sessions(160, seed=9), tmp_path / "in" / "b.parquet")
        return write(folder, number, *given)

    monkeypatch.setattr(parts, "write_part", changed)
    with pytest.raises(InputError, match=r"b\.parquet: has changed since the job started; run the same command again"):
        run(settings)
    assert bytes_of(tmp_path / "out") == before


class Killed(BaseException):
    pass


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_any_write_the_rest_is_done_by_the_next(tmp_path, settings, raw, here, monkeypatch, when):
    """Every write of a run in turn is its last one, done or not; an earlier result is there, or none."""
    run(settings)
    whole, write = bytes_of(tmp_path / "out"), storage.write_bytes
    writes, last = [], 0

    def counted(path, content):
        if len(writes) == last and when == "before":
            raise Killed
        write(path, content)
        writes.append(path)
        if len(writes) > last and when == "after":
            raise Killed

    for earlier in (None, OTHER):
        ended, last = False, 0
        while not ended:
            out = tmp_path / f"{when}-{earlier is None}-{last}"
            disturbed = replace(settings, out=str(out))
            if earlier:
                run(disturbed, earlier)
                old = bytes_of(out)
            writes.clear()
            monkeypatch.setattr(storage, "write_bytes", counted)
            try:
                run(disturbed)
                ended = True
            except Killed:
                pass
            monkeypatch.setattr(storage, "write_bytes", write)
            made = sum("part-" in path for path in writes)
            pointed = any(path == str(out / "manifest.json") for path in writes)
            if pointed:
                assert bytes_of(out) == whole
            elif earlier:
                assert bytes_of(out) == old
            else:
                assert not (out / "manifest.json").exists()
            again = run(disturbed)
            assert again.unchanged == pointed
            if not pointed:
                assert (again.kept, again.scored) == (made, 250 - min(250, made * 40))
            assert bytes_of(out) == whole
            last += 1
        assert last == 11  # seven parts, exposure, two manifests; and once undisturbed


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign"])
def test_a_part_that_is_not_what_was_written_is_made_again(tmp_path, settings, raw, here, monkeypatch, damage):
    run(settings)
    whole = bytes_of(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    folder = next((tmp_path / "out").glob("v3-*"))
    path = folder / "part-00002.parquet"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "foreign":
        path.write_bytes((folder / "part-00003.parquet").read_bytes())
    else:
        table = pq.read_table(path)
        footer = table.schema.metadata
        other = table.set_column(2, "scores", pa.array([row[::-1] for row in table["scores"].to_pylist()]))
        pq.write_table(other.replace_schema_metadata(footer), path)
    done = run(settings)
    assert (done.kept, done.scored) == (6, 40)
    assert bytes_of(tmp_path / "out") == whole


def test_a_failed_run_leaves_the_earlier_result_and_names_the_file(tmp_path, settings, raw, here):
    run(settings, OTHER, "2")
    before = bytes_of(tmp_path / "out")
    path = tmp_path / "in" / "b.parquet"
    content = bytearray(path.read_bytes())
    content[4:200] = b"\xff" * 196
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"b\.parquet: row group 0 cannot be read"):
        run(settings)
    assert bytes_of(tmp_path / "out") == before


def test_a_list_that_is_wrong_is_not_published(tmp_path, settings, raw, here, monkeypatch):
    run(settings, OTHER, "2")
    before = bytes_of(tmp_path / "out")

    def wrong(*given, **more):
        found = lists(*given, **more)
        twice = pa.array([row[:1] * len(row) for row in found["items"].to_pylist()])
        return found.set_column(1, "items", twice)

    monkeypatch.setattr(scorer, "lists", wrong)
    with pytest.raises(GRU4RecError, match=r"gate repeated: 1500 is not == 0 \(part-00000.parquet: row 0: .* twice"):
        run(settings)
    assert bytes_of(tmp_path / "out") == before
    monkeypatch.undo()
    monkeypatch.setattr(source, "SMALLEST_PIECE", 40)
    monkeypatch.setattr(batch, "PIECES_HERE", 1000)
    assert run(settings).kept == 0  # the wrong parts are not kept


def test_of_two_runs_at_once_one_stops(tmp_path, settings, raw, here, monkeypatch):
    """The second comes while the first is at work, with another model: nothing of it is left."""
    write, stopped = parts.write_part, []

    def second(*given):
        if not stopped:
            with pytest.raises(GRU4RecError, match="another run is writing here"):
                run(settings, OTHER, "4")
            stopped.append(True)
        return write(*given)

    monkeypatch.setattr(parts, "write_part", second)
    first = run(settings)
    assert stopped
    content = published(tmp_path / "out")[1]
    assert content == first.content
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".lock", "manifest.json", content["result"]]


def test_two_runs_at_once_without_a_lock_make_no_mixture(tmp_path, settings, raw, here, monkeypatch):
    """Should a lock fail, which decides nothing: what counts is the one or the other, whole.

    One of them may end with an error, where the other has cleared away what it was about to publish.
    """
    monkeypatch.setattr(lock, "held", lambda folder: contextlib.nullcontext(lambda: None))
    whole = {}
    for version, loaded in (("3", LOADED), ("4", OTHER)):
        run(replace(settings, out=str(tmp_path / version)), loaded, version)
        whole[version] = bytes_of(tmp_path / version)
    ready = threading.Barrier(2)

    def one(version, loaded):
        ready.wait()
        with contextlib.suppress(GRU4RecError):
            run(settings, loaded, version)

    both = [threading.Thread(target=one, args=given) for given in (("3", LOADED), ("4", OTHER))]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    content = published(tmp_path / "out")[1]
    assert bytes_of(tmp_path / "out") == whole[content["model"]["version"]]


def test_no_sessions_give_an_empty_result(tmp_path, settings):
    (tmp_path / "in").mkdir()
    pq.write_table(sessions(1).slice(1), tmp_path / "in" / "a.parquet")
    run(settings)
    found, content = published(tmp_path / "out")
    assert found.schema.names == ["session_id", "items", "scores", "fallback", "unknown_clicks"]
    assert found.schema.field("session_id").type == pa.string()
    assert found.schema.field("items").type == pa.list_(pa.string())
    assert content["totals"]["sessions"] == 0
    assert all(check["passed"] for check in content["checks"])
    assert run(settings).unchanged


def own_actor():
    """The process of a scoring actor that this process started, if there is one."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"ScoringActor" in (folder / "cmdline").read_bytes():
                ancestor = int(folder.name)
                while ancestor > 1:
                    status = Path("/proc", str(ancestor), "status").read_text()
                    ancestor = int(status.partition("PPid:")[2].split()[0])
                    if ancestor == os.getpid():
                        return int(folder.name)
        except OSError:  # it ended meanwhile
            continue
    return None


@pytest.mark.ray
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
            if len(list(tmp_path.glob("out/v3-*/*.parquet"))) >= 3:
                actor = own_actor()
                if actor:
                    os.kill(actor, signal.SIGKILL)
                    killed.append(actor)
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    run(settings)
    killer.join()
    assert killed
    found, _ = published(tmp_path / "out")
    assert len(found) == 16_000
    assert_same(found, recommend(MODEL, catalogue(ITEMS), table, 7))


@pytest.mark.ray
def test_waiting_for_nodes_does_not_count_for_the_speed(ray_local, settings, raw, small_pieces, monkeypatch):
    from gru4rec.scoring import pool

    def wait(_):
        time.sleep(0.5)
        return 0.5

    monkeypatch.setattr(pool, "await_room", wait)
    done = run(settings)
    assert 0 < done.seconds < done.content["seconds"] - 0.5


@pytest.mark.ray
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gpus_per_actor": 1.0}, "need 1 GPUs, Ray has 0"),
        ({"actors": 3}, "need 3 CPUs, Ray has 2"),
        ({"threads": 5}, "need 5 CPUs, Ray has 2"),
    ],
)
def test_what_this_machine_does_not_have_is_an_error_not_a_hang(
    ray_local, settings, raw, small_pieces, monkeypatch, change, message
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(InputError, match=message):
        run(replace(settings, **change))
