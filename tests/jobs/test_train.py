"""The main line as its users run it: simulate, prepare, train, evaluate, score; and what bad input does."""

import io
import json
import re

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared_folder import bare_summary
from rich.console import Console

from gru4rec import cli, config, on_ray
from gru4rec.evaluation.job import evaluate
from gru4rec.model import encode, network
from gru4rec.scoring.job import score
from gru4rec.sessions.prepared import Prepared, Sessions
from gru4rec.tracking import folder, registry, runs
from gru4rec.training import job
from gru4rec.training.job import train
from gru4rec.training.progress import Finished

QUICK = "--sessions 2000 --items 100 --layers 16 --n-sample 64 --batch-size 16 --epochs 2 --learning-rate 0.1"


def run(capsys, kind, job, arguments: str) -> tuple[int, dict, str]:
    code = cli.run(kind, job, arguments.split())
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    return code, json.loads(lines[-1]) if lines else {}, captured.err


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.mark.ray
def test_clicks_to_a_registered_model_and_lists(ray_local, here, capsys):
    options = "--workers 2 --order shuffled --patience 2 --model-out kept --storage left --run-name first"
    code, result, shown = run(capsys, config.Train, train, f"{QUICK} {options}")
    assert code == 0, shown
    prepared = Prepared(result["data"])
    assert result["events"] == 2 * prepared.summary["splits"]["train"]["transitions"]
    assert len(result["loss"]) == 2
    assert result["loss"][1] < result["loss"][0]
    assert result["predictions"] == prepared.read("test").transitions
    assert "markov" in shown

    client = mlflow.MlflowClient()
    logged = client.get_run(result["run_id"])
    assert logged.info.status == "FINISHED"
    assert logged.data.params["learning_rate"] == "0.1"
    assert logged.data.params["workers"] == "2"
    assert logged.data.tags["data_fingerprint"] == prepared.fingerprint
    assert logged.data.metrics["recall_at_20"] == pytest.approx(result["recall_at_20"])
    assert [point.value for point in client.get_metric_history(result["run_id"], "loss")] == result["loss"]
    artifacts = {artifact.path for artifact in client.list_artifacts(result["run_id"])}
    assert {"report.html", "training.html"} <= artifacts
    check_figures(result, logged.data.metrics)
    version = client.get_model_version("gru4rec", result["model_version"])
    assert version.run_id == result["run_id"]
    check_card(result, version.description)

    validated = [point.value for point in client.get_metric_history(result["run_id"], "valid_mrr_at_20")]
    assert result["best_epoch"] == 1 + int(np.argmax(validated))

    code, again, shown = run(capsys, config.Train, train, f"{QUICK} {options}")
    assert (code, again) == (0, result)
    assert "run first is finished: nothing to do" in shown

    check_evaluation(result, capsys)
    check_lists(prepared, here, capsys)
    check_warm_start(result, capsys)


def check_figures(result: dict, recorded: dict[str, float]) -> None:
    """Intervals are in the result and, as the baselines, in MLflow; so is the loss within epochs."""
    low, high = result["intervals"]["recall_at_20"]
    assert low < result["recall_at_20"] < high
    assert (recorded["recall_at_20_low"], recorded["recall_at_20_high"]) == (low, high)
    assert recorded["markov/mrr_at_20"] == result["baselines"]["markov"]["mrr_at_20"]
    low, high = result["baseline_intervals"]["markov"]["mrr_at_20"]
    assert low < recorded["markov/mrr_at_20"] < high
    assert {"curves/loss", "curves/events_per_second", "workers/1/events_per_second"} <= recorded.keys()


def check_card(result: dict, description: str) -> None:
    """The model card lies in the run's folder, in the registry, and in --model-out."""
    card = folder.read_card("kept")
    assert f"| Recall@20 | {result['recall_at_20']:.4f} (" in card
    assert folder.read_card("left/runs/first/model") == card
    assert folder.read_card(registry.fetch(f"models:/gru4rec/{result['model_version']}")) == card
    assert f"Recall@20 {result['recall_at_20']:.4f} (" in description


