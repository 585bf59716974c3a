"""Session-parallel mini-batches: which click every lane reads and which it predicts, laid out ahead.

A group of lanes walks one stream of sessions. Each lane walks one session, one transition a step; at its end it takes
the stream's next session (lanes that end at the same step, in the order of the lanes). When none is left the lane
retires. The schedule depends on the lengths alone, so it is laid out as blocks of steps, without a Python call per
session or transition. (Hidasi et al., ICLR 2016, section 3.1.1.)

Shapes: T steps of a block, B lanes.
"""

from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gru4rec.sessions.prepared import Sessions, Source, concatenate
from gru4rec.training.read_ahead import ReadAhead

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


class Position(NamedTuple):
    """Where a group of lanes stands after a block: enough to lay out the next one.

    It is just behind the last session that a lane has taken, wherever the batches of its shard were cut.
    """

    shard: int  # place of that session's shard in the group's list
    sessions: int  # sessions of that shard up to it, counted with those too short to train
    remaining: tuple[np.ndarray, ...]  # [B] of [clicks] int32: what each lane still has to walk, from its next input on
    # A lane that is free or retired has no clicks; none has a single one.


class _Batch(NamedTuple):
    sessions: Sessions  # those of at least two clicks
    places: np.ndarray  # [sessions, 2] int32: place of the shard; sessions of it up to this one


def _batches(shards: Sequence[Source], shard: int, skip: int) -> Generator[_Batch, None, None]:
    """The sessions that have a transition, without the first `skip` sessions of the first shard, number `shard`."""
    for number in range(shard, len(shards)):
        seen = 0
        for batch in shards[number].batches():
            wanted = (batch.lengths >= 2) & (np.arange(seen, seen + batch.count) >= skip)
            behind = np.flatnonzero(wanted) + seen + 1
            places = np.stack([np.full(len(behind), number), behind], axis=1).astype(np.int32)
            seen += batch.count
            yield _Batch(_only(batch, wanted), places)
        if seen < skip:
            raise ValueError(f"shard {number} has {seen} sessions: a position after {skip} is not in it")
        skip = 0


def _only(sessions: Sessions, wanted: np.ndarray) -> Sessions:
    """The sessions of which `wanted` [sessions] bool is True."""
    if wanted.all():
        return sessions
    lengths = sessions.lengths
    items = sessions.items[np.repeat(wanted, lengths)]
    return Sessions(np.concatenate([[0], np.cumsum(lengths[wanted])]), items)


