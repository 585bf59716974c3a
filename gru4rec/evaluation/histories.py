"""What a prediction may know: the clicks of its session up to and including the current one, and never a later one."""

import numpy as np

from gru4rec.sessions.prepared import Sessions


def places(sessions: Sessions) -> np.ndarray:
    """Where in `sessions.items` the clicks lie that have a next one, [transitions] int64."""
    last = np.zeros(len(sessions.items), bool)
    last[sessions.offsets[1:][sessions.lengths > 0] - 1] = True
    return np.flatnonzero(~last)


def transitions(sessions: Sessions) -> tuple[np.ndarray, np.ndarray]:
    """The clicks that have a next one and these next ones, [transitions] int32 each."""
    at = places(sessions)
    return sessions.items[at], sessions.items[at + 1]


def histories(sessions: Sessions, at: np.ndarray) -> Sessions:
    """For each of the places `at`, as a session of its own, the clicks of its session up to and including that one."""
    # Of sessions that begin at the same place, all but the last are empty.
    starts = sessions.offsets[np.searchsorted(sessions.offsets, at, side="right") - 1]
    lengths = at + 1 - starts
    return Sessions(np.concatenate([[0], np.cumsum(lengths)]), sessions.items[spans(starts, lengths)])


def spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """starts[i], starts[i] + 1, …, starts[i] + lengths[i] − 1 of each i, end to end, int64."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