def check_evaluation(result: dict, capsys) -> None:
    """evaluate.py finds what train.py reported, from the registry and from the folder."""
    uri = f"models:/gru4rec/{result['model_version']}"
    for model in (uri, "kept"):
        arguments = f"--model {model} --data {result['data']} --baselines pop markov --cutoffs 5 20"
        code, found, shown = run(capsys, config.Evaluate, evaluate, arguments)
        assert code == 0, shown
        assert found["predictions"] == result["predictions"]
        assert found["metrics"][model]["recall_at_20"] == pytest.approx(result["recall_at_20"], abs=1e-4)
        assert found["metrics"][model]["mrr_at_20"] == pytest.approx(result["mrr_at_20"], abs=1e-4)
        for name, metrics in result["baselines"].items():
            assert found["metrics"][name]["recall_at_5"] == metrics["recall_at_5"]


def check_lists(prepared: Prepared, here, capsys) -> None:
    """Every prediction of the test split as a session of its own, cut before the click that is to be predicted."""
    test = prepared.read("test")
    ids = prepared.items["item_id"].to_numpy()
    starts = [test.items[test.offsets[i] : test.offsets[i + 1]] for i in range(test.count)]
    cut = [(session[:click], session[click]) for session in starts for click in range(1, len(session))]
    raw = pa.table({"session_id": range(len(cut)), "items": [ids[seen].tolist() for seen, _ in cut]})
    (here / "cut").mkdir()
    pq.write_table(raw, "cut/sessions.parquet")
    code, result, shown = run(capsys, config.Score, score, "--model kept --sessions cut --out lists")
    assert code == 0, shown
    assert result["sessions_in"] == result["sessions_out"] == len(cut)
    manifest = json.loads((here / "lists" / "manifest.json").read_text())
    lists = pa.concat_tables([pq.read_table(here / "lists" / part["name"]) for part in manifest["files"]])
    items, scores = np.array(lists["items"].to_pylist()), np.array(lists["scores"].to_pylist())
    assert items.shape == (len(cut), 20)
    assert all(len(set(row)) == 20 for row in items.tolist())
    assert (np.diff(scores) <= 0).all()
    targets = ids[np.array([target for _, target in cut])]
    recall = float((items == targets[:, None]).any(axis=1).mean())
    code, found, _ = run(capsys, config.Evaluate, evaluate, f"--model kept --data {prepared.folder} --cutoffs 20")
    assert recall == pytest.approx(found["metrics"]["kept"]["recall_at_20"], abs=1e-9)

    loaded = folder.load("kept")
    for row in np.random.default_rng(0).choice(len(cut), 500, replace=False):
        alone = Sessions(np.array([0, len(cut[row][0])]), cut[row][0])
        brute = network.scores(loaded.model, encode.final_states(loaded.model, alone))[0].numpy()
        order = np.lexsort((np.arange(len(brute)), -brute))
        np.testing.assert_allclose(scores[row], brute[order[:20]], rtol=1e-5, atol=1e-5)
        # Items that score the same to rounding may change places with the shape of the matrix product.
        if brute[order[19]] - brute[order[20]] > 1e-4:
            assert set(ids[order[:20]].tolist()) == set(items[row].tolist())


def check_warm_start(result: dict, capsys) -> None:
    """A run that goes on from the model, well for an epoch, then explodes: it says where, and keeps that epoch."""
    options = f"--data {result['data']} --warm-start models:/gru4rec/{result['model_version']} --loss bpr-max"
    bad = "--lr-schedule exponential --lr-final 1e30 --storage left"
    code, _, shown = run(capsys, config.Train, train, f"{QUICK} {options} {bad}")
    assert code == 1
    assert "100 items keep their weights and the optimizer's state, 0 are new, 0 dropped" in " ".join(shown.split())
    error = shown.splitlines()[-1]
    found = re.fullmatch(r"error: the loss .* in epoch 2, step \d+.*; the last good model is (.*)", error)
    assert found, error
    assert folder.load(found[1]).model.item_count == 100
    assert folder.load_optimizer(found[1])

    code, _, shown = run(capsys, config.Train, train, f"--data {result['data']} --warm-start kept --layers 17")
    assert code == 2
    assert shown.splitlines()[-1] == "error: --layers is 17, but the model to go on from has 16"


