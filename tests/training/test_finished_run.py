"""What the train job answers for a run that has begun or is finished, before Ray starts."""

import json
import shutil

import numpy as np
import pytest
from prepared_folder import prepared_folder

from gru4rec import cli, config
from gru4rec.config import Hyperparameters
from gru4rec.model.network import initialise
from gru4rec.sessions.prepared import Sessions
from gru4rec.tracking import folder as model_folder
from gru4rec.training import run_folder
from gru4rec.training.job import train
from gru4rec.training.loop import MODEL

SESSIONS = Sessions(np.array([0, 2, 5]), np.array([0, 1, 2, 1, 0], np.int32))
RESULT = {"run": "nightly", "loss": [2.0], "model": "elsewhere"}
COMMAND = ["--data", "data", "--run-name", "nightly", "--layers", "8"]


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A run as the command begins it, with its model; not finished."""
    monkeypatch.chdir(tmp_path)
    data = prepared_folder(tmp_path / "data", {"train": SESSIONS, "test": SESSIONS}, 3)
    run = run_folder.begin(cli.parse(config.Train, COMMAND), "abc123", data.folder, data.fingerprint)
    model = initialise(Hyperparameters(layers=(8,)), 3)
    state = {"item_table.accumulator": model.item_table}
    extra = {"data_fingerprint": data.fingerprint}
    model_folder.save(model, data.items, f"{run.folder}/{MODEL}", extra, state, "the card")
    return run


@pytest.fixture
def finished(begun):
    begun.finish(RESULT, cli.parse(config.Train, COMMAND))
    return begun


def prepare_anew(tmp_path):
    shutil.rmtree(tmp_path / "data")
    return prepared_folder(tmp_path / "data", {"train": SESSIONS, "test": SESSIONS}, 4)


def run(capsys, *more: str) -> tuple[int, dict, str]:
    code = cli.run(config.Train, train, [*COMMAND, *more])
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    return code, json.loads(lines[-1]) if lines else {}, captured.err


def test_the_same_command_again_does_nothing(finished, capsys):
    code, result, shown = run(capsys)
    assert (code, result) == (0, RESULT)
    assert "run nightly is finished: nothing to do" in shown


@pytest.mark.parametrize("state", ["begun", "finished"])
def test_data_prepared_anew_are_refused(request, state, tmp_path, capsys):
    kept = request.getfixturevalue(state)
    now = prepare_anew(tmp_path)
    code, result, shown = run(capsys)
    assert (code, result) == (2, {})
    assert shown.count("\n") == 1
    for part in ("data: is not the data that run nightly was begun with", now.fingerprint[:12], "begin another"):
        assert part in shown
    assert kept.data_fingerprint[:12] in shown


def test_the_result_stays_when_the_data_are_gone(finished, tmp_path, capsys):
    shutil.rmtree(tmp_path / "data")
    assert run(capsys)[:2] == (0, RESULT)


def test_a_new_model_out_gets_the_model(finished, tmp_path, capsys):
    code, result, shown = run(capsys, "--model-out", "kept")
    assert (code, result) == (0, {**RESULT, "model": "kept"})
    assert "run nightly is finished: its model is copied to kept" in shown
    for name in ("config.json", "README.md"):
        assert (tmp_path / "kept" / name).read_bytes() == (tmp_path / finished.folder / MODEL / name).read_bytes()
    assert model_folder.load("kept").model.item_count == 3
    assert model_folder.load_optimizer("kept").keys() == {"item_table.accumulator"}


def test_a_model_out_that_has_been_written_is_left_alone(begun, tmp_path, capsys):
    """Another run may have put its model there since; as the command that finished the run named it counts."""
    begun.finish(RESULT, cli.parse(config.Train, [*COMMAND, "--model-out", "kept"]))
    assert run(capsys, "--model-out", "kept")[:2] == (0, RESULT)
    assert not (tmp_path / "kept").exists()
    assert cli.parse(config.Train, ["--resume", "nightly"]).model_out == str(tmp_path / "kept")


def test_a_model_out_that_holds_something_else_is_refused(finished, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    code, _, shown = run(capsys, "--model-out", "mine")
    assert code == 2
    assert "mine: holds other files" in shown


def test_another_model_name_is_refused(finished, begun, capsys):
    code, _, shown = run(capsys, "--model-name", "shop")
    assert code == 2
    assert "error: --model-name is 'shop', but run nightly is finished, with 'gru4rec'" in shown


def test_the_model_name_with_which_a_run_was_finished_counts(begun, capsys):
    """It was begun with another."""
    begun.finish(RESULT, cli.parse(config.Train, [*COMMAND, "--model-name", "shop"]))
    assert run(capsys, "--model-name", "shop")[:2] == (0, RESULT)
    assert run(capsys)[0] == 2
