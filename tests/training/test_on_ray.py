"""When the workers are started again, and when it is given up."""

import pytest

from gru4rec.errors import GRU4RecError, InputError
from gru4rec.training.on_ray import NoticeBoard


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