def prepared_folder(folder, transitions: int) -> None:
    """A prepared folder whose one training file is missing."""
    (folder / "train").mkdir(parents=True)
    summary = bare_summary(train=[{"name": "part.parquet"}])
    summary["splits"]["train"] |= {"sessions": 1, "clicks": transitions + 1, "transitions": transitions}
    (folder / "prepare.json").write_text(json.dumps(summary))


def test_bad_data_is_named_in_one_line_before_ray_starts(here, capsys):
    (here / "empty").mkdir()
    prepared_folder(here / "torn", transitions=2)
    prepared_folder(here / "damaged", transitions=2)
    (here / "damaged" / "train" / "part.parquet").write_bytes(b"PAR1 no longer")
    for name, content in (("halved", '{"fingerprint": "x"}'), ("listed", "[]")):
        (here / name).mkdir()
        (here / name / "prepare.json").write_text(content)
    for arguments, named in (
        ("--data torn", "torn/train/part.parquet: is missing"),
        ("--data damaged", "damaged/train/part.parquet: not a readable Parquet file"),
        ("--data nowhere", "nowhere"),
        ("--data empty", "not a prepared folder"),
        ("--data halved", "halved/prepare.json: does not describe prepared data: it has no train split"),
        ("--data listed", "listed/prepare.json: does not describe prepared data; prepare again"),
        ("--data empty --learning-rate -0.1", "--learning-rate"),
    ):
        code, _, shown = run(capsys, config.Train, train, arguments)
        assert code == 2
        assert shown.startswith("error: ")
        assert shown.count("\n") == 1
        assert named in shown


def test_what_could_not_be_written_at_the_end_is_told_before_ray_starts(here, store, capsys, monkeypatch):
    def connected(_):
        raise AssertionError("Ray was started all the same")

    monkeypatch.setattr(on_ray, "connected", connected)
    (here / "taken").mkdir()
    (here / "taken" / "thesis.txt").write_text("irreplaceable")
    mlflow.MlflowClient().delete_experiment(runs.connect(store, "gone"))
    for arguments, wanted, named in (
        ("--model-out taken", 2, "taken: holds other files (thesis.txt); name a new folder"),
        ("--model-out taken/thesis.txt", 2, "taken/thesis.txt: is a file"),
        ("--model-out taken/thesis.txt/model", 2, "thesis.txt is not a folder"),
        ("--model-name shop/gru", 2, "--model-name"),
        ("--experiment gone", 1, "gone was deleted"),
    ):
        code, _, shown = run(capsys, config.Train, train, f"{QUICK} {arguments}")
        assert (code, shown.count("\n")) == (wanted, 1), shown
        assert shown.startswith("error: ")
        assert named in shown
    assert not (here / "gru4rec-runs").exists()  # nothing was simulated


@pytest.mark.parametrize("predictions", [0, 7])
@pytest.mark.parametrize("version", ["3", ""])
def test_the_registered_version_is_named_with_and_without_metrics(predictions, version):
    console = Console(record=True, width=200, file=io.StringIO())
    metrics = {"recall_at_20": 0.5} if predictions else {}
    settings = cli.check(config.Train, {"model_name": "shop"})
    job._show(console, Finished((), metrics, predictions, 1, 1), {}, settings, version)
    shown = console.export_text()
    assert ("nothing to predict" in shown) == (not predictions)
    assert ("0.5000" in shown) == bool(predictions)
    assert ("registered as models:/shop/3" in shown) == bool(version)


@pytest.mark.ray
def test_more_workers_than_the_cluster_holds_are_refused_at_once(ray_local, here, capsys):
    code, _, shown = run(capsys, config.Train, train, f"{QUICK} --sessions 200 --workers 99")
    assert code == 2
    assert "error: --workers 99" in shown.splitlines()[-1]


def test_evaluate_refuses_what_it_cannot_do(here, capsys):
    (here / "empty").mkdir()
    for arguments, named in (
        ("--data nowhere --model m", "nowhere"),
        ("--data empty --baselines pop", "not a prepared folder"),
        ("--data empty", "--model"),
        ("--data empty --ties sideways --model m", "--ties"),
    ):
        code, _, shown = run(capsys, config.Evaluate, evaluate, arguments)
        assert code == 2
        assert named in shown
