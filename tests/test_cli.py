"""The job contract: where settings come from, what an error looks like, what the last line is."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest

from gru4rec import cli, config, storage
from gru4rec.config import Common, setting
from gru4rec.errors import GRU4RecError, InputError, masked


@dataclass(frozen=True)
class Example(Common):
    rate: float = setting(0.5, "A rate.", gt=0)
    names: tuple[str, ...] = setting((), "Names.")
    count: int = setting(..., "A count.", ge=1)


def last_line(capsys) -> str:
    return capsys.readouterr().out.splitlines()[-1]


def test_flags_override_the_file_and_the_file_the_defaults(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text('rate = 0.25\ncount = 3\nnames = ["a", "b"]\n')
    found = cli.parse(Example, ["--config", str(file), "--count", "7"])
    assert (found.rate, found.names, found.count) == (0.25, ("a", "b"), 7)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--count"),
        (["--count", "0"], "--count"),
        (["--count", "1", "--rate", "-1"], "--rate"),
        (["--count", "1", "--rate", "nan"], "--rate"),
        (["--count", "many"], "--count"),
        (["--count", "1", "--colour", "red"], "--colour"),
        (["--config", "absent.toml"], "absent.toml"),
    ],
)
def test_a_bad_setting_is_named_in_one_line_and_exits_with_2(arguments, named, capsys):
    assert cli.run(Example, lambda settings: {}, arguments) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert error[0].startswith("error: ")
    assert named in error[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--embedding-size 8", "--embedding-size: needs --embedding separate"),
        ("--loss bpr --label-smoothing 0.1", "--label-smoothing: needs a cross-entropy loss"),
        ("--layers 100 0", "--layers: every layer needs a unit, got (100, 0)"),
    ],
)
def test_settings_that_contradict_each_other_are_named(arguments, said, capsys):
    assert cli.run(config.Train, lambda settings: {}, arguments.split()) == 2
    assert capsys.readouterr().err == f"error: {said}\n"


@pytest.mark.parametrize("kind", [config.Train, config.Tune])
def test_a_name_that_the_registry_does_not_take_is_refused_at_once(kind, capsys):
    for name in ("shop/gru", "shop' or name = 'x", "shop:gru", "shop\n"):
        assert cli.run(kind, lambda settings: {}, ["--model-name", name]) == 2
        said = capsys.readouterr().err
        assert said == f"error: --model-name: letters, digits, '_', '-', '.' and blanks only, got {name!r}\n"
    for name in ("", "shop.gru-2_a", "my shop"):
        assert cli.parse(kind, ["--model-name", name]).model_name == name


def test_an_unknown_key_of_the_file_is_named_with_the_file(tmp_path, capsys):
    file = tmp_path / "settings.toml"
    file.write_text("count = 1\ncolour = 3\n")
    assert cli.run(Example, lambda settings: {}, ["--config", str(file)]) == 2
    assert f"{file}: colour: unknown setting" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "arguments", "said"),
    [
        (config.Train, ["--epoch", "1"], "unrecognized arguments: --epoch 1; did you mean --epochs? (see --help)"),
        (config.Train, ["--colour", "red"], "unrecognized arguments: --colour red (see --help)"),
        (config.Train, ["--layers", "100,50"], "got '100,50'; give several with blanks between them"),
        (config.Score, ["--model", "m", "--out", "o", "--export", "x"], "--export: Input should be 'items', got 'x'"),
    ],
)
def test_what_was_meant_is_guessed(kind, arguments, said, capsys):
    assert cli.run(kind, lambda settings: {}, arguments) == 2
    assert capsys.readouterr().err.endswith(f"{said}\n")


def test_what_a_key_of_the_file_was_meant_to_be_is_guessed(tmp_path, capsys):
    (tmp_path / "a.toml").write_text("epoch = 3\n")
    assert cli.run(config.Train, lambda settings: {}, ["--config", str(tmp_path / "a.toml")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/a.toml: epoch: unknown setting; did you mean epochs?\n"


@pytest.mark.parametrize("outlet", ["full", "closed"])
def test_a_result_that_nobody_can_read_is_said_in_one_line(outlet, tmp_path):
    script = (
        "import sys; from gru4rec import cli, config as c; sys.exit(cli.run(c.Simulate, lambda s: {}, sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, "--out", "x"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    if outlet == "full":
        if not os.path.exists("/dev/full"):
            pytest.skip("there is no /dev/full")
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    else:
        outlet, inlet = os.pipe()
        os.close(outlet)
        done = subprocess.run(command, env=environment, stdout=inlet, stderr=subprocess.PIPE, text=True, check=False)
        os.close(inlet)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: done, but the result cannot be written to stdout: ")


def test_the_result_is_the_last_line_of_stdout(capsys):
    assert cli.run(Example, lambda settings: {"count": settings.count}, ["--count", "4"]) == 0
    assert json.loads(last_line(capsys)) == {"count": 4}


@pytest.mark.parametrize(("error", "code"), [(InputError("x"), 2), (GRU4RecError("x"), 1), (ValueError("x"), 1)])
def test_exit_codes(error, code):
    def fail(settings):
        raise error

    assert cli.run(Example, fail, ["--count", "4"]) == code


@pytest.mark.parametrize("login", ["key:secret", "key:sec/secret", "key:p@secret", ":secret"])
def test_credentials_of_a_uri_do_not_reach_the_log(capsys, login):
    def fail(settings):
        raise InputError(f"s3://{login}@bucket/clicks: no such file; nor 's3://{login}@bucket/more'")

    cli.run(Example, fail, ["--count", "4", "--debug"])
    shown = capsys.readouterr().err
    assert "bucket/clicks: no such file" in shown
    assert "bucket/more" in shown
    assert "secret" not in shown


def test_what_a_ray_task_raised_is_told_without_its_traceback(capsys):
    import ray

    for cause, code in ((InputError("data/a.csv: row 3"), 2), (ValueError("odd"), 1)):
        wrapped = ray.exceptions.RayTaskError("f", "\x1b[36mray::f()\x1b[39m (pid=1)\n  File ...", cause)

        def fail(settings, wrapped=wrapped):
            raise wrapped.as_instanceof_cause()

        assert cli.run(Example, fail, ["--count", "4"]) == code
        said = capsys.readouterr().err
        assert said.startswith("error: data/a.csv: row 3\n" if code == 2 else "error: ValueError: odd (run again")


def test_colours_do_not_reach_the_log(capsys):
    def fail(settings):
        raise GRU4RecError("\x1b[31mred\x1b[0m and\x1b[1;36m blue")

    cli.run(Example, fail, ["--count", "4"])
    assert capsys.readouterr().err == "error: red and blue\n"


def test_a_job_that_is_stopped_lets_go_of_what_it_holds_and_says_so(capsys):
    let_go = []

    def job(settings):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        finally:
            let_go.append(True)

    before = signal.getsignal(signal.SIGTERM)
    assert cli.run(Example, job, ["--count", "4"]) == 1
    assert let_go
    assert capsys.readouterr().err == "error: stopped (SIGTERM)\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_ctrl_c_once_more_does_not_break_off_the_tidying(capsys):
    done = []

    def job(settings):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            done.append(True)

    assert cli.run(Example, job, ["--count", "4"]) == 1
    assert done
    assert capsys.readouterr().err == "error: interrupted\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_result_that_is_no_json_is_an_error_like_others(capsys):
    assert cli.run(Example, lambda settings: {"loss": float("nan")}, ["--count", "4"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ValueError: ")


@pytest.mark.parametrize(
    ("flags", "warned"),
    [
        (["--storage", "s3://bucket/runs"], []),
        ([], ["--storage gru4rec-runs"]),
        (["--storage", "/elsewhere", "--model-out", "models/new"], ["--model-out models/new"]),
    ],
)
def test_what_a_submitted_job_writes_into_its_copy_is_warned_of(tmp_path, monkeypatch, capsys, flags, warned):
    copy = tmp_path / "session" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    assert cli.run(config.Train, lambda settings: {}, flags) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(" lies in the copy")[0] for line in said] == [f"WARNING: {one}" for one in warned]
    monkeypatch.chdir(tmp_path)
    assert cli.run(config.Train, lambda settings: {}, flags) == 0
    assert capsys.readouterr().err == ""


def test_a_token_of_a_server_is_masked():
    assert masked("at https://token@host/x") == "at https://***@host/x"


@pytest.mark.parametrize("text", ["models:/gru4rec@champion", "s3://bucket/a@b", "http://mlflow:5000/x", "a: b@c"])
def test_what_holds_no_credentials_is_left_as_it_is(text):
    assert masked(text) == storage.shown(text) == text


@pytest.mark.parametrize("kind", [config.Prepare, config.Simulate, config.Train, config.Evaluate, config.Score])
def test_help_documents_every_setting(kind, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.parse(kind, ["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for name in kind.__dataclass_fields__:
        assert "--" + name.replace("_", "-") in shown


def test_only_explained_lines_are_kept_off_stderr(capfd):
    import os

    from gru4rec import on_ray

    with on_ray.without_explained_lines():
        os.write(2, b"E core: Actor X has constructor arguments in the object store and max_restarts > 0.\nkept\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "kept\nafter\n"


def test_a_preset_is_overridden_by_file_and_flags(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text('preset = "retailrocket"\nepochs = 3\n')
    found = cli.parse(config.Train, ["--config", str(file), "--momentum", "0.1"])
    assert (found.loss, found.layers, found.bpreg) == ("bpr-max", (224,), 1.95)
    assert (found.epochs, found.momentum) == (3, 0.1)


def test_every_preset_holds():
    for name in config.PRESETS:
        assert cli.parse(config.Train, ["--preset", name]).n_sample == 2048
