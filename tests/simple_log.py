"""A small click log with skewed popularity, as sessions in memory."""

import numpy as np

from gru4rec.sessions.prepared import Sessions


def simple_log(sessions: int, items: int, seed: int = 0, longest: int = 9) -> tuple[Sessions, np.ndarray]:
    """Sessions of 2 to `longest` clicks, and the support of the items."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, longest + 1, sessions)
    clicks = (rng.zipf(1.3, lengths.sum()) % items).astype(np.int32)
    return Sessions(np.concatenate([[0], np.cumsum(lengths)]), clicks), np.bincount(clicks, minlength=items)