def _clicks(items: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """`items[start:start + length]` of every start and length, one after the other, in an array of its own."""
    shift = starts - (np.cumsum(lengths) - lengths)
    return items[np.repeat(shift, lengths) + np.arange(lengths.sum())]


class _Pool:
    """The clicks that lanes walk, and the sessions in hand that no lane has taken yet."""

    def __init__(self, batches: Iterator[_Batch], walked: np.ndarray, place: tuple[int, int]) -> None:
        self._batches = batches
        # Session 0 is no session: it holds the clicks that lanes walk, and the place of the last session taken.
        self.sessions = Sessions(np.array([0, len(walked)]), walked)
        self._places = np.array([place], np.int32)  # [sessions, 2] as of _Batch
        self.next = 1  # first session that no lane has taken yet
        self.last = False  # nothing comes after the sessions in hand

    @property
    def ready(self) -> int:
        return self.sessions.count - self.next

    @property
    def place(self) -> tuple[int, int]:
        """Place of the last session taken."""
        shard, sessions = self._places[self.next - 1].tolist()
        return shard, sessions

    def fill(self, wanted: int, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Have `wanted` sessions ready where there still are so many.

        Of the sessions already taken only `lengths` clicks from `starts` on are kept; returns where they start now.
        """
        fresh: list[_Batch] = []
        ready = self.ready
        while ready < wanted:
            batch = next(self._batches, None)
            if batch is None:
                self.last = True
                break
            fresh.append(batch)
            ready += batch.sessions.count
        if not fresh:
            return starts
        offsets, items = self.sessions
        walked = _clicks(items, starts, lengths)
        untaken = Sessions(offsets[self.next :] - offsets[self.next], items[offsets[self.next] :])
        parts = [Sessions(np.array([0, len(walked)]), walked), untaken, *(batch.sessions for batch in fresh)]
        self.sessions = concatenate(parts)
        self._places = np.concatenate([self._places[self.next - 1 :], *(batch.places for batch in fresh)])
        self.next = 1
        return np.cumsum(lengths) - lengths


class _Walks(NamedTuple):
    """The sessions that lanes walk in a block, [walks] int64 each but the last."""

    lane: np.ndarray
    step: np.ndarray  # at which the lane reads the first of the clicks left
    start: np.ndarray  # where that click is in the pool
    left: np.ndarray  # transitions from there to the session's end, in this block and later
    fresh: np.ndarray  # bool: the session begins here


class Schedule(Iterator[Block]):
    """The blocks of one group of `lanes` over its shards, `steps` steps each; they end when the last lane retires.

    What is held at a time does not grow with the shards: the clicks that lanes are walking, the batch in hand, and the
    two that another thread reads ahead (none does where all shards are sessions in memory). `at`: go on after the
    block that left this position. Errors of the shards are raised as they are, and end the schedule.
    """

    def __init__(self, shards: Sequence[Source], lanes: int, steps: int, at: Position | None = None) -> None:
        at = at or Position(0, 0, (np.zeros(0, np.int32),) * lanes)
        lengths = np.array([len(clicks) for clicks in at.remaining], np.int64)
        if len(lengths) != lanes or (lengths == 1).any() or not 0 <= at.shard <= len(shards):
            raise ValueError(
                f"a position in shard {at.shard} whose {len(lengths)} lanes have {lengths.tolist()} clicks left "
                f"fits no {lanes} lanes over {len(shards)} shards"
            )
        self._lanes, self._steps = lanes, steps
        batches = _batches(shards, at.shard, at.sessions)
        in_memory = all(isinstance(shard, Sessions) for shard in shards)
        self._batches: Generator[_Batch, None, None] | ReadAhead[_Batch] = batches if in_memory else ReadAhead(batches)
        self._pool = _Pool(self._batches, np.concatenate(at.remaining), (at.shard, at.sessions))
        self._start = np.cumsum(lengths) - lengths  # next input click of the lane's session, as a place in the pool
        self._left = np.maximum(lengths - 1, 0)  # transitions left of the lane's session
        self._closed = False
        self._stand()

    @property
    def position(self) -> Position:
        """Where the lanes stand after the last block given: a copy, which later blocks leave as it is."""
        (shard, sessions), clicks, ends, lengths = self._standing
        remaining = tuple(clicks[end - length : end] for end, length in zip(ends, lengths, strict=True))
        return Position(shard, sessions, remaining)

    @property
    def waited(self) -> float:
        """Seconds spent waiting for data so far."""
        return self._batches.waited if isinstance(self._batches, ReadAhead) else 0.0

    def close(self) -> None:
        """Stop reading; no block comes any more. The position stays."""
        self._closed = True
        self._batches.close()

    def __next__(self) -> Block:
        if self._closed:
            raise StopIteration
        try:
            walks = self._draw()
        except BaseException:
            self.close()  # sessions are lost: there must be no block after the gap
            raise
        if not len(walks.lane):
            self.close()
            raise StopIteration
        block = _lay_out(self._pool.sessions.items, walks, self._lanes, self._steps)
        done = self._steps - walks.step  # steps that the block has for the session
        beyond = walks.left > done
        self._left[:] = 0
        self._left[walks.lane[beyond]] = (walks.left - done)[beyond]
        self._start[walks.lane[beyond]] = (walks.start + done)[beyond]
        self._stand()
        return block

    def _stand(self) -> None:
        """Keep what the position is made of: that is cheap, and the pool changes while the next block is drawn."""
        lengths = np.where(self._left, self._left + 1, 0)
        clicks = _clicks(self._pool.sessions.items, self._start, lengths)
        self._standing = self._pool.place, clicks, np.cumsum(lengths).tolist(), lengths.tolist()

    def _draw(self) -> _Walks:
        """What the lanes walk in the next block: the sessions they are in, and those they take."""
        pool = self._pool
        carried = np.flatnonzero(self._left)
        lane, start, left = [carried], [self._start[carried]], [self._left[carried]]
        begin = [np.zeros(len(carried), np.int64)]
        free = self._left.copy()  # step at which the lane is free for another session
        for step in range(self._steps):
            idle = np.flatnonzero(free == step)
            if not len(idle):
                continue
            if pool.ready < len(idle) and not pool.last:
                start = [pool.fill(len(idle), np.concatenate(start), np.concatenate(left) + 1)]
            taken = min(len(idle), pool.ready)
            free[idle[taken:]] = _NEVER
            idle = idle[:taken]
            bounds = pool.sessions.offsets[pool.next : pool.next + taken + 1]
            pool.next += taken
            transitions = bounds[1:] - bounds[:-1] - 1  # np.diff takes 2 µs more, every step
            free[idle] = step + transitions
            lane.append(idle)
            begin.append(np.full(taken, step, np.int64))
            start.append(bounds[:-1])
            left.append(transitions)
        lanes = np.concatenate(lane)
        fresh = np.arange(len(lanes)) >= len(carried)
        return _Walks(lanes, np.concatenate(begin), np.concatenate(start), np.concatenate(left), fresh)


def _lay_out(items: np.ndarray, walks: _Walks, lanes: int, steps: int) -> Block:
    """Write the transitions of the sessions walked into a block."""
    inputs, targets = np.zeros((2, steps, lanes), np.int32)
    resets, active = np.zeros((2, steps, lanes), bool)
    resets[walks.step[walks.fresh], walks.lane[walks.fresh]] = True
    inside = np.minimum(walks.left, steps - walks.step)
    ends = np.cumsum(inside)
    offset = np.arange(ends[-1]) - np.repeat(ends - inside, inside)
    cell = (np.repeat(walks.step, inside) + offset) * lanes + np.repeat(walks.lane, inside)
    click = np.repeat(walks.start, inside) + offset
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
    """The blocks of several groups as one, [T, groups · B]; a group that is done keeps step with retired lanes.

    No group is drawn ahead of the others: between two blocks, the positions of all are
    `tuple(group.position for group in groups)`.
    """
    while True:
        parts = [next(group, None) for group in groups]
        if all(part is None for part in parts):
            return
        filled = [part or idle_block(lanes, steps) for part in parts]
        yield Block(*(np.concatenate(arrays, axis=1) for arrays in zip(*filled, strict=True)))
