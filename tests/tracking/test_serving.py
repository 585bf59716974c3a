"""`mlflow models serve` with a registered version: real sessions over HTTP get the lists that scoring gives."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gru4rec.config import Hyperparameters
from gru4rec.model.network import initialise
from gru4rec.scoring.recommend import recommend
from gru4rec.sessions.catalogue import Catalogue, catalogue, encoder
from gru4rec.sessions.prepared import Sessions
from gru4rec.tracking import folder, registry, runs
from gru4rec.tracking.folder import LoadedModel
from gru4rec.training.trainer import Trainer

REQUESTS = 1000
STARTS_WITHIN_S = 120
TRAINED = 4000  # sessions


class Log(NamedTuple):
    """Real sessions of item ids."""

    train: list[list[int]]
    test: list[list[int]]


@pytest.fixture(scope="module")
def log(shared_data) -> Log:
    place = shared_data / "yoochoose64"
    if not place.is_dir():
        pytest.skip(f"there are no real sessions at {place}")
    return Log(_sessions(place / "train.parquet"), _sessions(place / "test.parquet"))


def _sessions(path) -> list[list[int]]:
    clicks = pq.read_table(path).sort_by([("SessionId", "ascending"), ("Time", "ascending")])
    starts = np.flatnonzero(np.diff(clicks["SessionId"].to_numpy(), prepend=-1))
    return [part.tolist() for part in np.split(clicks["ItemId"].to_numpy(), starts[1:])]


@pytest.fixture
def model(log, tmp_path) -> LoadedModel:
    """A small model of the whole catalogue, trained a little; its folder is tmp_path/model."""
    flat = np.concatenate([np.array(session, np.int64) for session in log.train])
    ids, support = np.unique(flat, return_counts=True)
    items = pa.table({"item_id": ids, "item_index": pa.array(range(len(ids)), pa.int32()), "support": support})
    recent = [np.array(session, np.int64) for session in log.train[-TRAINED:]]
    offsets = np.concatenate([[0], np.cumsum([len(session) for session in recent])])
    indices = encoder(catalogue(items))(pa.array(np.concatenate(recent)))
    trained = initialise(Hyperparameters(layers=(32,), n_sample=64), len(ids))
    trainer = Trainer(trained, support)
    trainer.train_epoch(0, [[Sessions(offsets, indices.astype(np.int32))]])
    folder.save(trained, items, str(tmp_path / "model"), {}, trainer.optimizer_tensors())
    return folder.load(str(tmp_path / "model"))


class Server:
    """`mlflow models serve` on this machine, asked over one connection that stays open."""

    def __init__(self, store: str, model: str, place) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._log = place / "server.log"
        options = ["-m", model, "-h", "127.0.0.1", "-p", str(self._port), "--env-manager", "local"]
        env = {**os.environ, "MLFLOW_TRACKING_URI": store, "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
        env.pop("PYTHONPATH", None)  # it has the model's own code
        env["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), env.get("PATH", "")])  # it starts uvicorn
        with open(self._log, "w") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "models", "serve", *options],
                cwd=place,
                env=env,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # it and the server that it starts end together
            )
        self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)

    def wait(self) -> None:
        """Until it answers."""
        deadline = time.monotonic() + STARTS_WITHIN_S
        while True:
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            try:
                self._connection.request("GET", "/ping")
                if self._connection.getresponse().read() is not None:
                    return
            except OSError:
                self._connection.close()
                time.sleep(0.1)

    def ask(self, body: Any) -> tuple[int, Any]:
        """(status, answer) to a request."""
        sent = body if isinstance(body, str) else json.dumps(body)
        self._connection.request("POST", "/invocations", sent, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read(), parse_constant=pytest.fail)  # NaN is no JSON

    def close(self) -> None:
        self._connection.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(10)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


@pytest.fixture
def server(model, store, tmp_path) -> Iterator[Server]:
    run_id = runs.start_run(runs.connect(store), {})
    version = registry.register(run_id, str(tmp_path / "model"), "gru4rec")
    server = Server(store, f"models:/gru4rec/{version}", tmp_path)
    try:
        server.wait()
        yield server
    finally:
        server.close()


def expected(model: LoadedModel, known: Catalogue, clicked: list[int], params: dict[str, Any]) -> dict[str, Any]:
    sessions = pa.table({"session_id": ["s"], "items": pa.array([clicked], pa.list_(pa.int64()))})
    banned = encoder(known)(pa.array(params["exclude_items"], pa.int64())) if "exclude_items" in params else None
    seen = params.get("exclude_seen", False)
    found = recommend(model.model, known, sessions, params.get("k", 20), seen, banned=banned)
    return found.drop_columns("unknown_clicks").to_pylist()[0]


def asked(log: Log, known: Catalogue) -> list[tuple[list[int], dict[str, Any]]]:
    """1,000 sessions and parameters: real ones as they stand after some click, some with unknown items, some empty."""
    drawn = np.random.default_rng(1)
    ids, unknown = known.ids.to_numpy(), int(known.ids.to_numpy().max()) + 1
    found: list[tuple[list[int], dict[str, Any]]] = []
    for number, row in enumerate(drawn.permutation(len(log.test))[:REQUESTS].tolist()):
        session = log.test[row]
        clicked = session[: int(drawn.integers(1, len(session) + 1))]
        if number % 10 == 1:
            clicked = [*clicked[:1], unknown, *clicked[1:]]
        if number % 50 == 2:
            clicked = [[], [unknown]][number // 50 % 2]
        params: dict[str, Any] = {"k": int(drawn.integers(1, 40))} if number % 2 else {}
        if number % 3 == 1:
            params["exclude_seen"] = True
        if number % 5 == 1:
            params["exclude_items"] = [*drawn.choice(ids, 5).tolist(), *known.ids.take(known.popular[:3]).to_pylist()]
        found.append((clicked, params))
    return found


WRONG = [
    ("{not json", "valid JSON"),
    ([], "must be a JSON dictionary"),
    ({"sessions": [[1]]}, "exactly one of the input fields"),
    ({"dataframe_records": [{"clicks": [1]}]}, r"missing inputs \['items'\]"),
    ({"dataframe_records": [{"items": 5}]}, "items to type 'Array\\(long\\)'.*list or numpy array, got int"),
    ({"dataframe_records": [{"items": None}]}, "items to type 'Array\\(long\\)'.*NoneType"),
    ({"dataframe_records": [{"items": ["5"]}]}, "items.*convert str to int64"),
    ({"dataframe_records": [{"items": [1.5]}]}, "items.*convert float64 to int64"),
    ({"dataframe_records": [{"items": [2**70]}]}, "items.*convert object to int64"),
    *(
        ({"dataframe_records": [{"items": [1]}], "params": params}, message)
        for params, message in [
            ({"k": 0}, "k must be at least 1, got 0"),
            ({"k": -3}, "k must be at least 1, got -3"),
            ({"k": None}, "k must be at least 1, got None"),
            ({"k": "many"}, "'k': long.*'str'"),
            ({"exclude_seen": "yes"}, "'exclude_seen': boolean.*'str'"),
            ({"exclude_items": 5}, "1D array.*'exclude_items': long"),
            ({"exclude_items": ["x"]}, "'exclude_items': long.*'str'"),
            ({"exclude_items": [2**70]}, "exclude_items: not item ids of this model"),
        ]
    ),
]


def test_a_served_version_answers_real_sessions_as_scoring_does(server, log, model, record_property, tmp_path):
    known = catalogue(model.items)
    taken = []
    for number, (clicked, params) in enumerate(asked(log, known)):
        began = time.perf_counter()
        status, answer = server.ask(
            {"dataframe_records": [{"session_id": f"s{number}", "items": clicked}], "params": params}
        )
        taken.append(1e3 * (time.perf_counter() - began))
        assert status == 200, answer
        (given,) = answer["predictions"]
        wanted = expected(model, known, clicked, params)
        assert given["session_id"] == f"s{number}"
        assert given["items"] == wanted["items"], (clicked, params)
        assert given["scores"] == pytest.approx(wanted["scores"], rel=1e-4, abs=1e-6)
        assert given["fallback"] == wanted["fallback"]
    p50, p99 = np.percentile(taken, [50, 99])
    print(f"\n{REQUESTS:,} requests, {len(known.ids):,} items: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    record_property("p50_ms", p50)
    record_property("p99_ms", p99)

    status, answer = server.ask({"dataframe_records": [{"items": log.test[0]}, {"session_id": "b", "items": []}]})
    assert status == 200
    assert [row["session_id"] for row in answer["predictions"]] == [None, "b"]
    for body, message in WRONG:
        status, answer = server.ask(body)
        assert status == 400, (body, answer)
        assert "stack_trace" not in answer
        assert re.search(message, answer["message"], re.DOTALL), answer["message"]
    check_size(tmp_path)


def check_size(tmp_path) -> None:
    """A version is weights, catalogue and the code that reads them."""
    (root,) = (tmp_path / "mlartifacts" / "models").iterdir()
    logged = {path.relative_to(root / "artifacts"): path.stat().st_size for path in root.rglob("*") if path.is_file()}
    names = {path.name for path in logged}
    assert folder.OPTIMIZER not in names
    assert not [path for path in logged if path.suffix in (".pyc", ".pkl") or {"tests", "training"} & set(path.parts)]
    whole = sum((tmp_path / "model" / name).stat().st_size for name in (folder.WEIGHTS, folder.ITEMS))
    assert sum(logged.values()) < whole + 1e6
