"""What a finished training leaves in MLflow: once, under names that line up, and as a page."""

import dataclasses
import html.parser

import mlflow
import pytest
from prepared_folder import prepared_folder
from simple_log import simple_log
from trained_run import Told, begin, finish, trained_run

from gru4rec import cli, config
from gru4rec.sessions.prepared import Prepared
from gru4rec.tracking import folder as model_folder
from gru4rec.tracking.model_card import MODEL
from gru4rec.training import loop, record, training_report
from gru4rec.training.describe import describe

HOSTILE = "a<script>alert(1)</script>&amp;$"


@pytest.fixture
def data(tmp_path) -> Prepared:
    splits = {name: simple_log(count, 40, count)[0] for name, count in (("train", 400), ("valid", 40), ("test", 60))}
    return prepared_folder(tmp_path / HOSTILE.replace("/", "_"), splits, 40)


@pytest.fixture
def settings(data) -> config.Train:
    given = {"layers": (8,), "batch_size": 8, "n_sample": 10, "epochs": 2, "patience": 2, "cutoffs": (5, 20)}
    return cli.check(config.Train, {**given, "data": data.folder, "model_name": "shop"})


def recorded(run_id: str) -> dict[str, list[tuple[int, float]]]:
    client = mlflow.MlflowClient()
    keys = client.get_run(run_id).data.metrics
    return {key: [(point.step, point.value) for point in client.get_metric_history(run_id, key)] for key in keys}


def test_figures_intervals_and_baselines_are_with_the_run_and_the_model_once(store, tmp_path, data, settings):
    run_id, version, finished = trained_run(settings, data, str(tmp_path / "run"), store)
    found = recorded(run_id)
    facts = describe(settings, data, finished, str(tmp_path / "run" / "model"))
    for key, value in finished.metrics.items():
        low, high = facts.intervals[MODEL][key]
        assert found[key] == [(0, value)]
        assert (found[f"{key}_low"], found[f"{key}_high"]) == ([(0, low)], [(0, high)])
    for name in ("pop", "markov"):
        of_name = {key.removeprefix(f"{name}/") for key in found if key.startswith(f"{name}/")}
        assert of_name == {"recall_at_20", "mrr_at_20", "ndcg_at_20"}
        assert found[f"{name}/mrr_at_20"] == [(0, facts.metrics[name]["mrr_at_20"])]
    for key in ("loss", "valid_mrr_at_20", "workers/0/events_per_second"):
        assert [step for step, _ in found[key]] == [1, 2]
    steps = [step for step, _ in found["curves/loss"]]
    assert len(steps) == len(set(steps)) >= 4
    assert max(steps) == 200

    client = mlflow.MlflowClient()
    logged = mlflow.get_logged_model(client.get_model_version("shop", version).source.removeprefix("models:/"))
    kept = {metric.key: metric.value for metric in logged.metrics}
    assert kept.keys() == {f"{key}{end}" for key in finished.metrics for end in ("", "_low", "_high")}
    assert kept["recall_at_20_low"] == facts.intervals[MODEL]["recall_at_20"][0]

    again = record.record(facts, finished, str(tmp_path / "run" / "model"), run_id)
    assert again == version
    assert recorded(run_id) == found
    assert record.PAGE in {artifact.path for artifact in client.list_artifacts(run_id)}


class Killed(BaseException):
    """What a SIGKILL would do."""


def test_killed_between_two_pieces_of_news_a_run_has_the_curves_of_an_undisturbed_one(
    store, tmp_path, data, settings, monkeypatch
):
    monkeypatch.setattr(loop, "_PROGRESS_S", -1)
    settings = dataclasses.replace(settings, checkpoint_steps=64)
    undisturbed, *_ = trained_run(settings, data, str(tmp_path / "undisturbed"), store)
    run_id, tell, place = begin(settings, data, store), Told._tell, str(tmp_path / "run")
    kills = 0
    for news in (2, 3, 5):  # after so many in an attempt
        left = iter(range(news))

        def told(self, left=left, **changed):
            if next(left, None) is None:
                raise Killed
            tell(self, **changed)

        monkeypatch.setattr(Told, "_tell", told)
        try:
            finish(settings, data, place, run_id)
        except Killed:
            kills += 1
    assert kills == 3
    monkeypatch.setattr(Told, "_tell", tell)
    finish(settings, data, place, run_id)
    found, expected = recorded(run_id), recorded(undisturbed)
    assert found.keys() == expected.keys()
    for key in ("curves/loss", "loss", "valid_mrr_at_20", "recall_at_20", "markov/recall_at_20"):
        assert sorted(found[key]) == sorted(expected[key])
    for key, points in found.items():
        assert len(points) == len(dict(points)) == len(expected[key])


@pytest.mark.parametrize("where", ["write_card", "register", "log_missing", "log_text"])
def test_interrupted_and_called_again_it_does_what_is_left(store, tmp_path, data, settings, monkeypatch, where):
    def killed(*arguments, **options):
        raise Killed

    module = {"write_card": record.model_folder, "register": record.registry}.get(where, record.runs)
    with monkeypatch.context() as patched:
        patched.setattr(module, where, killed)
        with pytest.raises(Killed):
            trained_run(settings, data, str(tmp_path / "run"), store)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs(["1"])
    version, finished = finish(settings, data, str(tmp_path / "run"), run.info.run_id)
    assert version == "1"
    found = recorded(run.info.run_id)
    assert all(len(points) == len(dict(points)) for points in found.values())
    expected = {f"{key}{end}" for key in finished.metrics for end in ("", "_low", "_high")}
    assert expected | {"markov/recall_at_20", "curves/loss"} <= found.keys()
    assert len(client.search_logged_models(["1"])) == 1
    assert "Recall@20" in model_folder.read_card(str(tmp_path / "run" / "model"))
    assert record.PAGE in {artifact.path for artifact in client.list_artifacts(run.info.run_id)}


class Page(html.parser.HTMLParser):
    """All tags and all text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


def test_the_page(store, tmp_path, data, settings):
    _, _, finished = trained_run(settings, data, str(tmp_path / "run"), store)
    facts = describe(settings, data, finished, str(tmp_path / "run" / "model"))
    shown = training_report.page(facts, finished)
    assert shown == training_report.page(facts, finished)
    page = Page(shown)
    assert "script" not in page.tags
    assert data.folder.rpartition("/")[2] in page.text
    low, high = facts.intervals[MODEL]["recall_at_20"]
    assert f"{finished.metrics['recall_at_20']:.4f} ({low:.4f}–{high:.4f})" in page.text
    assert f"{finished.epochs[1].epoch.loss:.4f}" in page.text
    assert page.tags.count("svg") == 3
    early = dataclasses.replace(finished, epochs=tuple(dataclasses.replace(of, validated={}) for of in finished.epochs))
    assert Page(training_report.page(facts, early)).tags.count("svg") == 2
    nothing = dataclasses.replace(facts, predictions=0, metrics={MODEL: {}}, intervals={})
    assert "nothing to predict" in Page(training_report.page(nothing, finished)).text
    unranked = dataclasses.replace(facts, intervals={"pop": facts.intervals["pop"]})
    assert "None for GRU4Rec" in Page(training_report.page(unranked, finished)).text
