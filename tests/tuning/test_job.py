"""The tune job on a real Ray and a real MLflow: killed and gone on with, it finds what an undisturbed search finds."""

import contextlib
import dataclasses
import io
import json
import time
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
from prepared_folder import prepared_folder
from rich.console import Console
from simple_log import simple_log

from gru4rec import cli, config, lock, on_ray, storage
from gru4rec.errors import GRU4RecError, InputError
from gru4rec.evaluation import ranking
from gru4rec.model.network import initialise
from gru4rec.sessions.prepared import Prepared
from gru4rec.tracking import folder, registry, runs
from gru4rec.training.exchange import Alone
from gru4rec.training.loop import MODEL, Plan, Training
from gru4rec.training.progress import Quiet
from gru4rec.training.trainer import Trainer
from gru4rec.tuning import job, records, report, search, space, tracked, trial, winner
from gru4rec.tuning.trials import Trial, best

ITEMS = 40
SPACE = """
loss = "cross-entropy"
n_sample = 16
batch_size = { choices = [8, 16] }
layers = { low = 8, high = 24, step = 8 }
learning_rate = { low = 0.02, high = 0.4, step = 0.02 }
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    logs = {"train": simple_log(300, ITEMS, seed=1)[0], "valid": simple_log(60, ITEMS, seed=2)[0]}
    return prepared_folder(
        tmp_path_factory.mktemp("data") / "d", {**logs, "test": simple_log(60, ITEMS, seed=3)[0]}, ITEMS
    )


@pytest.fixture
def given(data, tmp_path):
    (tmp_path / "space.toml").write_text(SPACE)
    return {
        "data": data.folder,
        "space": str(tmp_path / "space.toml"),
        "storage": str(tmp_path / "kept"),
        "trials": 3,
        "epochs": 2,
        "seeds": (7, 8),
        "model_name": "tuned",
        "parallel": 2,
    }


class Killed(Exception):
    """Stands for the end of the job's process."""


def undisturbed(settings, data, place):
    """The trials of a search, one after another in this process."""
    found = space.parse(SPACE, "s.toml")
    trials = {}
    for number in range(settings.trials):
        one = Trial(number, found.draw(np.random.default_rng([settings.search_seed, number])))
        hyperparameters = job.hyperparameters(found, one, settings, patience=settings.epochs)
        (place / str(number)).mkdir(parents=True)
        trial.run(hyperparameters, data.folder, str(place / str(number)), "mrr_at_20", lambda *_: None, "cpu")
        curve = json.loads((place / str(number) / "curve.json").read_text())["curve"]
        trials[number] = Trial(number, one.values, tuple(curve), "finished")
    return trials


@pytest.mark.ray
def test_a_search_is_its_trials_and_the_winner_tested_once(given, data, store, ray_local, tmp_path, capsys):
    settings = cli.check(config.Tune, {**given, "trials": 2, "seeds": (7,), "run_name": "cut"})
    result = job.tune(settings)
    assert "2 of 2 done, best" in capsys.readouterr().err
    check_search(settings, result, undisturbed(settings, data, tmp_path / "whole"))
    check_what_is_kept(settings, result, data)
    assert job.tune(settings) == result
    assert "nothing to do" in capsys.readouterr().err
    with pytest.raises(InputError, match="--epochs is 5, but the search was begun with 2"):
        job.tune(cli.check(config.Tune, {**given, "trials": 2, "seeds": (7,), "run_name": "cut", "epochs": 5}))


def check_search(settings, result, whole):
    trials = records.trials(records.folder_of(settings, "cut"))
    assert {n: (one.values, one.curve) for n, one in trials.items()} == {
        n: (one.values, one.curve) for n, one in whole.items()
    }
    counts = {name: result[name] for name in ("trials", "stopped", "failed", "epochs")}
    assert counts == {"trials": len(whole), "stopped": 0, "failed": 0, "epochs": settings.epochs * len(whole)}
    assert (result["best"]["trial"], result["best"]["value"]) == (best(whole).number, best(whole).value)


