"""The lane schedule against a slow, obvious one; going on from any of its positions."""

import gc
import itertools
import threading
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gru4rec.errors import InputError
from gru4rec.sessions.prepared import Sessions
from gru4rec.training.lanes import Block, Position, Schedule, side_by_side


def flat(sessions: list[list[int]]) -> Sessions:
    offsets = np.concatenate([[0], np.cumsum([len(session) for session in sessions])]).astype(np.int64)
    return Sessions(offsets, np.array([item for session in sessions for item in session], np.int32))


class Cut:
    """A shard that gives so many sessions at a time, not from memory as far as a schedule can see."""

    def __init__(self, sessions: list[list[int]], batch: int) -> None:
        self.sessions, self.batch = sessions, batch

    def batches(self) -> Iterator[Sessions]:
        for start in range(0, len(self.sessions), self.batch):
            yield flat(self.sessions[start : start + self.batch])


class Obvious:
    """Step by step, lane by lane; `taken` is where a reader of the sessions with their places stands."""

    def __init__(self, shards: list[list[list[int]]], lanes: int) -> None:
        self.waiting = iter([(s, i, each) for s, shard in enumerate(shards) for i, each in enumerate(shard)])
        self.walking: list[list[int] | None] = [None] * lanes  # clicks from the next input on
        self.place = (0, 0)

    def next_session(self) -> list[int] | None:
        for shard, before, session in self.waiting:
            if len(session) >= 2:
                self.place = (shard, before + 1)
                return session
        return None

    def step(self) -> list[tuple[int, int, bool] | None]:
        """(input, target, new session) of each lane, None for a retired one."""
        row: list[tuple[int, int, bool] | None] = []
        for lane in range(len(self.walking)):
            fresh = self.walking[lane] is None
            if fresh:
                self.walking[lane] = self.next_session()
            clicks = self.walking[lane]
            row.append(None if clicks is None else (clicks[0], clicks[1], fresh))
            self.walking[lane] = None if clicks is None or len(clicks) == 2 else clicks[1:]
        return row


def obvious(sessions: list[list[int]], lanes: int) -> list[list[tuple[int, int, bool] | None]]:
    plain = Obvious([sessions], lanes)
    return list(itertools.takewhile(any, (plain.step() for _ in itertools.count())))


def rows(block: Block) -> list[list[tuple[int, int, bool] | None]]:
    return [
        [
            (int(block.inputs[t, b]), int(block.targets[t, b]), bool(block.resets[t, b]))
            if block.active[t, b]
            else None
            for b in range(block.inputs.shape[1])
        ]
        for t in range(len(block.inputs))
    ]


def without_idle_end(steps: list) -> list:
    while steps and not any(steps[-1]):
        steps = steps[:-1]
    return steps


sessions_of_any_length = st.lists(st.lists(st.integers(0, 99), max_size=12), max_size=30)
many_shards = st.lists(st.lists(st.lists(st.integers(0, 99), max_size=14), max_size=8), max_size=5)


def sources(shards: list[list[list[int]]], batch: int) -> list:
    """Shards that are read in batches; 0: that are in memory."""
    return [Cut(shard, batch) if batch else flat(shard) for shard in shards]


