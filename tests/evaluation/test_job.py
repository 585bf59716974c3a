"""The evaluate job: the same figures here, with one worker and with many, and against obvious implementations."""

import json
import math
import shutil
from collections import Counter

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared_folder import prepared_folder
from simple_log import simple_log

from gru4rec import cli, config
from gru4rec.config import Hyperparameters
from gru4rec.evaluation import baselines, measure, pieces
from gru4rec.evaluation.job import evaluate
from gru4rec.model.network import initialise
from gru4rec.sessions.prepared import Prepared, Sessions
from gru4rec.tracking import folder, runs

ITEMS = 30


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    train, test = simple_log(80, ITEMS, seed=1)[0], simple_log(20, ITEMS, seed=2)[0]
    return prepared_folder(tmp_path_factory.mktemp("data") / "d", {"train": train, "test": test}, ITEMS)


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    """A model that does not know a third of the items."""
    place = str(tmp_path_factory.mktemp("model") / "m")
    known = data.items.slice(0, 20)
    folder.save(initialise(Hyperparameters(layers=(8,), seed=4, init_range=0.5), 20), known, place, {})
    return place


def job(capsys, *arguments):
    code = cli.run(config.Evaluate, evaluate, [str(one) for one in arguments])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out.splitlines()[-1]), captured.err


def test_all_baselines_with_one_flag(data, store, capsys):
    found, shown = job(capsys, "--data", data.folder, "--cutoffs", 5, "--baselines", *baselines.NAMES)
    train, test = data.read("train"), data.read("test")
    assert found["predictions"] == test.transitions
    for name in baselines.NAMES:
        wanted = baselines.evaluate(name, train, test, ITEMS, (5, 20)).result()
        assert {key: found["metrics"][name][key] for key in wanted} == pytest.approx(wanted)
        low, high = found["intervals"][name]["recall_at_5"]
        assert low <= wanted["recall_at_5"] <= high
        assert name in shown


def figures(found):
    return {key: value for key, value in found.items() if key not in ("run_id", "out")}