@pytest.mark.chaos
def test_an_interrupted_search_ends_like_an_undisturbed_one(
    given, data, store, ray_local, monkeypatch, tmp_path, capsys
):
    import ray.tune

    settings = cli.check(config.Tune, {**given, "run_name": "cut"})
    whole = undisturbed(settings, data, tmp_path / "whole")
    heard = search.Search.heard

    def until(self, number, epoch, value):
        if (number, epoch) == (1, 2):
            raise Killed
        return heard(self, number, epoch, value)

    with monkeypatch.context() as patched:
        patched.setattr(search.Search, "heard", until)
        with pytest.raises(ray.tune.TuneError, match="Killed"):
            job.tune(settings)
    left = records.trials(records.folder_of(settings, "cut"))
    assert 2 <= len(left) <= 3
    assert any(not one.ended for one in left.values())
    result = job.tune(cli.parse(config.Tune, ["--resume", "cut", "--storage", given["storage"]]))
    told = capsys.readouterr().err
    ended = sum(one.ended for one in left.values())  # of two at a time, the other may have been slower
    assert not ended or f"going on after {ended}" in told
    assert "3 of 3 done, best" in told
    check_search(settings, result, whole)


@pytest.mark.ray
def test_the_winner_of_more_trials_is_trained_itself(given, data, ray_local, tmp_path):
    settings, told = cli.check(config.Tune, {**given, "seeds": (7,)}), []
    for number, layers in enumerate([(8,), (16,)]):
        chosen = config.Hyperparameters(layers=layers, batch_size=8, n_sample=16, epochs=1)
        given_ = Prepared(data.folder), str(tmp_path / "s"), settings, 0, told.append, 0.05
        (model,) = winner.train(number, chosen, settings.seeds, *given_)
        assert folder.load(model).model.hyperparameters.layers == layers
    assert [path.name for path in (tmp_path / "s" / "final").iterdir()] == ["trial-00001"]
    assert told[0] == "training the best: 0 of 1 seed(s) done after 0 min"