def same(found: list[Block], expected: list[Block]) -> bool:
    return len(found) == len(expected) and all(
        a.dtype == b.dtype and np.array_equal(a, b)
        for one, other in zip(found, expected, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def plain(position: Position) -> tuple[int, int, list[list[int]]]:
    return position.shard, position.sessions, [clicks.tolist() for clicks in position.remaining]


@given(shards=many_shards, lanes=st.integers(1, 7), steps=st.integers(1, 9), batch=st.integers(0, 9))
def test_schedule_equals_the_obvious_one_however_the_shards_are_cut(shards, lanes, steps, batch):
    schedule = Schedule(sources(shards, batch), lanes, steps)
    found = [row for block in schedule for row in rows(block)]
    assert without_idle_end(found) == obvious(list(itertools.chain(*shards)), lanes)


@given(shards=many_shards, lanes=st.integers(1, 7), steps=st.integers(1, 9), batch=st.integers(0, 9))
def test_positions_are_where_the_obvious_schedule_stands(shards, lanes, steps, batch):
    schedule, expected = Schedule(sources(shards, batch), lanes, steps), Obvious(shards, lanes)
    assert plain(schedule.position) == (0, 0, [[]] * lanes)
    for _ in schedule:
        for _ in range(steps):
            expected.step()
        assert plain(schedule.position) == (*expected.place, [clicks or [] for clicks in expected.walking])
        assert all(clicks.dtype == np.int32 for clicks in schedule.position.remaining)


@given(
    shards=many_shards,
    lanes=st.integers(1, 7),
    steps=st.integers(1, 9),
    batches=st.lists(st.integers(0, 9), min_size=1, max_size=3),
)
def test_from_every_position_the_rest_follows(shards, lanes, steps, batches):
    whole = Schedule(sources(shards, 0), lanes, steps)
    positions, expected = [whole.position], []
    for block in whole:
        expected.append(block)
        positions.append(whole.position)  # kept while later blocks are drawn: they must not change it
    for place, position in enumerate(positions):
        again = Schedule(sources(shards, batches[place % len(batches)]), lanes, steps, at=position)
        assert same(list(again), expected[place:])
        assert plain(again.position) == plain(positions[-1])


@given(shards=many_shards, lanes=st.integers(1, 5), steps=st.integers(1, 5), data=st.data())
def test_a_schedule_stopped_again_and_again_gives_every_block_once(shards, lanes, steps, data):
    expected = list(Schedule(sources(shards, 0), lanes, steps))
    found: list[Block] = []
    at = None
    while len(found) < len(expected):
        schedule = Schedule(sources(shards, data.draw(st.integers(0, 4))), lanes, steps, at)
        found += itertools.islice(schedule, data.draw(st.integers(1, 4)))
        schedule.close()
        at = schedule.position
        assert next(schedule, None) is None
    assert same(found, expected)


def test_a_position_that_does_not_fit_is_refused():
    shards = [flat([[1, 2, 3]])]
    none = np.zeros(0, np.int32)
    for at in (
        Position(0, 0, (none,)),
        Position(2, 0, (none, none)),
        Position(0, 1, (none, np.array([4], np.int32))),  # a single click is no transition
    ):
        with pytest.raises(ValueError, match="fits no 2 lanes over 1 shards"):
            Schedule(shards, 2, 4, at)
    with pytest.raises(ValueError, match="shard 0 has 1 sessions"):
        list(Schedule(shards, 2, 4, Position(0, 5, (none, none))))


@given(sessions=sessions_of_any_length, lanes=st.integers(1, 7), steps=st.integers(1, 9))
def test_every_transition_is_trained_exactly_once(sessions, lanes, steps):
    found = sorted(
        row[:2] for block in Schedule([flat(sessions)], lanes, steps) for step in rows(block) for row in step if row
    )
    expected = sorted(pair for session in sessions for pair in itertools.pairwise(session))
    assert found == expected


@given(sessions=sessions_of_any_length, other=sessions_of_any_length, lanes=st.integers(1, 4))
def test_groups_side_by_side_are_the_groups_alone(sessions, other, lanes):
    both = list(side_by_side([Schedule([flat(s)], lanes, 4) for s in (sessions, other)], lanes, 4))
    for group, own in enumerate((sessions, other)):
        part = slice(group * lanes, (group + 1) * lanes)
        found = [row for block in both for row in rows(Block(*(array[:, part] for array in block)))]
        assert without_idle_end(found) == obvious(own, lanes)


@given(sessions=sessions_of_any_length, other=sessions_of_any_length, lanes=st.integers(1, 4))
def test_groups_side_by_side_go_on_from_their_positions(sessions, other, lanes):
    def schedules(at=(None, None)):
        return [Schedule([flat(s)], lanes, 4, each) for s, each in zip((sessions, other), at, strict=True)]

    groups = schedules()
    positions, expected = [], []
    for block in side_by_side(groups, lanes, 4):
        expected.append(block)
        positions.append(tuple(group.position for group in groups))
    for place, at in enumerate(positions):
        assert same(list(side_by_side(schedules(at), lanes, 4)), expected[place + 1 :])


class Counted:
    """A shard of many batches that knows how many of them are alive."""

    def __init__(self, batches: int) -> None:
        self.count, self.alive, self.given, self.most = batches, 0, 0, 0

    def batches(self) -> Iterator[Sessions]:
        for _ in range(self.count):
            sessions = flat([[1, 2, 3]] * 500)
            self.alive, self.given = self.alive + 1, self.given + 1
            self.most = max(self.most, self.alive)
            weakref.finalize(sessions.items, self.gone)
            yield sessions
            del sessions

    def gone(self) -> None:
        self.alive -= 1


def test_shards_of_any_size_pass_through_bounded_memory():
    shard = Counted(200)
    schedule = Schedule([shard], lanes=10, steps=16)
    held = 0
    for _ in schedule:
        held = max(held, schedule._pool.sessions.count)
    assert shard.given == 200
    assert shard.most <= 4  # two ahead, the one taken, and the one that the pool is made of
    assert held <= 2 * 500


def test_a_long_session_keeps_only_its_own_clicks():
    """One lane walks a session of 5,000 clicks while the other takes 5,000 sessions, a few at a time."""
    schedule = Schedule([Cut([[7] * 5000, *[[1, 2]] * 5000], batch=10)], lanes=2, steps=4)
    most = 0
    for number, _ in enumerate(schedule):
        most = max(most, len(schedule._pool.sessions.items) - max(0, 5000 - 4 * number))
    assert most <= 60


class Damaged:
    """A shard whose second batch cannot be read."""

    error = InputError("part.parquet: row group 3 cannot be read")

    def batches(self) -> Iterator[Sessions]:
        yield flat([[1, 2, 3]] * 4)
        raise self.error


def test_what_a_shard_raises_is_raised_and_no_block_comes_after_it():
    schedule = Schedule([Damaged()], lanes=2, steps=3)
    next(schedule)
    before = plain(schedule.position)
    with pytest.raises(InputError) as caught:
        list(schedule)
    assert caught.value is Damaged.error
    assert next(schedule, None) is None
    assert plain(schedule.position) == before


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "read ahead"]


def test_no_thread_is_left_by_a_schedule_that_is_done_closed_or_forgotten():
    before = readers()
    assert list(Schedule([Counted(3)], 4, 4))
    assert readers() == before
    closed = Schedule([Counted(50)], 4, 4)
    next(closed)
    closed.close()
    closed.close()
    assert readers() == before
    forgotten = Schedule([Counted(50)], 4, 4)
    next(forgotten)
    (thread,) = set(readers()) - set(before)
    gc.disable()  # counting references must be enough: no cycle holds the schedule
    try:
        del forgotten
        thread.join(10)
    finally:
        gc.enable()
    assert not thread.is_alive()


def test_sessions_in_memory_need_no_thread_and_no_waiting():
    before = readers()
    schedule = Schedule([flat([[1, 2, 3]] * 50)] * 3, 4, 4)
    next(schedule)
    assert readers() == before
    assert schedule.waited == 0
