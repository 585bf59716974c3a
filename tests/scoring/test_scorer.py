"""What a piece's failure comes to: tried again where that may help, and an error that says what to do."""

import numpy as np
import pytest

from gru4rec.errors import GRU4RecError, InputError
from gru4rec.scoring import scorer
from gru4rec.scoring.parts import Part

PART = Part("part-00000.parquet", 9, 3, 1, ("why",), 1, 4, 0, 0, 0, 0, 0, 0, "")
DONE = scorer.Outcome(PART, True, np.array([0, 3, 0, 1]))


def failing(*errors):
    """A piece that fails in these ways, one after the other, and is then done."""
    left = list(errors)

    def make():
        if left:
            raise left.pop(0)
        return DONE

    return make


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(scorer, "WAIT_S", 0)


def test_an_outcome_comes_back_as_it_was():
    found = scorer.outcome(scorer.attempt(failing(), "/out"), 4)
    assert (found.part, found.kept, found.exposure.tolist()) == (PART, True, [0, 3, 0, 1])


def test_an_object_store_is_given_another_chance():
    plain = scorer.attempt(failing(OSError("503"), OSError("500")), "s3://who:hush@bucket/out?region=x")
    assert scorer.outcome(plain, 4).part == PART
    plain = scorer.attempt(failing(*[OSError("503")] * 3), "s3://who:hush@bucket/out?region=x")
    with pytest.raises(GRU4RecError, match=r"s3://bucket/out.*: 503; run the same command again") as error:
        scorer.outcome(plain, 4)
    assert not isinstance(error.value, InputError)


def test_a_disk_is_not_tried_again():
    plain = scorer.attempt(failing(OSError(28, "No space left on device")), "/out")
    with pytest.raises(GRU4RecError, match=r"/out: cannot be written .*No space left.*run the same command"):
        scorer.outcome(plain, 4)


def test_bad_input_stays_bad_input():
    with pytest.raises(InputError, match=r"^it is bad$"):
        scorer.outcome(scorer.attempt(failing(InputError("it is bad")), "s3://bucket/out?region=x"), 4)
    with pytest.raises(GRU4RecError, match=r"^ValueError: scores contain NaN$"):
        scorer.outcome(scorer.attempt(failing(ValueError("scores contain NaN")), "/out"), 4)
