"""What a person sees of training and comparison, in a real browser: MLflow's UI, and our pages from disk."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import mlflow
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chromium import PATIENCE_S, Chromium
from prepared_folder import complete, prepared_folder
from selenium.webdriver.common.by import By
from simple_log import simple_log
from trained_run import trained_run

from gru4rec import cli, config
from gru4rec.evaluation.compare import compare
from gru4rec.sessions import data_report
from gru4rec.sessions.summary import fingerprint
from gru4rec.tracking import runs

ITEMS = 60
SESSIONS = {"train": 2000, "valid": 100, "test": 200}
RATES = {"careful": 0.05, "bold": 0.2}  # learning rate of each run
EPOCHS = 3
HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>" + "W" * 300
LINES = "path.js-line"  # a curve in MLflow's charts; its form has an L for every point but the first
SVGS = "return [...document.querySelectorAll('svg')].filter(of => of.getBoundingClientRect().height > 99).length"


class Recorded(NamedTuple):
    """What there is to be seen."""

    place: Path
    experiment: str
    runs: dict[str, str]  # name → id
    comparison: str  # the run's id
    champion: str  # its version


@pytest.fixture(scope="module")
def browser(tmp_path_factory, pytestconfig) -> Iterator[Chromium]:
    pictures = Path(os.environ.get("GRU4REC_SCREENSHOTS") or pytestconfig.rootpath / ".pytest-artifacts")
    found = Chromium(tmp_path_factory.mktemp("profile"), pictures)
    yield found
    found.close()
    print(f"\nscreenshots: {pictures}")


@pytest.fixture(scope="module")
def place(browser, empty_store, tmp_path_factory) -> Path:
    """A folder with an empty MLflow store."""
    found = tmp_path_factory.mktemp("recorded")
    (found / "mlflow.db").write_bytes(empty_store.read_bytes())
    return found


@pytest.fixture(scope="module")
def server(place) -> Iterator[tuple[str, subprocess.Popen]]:
    """`mlflow ui` on this machine, which is starting: its address, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    options = ["--backend-store-uri", f"sqlite:///{place}/mlflow.db", "-h", "127.0.0.1", "-p", str(port)]
    with open(place / "server.log", "w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "ui", *options, "--workers", "1"],
            cwd=place,
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it and what it starts end together
        )
    yield f"http://127.0.0.1:{port}", process
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(10)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


@pytest.fixture(scope="module")
def recorded(server, place) -> Iterator[Recorded]:
    """Two trainings on a log with ids that are no markup, and their comparison, which makes one the champion."""
    store = f"sqlite:///{place}/mlflow.db"
    runs.mlflow_at(store)
    splits = {name: simple_log(count, ITEMS, seed)[0] for seed, (name, count) in enumerate(SESSIONS.items())}
    data = prepared_folder(place / "data", splits, ITEMS)
    ids = pa.array([f"{HOSTILE}{number}" for number in range(ITEMS)])
    pq.write_table(data.items.set_column(0, "item_id", ids), f"{data.folder}/items.parquet")
    data.summary["fingerprint"] = fingerprint(pa.chunked_array([ids]), data.summary["splits"])
    data = complete(data, rejected=[{"file": HOSTILE, "row": 3, "reason": HOSTILE, "text": HOSTILE}] * 2)
    data_report.write(data.folder)
    given = {"data": data.folder, "model_name": "shop", "layers": (16,), "n_sample": 20}
    given |= {"epochs": EPOCHS, "patience": EPOCHS}
    ids_of = {}
    for name, rate in RATES.items():
        chosen = cli.check(config.Train, {**given, "learning_rate": rate, "run_name": name})
        ids_of[name], _, _ = trained_run(chosen, data, str(place / name), store)
    asked = {"models": ["models:/shop/1", "models:/shop/2"], "baselines": ["markov", "pop"], "data": data.folder}
    asked |= {"promote": True, "report": str(place / "comparison.html"), "tracking_uri": store, "threads": 1}
    compared = compare(cli.check(config.Compare, asked))
    client = mlflow.MlflowClient()
    experiment = client.get_run(compared["run_id"]).info.experiment_id
    champion = client.get_model_version_by_alias("shop", "champion").version
    client.download_artifacts(ids_of["careful"], "training.html", str(place))
    yield Recorded(place, experiment, ids_of, compared["run_id"], str(champion))
    runs.mlflow_at(store).set_tracking_uri(None)


@pytest.fixture(scope="module")
def ui(server, recorded) -> str:
    """The address of MLflow's UI, once it answers."""
    address, process = server
    deadline = time.monotonic() + PATIENCE_S
    while True:
        assert process.poll() is None, (recorded.place / "server.log").read_text()
        assert time.monotonic() < deadline, (recorded.place / "server.log").read_text()
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5).close()  # noqa: S310
            return f"{address}/#"
        except OSError:
            time.sleep(0.1)


def run_page(ui: str, recorded: Recorded, run_id: str) -> str:
    return f"{ui}/experiments/{recorded.experiment}/runs/{run_id}"


