"""The model folder: what is saved comes back; what is damaged is named."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gru4rec.config import Hyperparameters
from gru4rec.errors import InputError
from gru4rec.model.encode import final_states
from gru4rec.model.network import initialise
from gru4rec.sessions.prepared import Sessions
from gru4rec.tracking import folder

MODEL = initialise(Hyperparameters(layers=(6, 4), learning_rate=0.1), 5)
ITEMS = pa.table(
    {
        "item_id": ["a", "b", "c", "d", "e"],
        "item_index": pa.array(range(5), pa.int32()),
        "support": [5, 4, 3, 2, 1],
    }
)


def save(path, items=ITEMS, **extra):
    folder.save(MODEL, items, str(path), extra)
    return path


def test_what_is_saved_comes_back(tmp_path):
    loaded = folder.load(str(save(tmp_path / "m", fingerprint="abc")))
    assert loaded.model.hyperparameters == MODEL.hyperparameters
    for name, weight in MODEL.tensors().items():
        assert torch.equal(loaded.model.tensors()[name], weight)
    assert loaded.items.equals(ITEMS)
    assert loaded.config["fingerprint"] == "abc"


@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn"])
@pytest.mark.parametrize("embedding", ["tied", "separate", "one-hot"])
@pytest.mark.parametrize("more", [{}, {"layers": (6, 4), "input_to_all_layers": True, "feed_forward": (5, 3)}])
def test_a_model_of_each_kind_comes_back(tmp_path, cell, embedding, more):
    model = initialise(Hyperparameters(**{"layers": (6,), **more}, cell=cell, embedding=embedding), 5)
    # Tables whose rows are spread over a larger one, as in training.
    model.item_table = torch.cat([model.item_table, model.item_table], dim=1)[:, : model.hyperparameters.width]
    if model.item_input is not None:
        model.item_input = torch.cat([model.item_input] * 3, dim=1)[:, : model.item_input.shape[1]]
    folder.save(model, ITEMS, str(tmp_path / "m"))
    loaded = folder.load(str(tmp_path / "m")).model
    assert loaded.hyperparameters == model.hyperparameters
    assert loaded.tensors().keys() == model.tensors().keys()
    for name, weight in model.tensors().items():
        assert torch.equal(loaded.tensors()[name], weight)
    clicks = Sessions(np.array([0, 3, 4]), np.array([1, 4, 0, 2], np.int32))
    assert torch.equal(final_states(loaded, clicks), final_states(model, clicks))


@pytest.mark.parametrize("type", [pa.int64(), pa.int32(), pa.string()])
def test_the_ids_keep_their_type(tmp_path, type):
    items = ITEMS.set_column(0, "item_id", pa.array([5, 6, 7, 8, 9]).cast(type))
    assert folder.load(str(save(tmp_path / "m", items))).items.schema.field("item_id").type == type


def test_equal_models_give_equal_bytes(tmp_path):
    first, second = save(tmp_path / "1"), save(tmp_path / "2")
    for name in (folder.WEIGHTS, folder.CONFIG, folder.ITEMS):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_contents_are_what_is_saved_made_when_they_are_called(tmp_path, monkeypatch):
    state = {"item_table": MODEL.item_table * 2}
    monkeypatch.setattr(folder.safetensors.torch, "save", lambda _: pytest.fail("made too early"))
    contents = folder.contents(MODEL, ITEMS, {"fingerprint": "abc"}, state)
    monkeypatch.undo()
    folder.save(MODEL, ITEMS, str(tmp_path / "m"), {"fingerprint": "abc"}, state)
    assert list(contents)[-1] == folder.CONFIG
    assert {name: make() for name, make in contents.items()} == {
        path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()
    }
    assert folder.OPTIMIZER not in folder.contents(MODEL, ITEMS)


def test_saving_again_replaces_the_model_and_leaves_nothing_beside_it(tmp_path):
    save(tmp_path / "m", fingerprint="old")
    save(tmp_path / "m", fingerprint="new")
    assert folder.load(str(tmp_path / "m")).config["fingerprint"] == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_failed_save_leaves_the_earlier_model(tmp_path, monkeypatch):
    save(tmp_path / "m", fingerprint="old")
    written = folder.storage.write_bytes

    def full(path, content):
        if path.endswith(folder.CONFIG):
            raise OSError(28, "No space left on device")
        written(path, content)

    monkeypatch.setattr(folder.storage, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path / "m", fingerprint="new")
    assert folder.load(str(tmp_path / "m")).config["fingerprint"] == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_folder_with_other_files_is_not_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(InputError, match=r"holds other files \(thesis.txt\)"):
        save(tmp_path)


def test_the_items_must_be_as_many_as_the_model_has(tmp_path):
    with pytest.raises(ValueError, match="4 items for a model of 5"):
        save(tmp_path / "m", ITEMS.slice(1))


def test_a_missing_folder_is_named(tmp_path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(InputError, match=r"a\.txt: is a file; name the folder of a model"):
        folder.load(str(tmp_path / "a.txt"))
    with pytest.raises(InputError, match="nowhere: no such model folder; a version is named as models:/NAME/VERSION"):
        folder.load(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", [folder.WEIGHTS, folder.CONFIG, folder.ITEMS])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "garbage"])
def test_a_damaged_file_is_named(tmp_path, name, damage):
    path = save(tmp_path / "m") / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "garbage": b"\x80" * 300}[damage])
    with pytest.raises(InputError, match=name):
        folder.load(str(tmp_path / "m"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "format version 99"),
        ({"format": "other"}, "does not describe"),
        ({"hyperparameters": None}, "no hyperparameters"),
        ({"hyperparameters": {"colour": 1}}, "unknown hyperparameter colour"),
        ({"hyperparameters": {"layers": [7]}}, "not the weights of this model"),
        ({"hyperparameters": {"layers": "many"}}, "config.json: not the hyperparameters of a model"),
        ({"hyperparameters": {"layers": [6, 4], "cell": "other"}}, "unknown cell other"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path, change, message):
    path = save(tmp_path / "m") / folder.CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=message):
        folder.load(str(tmp_path / "m"))


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (ITEMS.slice(1), "does not number the 5 items"),
        (ITEMS.drop_columns("support"), "no column support"),
        (ITEMS.set_column(1, "item_index", pa.array([0, 1, 2, 3, 3])), "does not number"),
    ],
)
def test_items_that_do_not_fit_are_refused(tmp_path, items, message):
    pq.write_table(items, save(tmp_path / "m") / folder.ITEMS)
    with pytest.raises(InputError, match=message):
        folder.load(str(tmp_path / "m"))


def test_rows_in_another_order_are_put_in_order(tmp_path):
    pq.write_table(ITEMS.take([4, 2, 0, 1, 3]), save(tmp_path / "m") / folder.ITEMS)
    assert folder.load(str(tmp_path / "m")).items.equals(ITEMS)


def test_loading_does_not_unpickle(tmp_path, monkeypatch):
    monkeypatch.setattr("pickle.load", lambda *_: pytest.fail("unpickled"))
    monkeypatch.setattr("pickle.loads", lambda *_: pytest.fail("unpickled"))
    folder.load(str(save(tmp_path / "m")))


def test_another_seed_is_another_model(tmp_path):
    other = initialise(replace(MODEL.hyperparameters, seed=1), 5)
    folder.save(other, ITEMS, str(tmp_path / "m"))
    assert not torch.equal(folder.load(str(tmp_path / "m")).model.item_table, MODEL.item_table)


def test_the_card_is_part_of_the_folder_and_changes_nothing_else(tmp_path):
    path = save(tmp_path / "m")
    bare = {file.name: file.read_bytes() for file in path.iterdir()}
    assert folder.read_card(str(path)) == ""
    folder.write_card(str(path), "# one\n")
    folder.write_card(str(path), "# two\n")
    assert folder.read_card(str(path)) == "# two\n"
    assert {file.name: file.read_bytes() for file in path.iterdir()} == bare | {folder.CARD: b"# two\n"}
    assert folder.load(str(path)).items.equals(ITEMS)
    folder.save(MODEL, ITEMS, str(tmp_path / "other"), card="# two\n")
    assert folder.read_card(str(tmp_path / "other")) == "# two\n"


def test_a_folder_with_a_card_is_replaced_even_where_one_was_not_written_to_its_end(tmp_path):
    path = save(tmp_path / "m")
    folder.write_card(str(path), "# old\n")
    (path / f"{folder.CARD}.{'0' * 32}.tmp").write_text("# ol")
    save(path)
    assert sorted(file.name for file in path.iterdir()) == [folder.CONFIG, folder.ITEMS, folder.WEIGHTS]


@pytest.mark.parametrize("other", [folder.CARD, "notes/", f"{folder.CARD}.{'0' * 32}.tmp"])
def test_a_folder_that_is_no_model_is_not_replaced(tmp_path, other):
    if other.endswith("/"):
        (tmp_path / other).mkdir()
    else:
        (tmp_path / other).write_text("# my project")
    with pytest.raises(InputError, match="holds other files"):
        save(tmp_path)
    assert (tmp_path / other).exists()
