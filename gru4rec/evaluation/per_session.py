"""What each session adds to a metric: the unit in which models are compared."""

import numpy as np

from gru4rec.sessions.prepared import Sessions

METRICS = ("recall", "mrr", "ndcg")


def gains(ranks: np.ndarray, metric: str, cutoff: int) -> np.ndarray:
    """What each prediction adds to `metric`@`cutoff`, [T], from its rank; see `metrics`.

    Raises ValueError for a name that is not in METRICS.
    """
    hit = ranks <= cutoff
    if metric == "recall":
        return hit.astype(np.float64)
    inside = np.where(hit, ranks, 1.0)
    if metric == "mrr":
        return np.where(hit, 1 / inside, 0.0)
    if metric == "ndcg":
        return np.where(hit, 1 / np.log2(1 + inside), 0.0)
    raise ValueError(f"unknown metric {metric!r}; known are {', '.join(METRICS)}")


def predictions(sessions: Sessions) -> np.ndarray:
    """Predictions of each session, [sessions] int64."""
    return np.maximum(sessions.lengths - 1, 0)


def sums(gains: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Gains [T], in the order of the sessions, added up by session, from its predictions [sessions]."""
    ends = np.cumsum(counts)
    total = np.concatenate([[0.0], np.cumsum(gains)])
    return total[ends] - total[ends - counts]