def search(browser: Chromium, text: str, charts: int) -> None:
    """Show only the charts whose name has this in it, of which there must be so many."""
    browser.until_shown("curves")
    browser.driver.find_element(By.CSS_SELECTOR, "input[placeholder='Search metric charts']").send_keys(text)
    browser.until(f"return document.querySelectorAll('.js-plotly-plot').length == {charts}", f"{charts} charts")


def drawn(browser: Chromium, curves: int, points: int) -> None:
    """Wait until so many curves are drawn, with so many points or more."""
    forms = f"new Set([...document.querySelectorAll('{LINES}')].map(of => of.getAttribute('d')))"
    shown = f"[...{forms}].filter(of => of.split('L').length >= {points}).length"
    browser.until(f"return {shown} >= {curves}", f"{curves} curves of {points} points")


def test_the_list_of_runs_and_a_runs_settings_and_figures(ui, recorded, browser):
    browser.open(f"{ui}/experiments/{recorded.experiment}/runs")
    browser.until_shown(*recorded.runs, "3 matching runs")
    browser.picture("runs")

    run_id = recorded.runs["careful"]
    metrics = mlflow.MlflowClient().get_run(run_id).data.metrics
    browser.open(run_page(ui, recorded, run_id))
    browser.until_shown("learning_rate", "0.05", "Registered models", "recall_at_20_low", "markov/recall_at_20")
    browser.until_shown(*(str(metrics[key]) for key in ("recall_at_20", "recall_at_20_high", "pop/mrr_at_20")))
    browser.picture("run")


def test_curves_of_a_run(ui, recorded, browser):
    browser.open(run_page(ui, recorded, recorded.runs["careful"]) + "/model-metrics")
    browser.until_shown("curves", "markov", "pop", "workers/0", "Model metrics")
    drawn(browser, 2, 10)  # loss and speed within the epochs
    browser.picture("run-metrics")
    search(browser, "loss", 2)
    drawn(browser, 2, EPOCHS)  # within the epochs, and of each
    browser.picture("run-loss")


def test_two_runs_side_by_side(ui, recorded, browser):
    browser.open(f"{ui}/experiments/{recorded.experiment}/runs?compareRunsMode=CHART")
    browser.until_shown(*recorded.runs)
    search(browser, "curves/loss", 1)
    drawn(browser, 2, 10)  # of each run, in one chart
    browser.picture("runs-loss")

    both = ",".join(f'"{run_id}"' for run_id in recorded.runs.values())
    address = urllib.parse.quote(f'runs=[{both}]&experiments=["{recorded.experiment}"]', safe="=&")
    browser.open(f"{ui}/compare-runs?{address}")
    browser.until_shown("Comparing 2 Runs", "learning_rate", "curves/loss", "events_per_second")
    browser.picture("compare-runs")


def test_the_champion_in_the_registry(ui, recorded, browser):
    browser.open(f"{ui}/models/shop")
    browser.until_shown("Version 1", "Version 2", "champion")
    browser.picture("registry")
    browser.open(f"{ui}/models/shop/versions/{recorded.champion}")
    browser.until_shown(f"Version {recorded.champion}", "champion", "Recall@20", "promoted to champion")
    browser.picture("version")


@pytest.mark.parametrize(
    ("name", "run", "texts"),
    [
        ("comparison.html", "", ["Comparison", "shop/1", "shop/2", "markov"]),
        ("training.html", "careful", ["Test split", "Loss", "Validation", "Epochs"]),
        ("report.html", "careful", ["Data report", "What each step removed"]),
    ],
)
def test_pages_among_a_runs_artefacts(ui, recorded, browser, name, run, texts):
    run_id = recorded.runs[run] if run else recorded.comparison
    browser.open(f"{run_page(ui, recorded, run_id)}/artifacts/{name}")
    browser.until_shown(name, "Path:")
    browser.until("return document.querySelector('iframe')", "the page is in a frame")
    browser.driver.switch_to.frame(browser.driver.find_element(By.CSS_SELECTOR, "iframe"))
    browser.until_shown(*texts)
    assert browser.overflow() <= 1
    browser.driver.switch_to.default_content()
    browser.picture(f"artefact-{name.partition('.')[0]}")


@pytest.mark.parametrize(
    ("path", "texts", "figures"),
    [
        ("comparison.html", ["Comparison", "shop/1", "By session length"], 2),
        ("training.html", ["Training", "Test split", "GRU4Rec", "markov", "Loss", "Speed", "Validation"], 3),
        ("data/report.html", ["Data report", "Session lengths", "<script>alert(1)</script>"], 3),
    ],
)
def test_our_pages_from_disk(recorded, browser, path, texts, figures):
    for width in (1200, 400):
        browser.open((recorded.place / path).as_uri(), width)
        browser.until_shown(*texts)
        assert browser.errors() == []
        assert browser.overflow() <= 1
        assert browser.driver.execute_script(SVGS) >= figures
        assert browser.driver.execute_script("return document.scripts.length + document.images.length") == 0
        browser.picture(f"{Path(path).stem}-{width}", whole=True)
