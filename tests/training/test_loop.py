"""Interrupted anywhere, a run ends with the same bits as an undisturbed one; what cannot be exact is said."""

import dataclasses

import numpy as np
import pytest
import torch
from prepared_folder import prepared_folder
from simple_log import simple_log
from workers import tensors_hash

from gru4rec import storage
from gru4rec.config import Hyperparameters, Train
from gru4rec.errors import GRU4RecError
from gru4rec.evaluation import ranking
from gru4rec.sessions.prepared import Prepared, Sessions
from gru4rec.tracking import folder as model_folder
from gru4rec.tracking import model_card
from gru4rec.training import checkpoints, loop
from gru4rec.training.curve import PARTS
from gru4rec.training.describe import describe
from gru4rec.training.exchange import Alone
from gru4rec.training.loop import Plan, Training

BASE = Hyperparameters(
    layers=(8,), batch_size=8, n_sample=30, dropout_embed=0.2, learning_rate=0.1, momentum=0.2, epochs=3, seed=1
)
SETTINGS = {
    "gru": BASE,
    "early stopping": dataclasses.replace(BASE, patience=2, epochs=5, learning_rate=0.5),
    "shuffled, masked, lstm, adam": dataclasses.replace(
        BASE, loss="bpr-max", cell="lstm", optimizer="adam", order="shuffled", mask_seen=True, learning_rate=0.01
    ),
    "two layers, one-hot": dataclasses.replace(BASE, layers=(8, 6), embedding="one-hot", loss="top1-max"),
}


class Killed(BaseException):
    """What a SIGKILL would do: nothing runs after it."""


class Heard:
    """A listener that remembers, and may kill at the nth piece of news."""

    def __init__(self, kill_after: int = -1) -> None:
        self.said: list[str] = []
        self.begun: list[tuple[int, str]] = []
        self.checkpoints: list[str] = []
        self.left = kill_after

    def _count(self) -> None:
        self.left -= 1
        if self.left == -1:
            raise Killed

    def begins(self, done, checkpoint):
        self.begun.append((len(done), checkpoint))

    def progress(self, epoch, point):
        self._count()

    def epoch_done(self, number, done):
        self._count()

    def committed(self, checkpoint):
        self.checkpoints.append(checkpoint)
        self._count()

    def stage(self, name):
        self._count()

    def say(self, message):
        self.said.append(message)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Prepared:
    sessions, _ = simple_log(620, 60)

    def part(first: int, last: int) -> Sessions:
        offsets = sessions.offsets[first : last + 1]
        return Sessions(offsets - offsets[0], sessions.items[offsets[0] : offsets[-1]])

    splits = {"train": part(0, 500), "valid": part(500, 560), "test": part(560, 620)}
    return prepared_folder(tmp_path_factory.mktemp("data") / "prepared", splits, 60)


@pytest.fixture(autouse=True)
def all_news(monkeypatch):
    monkeypatch.setattr(loop, "_PROGRESS_S", -1)


def train(data, place, settings=BASE, kill_after=-1, exchange=None, **plan):
    heard = Heard(kill_after)
    training = Training(settings, data, Plan(str(place), checkpoint_steps=64, **plan), exchange or Alone(), heard)
    return training.run(), heard


def model_hash(place) -> str:
    folder = f"{place}/model"
    return tensors_hash(model_folder.load(folder).model.tensors() | model_folder.load_optimizer(folder))


def card(data, name, finished, place) -> bytes:
    """The model card that the train job writes for this run."""
    settings = Train(data=data.folder, **dataclasses.asdict(SETTINGS[name]))
    return model_card.text(describe(settings, data, finished, f"{place}/model")).encode()


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    found = {}

    def of(name):
        if name not in found:
            place = tmp_path_factory.mktemp("undisturbed")
            finished, _ = train(data, place, SETTINGS[name])
            found[name] = finished, model_hash(place), card(data, name, finished, place)
        return found[name]

    return of


def comparable(finished):
    """Without the seconds."""
    epochs = [(done.epoch.loss, done.epoch.events, done.epoch.steps, done.validated) for done in finished.epochs]
    curves = [[mark[:3] for mark in done.curve] for done in finished.epochs]
    return epochs, curves, finished.metrics, finished.predictions, finished.best_epoch


