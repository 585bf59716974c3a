"""A run is found again by its name, and gone on with as it was begun."""

import json

import pytest

from gru4rec import cli
from gru4rec.config import Train
from gru4rec.errors import InputError
from gru4rec.training import run_folder


@pytest.fixture
def begun(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = cli.parse(Train, ["--layers", "64", "32", "--preset", "retailrocket", "--run-name", "mine"])
    return run_folder.begin(settings, "abc123", str(tmp_path / "data"), "fingerprint")


def test_a_run_is_known_by_its_name_or_mlflows_id(begun, tmp_path):
    assert begun.folder == str(tmp_path / "gru4rec-runs" / "runs" / "mine")
    unnamed = run_folder.begin(Train(), "def456", "data", "fingerprint")
    assert unnamed.folder.endswith("/runs/def456")


def test_resume_alone_brings_back_what_is_trained_and_how(begun, tmp_path):
    settings = cli.parse(Train, ["--resume", "mine"])
    assert (settings.layers, settings.loss, settings.bpreg) == ((64, 32), "bpr-max", 1.95)
    assert settings.data == str(tmp_path / "data")
    assert run_folder.find(settings) == begun


def test_how_may_change_and_what_may_not(begun):
    settings = cli.parse(Train, ["--resume", "mine", "--workers", "1:3", "--threads", "2", "--checkpoint-steps", "64"])
    assert settings.worker_range == (1, 3)
    assert run_folder.find(settings) == begun
    for flags in (["--learning-rate", "0.3"], ["--epochs", "11"], ["--sync-every", "8"], ["--seed", "1"]):
        with pytest.raises(InputError, match=f"{flags[0]} is {flags[1]}, but run mine was begun with"):
            run_folder.find(cli.parse(Train, ["--resume", "mine", *flags]))
    with pytest.raises(InputError, match="--data is"):
        run_folder.find(cli.parse(Train, ["--resume", "mine", "--data", "elsewhere"]))


def test_the_same_command_again_goes_on_and_another_is_refused(begun):
    command = ["--layers", "64", "32", "--preset", "retailrocket", "--run-name", "mine"]
    assert run_folder.find(cli.parse(Train, command)) == begun
    with pytest.raises(InputError, match="--layers is"):
        run_folder.find(cli.parse(Train, command[3:]))
    assert run_folder.find(cli.parse(Train, [*command[:-1], "other"])) is None
    assert run_folder.find(Train()) is None


def test_an_unknown_run_is_an_error_that_names_those_there_are(begun):
    with pytest.raises(InputError, match=r"--resume yours: there is no such run in .*; there are: mine"):
        cli.parse(Train, ["--resume", "yours"])
    with pytest.raises(InputError, match="there are: none"):
        cli.parse(Train, ["--resume", "yours", "--storage", "nowhere"])


def test_what_is_no_run_is_said(begun):
    path = f"{begun.folder}/{run_folder.RUN}"
    for content, named in (("{", "not valid JSON"), ("[]", "does not describe a run")):
        with open(path, "w") as file:
            file.write(content)
        with pytest.raises(InputError, match=named):
            cli.parse(Train, ["--resume", "mine"])


def kept(begun) -> dict:
    with open(f"{begun.folder}/{run_folder.RUN}") as file:
        return json.load(file)


def keep(begun, content: dict) -> None:
    with open(f"{begun.folder}/{run_folder.RUN}", "w") as file:
        json.dump(content, file)


COMMAND = ["--layers", "64", "32", "--preset", "retailrocket", "--run-name", "mine"]


@pytest.mark.parametrize("command", [COMMAND, ["--resume", "mine"]])
def test_a_run_of_a_release_with_fewer_settings_goes_on_with_their_defaults(begun, command):
    content = kept(begun)
    for key in ("l2", "resize_seconds", "model_out"):
        del content["settings"][key]
    keep(begun, content)
    assert run_folder.find(cli.parse(Train, command)) == begun
    with pytest.raises(InputError, match=r"--l2 is 0\.5, but run mine was begun with 0"):
        run_folder.find(cli.parse(Train, [*command, "--l2", "0.5"]))


@pytest.mark.parametrize("command", [COMMAND, ["--resume", "mine"]])
def test_a_setting_of_a_later_release_is_an_error_that_names_it(begun, command):
    content = kept(begun)
    content["settings"]["gravity"] = 9.81
    keep(begun, content)
    with pytest.raises(InputError, match=r"mine/run\.json: has the setting gravity, which this release does not know"):
        run_folder.find(cli.parse(Train, command))


@pytest.mark.parametrize("key", ["run_id", "data", "data_fingerprint", "settings"])
@pytest.mark.parametrize("command", [COMMAND, ["--resume", "mine"]])
def test_a_run_that_is_not_whole_is_an_error_that_names_the_file(begun, command, key):
    content = kept(begun)
    del content[key]
    keep(begun, content)
    with pytest.raises(InputError, match=rf"mine/run\.json: is not whole: it has no {key}"):
        run_folder.find(cli.parse(Train, command))


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "-", "a b"])
def test_names_that_could_lead_elsewhere_are_refused(name):
    with pytest.raises(InputError, match="--run-name"):
        cli.parse(Train, [f"--run-name={name}"])
    with pytest.raises(InputError):
        cli.parse(Train, [f"--resume={name}"])


def test_a_result_ends_the_run(begun):
    assert begun.result() is None
    begun.finish({"loss": [1.0]}, Train())
    assert begun.result() == {"loss": [1.0]}


def test_credentials_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Train(warm_start="s3://key:hush@bucket/model", model_out="s3://key:hush@bucket/out", run_name="secret")
    run = run_folder.begin(settings, "abc", "s3://key:hush@bucket/data", "f")
    with open(f"{run.folder}/{run_folder.RUN}") as file:
        kept = file.read()
    assert "hush" not in kept
    assert json.loads(kept)["data"] == "s3://bucket/data"
    again = cli.parse(
        Train,
        ["--resume", "secret", "--data", "s3://key:hush@bucket/data", "--warm-start", "s3://key:hush@bucket/model"],
    )
    assert run_folder.find(again).data == "s3://key:hush@bucket/data"


def test_a_run_goes_on_without_a_preset(begun):
    with pytest.raises(InputError, match=r"--preset rees46: a run goes on with its own settings"):
        cli.parse(Train, ["--resume", begun.name, "--preset", "rees46"])
