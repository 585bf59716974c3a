"""What a search that was killed leaves, and how it is put right. How it is killed for real: tests/chaos."""

import dataclasses
import logging

import mlflow
import pytest
from prepared_folder import prepared_folder
from simple_log import simple_log

from gru4rec import cli, config, on_ray
from gru4rec.errors import InputError
from gru4rec.tracking import runs
from gru4rec.training.loop import ATTEMPT, TakenOver
from gru4rec.tuning import job, records, search, space, tracked, trial
from gru4rec.tuning.trials import Trial

TRIALS = {n: Trial(n, {"learning_rate": 0.1 * (n + 1)}, (0.1, 0.2 + n), "finished") for n in range(3)}


class Killed(Exception):
    """Stands for the end of the job's process."""


def test_a_trial_is_recorded_once_wherever_the_search_was_killed(store, tmp_path, monkeypatch):
    folder, experiment = str(tmp_path / "s"), runs.connect(store)
    run_id = runs.start_run(experiment, {}, kind="tune")
    for one in TRIALS.values():
        records.keep_point(folder, one)
        records.keep_result(folder, one)
        (tmp_path / "s" / "trials" / f"{one.number:05d}" / trial.RUN / "checkpoints").mkdir(parents=True)
    kept = tracked.Tracked(run_id)
    kept.trial(TRIALS[0])

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(runs, "finish", killed)
        with pytest.raises(Killed):
            kept.trial(TRIALS[1])
    assert records.trials(folder) == TRIALS  # all have ended; one is recorded, one in part, one not at all
    still = Trial(3, {"learning_rate": 0.2})
    records.keep_point(folder, still)
    own = tmp_path / "s" / "trials" / "00003" / trial.RUN
    own.mkdir()
    for _ in range(2):
        job._make_good(folder, {**TRIALS, 3: still}, tracked.Tracked(run_id))
        check_recorded(experiment, run_id)
    assert [path.parent.name for path in (tmp_path / "s" / "trials").glob(f"*/{trial.RUN}")] == ["00003"]


def check_recorded(experiment, run_id):
    client = mlflow.MlflowClient()
    found = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
    assert sorted((one.data.tags["trial"], one.info.status) for one in found) == [(str(n), "FINISHED") for n in TRIALS]
    for one in found:
        points = client.get_metric_history(one.info.run_id, "valid_metric")
        assert [point.value for point in points] == list(TRIALS[int(one.data.tags["trial"])].curve)


def test_why_a_trial_failed_is_a_line():
    class Wrapped(Exception):
        cause = ValueError("in two\nlines\n")

    for error, why in {
        Wrapped("long"): "lines",
        ValueError("short"): "short",
        MemoryError(): "MemoryError",
        None: "its process died",
    }.items():
        assert search.reason(error) == why


def test_tune_adds_no_tracebacks_to_that_line():
    on_ray.quiet_data()
    assert not logging.getLogger("ray.tune.execution.tune_controller").isEnabledFor(logging.ERROR)


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_a_trial_that_was_let_through_is_not_stopped_for_what_others_did_later(tmp_path, scheduler):
    """Its epochs are heard again, once more from the first; the others are better by now."""
    found = space.parse("learning_rate = { low = 0.1, high = 0.3 }", "s.toml")
    settings = cli.check(config.Tune, {"data": "d", "epochs": 9, "scheduler": scheduler, "grace": 1})
    better = {n: Trial(n, {}, (0.5,) * 9, "finished") for n in range(4)}
    for known, stopped in {(): 1, (0.1,): 1, (0.1,) * 2: 2 if scheduler == "median" else 3, (0.1,) * 3: 3}.items():
        one = search.Search(str(tmp_path), found, settings, {**better, 4: Trial(4, {}, known)}, print)
        told = [one.heard(4, epoch, 0.1) for epoch in range(1, 4)]
        assert told.index(True) + 1 == stopped