def test_each_winner_of_a_search_that_goes_on_is_a_version(given, data, store, tmp_path):
    settings = cli.check(config.Tune, {**given, "seeds": (7,)})
    run_id, prepared = runs.start_run(runs.connect(store), {}, kind="tune"), Prepared(data.folder)
    client, results = mlflow.MlflowClient(), []
    for trials, (number, layers, value) in {2: (1, (8,), 0.2), 5: (3, (16,), 0.3), 6: (3, (16,), 0.3)}.items():
        chosen = config.Hyperparameters(layers=layers, batch_size=8, n_sample=16, epochs=1)
        place = trial.train_whole(chosen, data.folder, str(tmp_path / str(number)), "cpu")
        results.append(fake_result(trials, number, chosen, value, settings.metric))
        for _ in range(2):  # the job was killed, and did it again
            version = job._registered(settings, run_id, place, results[-1], prepared)
            tracked.finish(run_id, results[-1], "page")
            assert version == str(number // 2 + 1)
        loaded = folder.load(registry.fetch("models:/tuned@candidate"))
        assert loaded.model.hyperparameters.layers == layers
        found = client.get_model_version("tuned", version)
        assert (found.tags["search.run"], found.tags["search.trial"]) == (run_id, str(number))
        run = client.get_run(found.run_id)
        assert (run.info.status, run.data.tags["mlflow.parentRunId"]) == ("FINISHED", run_id)
        assert run.data.params["layers"] == str(layers[0])
        assert run.data.metrics["mrr_at_20"] == value / 2
    assert len(client.search_model_versions("name = 'tuned'")) == 2
    points = client.get_metric_history(run_id, "mrr_at_20")
    assert [(point.step, point.value) for point in points] == [(2, 0.1), (5, 0.15), (6, 0.15)]
    tracked.Tracked(run_id)  # takes no winner for a trial that was recorded in part
    assert len(client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")) == 2


@pytest.mark.parametrize(("schedule", "same"), [("constant", True), ("linear", False)])
def test_the_winner_is_trained_with_the_learning_rates_that_won(given, data, tmp_path, schedule, same):
    """Those of the epochs up to the best, of a schedule that is laid over all."""
    settings = cli.check(config.Tune, {**given, "epochs": 4})
    found = space.parse(SPACE + f"lr_schedule = '{schedule}'", "s.toml")
    one = Trial(5, found.draw(np.random.default_rng(1)), (0.1, 0.3, 0.2, 0.3), "finished")
    chosen, epochs = job.winning(found, one, settings)
    assert (chosen.epochs, epochs) == (2 if same else 4, 2)
    place = trial.train_whole(chosen, data.folder, str(tmp_path / "w"), "cpu", epochs)
    trainer = Trainer(
        initialise(dataclasses.replace(chosen, epochs=4), ITEMS),
        data.items_of(("train", "valid"))["support"].to_numpy(),
    )
    for epoch in range(2):
        trainer.train_epoch(epoch, [[*data.shards("train"), *data.shards("valid")]])
    kept = folder.load(place).model.tensors()
    for name, tensor in trainer.model.tensors().items():
        assert (tensor == kept[name]).all()
    fewer = dataclasses.replace(chosen, epochs=2)
    other = folder.load(trial.train_whole(fewer, data.folder, str(tmp_path / "f"), "cpu")).model.tensors()
    assert all((tensor == other[name]).all() for name, tensor in kept.items()) == same


@pytest.mark.ray
def test_a_winner_that_cannot_be_trained_says_with_which_seed(given, data, ray_local, tmp_path):
    settings = cli.check(config.Tune, {**given, "seeds": (7,)})
    wild = config.Hyperparameters(
        layers=(8,), batch_size=8, n_sample=16, epochs=2, lr_schedule="exponential", lr_final=1e30
    )
    told = r"trial 4 is the best, .* with seed 7, its training fails: the loss explodes in epoch 2.*; go on with more"
    with pytest.raises(GRU4RecError, match=told):
        winner.train(4, wild, settings.seeds, Prepared(data.folder), str(tmp_path), settings, 0, print)
    other = winner._reason(MemoryError(), 4, 8, (7, 8))
    assert "with seed 8, its training fails: MemoryError; go on with --seeds without that one, or more" in str(other)
    assert isinstance(winner._reason(InputError("damaged"), 4, 8, (7, 8)), InputError)


def fake_result(trials, number, chosen, value, metric):
    figures = {"recall_at_20": value, "mrr_at_20": value / 2, "ndcg_at_20": value / 3}
    return {
        "search": "s",
        "trials": trials,
        "best": {"trial": number, "settings": {"layers": chosen.layers}, "metric": metric, "value": value},
        "test": {"mean": figures, "metrics": {"seed 7": figures}},
        "hyperparameters": dataclasses.asdict(chosen),
    }


def test_no_trial_is_begun_after_its_hours(given, tmp_path):
    settings = cli.check(config.Tune, given)
    found, kept = space.parse(SPACE, "s.toml"), str(tmp_path / "s")
    one = search.Search(kept, found, settings, {}, print, until=time.time() + 3600)
    assert [one.next(), one.next()] == [0, 1]
    later = search.Search(kept, found, settings, dict(one.trials), print, until=time.time() - 1)
    assert [later.next(), later.next(), later.next()] == [0, 1, -1]  # what was begun comes to its end
    later.heard(0, 1, 0.1)
    for number in (0, 1):
        later.end(number)
    left = records.trials(kept)
    assert {number: one.status for number, one in left.items()} == {0: "stopped", 1: "running"}
    again = search.Search(kept, found, settings, left, print)
    assert [again.next(), again.next()] == [1, 2]  # for the one that was not begun in time, there is time now


def test_what_is_left_is_told(given):
    settings = cli.check(config.Tune, {**given, "trials": 4})
    hours = dataclasses.replace(settings, hours=0.5)
    assert job._left(settings, 2, 1, 90.0) == ", about 3 min left"
    assert job._left(settings, 4, 2, 90.0) == job._left(settings, 5, 2, 90.0) == ""
    assert job._left(hours, 2, 1, 1700.0) == ", about 2 min left"
    assert job._left(hours, 2, 1, 1800.0) == ", no more are begun"


def test_how_it_goes_is_told_between_trials_too(given, monkeypatch):
    settings, told, now = cli.check(config.Tune, given), io.StringIO(), [0.0]
    monkeypatch.setattr(job, "time", SimpleNamespace(monotonic=lambda: now[0]))
    trials = {0: Trial(0, {}, (0.25,), "finished"), 1: Trial(1, {})}

    class Store:
        def trial(self, one): ...

    progress = job._Progress(Console(file=told, soft_wrap=True), settings, trials, Store())
    for now[0] in (59, 60, 119):
        progress.meanwhile(1)
    assert told.getvalue() == "1 in hand, 1 of 3 done, best 0.2500 (trial 0)\n"
    trials[1], now[0] = Trial(1, {}, (0.5,), "finished"), 121
    progress.ended(trials[1])
    progress.meanwhile(1)  # a line has just been said
    assert told.getvalue().splitlines()[1:] == [
        "trial 1 finished after 1 epochs: 0.5000  |  2 of 3 done, best 0.5000 (trial 1), about 3 min left"
    ]


@pytest.fixture
def no_ray(monkeypatch):
    """Stands for a small machine on which nothing may be started."""
    import ray

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(on_ray, "connected", lambda _: contextlib.nullcontext())


@pytest.mark.parametrize("changed", [{"threads": 99}, {"gpus_per_trial": 0.5}, {"pack_gpus": 4}])
def test_a_search_that_no_machine_can_run_leaves_nothing(given, store, no_ray, tmp_path, changed):
    settings = cli.check(config.Tune, {**given, "run_name": "s", "tracking_uri": store, **changed})
    with pytest.raises(InputError, match=r"needs|has no GPU"):
        job.tune(settings)
    assert not (tmp_path / "kept").exists()
    assert mlflow.MlflowClient().search_runs([runs.connect(store)]) == []


def test_of_two_searches_of_one_name_the_second_changes_nothing(given, store, no_ray, tmp_path, monkeypatch):
    settings = cli.check(config.Tune, {**given, "run_name": "s", "tracking_uri": store})
    place, client = records.folder_of(settings, "s"), mlflow.MlflowClient()
    with lock.held(place):  # the other is about to begin it
        with pytest.raises(GRU4RecError, match="searches/s: another run is writing here"):
            job.tune(settings)
        assert client.search_runs([runs.connect(store)]) == []

    def second(*_):
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("*")}
        with pytest.raises(GRU4RecError, match="searches/s: another run is writing here"):
            job.tune(dataclasses.replace(settings, trials=9))
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("*")} == before
        assert [run.info.status for run in client.search_runs([runs.connect(store)])] == ["RUNNING"]
        raise Killed

    monkeypatch.setattr(job, "_search", second)
    for _ in range(2):  # a search that ended is no obstacle
        with pytest.raises(Killed):
            job.tune(settings)
        assert [run.info.status for run in client.search_runs([runs.connect(store)])] == ["FAILED"]
    assert storage.read_json(f"{place}/search.json")["settings"]["trials"] == given["trials"]


