"""The scoring job as a whole: exit codes, the result's last line, and what it leaves behind."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gru4rec import cli, config
from gru4rec.config import Hyperparameters
from gru4rec.model.network import initialise
from gru4rec.scoring import lock
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
    pq.write_table(known.append_column("support", [[1] * 4]), "prepared/items.parquet")
    indices = pa.array([[3, 1], [2, 0], []], pa.list_(pa.int32()))
    pq.write_table(pa.table({"session_id": ["a", "b", "c"], "items": indices}), "prepared/test/part.parquet")
    summary = {"fingerprint": "def", "splits": {"test": {"files": [{"name": "part.parquet"}]}}}
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


def test_a_registered_model_scores_raw_and_prepared_sessions_alike(here, capsys):
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


def test_a_night_is_done_once_and_a_new_version_makes_it_anew(here, capsys):
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