@pytest.mark.ray
def test_the_same_figures_from_one_worker_and_from_many(data, model, store, ray_local, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(pieces, "SESSIONS", 3)
    asked = ["--data", data.folder, "--model", model, "--baselines", "markov", "v-sknn", "--relevant", "rest"]
    alone, _ = job(capsys, *asked, "--out", tmp_path / "alone")
    one, _ = job(capsys, *asked, "--out", tmp_path / "one", "--workers", 1)
    many, _ = job(capsys, *asked, "--out", tmp_path / "many", "--workers", 2)
    assert figures(alone) == figures(one) == figures(many)
    names = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.parquet"))
    assert len(names) == 3 * 7  # 20 sessions in pieces of 3
    for name in names:
        assert pq.read_table(tmp_path / "one" / name) == pq.read_table(tmp_path / "many" / name)
    # Damage is told by name, from a worker too.
    code = cli.run(config.Evaluate, evaluate, ["--data", _damaged(data, tmp_path), *asked[2:], "--workers", "2"])
    shown = capsys.readouterr().err
    assert (code, shown.count("error:")) == (2, 1)
    assert "cannot be read" in shown


def _damaged(data, tmp_path):
    """A copy of the prepared folder whose test split has a flipped page."""
    place = tmp_path / "damaged"
    shutil.copytree(data.folder, place)
    (file,) = (place / "test").glob("*.parquet")
    content = bytearray(file.read_bytes())
    content[4:200] = bytes(196)
    file.write_bytes(content)
    return str(place)


def test_what_each_session_gave_adds_up_to_everything(data, model, store, tmp_path, capsys):
    found, shown = job(capsys, "--data", data.folder, "--model", model, "--cutoffs", 1, 5, "--out", tmp_path / "out")
    (label,) = found["metrics"]
    table = pa.concat_tables(pq.read_table(path) for path in sorted((tmp_path / "out").rglob("*.parquet")))
    test = data.read("test")
    assert table["clicks"].to_pylist() == test.lengths.tolist()
    assert table["session_id"].to_pylist() == list(range(test.count))
    assert table["predictions"].to_pylist() == (test.lengths - 1).tolist()
    for name in ("recall", "mrr", "ndcg", "map", "hit_rate"):
        for k in (1, 5, 20):
            key = f"{name}_at_{k}"
            assert sum(table[key].to_pylist()) / found["predictions"] == pytest.approx(found["metrics"][label][key])
    ranks = [rank for row in table["ranks"].to_pylist() for rank in row]
    assert len(ranks) == found["predictions"]
    assert sum(rank is None for rank in ranks) == found["unknown"][label] > 0
    assert f"{found['unknown'][label]} items to be predicted are not in its catalogue" in shown
    hits = sum(rank is not None and rank <= 5 for rank in ranks)
    assert hits / len(ranks) == pytest.approx(found["metrics"][label]["recall_at_5"])
    kept = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert kept["metrics"] == found["metrics"]
    lengths = {row["class"]: row["predictions"] for row in kept["breakdowns"]["lengths"]}
    assert sum(lengths.values()) == found["predictions"]
    twos = [row for row in table.to_pylist() if row["clicks"] == 2]
    assert lengths.get("2 clicks", 0) == len(twos)
    mine = kept["breakdowns"]["lengths"][0]
    if twos:
        assert mine[label]["mrr_at_20"] == pytest.approx(np.mean([row["mrr_at_20"] for row in twos]))
    for name in ("positions", "popularity", "age"):
        assert sum(row["predictions"] for row in kept["breakdowns"][name]) == found["predictions"]


def test_what_the_lists_show(data, store, capsys):
    found, _ = job(capsys, "--data", data.folder, "--baselines", "s-pop")
    train, test = data.read("train"), data.read("test")
    clicks = Counter(train.items.tolist())
    shown = []
    for place in range(test.count):
        session = Counter(test.items[test.offsets[place] : test.offsets[place + 1]].tolist())
        best = sorted(range(ITEMS), key=lambda item: (-session[item], -clicks[item], item))
        shown += best[:20]
    metrics = found["metrics"]["s-pop"]
    assert metrics["coverage_at_20"] == pytest.approx(len(set(shown)) / ITEMS)
    most = max(clicks.values())
    assert metrics["popularity_at_20"] == pytest.approx(np.mean([clicks[item] / most for item in shown]))
    novelty = [-math.log2(max(clicks[item], 1) / len(train.items)) for item in shown]
    assert metrics["novelty_at_20"] == pytest.approx(np.mean(novelty))


def test_what_mlflow_keeps(data, model, store, tmp_path, capsys):
    page = tmp_path / "page.html"
    found, _ = job(capsys, "--data", data.folder, "--model", model, "--baselines", "pop", "--report", page)
    client = mlflow.MlflowClient()
    run = client.get_run(found["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.tags["kind"] == "evaluate"
    assert run.data.metrics["mrr_at_20"] == pytest.approx(found["metrics"][model]["mrr_at_20"])
    assert run.data.metrics["pop/coverage_at_20"] == pytest.approx(20 / ITEMS)
    assert {entry.path for entry in client.list_artifacts(found["run_id"])} == {"evaluation.json", "evaluation.html"}
    assert "By age of the next item" in page.read_text()


def few(rows, tmp_path, train):
    test = Sessions(np.cumsum([0] + [len(row) for row in rows]), np.concatenate(rows).astype(np.int32))
    return prepared_folder(tmp_path / "few", {"train": train, "test": test}, ITEMS)


def test_few_sessions_one_click_sessions_and_only_unknown_items(data, model, store, tmp_path, capsys):
    unknown = few([[25, 26, 27], [28], [29, 25]], tmp_path, data.read("train"))  # the model knows 0 … 19
    found, _ = job(capsys, "--data", unknown.folder, "--model", model)
    assert (found["predictions"], found["sessions"]) == (3, 2)
    assert found["metrics"][model]["recall_at_20"] == 0
    assert (found["unknown"][model], found["unstarted"][model]) == (3, 3)
    assert found["metrics"][model]["coverage_at_20"] == pytest.approx(20 / ITEMS)  # the popularity list


def test_nothing_to_predict_and_a_folder_that_is_taken(data, store, tmp_path, capsys):
    single = few([[1], [2]], tmp_path, data.read("train"))
    assert cli.run(config.Evaluate, evaluate, ["--data", single.folder, "--baselines", "pop"]) == 2
    assert "nothing to predict" in capsys.readouterr().err
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("x")
    arguments = ["--data", data.folder, "--baselines", "pop", "--out", str(tmp_path / "taken")]
    assert cli.run(config.Evaluate, evaluate, arguments) == 2
    assert "holds something else" in capsys.readouterr().err
    assert Prepared(data.folder).fingerprint == data.fingerprint


def test_what_could_not_be_written_at_the_end_is_told_before_anything_is_measured(
    data, store, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(measure, "measure", _not_to_be_called)
    (tmp_path / "file").write_text("x")
    asked = ["--data", data.folder, "--baselines", "pop"]
    for flag in ("--report", "--out"):
        assert cli.run(config.Evaluate, evaluate, [*asked, flag, str(tmp_path / "file" / "new")]) == 2
        assert capsys.readouterr().err.startswith(f"error: {flag} {tmp_path}/file/new: {tmp_path}/file is not a folder")
    experiment = runs.connect(store, "gone")
    mlflow.MlflowClient().delete_experiment(experiment)
    assert cli.run(config.Evaluate, evaluate, [*asked, "--experiment", "gone"]) == 1
    assert "gone was deleted" in capsys.readouterr().err


def _not_to_be_called(*_):
    raise AssertionError("it was measured all the same")


def test_a_report_in_a_folder_that_is_not_there_yet(data, store, tmp_path, capsys):
    page = tmp_path / "pages" / "november" / "page.html"
    found, _ = job(capsys, "--data", data.folder, "--baselines", "pop", "--report", page)
    assert "Metrics" in page.read_text()
    assert mlflow.MlflowClient().get_run(found["run_id"]).info.status == "FINISHED"


def test_workers_are_as_many_as_there_is_room_for_now(monkeypatch):
    import ray

    have = {}
    monkeypatch.setattr(ray, "cluster_resources", lambda: have)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cpus, gpus, asked = measure.Workers(), measure.Workers(gpus=0.5), measure.Workers(count=5)
    for found, alone, growing in (({"CPU": 0.0}, 1, 1), ({"CPU": 4.0, "GPU": 2.0}, 4, 5)):
        have.update(found)
        assert (measure._at_once(cpus), measure._at_once(gpus), measure._at_once(asked)) == (alone, alone, 5)
        with monkeypatch.context() as patched:
            patched.setenv("RAY_ADDRESS", "10.0.0.1:6379")
            assert (measure._at_once(cpus), measure._at_once(gpus), measure._at_once(asked)) == (growing, growing, 5)