def test_a_search_that_another_job_has_ended_meanwhile_is_not_run_again(given, store, no_ray, data, monkeypatch):
    settings = cli.check(config.Tune, {**given, "run_name": "s", "tracking_uri": store})
    place, done = records.folder_of(settings, "s"), {"search": "s", "trials": 3}

    def ended(_):
        records.begin(place, settings, SPACE, data.folder, data.fingerprint, "r")
        storage.write_json(f"{place}/result.json", done)

    monkeypatch.setattr(job, "_check_resources", ended)  # just before the claim
    assert job.tune(settings) == done


def test_what_no_machine_has_is_refused(given, monkeypatch):
    import ray

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    settings = cli.check(config.Tune, {**given, "threads": 2})
    job._check_resources(settings)
    many, gpus = dataclasses.replace(settings, threads=8), dataclasses.replace(settings, gpus_per_trial=0.25)
    with pytest.raises(InputError, match=r"--threads: a trial needs 8 CPUs, and Ray has 2: give fewer"):
        job._check_resources(many)
    with pytest.raises(InputError, match=r"--gpus-per-trial: a trial needs 0.25 GPUs, and Ray has 0: give less, or 0"):
        job._check_resources(gpus)
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # a cluster that may grow
    job._check_resources(many)


@pytest.mark.ray
def test_a_trial_for_which_there_was_no_room_in_time_is_left(given, data, ray_local, tmp_path):
    """Tune has it ready, and begins it when the hours are over."""
    settings = cli.check(config.Tune, {**given, "trials": 1})
    found, told = space.parse(SPACE, "s.toml"), []
    late = {0: Trial(0, found.draw(np.random.default_rng(1)))}
    records.keep_point(str(tmp_path), late[0])
    search.run(search.Search(str(tmp_path), found, settings, late, told.append, 0.0), lambda _: None, data.folder)
    assert told == []
    assert not late[0].ended
    assert [path.name for path in tmp_path.glob("trials/00000/*")] == ["trial.json"]


