"""The compare job on a real MLflow store: the better version becomes the champion, others do not, and all is told."""

import html.parser
import json

import mlflow
import numpy as np
import pytest
from prepared_folder import prepared_folder

from gru4rec import cli, config
from gru4rec.config import Hyperparameters
from gru4rec.errors import GRU4RecError, InputError
from gru4rec.evaluation import compare as compare_job
from gru4rec.evaluation import contenders, measure
from gru4rec.evaluation.compare import compare
from gru4rec.evaluation.decision import Decision
from gru4rec.model.network import initialise
from gru4rec.sessions.prepared import Sessions
from gru4rec.tracking import folder, registry, runs
from gru4rec.training.trainer import Trainer

ITEMS = 40


def log(seed, sessions):
    """Sessions that mostly go from an item to the same next one."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(sessions):
        row = [int(random.integers(ITEMS))]
        for _ in range(random.integers(2, 7)):
            row.append((row[-1] * 7 + 3) % ITEMS if random.random() < 0.5 else int(random.integers(ITEMS)))
        rows.append(row)
    return Sessions(np.cumsum([0] + [len(row) for row in rows]), np.concatenate(rows).astype(np.int32))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepared_folder(tmp_path_factory.mktemp("data") / "d", {"train": log(1, 800), "test": log(2, 300)}, ITEMS)


@pytest.fixture
def registered(store, data, tmp_path):
    """Train so many epochs with a seed, and register: the version."""

    def register(epochs, seed=0, fingerprint=data.fingerprint):
        settings = Hyperparameters(layers=(20,), batch_size=16, n_sample=20, learning_rate=0.2, epochs=10, seed=seed)
        model = initialise(settings, ITEMS)
        trainer = Trainer(model, data.support)
        for epoch in range(epochs):
            trainer.train_epoch(epoch, [data.shards("train")])
        place = str(tmp_path / "model")
        folder.save(trainer.model, data.items, place)
        run_id = runs.start_run(runs.connect(store), {})
        return registry.register(run_id, place, "shop", {}, fingerprint)

    return register


def job(data, tmp_path, *versions, **given):
    arguments = {"models": [f"models:/shop/{version}" for version in versions], "data": data.folder, "threads": 1}
    return compare(cli.check(config.Compare, {**arguments, "report": str(tmp_path / "page.html"), **given}))


def aliases():
    found = mlflow.MlflowClient().get_registered_model("shop").aliases
    return {alias: str(version) for alias, version in found.items()}


def test_the_better_version_becomes_champion_and_nothing_else_does(store, data, registered, tmp_path, capsys):
    poor, good, again = registered(1), registered(8), registered(8, seed=5)
    first = job(data, tmp_path, poor, baselines=["markov", "pop"])
    assert "would be promoted (dry run" in capsys.readouterr().err
    assert not first["promoted"]
    assert aliases() == {}
    assert job(data, tmp_path, poor, promote=True)["promoted"]
    assert aliases() == {"champion": poor}

    found = job(data, tmp_path, good, poor, promote=True, baselines=["markov"])
    assert found["promoted"]
    assert (found["winner"], found["champion"]) == (f"shop/{good}", f"shop/{poor}")
    assert aliases() == {"champion": good, "previous": poor}
    client = mlflow.MlflowClient()
    kept = client.get_model_version("shop", good)
    assert kept.tags["compare.decision"] == "promoted to champion"
    assert kept.tags["compare.data_fingerprint"] == data.fingerprint
    assert found["reasons"][0] in kept.description
    assert client.get_model_version("shop", poor).tags["compare.decision"].startswith("replaced as champion by version")

    found = job(data, tmp_path, good, again, promote=True)
    assert not found["promoted"]
    assert "champion" in found["reasons"][0]
    assert aliases() == {"champion": good, "previous": poor, "challenger": again}
    assert client.get_model_version("shop", again).tags["compare.decision"] == "not promoted"


def test_what_is_recorded_and_shown(store, data, registered, tmp_path, capsys):
    poor, good = registered(1), registered(6)
    found = job(data, tmp_path, poor, good, baselines=["markov"])
    markov = found["metrics"]["markov"]["mrr_at_20"]
    low, high = found["intervals"]["markov"]["mrr_at_20"]
    assert low < markov < high
    client = mlflow.MlflowClient()
    run = client.get_run(found["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["markov/mrr_at_20"] == pytest.approx(markov)
    assert run.data.metrics[f"shop/{good}/coverage_at_20"] > 0.5
    names = {entry.path for entry in client.list_artifacts(found["run_id"])}
    assert names == {"comparison.json", "page.html"}
    logged = mlflow.get_logged_model(client.get_model_version("shop", good).source.removeprefix("models:/"))
    measured = {metric.key: metric for metric in logged.metrics}
    assert measured["compare/mrr_at_20"].value == pytest.approx(found["metrics"][f"shop/{good}"]["mrr_at_20"])
    assert measured["compare/mrr_at_20"].dataset_digest == data.fingerprint[:36]
    text = (tmp_path / "page.html").read_text()
    html.parser.HTMLParser().feed(text)
    assert f"shop/{good}" in text
    assert "By session length" in text
    assert "<script" not in text
    assert f"shop/{good}" in capsys.readouterr().err
    json.dumps(found)


def test_what_is_refused(store, data, registered, tmp_path):
    poor, elsewhere = registered(1), registered(6, fingerprint="of another folder")
    assert job(data, tmp_path, poor, promote=True)["promoted"]
    found = job(data, tmp_path, poor, elsewhere, promote=True)
    assert not found["promoted"]
    assert "was trained and evaluated on other data (of another f)" in found["reasons"][-1]
    arguments = ["--data", data.folder, "--report", "", "--models"]
    assert cli.run(config.Compare, compare, [*arguments, f"models:/shop/{elsewhere}"]) == 2  # without the champion
    assert cli.run(config.Compare, compare, [*arguments, f"models:/shop/{poor}", "models:/shop@champion"]) == 2
    assert cli.run(config.Compare, compare, [*arguments, "models:/shop/99"]) == 2
    assert aliases()["champion"] == poor


def test_what_could_not_be_written_at_the_end_is_told_before_anything_is_measured(data, store, tmp_path, monkeypatch):
    place = str(tmp_path / "model")
    folder.save(initialise(Hyperparameters(layers=(4,)), ITEMS), data.items, place)
    (tmp_path / "file").write_text("x")
    mlflow.MlflowClient().delete_experiment(runs.connect(store, "gone"))

    def measured(*_):
        raise AssertionError("it was measured all the same")

    monkeypatch.setattr(measure, "measure", measured)
    for given, error, said in (
        ({"report": str(tmp_path / "file" / "page.html")}, InputError, "--report .*file is not a folder"),
        ({"report": str(tmp_path)}, InputError, "--report .*is a folder; name a file"),
        ({"experiment": "gone"}, GRU4RecError, "gone was deleted"),
    ):
        with pytest.raises(error, match=said):
            job(data, tmp_path, **{"models": [place], **given})


def test_a_report_in_a_folder_that_is_not_there_yet(data, store, tmp_path):
    place, page = str(tmp_path / "model"), tmp_path / "pages" / "november" / "page.html"
    folder.save(initialise(Hyperparameters(layers=(4,)), ITEMS), data.items, place)
    found = job(data, tmp_path, models=[place], baselines=["pop"], report=str(page))
    assert "By session length" in page.read_text()
    artifacts = {entry.path for entry in mlflow.MlflowClient().list_artifacts(found["run_id"])}
    assert artifacts == {"comparison.json", "page.html"}


@pytest.mark.parametrize(("metric", "best"), [("mrr_at_20", "2"), ("recall_at_20", "3"), ("ndcg_at_20", "4")])
def test_the_challenger_is_the_best_of_the_others_by_the_metric_that_decides(monkeypatch, metric, best):
    figures = {"1": (0.9, 0.9, 0.9), "2": (0.3, 0.1, 0.2), "3": (0.2, 0.3, 0.1), "4": (0.1, 0.2, 0.3)}
    names = ("mrr_at_20", "recall_at_20", "ndcg_at_20")
    result = {"run_id": "r", "data_fingerprint": "f", "metrics": {"markov": dict.fromkeys(names, 1.0)}}
    result["metrics"] |= {f"shop/{version}": dict(zip(names, of, strict=True)) for version, of in figures.items()}
    found = [
        contenders.Opened(contenders.Baseline(f"shop/{version}", "d"), contenders.About("version", "shop", version))
        for version in figures
    ]
    found.append(contenders.Opened(contenders.Baseline("markov", "d")))
    done = []
    monkeypatch.setattr(registry, "set_alias", lambda *alias: done.append(alias))
    monkeypatch.setattr(registry, "note", lambda name, version, *_: done.append(version))
    settings = cli.check(config.Compare, {"models": ["m"], "data": "d", "metric": metric})
    decided = Decision(winner="shop/1", promote=False, reasons=["shop/1 is the champion"], tests={})
    compare_job._challenge(settings, found, decided, "shop/1", result)
    assert done == [("shop", best, "challenger"), best]


@pytest.mark.parametrize(("metric", "order"), [("mrr_at_20", "ab"), ("recall_at_20", "ba"), ("ndcg_at_20", "ba")])
def test_the_table_has_the_best_by_the_metric_that_decides_first(metric, order):
    figures = {"a": (0.3, 0.1, 0.1), "b": (0.2, 0.2, 0.2)}
    names = ("mrr_at_20", "recall_at_20", "ndcg_at_20")
    metrics = {label: {**dict(zip(names, of, strict=True)), "coverage_at_20": 1.0} for label, of in figures.items()}
    result = {
        "split": "test",
        "predictions": 1,
        "sessions": 1,
        "ties": "standard",
        "champion": "",
        "metric": metric,
        "metrics": metrics,
        "intervals": {label: dict.fromkeys(names, (0.0, 1.0)) for label in figures},
        "details": {label: {"unknown_share": 0.0} for label in figures},
    }
    shown = compare_job.table(result)
    assert "".join(shown.columns[0].cells) == order
    assert (shown.columns[3].header == "NDCG@20") == (metric == "ndcg_at_20")


def test_a_champion_that_changed_meanwhile_is_not_overwritten(store, data, registered, tmp_path, monkeypatch):
    """While it is measured, or while that is recorded."""
    poor, rolled_back_to, good = registered(1), registered(1, seed=3), registered(8)
    for place, name in ((measure, "measure"), (compare_job, "_record")):
        registry.set_alias("shop", poor, "champion")
        working = getattr(place, name)

        def and_someone_moves_the_alias(*given, working=working):
            registry.set_alias("shop", rolled_back_to, "champion")
            return working(*given)

        with monkeypatch.context() as patch:
            patch.setattr(place, name, and_someone_moves_the_alias)
            with pytest.raises(GRU4RecError, match=f"was shop/{poor} when .* shop/{rolled_back_to} now: .* run again"):
                job(data, tmp_path, poor, good, promote=True)
        assert aliases() == {"champion": rolled_back_to}
        assert "compare.decision" not in mlflow.MlflowClient().get_model_version("shop", good).tags


def test_killed_between_the_aliases_the_next_run_sets_both(store, data, registered, tmp_path, monkeypatch):
    oldest, poor, good = registered(1, seed=3), registered(1), registered(8)
    registry.set_alias("shop", poor, "champion")
    registry.set_alias("shop", oldest, "previous")
    set_alias, calls = registry.set_alias, []

    def killed(*given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        set_alias(*given)

    with monkeypatch.context() as patch:
        patch.setattr(registry, "set_alias", killed)
        with pytest.raises(KeyboardInterrupt):
            job(data, tmp_path, poor, good, promote=True)
    assert aliases()["champion"] == poor
    assert job(data, tmp_path, poor, good, promote=True)["promoted"]
    assert aliases() == {"champion": good, "previous": poor}