@pytest.mark.parametrize("kind", [TakenOver, InputError])
def test_a_search_of_which_a_trial_is_refused_stops_all_and_records_none(tmp_path, monkeypatch, kind):
    found, told = space.parse("learning_rate = { low = 0.1, high = 0.3 }", "s.toml"), []
    settings = cli.check(config.Tune, {"data": "d"})
    trials = {n: Trial(n, {"learning_rate": 0.1}, (0.1,)) for n in range(2)}
    for one in trials.values():
        records.keep_point(str(tmp_path), one)
    one = search.Search(str(tmp_path), found, settings, dict(trials), told.append)
    monkeypatch.setitem(search._SEARCHES, str(tmp_path), one)
    stop = search._Stop(str(tmp_path))
    assert not stop.stop_all()
    assert stop("a", {"refused": "another job", "taken_over": kind is TakenOver, "value": 0.0})
    assert stop.stop_all()
    assert (type(one.refused), str(one.refused)) == (kind, "another job")
    one.end(0)
    one.end(1, "its process died")
    assert (one.trials, told) == (trials, [])
    assert not any(left.ended for left in records.trials(str(tmp_path)).values())


def test_tunes_own_files_go_where_no_trial_is_left(tmp_path):
    (tmp_path / "tune" / "train_0").mkdir(parents=True)
    found = space.parse("learning_rate = { low = 0.1, high = 0.3 }", "s.toml")
    settings = cli.check(config.Tune, {"data": "d", "trials": len(TRIALS)})
    search.run(search.Search(str(tmp_path), found, settings, dict(TRIALS), print), lambda _: None, "d")
    assert list(tmp_path.iterdir()) == []


def test_nothing_half_written_stays(tmp_path):
    aside = f"{'0a' * 16}.tmp"
    for kept in ("search.json", "trials/00001/curve.json", "final/trial-00001/seed-7/model/config.json", "notes.tmp"):
        (tmp_path / kept).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / kept).write_text("kept")
    before = sorted(tmp_path.rglob("*"))
    for half in (
        f"search.json.{aside}",
        f"trials/00001/curve.json.{aside}",
        f"final/trial-00001/seed-7/model.{aside}/config.json",
    ):
        (tmp_path / half).parent.mkdir(exist_ok=True)
        (tmp_path / half).write_text("half")
    records.tidy(str(tmp_path))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_process_that_a_killed_search_left_writes_no_more(tmp_path):
    """Another process begins on the same trial: the one before stops, and its trial has not failed."""
    logs = {"train": simple_log(200, 40, seed=1)[0], "valid": simple_log(40, 40, seed=2)[0]}
    data = prepared_folder(tmp_path / "d", {**logs, "test": simple_log(40, 40, seed=3)[0]}, 40).folder
    settings = config.Hyperparameters(layers=(8,), batch_size=8, n_sample=16, epochs=3, patience=3)
    place, told = tmp_path / "t", []
    place.mkdir()

    def tell(epoch, value):
        told.append(value)
        if len(told) == 2:
            (place / trial.RUN / ATTEMPT).write_text("another")

    with pytest.raises(TakenOver):
        trial.run(settings, data, str(place), "mrr_at_20", tell, "cpu")
    assert not (place / trial.FAILED).exists()
    assert len(told) == 2
    again: list[float] = []
    trial.run(settings, data, str(place), "mrr_at_20", lambda _, value: again.append(value), "cpu")
    assert again[:2] == told  # from the last checkpoint on
    whole: list[float] = []
    (tmp_path / "w").mkdir()
    trial.run(
        dataclasses.replace(settings), data, str(tmp_path / "w"), "mrr_at_20", lambda _, v: whole.append(v), "cpu"
    )
    assert again == whole


def test_credentials_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hushed = {"tracking_uri": "postgresql://mlflow:hush@db/mlflow", "space": "s3://key:hu/sh@bucket/space.toml"}
    settings = config.Tune(data="s3://key:hush@bucket/data", run_name="s", **hushed)
    folder = records.folder_of(settings, "s")
    records.begin(folder, settings, "text", settings.data, "f", "abc")
    kept = (tmp_path / "gru4rec-runs" / "searches" / "s" / records.SEARCH).read_text()
    assert "hush" not in kept
    assert "hu/sh" not in kept
    again = cli.parse(config.Tune, ["--resume", "s", "--tracking-uri", "postgresql://db/mlflow"])
    assert (again.space, again.tracking_uri) == ("s3://bucket/space.toml", "postgresql://db/mlflow")


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", ".hidden", ""])
def test_the_name_of_a_search_is_that_of_a_folder(name):
    if name:
        with pytest.raises(InputError, match=r"--run-name: letters, digits"):
            cli.parse(config.Tune, ["--data", "d", "--run-name", name])
    else:
        assert cli.parse(config.Tune, ["--data", "d", "--run-name", name]).run_name == ""
