"""Session-parallel mini-batches: which click every lane reads and which it predicts, laid out ahead.

A group of lanes walks one stream of sessions. Each lane walks one session, one transition a step; at its end it takes
the stream's next session (lanes that end at the same step, in the order of the lanes). When none is left the lane
retires. The schedule depends on the lengths alone, so it is laid out as blocks of steps, without a Python call per
session or transition. (Hidasi et al., ICLR 2016, section 3.1.1.)

Shapes: T steps of a block, B lanes.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gru4rec.sessions.prepared import Sessions, concatenate

_NEVER = np.iinfo(np.int64).max


class Block(NamedTuple):
    """T steps of B lanes. Where a lane is not active, its other entries are 0 or False and mean nothing."""

    inputs: np.ndarray  # [T, B] int32: item that the lane reads
    targets: np.ndarray  # [T, B] int32: item that comes next, the lane's positive
    resets: np.ndarray  # [T, B] bool: a new session starts, the hidden state is zeroed before this step
    active: np.ndarray  # [T, B] bool: False once the lane has retired

    @property
    def transitions(self) -> int:
        return int(self.active.sum())


class _Pool:
    """The sessions of a stream that have at least one transition; those that lanes still walk, and those to come."""

    def __init__(self, stream: Iterable[Sessions]) -> None:
        self._stream = iter(stream)
        self.sessions = concatenate([])
        self.next = 0  # first session that no lane has taken yet

    def fill(self, wanted: int, cursors: np.ndarray) -> np.ndarray:
        """Have `wanted` sessions ready where the stream still has them; returns the cursors, moved to the new pool."""
        fresh: list[Sessions] = []
        ready = self.sessions.count - self.next
        while ready < wanted:
            part = next(self._stream, None)
            if part is None:
                break
            fresh.append(_trainable(part))
            ready += fresh[-1].count
        if not fresh:
            return cursors
        # Clicks before the earliest one that a lane or an untaken session still needs can go.
        untaken = self.sessions.offsets[self.next]
        first = int(min(untaken, cursors.min(initial=untaken)))
        kept = Sessions(
            np.concatenate([[first], self.sessions.offsets[self.next :]]) - first, self.sessions.items[first:]
        )
        self.sessions = concatenate([kept, *fresh])
        self.next = 1  # session 0 of the new pool holds the clicks that lanes are walking
        return cursors - first


def _trainable(sessions: Sessions) -> Sessions:
    """Without the sessions of fewer than two clicks, which have no transition."""
    lengths = sessions.lengths
    keep = lengths >= 2
    if keep.all():
        return sessions
    items = sessions.items[np.repeat(keep, lengths)]
    return Sessions(np.concatenate([[0], np.cumsum(lengths[keep])]), items)


def blocks(stream: Iterable[Sessions], lanes: int, steps: int) -> Iterator[Block]:
    """The schedule of one group of `lanes` over a stream of sessions, `steps` at a time.

    Ends after the block in which the last lane retires. A stream of any length passes through bounded memory: what is
    held is the part of the stream in hand and the clicks of the sessions that lanes are walking.
    """
    pool = _Pool(stream)
    cursor = np.zeros(lanes, np.int64)  # next input click of the lane's session, as a position in the pool
    left = np.zeros(lanes, np.int64)  # transitions left of the lane's session
    while True:
        free = left.copy()  # step at which the lane is free for another session
        lane_parts: list[np.ndarray] = []
        step_parts: list[np.ndarray] = []
        cursor_parts: list[np.ndarray] = []
        length_parts: list[np.ndarray] = []
        carried = np.flatnonzero(left)
        base = cursor.copy()  # moved along when the pool is refilled
        for step in range(steps):
            idle = np.flatnonzero(free == step)
            if not len(idle):
                continue
            if pool.sessions.count - pool.next < len(idle):
                # A refill moves the pool: the cursors of all sessions that lanes walk move with it.
                walked = [base[carried], *cursor_parts]
                ends = np.cumsum([len(part) for part in walked])
                moved = np.split(pool.fill(len(idle), np.concatenate(walked)), ends)
                base[carried], cursor_parts = moved[0], moved[1:-1]
            taken = min(len(idle), pool.sessions.count - pool.next)
            free[idle[taken:]] = _NEVER
            idle = idle[:taken]
            starts = pool.sessions.offsets[pool.next : pool.next + taken]
            ends = pool.sessions.offsets[pool.next + 1 : pool.next + 1 + taken]
            pool.next += taken
            free[idle] = step + (ends - starts - 1)
            lane_parts.append(idle)
            step_parts.append(np.full(taken, step))
            cursor_parts.append(starts)
            length_parts.append(ends - starts - 1)
        lane = np.concatenate([carried, *lane_parts]).astype(np.int64)
        start = np.concatenate([np.zeros(len(carried), np.int64), *step_parts]).astype(np.int64)
        position = np.concatenate([base[carried], *cursor_parts]).astype(np.int64)
        length = np.concatenate([left[carried], *length_parts]).astype(np.int64)
        if not len(lane):
            return
        yield _lay_out(pool.sessions.items, lane, start, position, length, len(carried), lanes, steps)
        left[:] = 0
        beyond = start + length > steps
        left[lane[beyond]] = (start + length - steps)[beyond]
        cursor[lane[beyond]] = (position + steps - start)[beyond]


def _lay_out(
    items: np.ndarray,
    lane: np.ndarray,
    start: np.ndarray,
    position: np.ndarray,
    length: np.ndarray,
    carried: int,
    lanes: int,
    steps: int,
) -> Block:
    """Write the sessions' transitions into a block; the first `carried` sessions began in an earlier one."""
    inputs, targets = np.zeros((2, steps, lanes), np.int32)
    resets, active = np.zeros((2, steps, lanes), bool)
    resets[start[carried:], lane[carried:]] = True
    inside = np.minimum(length, steps - start)
    ends = np.cumsum(inside)
    offset = np.arange(ends[-1]) - np.repeat(ends - inside, inside)
    cell = (np.repeat(start, inside) + offset) * lanes + np.repeat(lane, inside)
    click = np.repeat(position, inside) + offset
    inputs.reshape(-1)[cell] = items[click]
    targets.reshape(-1)[cell] = items[click + 1]
    active.reshape(-1)[cell] = True
    return Block(inputs, targets, resets, active)


def idle_block(lanes: int, steps: int) -> Block:
    """A block in which every lane has retired."""
    inputs, targets = np.zeros((2, steps, lanes), np.int32)
    resets, active = np.zeros((2, steps, lanes), bool)
    return Block(inputs, targets, resets, active)


def side_by_side(groups: Sequence[Iterator[Block]], lanes: int, steps: int) -> Iterator[Block]:
    """The blocks of several groups as one, [T, groups · B]; a group that is done keeps step with retired lanes."""
    while True:
        parts = [next(group, None) for group in groups]
        if all(part is None for part in parts):
            return
        filled = [part or idle_block(lanes, steps) for part in parts]
        yield Block(*(np.concatenate(arrays, axis=1) for arrays in zip(*filled, strict=True)))