@pytest.mark.parametrize("name", SETTINGS)
def test_killed_at_any_news_and_begun_again_it_ends_with_the_same_bits(data, tmp_path, undisturbed, name):
    expected, weights, expected_card = undisturbed(name)
    rng = np.random.default_rng(len(name))
    kills, finished = 0, None
    while finished is None:
        kill_after = int(rng.integers(0, 9)) if kills < 6 else -1
        try:
            finished, heard = train(data, tmp_path, SETTINGS[name], kill_after)
        except Killed:
            kills += 1
    assert kills >= 3
    assert heard.begun[0][1], "it went on from a checkpoint"
    assert comparable(finished) == comparable(expected)
    assert all(done.curve[-1].part == PARTS for done in finished.epochs)
    assert model_hash(tmp_path) == weights
    assert card(data, name, finished, tmp_path) == expected_card


def test_what_is_reported_is_what_the_model_gives(data, tmp_path, undisturbed):
    finished, _ = train(data, tmp_path)
    model = model_folder.load(f"{tmp_path}/model").model
    whole = ranking.evaluate(model, data.read("test"), (20,))
    assert finished.metrics == pytest.approx(whole.result())
    assert finished.predictions == whole.predictions
    assert [done.epoch.events for done in finished.epochs] == [data.read("train").transitions] * 3


def test_what_is_reported_does_not_depend_on_the_parts_it_is_ranked_in(data, tmp_path, undisturbed, monkeypatch):
    monkeypatch.setattr(loop, "EVALUATED", 7)
    finished, _ = train(data, tmp_path)
    assert finished.metrics == pytest.approx(undisturbed("gru")[0].metrics, abs=1e-12)


def test_early_stopping_keeps_the_best_epoch(data, tmp_path, undisturbed):
    finished, *_ = undisturbed("early stopping")
    values = [done.validated["valid_mrr_at_20"] for done in finished.epochs]
    assert finished.best_epoch == 1 + int(np.argmax(values))
    assert len(values) == min(finished.best_epoch + 2, 5)


def test_a_finished_run_is_not_trained_again(data, tmp_path):
    expected, _ = train(data, tmp_path)
    again, heard = train(data, tmp_path)
    assert heard.begun == [(3, heard.begun[0][1])]
    assert comparable(again) == comparable(expected)


def test_a_damaged_newest_checkpoint_is_passed_over(data, tmp_path, undisturbed):
    with pytest.raises(Killed):
        train(data, tmp_path, kill_after=9)
    place = tmp_path / loop.CHECKPOINTS
    newest = checkpoints.committed(str(place))[-1]
    path = place / newest / "model" / "optimizer.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    finished, heard = train(data, tmp_path)
    assert any("optimizer.safetensors" in message for message in heard.said)
    assert heard.begun[0][1] not in ("", newest)
    assert comparable(finished) == comparable(undisturbed("gru")[0])
    assert model_hash(tmp_path) == undisturbed("gru")[1]


def test_a_full_disk_is_told_and_training_goes_on(data, tmp_path, undisturbed, monkeypatch):
    save, calls = checkpoints.save, []

    def full(place, name, files, about):
        calls.append(name)
        if len(calls) in (2, 3):
            raise OSError(28, "No space left on device")
        save(place, name, files, about)

    monkeypatch.setattr(checkpoints, "save", full)
    finished, heard = train(data, tmp_path)
    warnings = [message for message in heard.said if message.startswith("WARNING")]
    assert len(warnings) == 2
    assert "No space left" in warnings[0]
    assert comparable(finished) == comparable(undisturbed("gru")[0])


def of_checkpoints(path: str) -> bool:
    return path.endswith(f"/{loop.CHECKPOINTS}")


# What a checkpoint asks of the storage: the call, and which of its paths are a checkpoint's.
ASKED = {
    "whose run it is": ("exists", lambda path: path.endswith(f"/{loop.ATTEMPT}")),
    "what there is": ("list_folders", of_checkpoints),
    "what may go": ("sizes", of_checkpoints),
    "the best models": ("list_folders", lambda path: path.endswith(f"/{loop.BEST}")),
}