@pytest.mark.ray
def test_a_trial_that_is_refused_ends_the_search(given, data, ray_local, tmp_path):
    """After one attempt, and no trial has failed."""
    settings = cli.check(config.Tune, {**given, "parallel": 1})
    found, told, tried = space.parse(SPACE, "s.toml"), [], tmp_path / "tried"

    def hyperparameters(one):
        with open(tried, "a") as file:
            file.write("once ")
        return job._of_trial(found, one, settings)

    one = search.Search(str(tmp_path / "s"), found, settings, {}, told.append)
    with pytest.raises(InputError, match="is not the data that this search was begun with"):
        search.run(one, hyperparameters, data.folder, "cafe00")
    assert (told, tried.read_text()) == ([], "once ")
    left = records.trials(str(tmp_path / "s"))
    assert left
    assert not any(one.ended for one in left.values())
    assert not (tmp_path / "s" / "tune").exists()


def check_what_is_kept(settings, result, data):
    client = mlflow.MlflowClient()
    run = client.get_run(result["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["mrr_at_20"] == pytest.approx(result["test"]["mean"]["mrr_at_20"])
    below = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{result['run_id']}'")
    (of_winner,) = (one for one in below if one.data.tags["kind"] == "winner")
    assert client.get_model_version("tuned", result["model_version"]).run_id == of_winner.info.run_id
    nested = [one for one in below if one is not of_winner]
    assert sorted(one.data.tags["trial"] for one in nested) == [str(n) for n in range(settings.trials)]
    point = next(one for one in nested if one.data.tags["trial"] == str(result["best"]["trial"]))
    assert point.data.params["learning_rate"] == str(result["best"]["settings"]["learning_rate"])
    assert max(p.value for p in client.get_metric_history(point.info.run_id, "valid_metric")) == result["best"]["value"]
    uri, version = registry.resolve("models:/tuned@candidate")
    assert version == result["model_version"]
    loaded = folder.load(registry.fetch(uri))
    wanted = ranking.evaluate(loaded.model, data.read("test"), (20,)).result()
    assert wanted["mrr_at_20"] == pytest.approx(result["test"]["metrics"]["seed 7"]["mrr_at_20"])
    kept = records.folder_of(settings, "cut")
    assert "How much" not in (page := storage.read_bytes(f"{kept}/report.html").decode())  # too few trials to say
    assert "Best so far" in page
    assert "<script" not in page
    assert storage.list_folders(f"{kept}/trials/00000") == []  # no weights of trials are left
    json.dumps(result)


def test_a_trial_that_fails_says_why_and_never_reads_the_test_split(data, tmp_path):
    told = []
    settings = config.Hyperparameters(layers=(8,), batch_size=8, n_sample=16, epochs=2, patience=2, learning_rate=0.1)

    def tell(epoch, value):
        told.append((epoch, value))

    (tmp_path / "good").mkdir()
    trial.run(settings, data.folder, str(tmp_path / "good"), "mrr_at_20", tell, "cpu")
    assert [epoch for epoch, _ in told] == [1, 2]
    assert json.loads((tmp_path / "good" / "curve.json").read_text())["curve"] == [value for _, value in told]
    wild = config.Hyperparameters(
        layers=(8,), batch_size=8, n_sample=16, epochs=2, patience=2, lr_schedule="exponential", lr_final=1e30
    )
    (tmp_path / "bad").mkdir()
    trial.run(wild, data.folder, str(tmp_path / "bad"), "mrr_at_20", tell, "cpu")
    assert "the loss explodes in epoch 2" in json.loads((tmp_path / "bad" / "failed.json").read_text())["why"]
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "failed.json").write_text('{"why": "out of memory"}')  # and the next attempt is a good one
    trial.run(settings, data.folder, str(tmp_path / "later"), "mrr_at_20", tell, "cpu")
    assert not (tmp_path / "later" / "failed.json").exists()


def test_data_prepared_anew_while_a_search_runs_are_refused(data, tmp_path):
    settings = config.Hyperparameters(layers=(8,), batch_size=8, n_sample=16, epochs=1, patience=1)
    place = str(tmp_path / "t")
    with pytest.raises(InputError, match=r"is not the data that this search was begun with: .*cafe00…"):
        trial.run(settings, data.folder, place, "mrr_at_20", lambda *_: None, "cpu", "cafe00")
    with pytest.raises(InputError, match="is not the data that this search was begun with"):
        trial.train_whole(settings, data.folder, place, "cpu", fingerprint="cafe00")
    assert trial.train_whole(settings, data.folder, place, "cpu", fingerprint=data.fingerprint) == f"{place}/model"


def test_training_and_validation_split_are_one_log(data, tmp_path):
    """Training on both is training on a folder whose training split is both."""
    settings = config.Hyperparameters(layers=(8,), batch_size=8, n_sample=16, epochs=1)
    place = trial.train_whole(settings, data.folder, str(tmp_path / "both"), "cpu")
    found = folder.load(place)
    train, valid = data.read("train"), data.read("valid")
    assert found.items["support"].to_numpy().sum() == len(train.items) + len(valid.items)
    trainer = Trainer(initialise(settings, ITEMS), found.items["support"].to_numpy())
    trainer.train_epoch(0, [[*data.shards("train"), *data.shards("valid")]])
    for name, tensor in trainer.model.tensors().items():
        assert (tensor == found.model.tensors()[name]).all()
    whole = Training(settings, Prepared(data.folder), Plan(str(tmp_path / "one")), Alone(), Quiet()).run()
    assert whole.metrics["mrr_at_20"] > 0
    assert (tmp_path / "one" / MODEL).exists()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"space": "nowhere.toml"}, "no such file, nor one of bpr-max, cross-entropy"),
        ({"data": "nowhere"}, "nowhere: no such folder"),
        ({"data": ""}, "--data: is required"),
        ({"algorithm": "grid"}, "--algorithm"),
        ({"resume": "gone"}, "there is no such search"),
    ],
)
def test_what_is_refused_before_anything_starts(given, store, changed, named, tmp_path, capsys):
    wanted = {name: value for name, value in {**given, **changed}.items() if name not in ("seeds",)}
    arguments = [part for name, value in wanted.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    assert cli.run(config.Tune, job.tune, arguments) == 2
    assert named in capsys.readouterr().err


def test_a_search_goes_on_where_it_was_begun(given, tmp_path):
    """On GPUs, say, though the one who goes on with it does not say so again."""
    begun = cli.check(config.Tune, {**given, "gpus_per_trial": 0.5, "threads": 3})
    records.begin(records.folder_of(begun, "large"), begun, SPACE, given["data"], "f", "r")
    again = ["--resume", "large", "--storage", given["storage"]]
    found = cli.parse(config.Tune, again)
    assert (found.gpus_per_trial, found.threads, found.parallel) == (0.5, 3, 2)
    assert cli.parse(config.Tune, [*again, "--gpus-per-trial", "0"]).gpus_per_trial == 0


def test_what_a_search_is_asked_for_later_is_kept(given):
    """Trials and seeds may be added; the first seed, with which trials are trained, stays."""
    begun = cli.check(config.Tune, given)
    place = records.folder_of(begun, "s")
    records.begin(place, begun, SPACE, given["data"], "f", "r")
    again = ["--resume", "s", "--storage", given["storage"]]
    for trials, wanted in (("9", 9), ("4", 9)):
        settings = cli.parse(config.Tune, [*again, "--trials", trials, "--seeds", "7", "5"])
        records.check(records.read(place), settings, SPACE, "f")
        records.go_on(place, records.read(place), settings)
        kept = cli.parse(config.Tune, again)
        assert (kept.trials, kept.seeds) == (wanted, (7, 5))
    with pytest.raises(InputError, match="--seeds begins with 8, but the search was begun with 7"):
        records.check(records.read(place), cli.parse(config.Tune, [*again, "--seeds", "8", "7"]), SPACE, "f")
    storage.write_json(f"{place}/result.json", {"trials": 9, "seeds": [7, 5], "model_name": "tuned"})
    for changed, done in {"": True, "--trials 3": True, "--trials 10": False, "--seeds 7": False}.items():
        settings = cli.parse(config.Tune, [*again, *changed.split()])
        assert (records.finished(place, records.read(place), settings) is not None) == done
    settings = cli.parse(config.Tune, [*again, "--model-name", "other"])
    assert records.finished(place, records.read(place), settings) is None


def test_a_search_of_an_earlier_version_goes_on(given):
    begun = cli.check(config.Tune, {**given, "grace": 1})
    place = records.folder_of(begun, "old")
    records.begin(place, begun, SPACE, given["data"], "f", "r")
    whole = storage.read_json(f"{place}/search.json")
    later = ("grace", "hours", "parallel", "threads", "gpus_per_trial", "pack_gpus")
    settings = {name: value for name, value in whole["settings"].items() if name not in later}
    storage.write_json(f"{place}/search.json", {**whole, "settings": settings})
    found = cli.parse(config.Tune, ["--resume", "old", "--storage", given["storage"]])
    assert (found.grace, found.hours, found.parallel, found.threads, found.gpus_per_trial) == (1, 0, 0, 1, 0)
    records.check(records.read(place), found, SPACE, "f")
    with pytest.raises(InputError, match="--grace is 2, but the search was begun with 1"):
        records.check(records.read(place), cli.check(config.Tune, {**given, "grace": 2}), SPACE, "f")


@pytest.mark.parametrize(
    ("seeds", "why"), [("7 8 7", "may be there once"), ("-1", "at least 0"), ("4294967296", "2^32")]
)
def test_seeds_that_cannot_be(seeds, why, capsys):
    assert cli.run(config.Tune, job.tune, ["--seeds", *seeds.split()]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: --seeds: ")
    assert why in told


def test_without_a_validation_split(store, tmp_path, capsys):
    log = simple_log(30, ITEMS, seed=1)[0]
    folder_ = prepared_folder(tmp_path / "d", {"train": log, "test": log}, ITEMS).folder
    assert cli.run(config.Tune, job.tune, ["--data", folder_]) == 2
    assert "the valid split has nothing to predict; prepare it with --valid-days" in capsys.readouterr().err


def test_importances_find_what_matters():
    found = space.parse(SPACE, "s.toml")
    points = {n: found.draw(np.random.default_rng(n)) for n in range(60)}
    trials = {n: Trial(n, p, (1 - abs(p["learning_rate"] - 0.2),), "finished") for n, p in points.items()}
    weights = report.importances(found, trials)
    assert next(iter(weights)) == "learning_rate"
    assert weights["learning_rate"] > 0.8
    assert report.importances(found, {n: trials[n] for n in range(5)}) == {}


def test_importances_of_trials_that_hardly_differ():
    found = space.parse("learning_rate = { choices = [0.1, 0.2] }", "s.toml")
    trials = {n: Trial(n, {"learning_rate": 0.1}, (0.5 + (n == 0) * 0.1,), "finished") for n in range(12)}
    assert report.importances(found, trials) == {}
