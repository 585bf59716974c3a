"""Checkpoints: what is saved comes back; what is damaged is named and passed over; old ones go."""

import errno
import json
import os
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from some_checkpoints import damage, damaged, everything, fail_on, find_newest, put

from gru4rec import storage
from gru4rec.config import Hyperparameters
from gru4rec.model.network import initialise
from gru4rec.tracking import folder as model_folder
from gru4rec.training import checkpoints
from gru4rec.training.checkpoints import COMMIT, Damaged, committed, kept, load, prune, save


def test_what_is_saved_comes_back(place):
    about = {"epoch": 3, "block": 0, "loss": [1.5, None], "who": {"ü": "ß"}}
    contents = {"weights": os.urandom(3_000_000), "model/config.json": b"{}", "model/empty": b"", "lanes": b"\0"}
    save(place, "0003", {file: lambda content=content: content for file, content in contents.items()}, about)
    assert committed(place) == ["0003"]
    for loaded in (load(place, "0003"), find_newest(place)[0]):
        assert "hush" not in str(loaded)
        assert loaded.name == "0003"
        assert loaded.about == about
        assert {file: loaded.read(file) for file in loaded.files} == contents
        assert storage.read_json(storage.join(loaded.folder, COMMIT))["format_version"] == 1
        with damaged("0003/other: is not part of this checkpoint"):
            loaded.read("other")


def test_a_place_that_is_absent_has_no_checkpoints(place):
    assert committed(place) == []
    assert find_newest(place) == (None, [])
    prune(place, 1)
    with damaged("0001/checkpoint.json: is missing"):
        load(place, "0001")


def test_names_come_in_order(place):
    for name in ("0002", "0010", "0001"):
        put(place, name)
    assert committed(place) == ["0001", "0002", "0010"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", f"a.{'0' * 32}.tmp"])
def test_names_that_cannot_be_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="cannot name a checkpoint"):
        put(str(tmp_path), name)


@pytest.mark.parametrize("file", ["", "/x", "x/", "../x", "a/b/c", COMMIT, f"{COMMIT}/a"])
def test_file_names_that_cannot_be_are_refused(tmp_path, file):
    with pytest.raises(ValueError, match="cannot name a file"):
        put(str(tmp_path), "0001", **{file: b""})
    assert everything(str(tmp_path)) == set()


def test_an_about_that_is_not_json_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(TypeError):
        save(str(tmp_path), "0001", {"a": lambda: pytest.fail("made")}, {"place": Path()})


def test_a_model_folder_inside_a_checkpoint_is_one(place):
    model = initialise(Hyperparameters(layers=(4,)), 3)
    items = pa.table({"item_id": ["a", "b", "c"], "item_index": pa.array(range(3), pa.int32()), "support": [1, 1, 1]})
    state = {"item_table": model.item_table + 1}
    files = {f"model/{name}": make for name, make in model_folder.contents(model, items, {"seen": 1}, state).items()}
    save(place, "0001", files, {})
    inside = storage.join(load(place, "0001").folder, "model")
    assert model_folder.load(inside).model.item_table.equal(model.item_table)
    assert model_folder.load(inside).items.equals(items)
    assert model_folder.load(inside).config["seen"] == 1
    assert model_folder.load_optimizer(inside)["item_table"].equal(state["item_table"])


def test_no_two_contents_are_in_memory(tmp_path):
    size = 20_000_000
    tracemalloc.start()
    try:
        save(str(tmp_path), "0001", {str(i): lambda: bytes(size) for i in range(4)}, {})
        loaded = load(str(tmp_path), "0001")
        assert tracemalloc.get_traced_memory()[1] < 1.3 * size
        assert len(loaded.read("3")) == size
    finally:
        tracemalloc.stop()


def test_a_checkpoint_of_the_same_name_is_replaced(place):
    put(place, "0001", size=10, more=b"old")
    put(place, "0001", size=20)
    loaded = load(place, "0001")
    assert loaded.read("weights") == bytes([20]) * 20
    assert "more" not in loaded.files
    assert {path for path in everything(place) if path.startswith("0001")} == everything(place)
    assert not [path for path in everything(place) if path.endswith("more")]


def test_a_damaged_checkpoint_of_the_same_name_is_replaced(place):
    put(place, "0001", size=10)
    storage.write_bytes(storage.join(place, "0001", COMMIT), b"{")
    put(place, "0001", size=20)
    assert find_newest(place)[0].read("weights") == bytes([20]) * 20


