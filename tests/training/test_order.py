"""Which sessions each worker trains on, and in which order."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gru4rec.config import Hyperparameters
from gru4rec.sessions.prepared import Sessions, concatenate, shuffled
from gru4rec.training.order import order

lists = st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=12)


def flat(sessions: list[list[int]]) -> Sessions:
    offsets = np.concatenate([[0], np.cumsum([len(session) for session in sessions])]).astype(np.int64)
    return Sessions(offsets, np.array([item for session in sessions for item in session], np.int32))


def nested(sessions: Sessions) -> list[tuple[int, ...]]:
    return [tuple(part.tolist()) for part in np.split(sessions.items, sessions.offsets[1:-1])] if sessions.count else []


class Held:
    """A shard in memory."""

    def __init__(self, sessions: list[list[int]]) -> None:
        self.sessions = sessions

    def read(self) -> Sessions:
        return flat(self.sessions)

    def batches(self):
        yield self.read()


def walked(shards) -> Sessions:
    return concatenate([batch for shard in shards for batch in shard.batches()])


@given(sessions=lists, seed=st.integers(0, 99))
def test_shuffling_keeps_every_session_whole(sessions, seed):
    found = shuffled(flat(sessions), np.random.default_rng(seed))
    assert Counter(nested(found)) == Counter(map(tuple, sessions))


@given(
    shards=st.lists(lists, min_size=1, max_size=6), size=st.integers(1, 4), kind=st.sampled_from(["time", "shuffled"])
)
def test_every_session_is_trained_once_an_epoch_whatever_the_number_of_workers(shards, size, kind):
    settings, held = Hyperparameters(order=kind), [Held(shard) for shard in shards]
    parts = [walked(order(held, settings, 0, rank, size)) for rank in range(size)]
    wanted = [tuple(session) for shard in shards for session in shard]
    assert Counter(session for part in parts for session in nested(part)) == Counter(wanted)
    if kind == "time" and size == 1:
        assert nested(parts[0]) == wanted


def test_each_epoch_has_an_order_of_its_own_and_always_the_same():
    held = [Held([[shard, session] for session in range(8)]) for shard in range(4)]
    settings = Hyperparameters(order="shuffled", seed=3)
    first, again, second = (nested(walked(order(held, settings, epoch, 0, 1))) for epoch in (0, 0, 1))
    assert first == again
    assert sorted(first) == sorted(second)
    assert first != second


@pytest.mark.parametrize("kind", ["time", "shuffled"])
def test_no_shard_gives_no_session(kind):
    assert list(order([], Hyperparameters(order=kind), 0, 0, 1)) == []
