"""What a Prometheus beside the cluster would read while jobs run."""

import re
import shutil
import tempfile
import threading
import urllib.request
from pathlib import Path

import pytest
from cluster.head import Head

from gru4rec import ray_metrics

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def head():
    place = Path(tempfile.mkdtemp(prefix="metrics-"))
    made = Head(place / "h")
    yield made
    assert made.close() == []
    shutil.rmtree(place, ignore_errors=True)


class Prometheus:
    """Reads a node's metrics every second: all values of each of ours."""

    def __init__(self, port: int) -> None:
        self._url, self._over = f"http://127.0.0.1:{port}/metrics", threading.Event()
        self.seen: dict[str, list[float]] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while not self._over.wait(1):
            try:
                with urllib.request.urlopen(self._url, timeout=10) as answer:  # noqa: S310
                    text = answer.read().decode()
            except OSError:  # the node's agent is not there yet
                continue
            for name, labels, value in re.findall(r"^ray_(gru4rec_\w+)\{(.*)\} (\S+)$", text, re.M):
                gate = re.search(r'gate="(\w+)"', labels)
                self.seen.setdefault(f"{name} {gate[1]}" if gate else name, []).append(float(value))

    def close(self) -> None:
        self._over.set()
        self._reader.join()


def test_a_training_and_a_night_are_seen(head):
    place = head.folder
    variables = {"MLFLOW_TRACKING_URI": f"sqlite:///{place}/mlflow.db", "RAY_metrics_report_interval_ms": "1000"}
    prometheus = Prometheus(head.metrics_port)
    train = "python jobs/train.py --sessions 40000 --items 2000 --epochs 4 --workers 2 --checkpoint-minutes 0.1"
    done = head.submit(f"{train} --storage {place}/runs --model-out {place}/model", variables=variables)
    assert done.returncode == 0, done.stdout[-3000:]
    (sessions,) = place.glob("runs/simulated-*/prepared/train")
    score = f"python jobs/score.py --model {place}/model --sessions {sessions}"
    done = head.submit(f"{score} --out {place}/lists --date 2026-11-22", variables=variables)
    assert done.returncode == 0, done.stdout[-3000:]
    prometheus.close()
    seen = prometheus.seen
    assert ray_metrics.TRAINING.keys() <= seen.keys()
    assert max(seen["gru4rec_train_events_per_second"]) > 1000
    assert 0 < seen["gru4rec_train_loss"][-1] < seen["gru4rec_train_loss"][0]
    assert set(seen["gru4rec_train_workers"]) <= {0, 2}
    assert all(0 <= value <= 1 for value in seen["gru4rec_train_wait_share"])
    assert max(seen["gru4rec_train_checkpoint_age_seconds"]) > 0
    assert max(seen["gru4rec_score_sessions_done"]) > 0  # gates are told last, and may come after the last look
