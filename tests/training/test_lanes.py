"""The lane schedule against a slow, obvious one."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gru4rec.sessions.prepared import Sessions
from gru4rec.training.lanes import Block, blocks, side_by_side


def flat(sessions: list[list[int]]) -> Sessions:
    offsets = np.concatenate([[0], np.cumsum([len(session) for session in sessions])]).astype(np.int64)
    return Sessions(offsets, np.array([item for session in sessions for item in session], np.int32))


def obvious(sessions: list[list[int]], lanes: int) -> list[list[tuple[int, int, bool] | None]]:
    """Step by step, lane by lane: (input, target, new session), None for a retired lane."""
    waiting = iter([session for session in sessions if len(session) >= 2])
    walking: list[tuple[list[int], int] | None] = [None] * lanes
    steps = []
    while True:
        row: list[tuple[int, int, bool] | None] = []
        for lane in range(lanes):
            fresh = False
            if walking[lane] is None or walking[lane][1] == len(walking[lane][0]) - 1:
                taken = next(waiting, None)
                walking[lane] = None if taken is None else (taken, 0)
                fresh = True
            if walking[lane] is None:
                row.append(None)
                continue
            session, at = walking[lane]
            row.append((session[at], session[at + 1], fresh))
            walking[lane] = (session, at + 1)
        if not any(row):
            return steps
        steps.append(row)


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


@given(
    sessions=sessions_of_any_length,
    lanes=st.integers(1, 7),
    steps=st.integers(1, 9),
    cuts=st.lists(st.integers(0, 30), max_size=3),
)
def test_schedule_equals_the_obvious_one_however_the_stream_is_cut(sessions, lanes, steps, cuts):
    bounds = [0, *sorted(min(cut, len(sessions)) for cut in cuts), len(sessions)]
    stream = (flat(sessions[a:b]) for a, b in itertools.pairwise(bounds))
    found = [row for block in blocks(stream, lanes, steps) for row in rows(block)]
    assert without_idle_end(found) == obvious(sessions, lanes)


@given(sessions=sessions_of_any_length, lanes=st.integers(1, 7), steps=st.integers(1, 9))
def test_every_transition_is_trained_exactly_once(sessions, lanes, steps):
    found = sorted(
        row[:2] for block in blocks([flat(sessions)], lanes, steps) for step in rows(block) for row in step if row
    )
    expected = sorted(pair for session in sessions for pair in itertools.pairwise(session))
    assert found == expected


@given(sessions=sessions_of_any_length, other=sessions_of_any_length, lanes=st.integers(1, 4))
def test_groups_side_by_side_are_the_groups_alone(sessions, other, lanes):
    both = list(side_by_side([blocks([flat(s)], lanes, 4) for s in (sessions, other)], lanes, 4))
    for group, own in enumerate((sessions, other)):
        part = slice(group * lanes, (group + 1) * lanes)
        found = [row for block in both for row in rows(Block(*(array[:, part] for array in block)))]
        assert without_idle_end(found) == obvious(own, lanes)


def test_a_stream_passes_through_bounded_memory():
    """What the schedule holds does not grow with the stream: a hundred thousand sessions come one shard at a time."""
    held = []

    def shards():
        for shard in range(100):
            held.append(shard)
            yield flat([[1, 2, 3]] * 1000)

    schedule = blocks(shards(), lanes=10, steps=16)
    next(schedule)
    assert len(held) <= 2
