"""What Prometheus is told, from the recorded gauges; tests/cluster/test_metrics.py reads the real port."""

from types import SimpleNamespace

import numpy as np
import pytest

from gru4rec import ray_metrics
from gru4rec.scoring import gates
from gru4rec.training.notice_board import News
from gru4rec.training.progress import Point


@pytest.fixture
def told(monkeypatch):
    """The newest value of each gauge, by name or by (name, gate)."""
    values = {}

    def gauge(name):
        assert name in ray_metrics.TRAINING | ray_metrics.SCORING

        def keep(value, tags):
            assert tags["run"] == "r"
            values[(name, tags["gate"]) if "gate" in tags else name] = value

        return SimpleNamespace(set=keep)

    monkeypatch.setattr(ray_metrics, "gauge", gauge)
    return values


def test_training(told):
    now = [100.0]
    tell = ray_metrics.of_training("r", 1000, clock=lambda: now[0])
    tell(News())
    assert told["gru4rec_train_epoch"] == 1
    assert "gru4rec_train_loss" not in told  # no event yet

    tell(News("training", 0, Point(), 2, (), ()))
    now[0] = 102.0
    point = Point(loss=900.0, events=300, seconds=2.0, waited=0.5, exchanging=0.2)
    tell(News("training", 0, point, 2, (), (), ""))
    assert told["gru4rec_train_events_per_second"] == 150
    assert told["gru4rec_train_loss"] == 3
    assert told["gru4rec_train_wait_share"] == 0.25
    assert told["gru4rec_train_exchange_share"] == pytest.approx(0.1)
    assert told["gru4rec_train_workers"] == 2
    assert told["gru4rec_train_checkpoint_age_seconds"] == 2

    now[0] = 106.0
    tell(News("training", 1, Point(events=500, seconds=3.0), 2, (), (), "a"))
    assert told["gru4rec_train_events_per_second"] == 250  # the epoch before counts whole
    assert told["gru4rec_train_checkpoint_age_seconds"] == 0
    now[0] = 107.0
    tell(News("training", 1, Point(events=500, seconds=3.0), 2, (), (), "a"))
    assert told["gru4rec_train_checkpoint_age_seconds"] == 1


def test_speed_is_that_of_late_and_never_below_zero():
    now = [0.0]
    speed = ray_metrics._Speed(lambda: now[0])
    for second in range(100):
        now[0] = float(second)
        found = speed(second * 10)
    assert found == 10
    for second in range(100, 130):
        now[0] = float(second)
        found = speed(990)
    assert found == 0
    now[0] = 131.0
    assert speed(5) == 0  # the workers began anew
    now[0] = 132.0
    assert speed(25) == 20


def test_scoring(told):
    now = [0.0]

    def parts():
        for rows, kept in ((100, True), (40, False), (60, False)):
            now[0] += 2
            yield SimpleNamespace(part=SimpleNamespace(rows=rows), kept=kept, exposure=np.zeros(1))

    seen = []
    for outcome in ray_metrics.of_scoring(parts(), "r", 200, clock=lambda: now[0]):
        seen.append((outcome.part.rows, told["gru4rec_score_sessions_done"], told["gru4rec_score_sessions_per_second"]))
    assert seen == [(100, 100, 0), (40, 140, 10), (60, 200, pytest.approx(100 / 6))]
    assert told["gru4rec_score_sessions"] == 200


def test_gates(told):
    checks = [gates.equal("rows", 7, 7), gates.at_least("coverage", 0.2, 0.5), gates.at_most("overlap", None, 1, 0)]
    ray_metrics.gates(checks, "r")
    assert told == {
        ("gru4rec_score_gate", "rows"): 7.0,
        ("gru4rec_score_gate_closed", "rows"): 0.0,
        ("gru4rec_score_gate", "coverage"): 0.2,
        ("gru4rec_score_gate_closed", "coverage"): 1.0,
        ("gru4rec_score_gate_closed", "overlap"): 0.0,
    }


def test_names_are_those_that_prometheus_takes():
    for name, description in (ray_metrics.TRAINING | ray_metrics.SCORING).items():
        assert name.replace("_", "").isalnum()
        assert description.endswith(".")
        ray_metrics.gauge(name)
