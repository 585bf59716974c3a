"""The scoring job as a whole: exit codes, the result's last line, and what it leaves behind."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared_folder import bare_summary

from gru4rec import cli, config, lock
from gru4rec.config import Hyperparameters
from gru4rec.model.network import initialise
from gru4rec.scoring import night
from gru4rec.scoring.job import score
from gru4rec.tracking import folder, registry, runs

V = 50
ITEMS = pa.table(
    {
        "item_id": [1000 + i for i in range(V)],
        "item_index": pa.array(range(V), pa.int32()),
        "support": list(range(V, 0, -1)),
    }
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a model, raw sessions and a prepared folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder.save(initialise(Hyperparameters(layers=(4,)), V), ITEMS, "model", {"data_fingerprint": "abc"})
    raw = {"session_id": ["a", "b", "c"], "items": [[1000, 1001], [1003, 7], []]}
    (tmp_path / "raw").mkdir()
    pq.write_table(pa.table(raw), "raw/sessions.parquet")
    (tmp_path / "prepared" / "test").mkdir(parents=True)
    # The same sessions as item indices of another catalogue.
    known = pa.table({"item_id": [7, 1001, 1003, 1000], "item_index": pa.array(range(4), pa.int32())})
    known = known.append_column("support", [[1] * 4])
    pq.write_table(known, "prepared/items.parquet")
    indices = pa.array([[3, 1], [2, 0], []], pa.list_(pa.int32()))
    pq.write_table(pa.table({"session_id": ["a", "b", "c"], "items": indices}), "prepared/test/part.parquet")
    summary = bare_summary(known, test=[{"name": "part.parquet"}])
    (tmp_path / "prepared" / "prepare.json").write_text(json.dumps(summary))
    return tmp_path


def table(out):
    """The result that counts, read as the README says."""
    content = json.loads((out / "manifest.json").read_text())
    return pa.concat_tables([pq.read_table(out / file["name"]) for file in content["files"]])


def run(capsys, **given):
    """Exit code, the last line of stdout as JSON (if there is one), and stderr."""
    given = {"model": "model", "sessions": "raw", "out": "out", **given}
    arguments = [part for name, value in given.items() for part in ("--" + name.replace("_", "-"), value)]
    code = cli.run(config.Score, score, arguments)
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    return code, json.loads(lines[-1]) if lines else None, captured.err


def test_a_registered_model_scores_raw_and_prepared_sessions_alike(here, store, capsys):
    run_id = runs.start_run(runs.connect(), {})
    registry.set_alias("gru4rec", registry.register(run_id, "model", "gru4rec"), "champion")
    capsys.readouterr()
    code, result, progress = run(capsys, model="models:/gru4rec@champion")
    assert code == 0
    assert (result["sessions_in"], result["sessions_out"], result["fallback"]) == (3, 3, 1)
    assert (result["model_version"], result["out"]) == ("1", "out")
    assert result["sessions_per_second"] > 0
    assert "popularity fallback" in progress
    manifest = json.loads((here / "out" / "manifest.json").read_text())
    assert manifest["model"] == {"uri": "models:/gru4rec/1", "version": "1", "data_fingerprint": "abc"}
    assert manifest["totals"]["unknown_clicks"] == 1

    code, result, _ = run(capsys, sessions="prepared/test", out="out2")
    assert (code, result["sessions_out"], result["model_version"]) == (0, 3, None)
    tables = [table(here / name) for name in ("out", "out2")]
    assert tables[0].equals(tables[1])
    assert tables[0].schema.field("session_id").type == pa.string()
    assert tables[0].schema.field("items").type == pa.list_(pa.int64())
    assert tables[0]["fallback"].to_pylist() == [False, False, True]


def test_a_night_is_done_once_and_a_new_version_makes_it_anew(here, store, capsys):
    def register():
        version = registry.register(runs.start_run(runs.connect(), {}), "model", "gru4rec")
        registry.set_alias("gru4rec", version, "champion")

    register()
    night = {"model": "models:/gru4rec@champion", "date": "2026-11-22"}
    code, first, _ = run(capsys, **night)
    assert (code, first["unchanged"], first["date"], first["model_version"]) == (0, False, "2026-11-22", "1")
    code, again, said = run(capsys, **night)
    assert (code, again["unchanged"], again["result"]) == (0, True, first["result"])
    assert "nothing to do" in said
    folder.save(initialise(Hyperparameters(layers=(4,), seed=9), V), ITEMS, "model", {"data_fingerprint": "abc"})
    register()
    code, second, _ = run(capsys, **night)
    assert (code, second["unchanged"], second["model_version"]) == (0, False, "2")
    place = here / "out" / "date=2026-11-22"
    assert json.loads((place / "manifest.json").read_text())["result"] == second["result"] != first["result"]
    assert sorted(path.name for path in place.glob("v*")) == [first["result"], second["result"]]


def test_files_that_are_not_read_are_counted_and_said(here, capsys):
    (here / "raw" / "more.PQ").write_bytes((here / "raw" / "sessions.parquet").read_bytes())
    (here / "raw" / "part-00000").write_bytes((here / "raw" / "sessions.parquet").read_bytes())
    for unchanged in (False, True):
        code, result, said = run(capsys, experiment="")
        assert (code, result["unchanged"], result["sessions_in"], result["skipped_files"]) == (0, unchanged, 6, 1)
        assert (
            f"--sessions: 1 file(s) are not read, whose names do not end in .parquet .pq: {here}/raw/part-00000" in said
        )
    assert json.loads((here / "out" / "manifest.json").read_text())["input"]["skipped_files"] == 1


def test_item_embeddings_come_with_the_logs_own_ids(here, capsys):
    code, result, _ = run(capsys, export="items", out="items.parquet", sessions="")
    assert (code, result["items"], result["width"]) == (0, V, 4)
    found, loaded = pq.read_table("items.parquet"), folder.load("model")
    assert found["item_id"].to_pylist() == ITEMS["item_id"].to_pylist()
    assert found["embedding"].to_pylist() == loaded.model.item_table.tolist()
    assert found["bias"].to_pylist() == loaded.model.item_bias.tolist()
    code, _, error = run(capsys, export="items", out="raw")
    assert (code, "--out raw: is a folder" in error) == (2, True)


def test_items_that_may_be_shown_come_from_files(here, capsys):
    (here / "out.csv").write_text("item_id\n1003\n5\n")
    (here / "in.txt").write_text("\n".join(map(str, range(1000, 1010))))
    code, result, said = run(capsys, exclude_items="out.csv", only_items="in.txt", experiment="", top_k="30")
    assert (code, result["list_length"], result["unknown_limits"]) == (0, 9, {"only_items": 0, "exclude_items": 1})
    assert "1 in --exclude-items" in said
    assert {item for row in table(here / "out")["items"].to_pylist() for item in row} == {*range(1000, 1010)} - {1003}
    first = result["result"]
    (here / "out.csv").write_text("item_id\n1003\n5\n6\n")  # the same items
    assert run(capsys, exclude_items="out.csv", only_items="in.txt", experiment="", top_k="30")[1]["unchanged"]
    (here / "out.csv").write_text("item_id\n1004\n")
    code, result, _ = run(capsys, exclude_items="out.csv", only_items="in.txt", experiment="", top_k="30")
    assert (code, result["unchanged"]) == (0, False)
    assert result["result"] != first


def recorded(uri):
    """Runs of the job, the first at first."""
    client = runs.mlflow_at(uri).MlflowClient()
    found = client.search_runs(["1"], "tags.kind = 'score'", order_by=["attributes.start_time ASC"])
    return client, found


def test_each_night_is_a_run_and_a_closed_gate_is_one_that_failed(here, store, capsys):
    for date in ("2026-11-20", "2026-11-21"):
        code, result, _ = run(capsys, date=date)
        assert code == 0
        assert run(capsys, date=date)[1]["unchanged"]
    client, (first, second) = recorded(store)
    assert second.info.run_id == result["run_id"]
    assert second.info.status == "FINISHED"
    assert second.data.tags["date"] == "2026-11-21"
    assert second.data.params["top_k"] == "20"
    expected = {
        "sessions": 3,
        "rejected": 0,
        "fallback_share": 1 / 3,
        "gate_overlap_with_yesterday": 1,
        "gates_failed": 0,
    }
    assert second.data.metrics == pytest.approx({**second.data.metrics, **expected})
    assert "gate_overlap_with_yesterday" not in first.data.metrics  # there was no night before
    assert set(first.data.metrics) <= set(second.data.metrics)
    assert sorted(file.path for file in client.list_artifacts(second.info.run_id)) == ["manifest.json", "nights.html"]

    place = here / "out" / "date=2026-11-22"
    code, result, error = run(capsys, date="2026-11-22", max_fallback_share="0.2")
    assert (code, result) == (1, None)
    assert error.startswith("error: gate fallback_share: 0.333333 is not <= 0.2 (--max-fallback-share)")
    assert error.count("\n") == 1
    assert not (place / "manifest.json").exists()
    _, (*_, failed) = recorded(store)
    assert (failed.info.status, failed.data.tags["gates_failed"]) == ("FAILED", "fallback_share")
    assert failed.data.metrics["gate_fallback_share"] == pytest.approx(1 / 3)
    code, result, _ = run(capsys, date="2026-11-22")  # the gate is no part of the lists: nothing is scored again
    assert (code, result["kept_files"]) == (0, 1)


def test_a_night_that_shows_other_items_is_not_published_where_the_gate_says_so(here, capsys):
    assert run(capsys, date="2026-11-21", top_k="5", experiment="")[0] == 0
    before = json.loads((here / "out" / "date=2026-11-21" / "manifest.json").read_text())
    folder.save(initialise(Hyperparameters(layers=(4,), seed=4), V), ITEMS, "model")
    code, _, error = run(capsys, date="2026-11-22", top_k="5", min_overlap="1", experiment="")
    assert code == 1
    assert "gate overlap_with_yesterday: 0." in error
    lists = [table(here / "out" / "date=2026-11-21")["items"].to_pylist()]
    assert run(capsys, date="2026-11-22", top_k="5", min_overlap="0", min_coverage="0", experiment="")[0] == 0
    lists.append(table(here / "out" / "date=2026-11-22")["items"].to_pylist())
    shares = [np.bincount(np.concatenate(rows) - 1000, minlength=V) / 15 for rows in lists]
    content = json.loads((here / "out" / "date=2026-11-22" / "manifest.json").read_text())
    checks = {check["gate"]: check for check in content["checks"]}
    assert checks["overlap_with_yesterday"]["figure"] == pytest.approx(np.minimum(*shares).sum())
    assert checks["coverage_to_yesterday"]["figure"] == content["exposure"]["rows"] / before["exposure"]["rows"]
    assert checks["sessions_to_yesterday"]["figure"] == 1


def test_a_result_is_published_though_mlflow_is_not_there(here, capsys):
    code, result, said = run(capsys, tracking_uri=f"sqlite:///{here}/raw/sessions.parquet/mlflow.db")
    assert (code, result["run_id"]) == (0, "")
    assert "WARNING: the result is not recorded in MLflow: " in said
    code, result, said = run(capsys, experiment="")
    assert (code, result["unchanged"], "WARNING" in said) == (0, True, False)


def test_a_result_that_was_published_and_not_recorded_is_recorded_by_the_next_run(here, store, capsys, monkeypatch):
    with monkeypatch.context() as killed:
        killed.setattr(night, "record", lambda *given, **more: "")
        assert run(capsys)[0] == 0
    code, result, _ = run(capsys)
    assert (code, result["unchanged"]) == (0, True)
    _, (found,) = recorded(store)
    assert found.info.run_id == result["run_id"]
    assert found.data.metrics["sessions"] == 3


def test_no_sessions_are_a_result_unless_there_were_some_the_night_before(here, capsys):
    nothing = pa.table({"session_id": pa.array([], pa.string()), "items": pa.array([], pa.list_(pa.int64()))})
    (here / "nothing").mkdir()
    pq.write_table(nothing, here / "nothing" / "a.parquet")
    given = {"sessions": "nothing", "experiment": ""}
    code, result, _ = run(capsys, **given, date="2026-11-20")
    assert (code, result["sessions_out"], result["files"]) == (0, 0, 1)
    assert run(capsys, date="2026-11-21", experiment="")[0] == 0
    code, _, error = run(capsys, **given, date="2026-11-22")
    assert (code, "gate sessions_to_yesterday: 0 is not >= 0.3" in error) == (1, True)
    assert run(capsys, **given, date="2026-11-22", min_sessions="0")[0] == 0


def test_a_second_run_at_once_stops_with_one_line(here, capsys):
    with lock.held(str(here / "out" / "date=2026-11-22")):
        code, result, error = run(capsys, date="2026-11-22")
    assert (code, result) == (1, None)
    assert error.count("\n") == 1
    assert "date=2026-11-22: another run is writing here (process" in error


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "nowhere"}, "nowhere: no such model folder"),
        ({"model": "raw"}, "config.json: is missing"),
        ({"model": "models:/gru4rec@champion"}, "no MLflow store"),
        ({"sessions": "nowhere"}, "nowhere: no such file or folder"),
        ({"sessions": "prepared"}, "name the split: prepared/test"),
        ({"sessions": "model/items.parquet"}, "has no column session_id; it has item_id item_index support"),
        ({"out": "raw"}, "holds the sessions to score"),
        ({"out": "model"}, "holds something else"),
        ({"top_k": "0"}, "--top-k"),
        ({"sessions": ""}, "--sessions: is required"),
        ({"export": "lists"}, "--export"),
        ({"min_score": "nan"}, "--min-score"),
        ({"exclude_items": "nowhere"}, "nowhere: cannot be read"),
        ({"only_items": "model/config.json"}, "no item of the model is left"),
        ({"date": "tomorrow"}, "--date: a date such as 2026-11-22, got 'tomorrow'"),
        ({"date": "20261122"}, "--date"),
        ({"keep": "0"}, "--keep"),
        ({"tok_k": "5"}, "--tok-k"),
    ],
)
def test_bad_input_is_one_line_and_exit_2_and_touches_nothing(here, capsys, given, message):
    before = sorted(here.rglob("*"))
    code, result, error = run(capsys, **given)
    assert (code, result) == (2, None)
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert sorted(here.rglob("*")) == before