@pytest.mark.parametrize("how", ["missing", "empty", "torn", "longer", "flipped"])
def test_a_damaged_newest_is_named_and_passed_over(place, how):
    put(place, "0001")
    put(place, "0002")
    for file in ("weights", "model/config", COMMIT):
        put(place, "0003")
        damage(place, "0003", file, how)
        what = {"missing": "is missing", "flipped": "is not what was written"}.get(how, "bytes instead of")
        what = what if file != COMMIT or how == "missing" else "not valid JSON"
        found, said = find_newest(place)
        assert found.name == "0002"
        assert len(said) == 1
        assert f"/0003/{file}: " in said[0]
        assert what in said[0]
        with damaged(what):
            load(place, "0003")
        assert committed(place) == (["0001", "0002"] if file == COMMIT else ["0001", "0002", "0003"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format version 2 is not 1"),
        ({"format": "other"}, "does not describe"),
        ({"about": 1}, "has no about"),
        ({"files": []}, "no files"),
        ({"files": {"weights": 1}}, "does not say what 'weights' must be"),
        ({"files": {"../../secret": {"bytes": 1, "sha256": ""}}}, "cannot be a file"),
    ],
)
def test_a_commit_that_does_not_fit_is_damage(tmp_path, change, message):
    put(str(tmp_path), "0001")
    path = tmp_path / "0001" / COMMIT
    changed = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({**changed, "sha256": checkpoints._digest(changed)}))
    with pytest.raises(Damaged, match=rf"0001/checkpoint\.json: .*{message}"):
        load(str(tmp_path), "0001")
    assert committed(str(tmp_path)) == []


def test_a_flipped_bit_of_a_commit_changes_nothing_unseen(tmp_path):
    put(str(tmp_path), "0001")
    path = tmp_path / "0001" / COMMIT
    content, whole = path.read_bytes(), load(str(tmp_path), "0001")
    seen = 0
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            assert load(str(tmp_path), "0001") == whole
        except Damaged as error:
            seen += str(error).startswith(str(path))
    assert seen >= len(content) - 1


def test_damage_after_loading_is_found_by_reading(place):
    put(place, "0001")
    loaded = load(place, "0001")
    damage(place, "0001", "weights", "flipped")
    with damaged("0001/weights: is not what was written"):
        loaded.read("weights")


def test_a_file_that_the_disk_cannot_read_is_damage(tmp_path):
    if not os.path.exists("/proc/self/mem"):
        pytest.skip("this system has no file that gives an input/output error to whoever reads it")
    put(str(tmp_path), "0001", more=b"")
    (tmp_path / "0001" / "more").unlink()
    (tmp_path / "0001" / "more").symlink_to("/proc/self/mem")
    with damaged("0001/more: cannot be read"):
        load(str(tmp_path), "0001")


def test_what_may_not_be_read_or_reached_is_no_damage(tmp_path, monkeypatch):
    put(str(tmp_path), "0001")
    # An OSError without a number is what an object store that cannot be reached gives.
    for code in (errno.EACCES, None):
        monkeypatch.setattr(storage, "read_bytes", lambda path, code=code: fail_on(OSError, path, code)())
        for look in (find_newest, committed, lambda place: prune(place, 1), lambda place: load(place, "0001")):
            with pytest.raises(OSError, match=r"checkpoint\.json"):
                look(str(tmp_path))
    monkeypatch.undo()
    assert committed(str(tmp_path)) == ["0001"]


def test_the_newest_that_is_wanted_is_found_and_others_are_not_judged(place):
    for name, block in (("0001", 0), ("0002", 5), ("0003", 0), ("0004", 5)):
        put(place, name, block=block)
    damage(place, "0004", "weights", "torn")
    found, said = find_newest(place, lambda about: about["block"] == 0)
    assert (found.name, said) == ("0003", [])
    found, said = find_newest(place, lambda about: about["block"] == 5)
    assert found.name == "0002"
    assert len(said) == 1
    assert find_newest(place, lambda about: False) == (None, [])


def test_the_newest_are_kept_and_the_newest_between_epochs(place):
    for name, block in (("0000", 0), ("0001", 0), ("0002", 0), ("0003", 7), ("0004", 8), ("0005", 9)):
        put(place, name, block=block)
    prune(place, 2)
    assert committed(place) == ["0001", "0002", "0004", "0005"]
    for name in committed(place):
        load(place, name)
    assert {path.split("/")[0] for path in everything(place)} == set(committed(place))


def test_a_damaged_checkpoint_does_not_count_and_goes_once_enough_whole_ones_are_newer(place):
    for name in ("0001", "0002", "0003"):
        put(place, name)
    damage(place, "0003", "weights", "torn")
    damage(place, "0002", COMMIT, "empty")
    put(place, "0004")
    prune(place, 2)
    assert storage.list_folders(place) == ["0001", "0002", "0003", "0004"]
    put(place, "0005")
    prune(place, 2)
    assert storage.list_folders(place) == ["0004", "0005"]


def test_at_least_one_is_kept(tmp_path):
    with pytest.raises(ValueError, match="at least 1"):
        prune(str(tmp_path), 0)


@given(st.lists(st.integers(0, 2)), st.integers(1, 4))
def test_the_policy_of_keeping(blocks, n):
    whole = [(f"{i:04d}", {"block": block}) for i, block in enumerate(blocks)]
    keep = kept(whole, n)
    for name, about in whole:
        newer = [other for other, _ in whole if other > name]
        newer_between = [other for other, its in whole if other > name and its["block"] == 0]
        assert (name in keep) == (len(newer) < n or (about["block"] == 0 and len(newer_between) < n))
