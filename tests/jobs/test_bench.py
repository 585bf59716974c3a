"""The bench runs and reports ratios; how large they are is not for a test to say."""

import importlib.util
import json
import typing
from pathlib import Path

import pytest
import torch

from gru4rec import cli, config
from gru4rec.evaluation import bench
from gru4rec.scoring import bench as scoring
from gru4rec.scoring import bench_engine
from gru4rec.sessions import bench as prepare
from gru4rec.training import bench as training
from gru4rec.training import scaling


@pytest.fixture
def job():
    path = Path(__file__).resolve().parents[2] / "jobs" / "bench.py"
    spec = importlib.util.spec_from_file_location("bench_job", path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_bench_of_evaluation_reports_its_share_of_the_bound():
    found = bench.run(2, 1, items=300, predictions=500)
    assert found["predictions"] >= 500
    share = found["share_of_bound"]
    assert 0 < share["min"] <= share["median"] <= share["max"]


def test_bench_of_training_reports_engine_plain_and_floor(job, capsys):
    arguments = ["--configurations", "lanes-32", "--seconds", "0.05", "--repeats", "2"]
    assert cli.run(config.Bench, job.run, arguments) == 0
    shown = capsys.readouterr()
    (row,) = json.loads(shown.out.splitlines()[-1])["rows"]
    assert row["engine"]["min"] <= row["engine"]["median"] <= row["engine"]["max"]
    assert row["engine_to_plain"] > 0
    assert row["engine_to_floor"] > 0
    assert "| lanes-32 |" in shown.err


@pytest.mark.slow
def test_bench_of_scoring_reports_ratios_to_both(ray_local, job, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "WARM_UP", 0)
    arguments = ["--what", "score", "--catalogues", "300", "--sessions", "5000", "--repeats", "1"]
    assert cli.run(config.Bench, job.run, [*arguments, "--scratch", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    (row,) = json.loads(shown.out.splitlines()[-1])["rows"]
    assert (row["items"], row["sessions"]) == (300, 5000)
    assert row["to_obvious"]["median"] > 0
    assert row["share_of_bound"]["median"] > 0
    assert row["lists_that_agree"] > 0.99
    assert "300 items, 5,000 sessions: " in shown.err
    assert not list(tmp_path.iterdir())


@pytest.mark.ray
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is taken from Linux's smaps_rollup")
def test_bench_of_prepare_reports_time_and_memory_of_each_way(job, capsys, tmp_path):
    arguments = ["--what", "prepare", "--clicks", "3000", "--ways", "pandas", "--repeats", "1"]
    assert cli.run(config.Bench, job.run, [*arguments, "--scratch", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    ours, pandas = json.loads(shown.out.splitlines()[-1])["rows"]
    assert (ours["way"], pandas["way"]) == ("prepare", "pandas")
    assert ours["clicks"] == pandas["clicks"]
    assert pandas["to_prepare"] > 0
    assert 0 < pandas["peak_gib"]["max"] < ours["peak_gib"]["max"]
    assert 0 < sum(stage["seconds"] for stage in ours["stages"].values()) == pytest.approx(ours["seconds"]["median"])
    assert "| pandas |" in shown.err
    assert not list(tmp_path.iterdir())


def test_bench_of_the_engine_alone():
    found = bench_engine.run([300], 2000, 1, "cpu")
    assert found["rows"][0]["sessions"] == 2000
    assert found["rows"][0]["sessions_per_second"]["median"] > 0


def test_all_is_each_in_turn_with_a_key_for_each(job, capsys, monkeypatch):
    """What each of them reports is for the tests above; here they only say what they were asked."""
    threads = torch.get_num_threads()
    asked = {}

    def stand_in(what, module):
        def run(*given):
            assert torch.get_num_threads() == threads
            torch.set_num_threads(threads + 1)
            asked[what] = given
            return {"what": what}

        monkeypatch.setattr(module, "run", run)

    modules = {"train": training, "scaling": scaling, "prepare": prepare, "evaluate": bench, "score": scoring}
    for what, module in modules.items():
        stand_in(what, module)
    arguments = (
        "--what all --configurations lanes-32 catalogue --repeats 2 --clicks 3000 --catalogues 300 --sessions 50"
    )
    assert cli.run(config.Bench, job.run, arguments.split()) == 0
    assert torch.get_num_threads() == threads
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found == {"what": "all", **{what: {"what": what} for what in modules}}
    assert list(asked) == list(modules)
    assert asked["train"] == (("lanes-32", "catalogue"), 3.0, 2, 1, "cpu")
    assert asked["scaling"] == ("lanes-256", 3.0, 2, 1, 100e-6)
    assert asked["prepare"] == ((3000,), (), 2, "")
    assert asked["evaluate"] == (2, 1)
    assert asked["score"] == ((300,), 50, 2, "")


def test_all_has_whatever_can_be_asked_for_alone(job):
    choices = typing.get_args(typing.get_type_hints(config.Bench)["what"])
    assert set(choices) == {*job.EACH, "all"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [("--device cuda", "--what all: takes --device cpu"), ("--scratch nowhere", "--scratch nowhere: there is no such")],
)
def test_all_refuses_before_it_measures(job, capsys, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert cli.run(config.Bench, job.run, ["--what", "all", *arguments.split()]) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")
