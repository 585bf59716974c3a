"""What the model card says of a training: measured like everything else, with intervals around it."""

import datetime

import numpy as np
import pytest
import torch
from prepared_folder import prepared_folder

from gru4rec.config import Hyperparameters, Train
from gru4rec.errors import InputError
from gru4rec.evaluation import ranking
from gru4rec.model.network import initialise
from gru4rec.sessions.prepared import Sessions
from gru4rec.tracking import folder as model_folder
from gru4rec.tracking import model_card
from gru4rec.tracking.model_card import MODEL
from gru4rec.training import describe
from gru4rec.training.progress import Done, Epoch, Finished

ITEMS = 50
SETTINGS = Train(data="data", layers=(8,), cutoffs=(5,), model_name="mine")


def drawn(sessions: int, seed: int) -> Sessions:
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(1, 6, sessions))])
    return Sessions(offsets, rng.integers(0, ITEMS, offsets[-1]).astype(np.int32))


@pytest.fixture
def trained(tmp_path):
    """(prepared, what training told, model folder)."""
    prepared = prepared_folder(tmp_path / "data", {"train": drawn(300, 1), "test": drawn(80, 2)}, ITEMS)
    model = initialise(Hyperparameters(layers=(8,)), ITEMS)
    model.item_table = torch.randn(model.item_table.shape, generator=torch.Generator().manual_seed(1))
    model_folder.save(model, prepared.items, str(tmp_path / "model"), {"data_fingerprint": prepared.fingerprint})
    metrics = ranking.evaluate(model, prepared.read("test"), (5, 20))
    epoch = Done(Epoch(2.5, 100, 10, 1.0), {}, ())
    return prepared, Finished((epoch,), metrics.result(), metrics.predictions, 1, 2), str(tmp_path / "model")


def test_figures_are_those_of_training_inside_their_intervals(trained):
    prepared, finished, folder = trained
    facts = describe.describe(SETTINGS, prepared, finished, folder)
    assert facts.metrics[MODEL] == finished.metrics
    assert list(facts.metrics) == list(facts.intervals) == [MODEL, "pop", "markov"]
    for name, of in facts.intervals.items():
        assert of.keys() == finished.metrics.keys()
        for key, (low, high) in of.items():
            assert low < facts.metrics[name][key] < high
    assert facts.predictions == prepared.read("test").transitions
    assert facts.sessions == (prepared.read("test").lengths > 1).sum()
    assert facts.spans.keys() == {"train", "test"}
    assert facts.spans["train"][0] == datetime.datetime(1970, 1, 1)
    again = describe.describe(SETTINGS, prepared, finished, folder)
    assert model_card.text(again) == model_card.text(facts)


def test_a_test_split_that_is_too_large_has_no_intervals_for_the_model(trained, monkeypatch):
    prepared, finished, folder = trained
    monkeypatch.setattr(describe, "SCORES", finished.predictions * ITEMS - 1)
    monkeypatch.setattr(describe.model_ranks, "rank", lambda *_: pytest.fail("ranked"))
    facts = describe.describe(SETTINGS, prepared, finished, folder)
    assert list(facts.intervals) == ["pop", "markov"]
    assert "No intervals for GRU4Rec" in model_card.text(facts)


def test_nothing_to_predict(tmp_path, trained):
    _, finished, folder = trained
    prepared = prepared_folder(tmp_path / "bare", {"train": drawn(300, 1)}, ITEMS)
    kept = model_folder.load(folder)
    model_folder.save(kept.model, kept.items, folder, {"data_fingerprint": prepared.fingerprint})
    nothing = Finished(finished.epochs, dict.fromkeys(finished.metrics, 0.0), 0, 1, 2)
    facts = describe.describe(SETTINGS, prepared, nothing, folder)
    assert list(facts.metrics) == [MODEL]
    assert "nothing to predict" in model_card.text(facts)


def test_a_model_of_other_data_is_refused(tmp_path, trained):
    _, finished, folder = trained
    other = prepared_folder(tmp_path / "other", {"train": drawn(300, 3), "test": drawn(80, 4)}, ITEMS)
    with pytest.raises(InputError, match=r"model: was trained on other data than .*other \(fingerprint"):
        describe.describe(SETTINGS, other, finished, folder)