@pytest.mark.parametrize("asked", ASKED)
def test_a_storage_that_does_not_answer_at_a_checkpoint_is_told_and_training_goes_on(
    data, tmp_path, undisturbed, monkeypatch, asked
):
    (tmp_path / loop.ATTEMPT).write_text("first")
    call, is_it = ASKED[asked]
    working, failed, begun = getattr(storage, call), [], []

    def broken(path, *more):
        if begun and is_it(path) and len(failed) < 3:
            failed.append(path)
            raise OSError("s3://me:secret@bucket: SlowDown")
        return working(path, *more)

    monkeypatch.setattr(storage, call, broken)
    monkeypatch.setattr(Heard, "begins", lambda *_: begun.append(True))
    settings = SETTINGS["early stopping"]
    finished, heard = train(data, tmp_path, settings, attempt="first")
    written = asked in ("what may go", "the best models")
    what = "earlier checkpoints could not be removed" if written else "no checkpoint could be written"
    assert len(failed) == len(heard.said) == 3
    assert all(said.startswith(f"WARNING: {what}") for said in heard.said)
    assert "s3://***@bucket: SlowDown" in heard.said[0]
    assert "it goes on from the one before. Make room" in heard.said[0] or written
    assert comparable(finished) == comparable(undisturbed("early stopping")[0])
    assert model_hash(tmp_path) == undisturbed("early stopping")[1]
    kept = checkpoints.committed(str(tmp_path / loop.CHECKPOINTS))
    assert kept[-1] == heard.checkpoints[-1]
    assert len(kept) <= 4
    assert storage.list_folders(str(tmp_path / loop.BEST)) == [f"epoch-{finished.best_epoch:04d}"]


def test_another_attempt_that_begins_meanwhile_stops_this_one(data, tmp_path, monkeypatch):
    (tmp_path / loop.ATTEMPT).write_text("first")
    monkeypatch.setattr(Heard, "committed", lambda *_: (tmp_path / loop.ATTEMPT).write_text("second"))
    with pytest.raises(loop.TakenOver):
        train(data, tmp_path, attempt="first")


def test_only_so_many_checkpoints_are_kept(data, tmp_path):
    _, heard = train(data, tmp_path, keep=2)
    kept = checkpoints.committed(str(tmp_path / loop.CHECKPOINTS))
    assert len(heard.checkpoints) > 6
    assert kept[-1] == heard.checkpoints[-1]
    assert len(kept) <= 4
    assert sum("step-000000000" in name for name in kept) == 2


def test_another_attempt_stops_this_one(data, tmp_path):
    (tmp_path / loop.ATTEMPT).write_text("second")
    with pytest.raises(loop.TakenOver):
        train(data, tmp_path, attempt="first")


def test_checkpoints_of_other_data_are_not_gone_on_with(data, tmp_path, tmp_path_factory):
    sessions, _ = simple_log(100, 60, seed=5)
    other = prepared_folder(tmp_path_factory.mktemp("other") / "prepared", {"train": sessions, "test": sessions}, 60)
    train(other, tmp_path)
    _, heard = train(data, tmp_path)
    assert heard.begun == [(0, "")]
    (said,) = heard.said
    assert f"of other data (fingerprint {other.fingerprint[:12]}…) are passed over" in said


class Differs(Alone):
    """Two workers, of which the other has other weights from the fourth comparison on."""

    size = 2

    def __init__(self) -> None:
        self.calls = 0

    def gather(self, block):
        return type(block)(*(np.concatenate([part, part], axis=1) for part in block))

    def share(self, numbers):
        self.calls += 1
        other = numbers.copy()
        other[0] += self.calls > 3
        return np.stack([numbers, other])

    def collect(self, content):
        return [content, content]

    def add(self, values):
        values.mul_(2)


def test_replicas_that_differ_stop_the_run(data, tmp_path):
    with pytest.raises(loop.Diverged, match="worker 1 differ from those of worker 0 in epoch 1, step 128"):
        train(data, tmp_path, exchange=Differs())


def test_a_digest_sees_one_changed_bit(data, tmp_path):
    training = Training(BASE, data, Plan(str(tmp_path)), Differs(), Heard())
    trainer = training.trainer
    before = trainer.digest(), trainer.digest(0)
    for name, tensor in trainer.model.tensors().items():
        for state in (tensor, trainer.optimizer_tensors()[f"{name}.accumulator"]):
            flat = state.view(-1) if state.is_contiguous() else state.reshape(len(state), -1)[1]
            kept = flat[-1].clone()
            flat[-1] = torch.nextafter(kept, torch.tensor(9.0))
            assert trainer.digest() != before[0]
            assert trainer.digest(0) != before[1]
            flat[-1] = kept
    assert (trainer.digest(), trainer.digest(0)) == before


def test_other_hyperparameters_are_refused(data, tmp_path):
    train(data, tmp_path)
    with pytest.raises(GRU4RecError, match="other hyperparameters"):
        train(data, tmp_path, dataclasses.replace(BASE, learning_rate=0.2))
