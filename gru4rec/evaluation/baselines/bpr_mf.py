"""BPR-MF: matrix factorisation that learns to rank what a session clicked above what it did not (Rendle et al., UAI
2009), with the sessions as users.

Session s and item i have a vector each, p_s and q_i. An item i that s clicked, and an item j that it did not, drawn
evenly from the catalogue, are a triple with x = p_s · (q_i − q_j). Each step goes up the gradient of

    sum of  ln σ(x) − l2 / 2 · (|p_s|² + |q_i|² + |q_j|²)

over a mini-batch of triples; an epoch takes each item of each session once.

A new session has no vector. As in Hidasi et al. (ICLR 2016, section 4), it gets the mean vector of the items clicked so
far, so that an item scores the mean of its similarities q_i · q_j with these.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from gru4rec.evaluation.baselines.sparse import distinct
from gru4rec.sessions.prepared import Sessions

START = 0.1  # standard deviation of the vectors before training


def learn(
    train: Sessions,
    items: int,
    factors: int = 100,
    epochs: int = 10,
    learning_rate: float = 0.2,
    l2: float = 0.005,
    batch: int = 512,
    seed: int = 20,
) -> Callable[[Sessions], np.ndarray]:
    """Scores as above, with `factors` numbers a vector. The same seed gives the same vectors.

    Memory: a vector for each training session and item, 4 · factors bytes each.
    """
    vectors = train_vectors(train, items, factors, epochs, learning_rate, l2, batch, seed).numpy()

    def score(histories: Sessions) -> np.ndarray:
        summed = np.add.reduceat(vectors[histories.items], histories.offsets[:-1], axis=0)
        return (summed / histories.lengths[:, None].astype(np.float32)) @ vectors.T

    return score


def train_vectors(
    train: Sessions, items: int, factors: int, epochs: int, learning_rate: float, l2: float, batch: int, seed: int
) -> Tensor:
    """The vectors of the items, [items, factors] float32."""
    random = torch.Generator().manual_seed(seed)
    session, item = (torch.from_numpy(part) for part in distinct(train, items))
    clicked = session * items + item  # ascending
    of_sessions = START * torch.randn(train.count, factors, generator=random)
    of_items = START * torch.randn(items, factors, generator=random)
    for _ in range(epochs):
        order = torch.randperm(len(item), generator=random)
        drawn = torch.randint(items, (len(item),), generator=random)
        for chosen, other in zip(order.split(batch), drawn.split(batch), strict=True):
            s, i = session[chosen], item[chosen]
            # What the session has clicked too is no negative: its triple is left out.
            wanted = s * items + other
            fair = clicked[torch.searchsorted(clicked, wanted).clamp_max(len(clicked) - 1)] != wanted
            step(of_sessions, of_items, s[fair], i[fair], other[fair], learning_rate, l2)
    return of_items


def step(
    of_sessions: Tensor, of_items: Tensor, s: Tensor, i: Tensor, j: Tensor, learning_rate: float, l2: float
) -> None:
    """One step on the triples (s, i, j), [triples] int64 each, in place; vectors that occur twice get both changes."""
    p, clicked, other = of_sessions[s], of_items[i], of_items[j]
    difference = clicked - other
    slope = torch.sigmoid(-(p * difference).sum(1, keepdim=True))  # of ln σ(x)
    toward = slope * p
    of_sessions.index_add_(0, s, slope * difference - l2 * p, alpha=learning_rate)
    of_items.index_add_(0, i, toward - l2 * clicked, alpha=learning_rate)
    of_items.index_add_(0, j, -toward - l2 * other, alpha=learning_rate)
