"""What a person and MLflow hear of a run: sparse, and each epoch once."""

import dataclasses
import io

import mlflow
import pytest
from rich.console import Console

from gru4rec.tracking import runs
from gru4rec.training.curve import Mark
from gru4rec.training.notice_board import News
from gru4rec.training.progress import Done, Epoch, Point, WorkerFigures
from gru4rec.training.watcher import Watcher, _duration

FIGURES = WorkerFigures(500.0, 0.01, 0.1, 1e6, 300.0, 0.0)


def done(loss: float) -> Done:
    return Done(Epoch(loss, 1000, 50, 2.0), {"valid_mrr_at_20": 0.3, "valid_ndcg_at_20": 0.4}, (FIGURES, FIGURES))


@pytest.fixture
def run_id(store) -> str:
    return runs.start_run(runs.connect(store), {})


def watch(run_id: str, *news: News, **options) -> str:
    shown = io.StringIO()
    with Watcher(Console(file=shown, width=400), 3, 1000, run_id, **options) as watcher:
        for told in news:
            watcher.show(told)
            watcher.record(told)
    return shown.getvalue()


def test_each_epoch_is_shown_and_recorded_once_over_all_attempts(run_id):
    first = News("training", 1, Point(1), 2, (done(5.0),))
    second = News("training", 2, Point(2), 2, (done(5.0), done(4.0)))
    shown = watch(run_id, News(), first, first, second)
    assert shown.count("epoch 1/3") == shown.count("epoch 2/3") == 1
    assert "loss 4.0000  500 events/s  25 mini-batches/s" in shown
    assert "waiting for input 1.0%  valid_mrr_at_20 0.3000" in shown

    again = watch(run_id, second, News("training", 3, Point(3), 2, (done(5.0), done(4.5), done(3.0))))
    assert "epoch 2/3" not in again
    assert "epoch 3/3" in again
    history = mlflow.MlflowClient().get_metric_history(run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 5.0), (2, 4.0), (3, 3.0)]
    recorded = mlflow.MlflowClient().get_run(run_id).data.metrics
    assert recorded["workers/1/events_per_second"] == 500
    assert recorded["workers/0/resident_mib"] == 300
    assert "workers/0/gpu_memory_mib" not in recorded


def test_each_hundredth_of_an_epoch_is_recorded_once_over_all_attempts(run_id):
    marks = Mark(20, 1000.0, 200, 1.0), Mark(60, 2600.0, 600, 2.0), Mark(100, 4000.0, 1000, 4.0)
    whole = dataclasses.replace(done(4.0), curve=marks)
    watch(
        run_id,
        News("training", 0, Point(0, curve=marks[:1]), 1),
        News("training", 0, Point(0, curve=marks[:2]), 1),
        News("training", 0, Point(0, curve=marks[:2]), 1, (whole,)),  # the epoch is whole, the next has not begun
        News("training", 1, Point(1, curve=marks[:1]), 1, (whole,)),
    )
    # Begun again from a checkpoint of the first epoch, then with other workers: its marks lie elsewhere.
    others = Mark(40, 1900.0, 400, 1.0), *marks[1:]
    watch(
        run_id,
        News("training", 0, Point(0, curve=marks[:1]), 1),
        News("training", 1, Point(1, curve=others), 1, (whole,)),
    )
    client = mlflow.MlflowClient()
    loss = {point.step: point.value for point in client.get_metric_history(run_id, "curves/loss")}
    assert loss == {20: 5.0, 60: 4.0, 100: 3.5, 120: 5.0, 140: 4.75, 160: 3.5, 200: 3.5}
    speed = [(point.step, point.value) for point in client.get_metric_history(run_id, "curves/events_per_second")]
    assert sorted(speed) == [(20, 200), (60, 400), (100, 200), (120, 200), (140, 400), (160, 200), (200, 200)]


def test_what_mlflow_could_not_take_is_shown_and_recorded_later(run_id, monkeypatch):
    marks = (Mark(20, 1000.0, 200, 1.0),)
    told = News("training", 2, Point(2, curve=marks), 2, (done(5.0), done(4.0)))
    shown = io.StringIO()
    with Watcher(Console(file=shown, width=400), 3, 1000, run_id) as watcher:
        for failing in ("log_points", "log_epoch"):
            with monkeypatch.context() as patch:

                def locked(*_, **__):
                    raise OSError("database is locked")

                patch.setattr(runs, failing, locked)
                watcher.show(told)
                with pytest.raises(OSError, match="locked"):
                    watcher.record(told)
        assert shown.getvalue().count("epoch 1/3") == shown.getvalue().count("epoch 2/3") == 1
        for _ in range(2):
            watcher.show(told)
            watcher.record(told)
    client = mlflow.MlflowClient()
    assert [(point.step, point.value) for point in client.get_metric_history(run_id, "loss")] == [(1, 5.0), (2, 4.0)]
    assert [point.step for point in client.get_metric_history(run_id, "curves/loss")] == [220]
    assert shown.getvalue().count("epoch 2/3") == 1


def test_between_epochs_a_log_has_a_line_now_and_then(run_id):
    told = [
        News("training", 0, Point(0, events=events, steps=events // 10, loss=2.0 * events)) for events in (10, 20, 500)
    ]
    assert watch(run_id, *told) == ""
    lines = watch(run_id, *told, every_s=0).splitlines()
    assert len(lines) == 3
    assert lines[2].startswith("epoch 1/3  step 50")
    assert "loss 2.0000  17% done" in lines[2]


def test_what_workers_say_is_shown_once_and_in_order(run_id):
    shown = watch(run_id, News(said=("one",)), News(said=("one", "WARNING: two")), News(said=("one", "WARNING: two")))
    assert shown == "one\nWARNING: two\n"


@pytest.mark.parametrize(("seconds", "shown"), [(5, "5 s"), (200, "3 min"), (7500, "2 h 05 min")])
def test_durations(seconds, shown):
    assert _duration(seconds) == shown
