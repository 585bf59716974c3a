"""When the workers are started again, and when it is given up; which data they take."""

import shutil
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
from prepared_folder import prepared_folder

from gru4rec import cli, config
from gru4rec.errors import GRU4RecError, InputError
from gru4rec.sessions.prepared import Sessions
from gru4rec.training import on_ray
from gru4rec.training.exchange import Alone
from gru4rec.training.notice_board import News, NoticeBoard

SESSIONS = Sessions(np.array([0, 2, 5]), np.array([0, 1, 2, 1, 0], np.int32))


@pytest.fixture
def board():
    """A board that forgives two failures, as a plain object."""
    return NoticeBoard.__ray_metadata__.modified_class(2)


def test_workers_that_fail_wherever_they_begin_are_given_up(board):
    assert [board.starts() for _ in range(3)] == [True] * 3
    board.failed(RuntimeError("no way to the bucket"), fatal=False)
    assert not board.starts()
    assert isinstance(board.fatal(), GRU4RecError)
    assert "failed 3 times" in str(board.fatal())
    assert "no way to the bucket" in str(board.fatal())


def test_a_new_checkpoint_begins_the_count_anew(board):
    for number in range(4):
        assert [board.starts() for _ in range(2)] == [True] * 2
        board.begins(2, (), f"{number}")
        board.committed(f"{number + 1}")


def test_fewer_workers_or_an_earlier_checkpoint_begin_the_count_anew(board):
    for workers, checkpoint in [(2, "b"), (2, "a"), (1, "a"), (1, "")]:
        assert [board.starts() for _ in range(2)] == [True] * 2
        board.begins(workers, (), checkpoint)
    assert [board.starts() for _ in range(2)] == [True] * 2
    board.begins(1, (), "")
    assert not board.starts()


def test_an_error_that_would_come_again_ends_it(board):
    assert board.starts()
    board.failed(InputError("file"), fatal=True)
    board.failed(InputError("another"), fatal=True)
    assert not board.starts()
    assert str(board.fatal()) == "file"


class Remote:
    """A method of an actor that answers at once."""

    def __init__(self, answer):
        self.remote = answer


class Board:
    def __init__(self):
        self.read = Remote(lambda: News("training"))


def test_a_listener_that_fails_is_told_of_once_and_goes_on(monkeypatch, capsys):
    monkeypatch.setattr(ray, "get", lambda answer: answer)
    heard, enough = [], threading.Event()

    def watch(news):
        heard.append(news)
        if len(heard) == 5:
            enough.set()
        if len(heard) < 4:
            raise OSError("postgresql://me:secret@db/mlflow: database is locked\n[SQL: INSERT]")

    with on_ray._listening(Board(), watch, 0.001):
        assert enough.wait(60)
    said = capsys.readouterr().err
    assert said.count("\n") == said.count("WARNING") == 1
    assert "OSError: postgresql://***@db/mlflow: database is locked. Training goes on" in said


def test_a_listener_that_hangs_does_not_hold_up_an_error(monkeypatch):
    monkeypatch.setattr(ray, "get", lambda answer: answer)
    monkeypatch.setattr(on_ray, "_LISTENS_S", 0.01)
    hangs, over = threading.Event(), threading.Event()

    def watch(news):
        hangs.set()
        over.wait(60)

    def interrupted():
        assert hangs.wait(60)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), on_ray._listening(Board(), watch, 0.001):
        interrupted()
    assert not over.is_set()
    over.set()


@pytest.mark.parametrize(
    ("flags", "what", "remedy"),
    [
        ({}, "4 CPUs", "lower --workers or --threads"),
        ({"threads": 2}, "8 CPUs", "lower --workers or --threads"),
        ({"gpus": True}, "4 GPUs", "leave out --gpus, or lower --workers"),
    ],
)
def test_a_machine_too_small_is_refused_and_a_cluster_may_grow(monkeypatch, flags, what, remedy):
    settings = cli.check(config.Train, {"data": "d", "workers": "4:8", **flags})
    have = {"CPU": 4.0} if "gpus" in flags else {}
    monkeypatch.setattr(ray, "cluster_resources", lambda: have)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(InputError, match=f"--workers 4:8 need {what} and the cluster has 0: {remedy}, or join"):
        on_ray.lacking(settings)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert on_ray.lacking(settings) == f"--workers 4:8 need {what} and the cluster has 0"
    have |= {"CPU": 8.0, "GPU": 4.0}
    assert on_ray.lacking(settings) == ""
    # a Ray that the job starts itself grows no more than the machine
    monkeypatch.setenv("RAY_ADDRESS", "local")
    have.clear()
    with pytest.raises(InputError, match="or join a larger cluster"):
        on_ray.lacking(settings)


class Two(Alone):
    """The first of two workers; the other one says `other`."""

    size = 2

    def __init__(self, other: str = "") -> None:
        self._other = other.encode()

    def collect(self, content):
        return [content, self._other]


def test_a_worker_that_does_not_share_the_place_of_the_run_stops_all_before_they_train(tmp_path):
    (tmp_path / "run").mkdir()
    why = r"--storage: the worker on \S+ does not see .*/run; name a folder that all nodes reach"
    for exchange in (Alone(), Two()):
        with pytest.raises(on_ray.Unfit, match=why):
            on_ray._check_place(str(tmp_path / "run"), exchange)
    (tmp_path / "run" / "attempt").write_text("abc")
    on_ray._check_place(str(tmp_path / "run"), Alone())
    with pytest.raises(on_ray.Unfit, match="the other one"):
        on_ray._check_place(str(tmp_path / "run"), Two("--storage: the other one"))


def test_who_was_taken_over_is_told_so_and_no_more(tmp_path):
    taken = on_ray.loop.TakenOver("another job has begun")
    assert on_ray._with_checkpoint(taken, str(tmp_path)) is taken


class TestOpened:
    @pytest.fixture
    def made(self, tmp_path):
        return prepared_folder(tmp_path / "data", {"train": SESSIONS, "test": SESSIONS}, 3)

    def test_the_data_of_the_run(self, made):
        found = on_ray._opened(made.folder, made.fingerprint, ("train", "test"), Alone())
        assert found.fingerprint == made.fingerprint

    def test_data_prepared_anew_stop_every_worker(self, made, tmp_path):
        """A worker that starts once more finds them, on an object store too, where whoever has begun reads on."""
        shutil.rmtree(made.folder)
        now = prepared_folder(tmp_path / "data", {"train": SESSIONS}, 4)
        why = f"data: is not the data that this run was begun with.*{now.fingerprint[:12]}.*{made.fingerprint[:12]}"
        for exchange in (Alone(), Two()):
            with pytest.raises(on_ray.Unfit, match=why):
                on_ray._opened(made.folder, made.fingerprint, ("train",), exchange)

    def test_what_another_worker_finds_stops_this_one(self, made):
        with pytest.raises(on_ray.Unfit, match="part-1: is damaged"):
            on_ray._opened(made.folder, made.fingerprint, ("train",), Two("part-1: is damaged"))

    def test_items_of_another_folder_stop_it(self, made):
        items = made.items.set_column(0, "item_id", made.items["item_id"].combine_chunks()[::-1])
        pq.write_table(items, f"{made.folder}/items.parquet")
        with pytest.raises(on_ray.Unfit, match=r"items\.parquet: is damaged"):
            on_ray._opened(made.folder, made.fingerprint, ("train",), Alone())
