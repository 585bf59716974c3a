"""The ablation job: each cell is what a training alone gives, and the table says so."""

import mlflow
import numpy as np
import pytest
from prepared_folder import prepared_folder
from simple_log import simple_log

from gru4rec import cli, config, on_ray
from gru4rec.errors import InputError
from gru4rec.evaluation import ablation, baselines
from gru4rec.sessions.prepared import Sessions
from gru4rec.tracking import runs

ITEMS = 50


@pytest.fixture
def data(tmp_path):
    sessions, _ = simple_log(500, ITEMS)

    def part(first, last):
        offsets = sessions.offsets[first : last + 1]
        return Sessions(offsets - offsets[0], sessions.items[offsets[0] : offsets[-1]])

    return prepared_folder(tmp_path / "data", {"train": part(0, 400), "test": part(400, 500)}, ITEMS)


@pytest.mark.ray
def test_a_table_of_losses_and_baselines(data, store, ray_local, tmp_path, capsys):
    out = str(tmp_path / "tables" / "new.md")
    arguments = [
        "--data",
        data.folder,
        "--losses",
        "top1",
        "bpr-max",
        "--units",
        "5",
        "7",
        "--epochs",
        "1",
        "--out",
        out,
    ]
    arguments += ["--baselines", "pop", "markov", "--tracking-uri", store]
    found = ablation.ablate(cli.parse(config.Ablate, arguments))
    assert [row["model"] for row in found["rows"]] == ["pop", "markov", "top1 5", "top1 7", "bpr-max 5", "bpr-max 7"]
    test = data.read("test")
    wanted = baselines.evaluate("markov", data.read("train"), test, ITEMS, (20,)).result()
    markov = found["rows"][1]
    for name in ("recall_at_20", "mrr_at_20", "ndcg_at_20"):
        assert markov[name] == pytest.approx(wanted[name])
        low, high = markov[f"{name}_interval"]
        assert low < markov[name] < high
    cell = ablation.cell(cli.parse(config.Ablate, arguments), "top1", 7)
    total, _ = ablation._trained("top1 7", cell, data.folder, False)
    assert found["rows"][3]["mrr_at_20"] == total.metric("mrr_at_20")
    with pytest.raises(InputError, match=r"--gpus: a training needs 1 GPUs, and Ray has 0: leave it out"):
        ablation.ablate(cli.parse(config.Ablate, [*arguments, "--gpus"]))
    table = (tmp_path / "tables" / "new.md").read_text()
    assert table.splitlines()[2:4] == [
        "| | Recall@20 | MRR@20 | NDCG@20 | coverage@20 | seconds |",
        "|---|---|---|---|---|---|",
    ]
    assert f"| markov | {markov['recall_at_20']:.4f} (" in table
    assert table.splitlines()[-1] in capsys.readouterr().err
    client = mlflow.MlflowClient()
    run = client.get_run(found["run_id"])
    assert run.data.metrics["top1-7/mrr_at_20"] == pytest.approx(found["rows"][3]["mrr_at_20"])
    assert [entry.path for entry in client.list_artifacts(found["run_id"])] == ["ablation.md"]


def test_what_could_not_be_written_at_the_end_is_told_before_ray_starts(data, store, tmp_path, capsys, monkeypatch):
    def connected(_):
        raise AssertionError("Ray was started all the same")

    monkeypatch.setattr(on_ray, "connected", connected)
    (tmp_path / "file").write_text("x")
    mlflow.MlflowClient().delete_experiment(runs.connect(store, "gone"))
    for flag, value, code, said in (
        ("--out", str(tmp_path / "file" / "table.md"), 2, "file is not a folder"),
        ("--experiment", "gone", 1, "gone was deleted"),
    ):
        assert cli.run(config.Ablate, ablation.ablate, ["--data", data.folder, flag, value]) == code
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("loss", config.PUBLISHED_LOSSES)
def test_each_loss_has_settings_of_its_own(loss):
    given = ablation.cell(cli.parse(config.Ablate, ["--data", "d", "--epochs", "3"]), loss, 12)
    assert (given.loss, given.layers, given.epochs, given.seed) == (loss, (12,), 3, 20)
    others = {other: config.PUBLISHED_LOSSES[other] for other in config.PUBLISHED_LOSSES if other != loss}
    assert config.PUBLISHED_LOSSES[loss] not in others.values()
    assert np.isfinite(given.learning_rate)
