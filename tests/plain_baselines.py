"""The baselines once more, as slowly and plainly as their definitions: lists, loops and exact fractions.

Each takes the training sessions (lists of clicks, oldest first), the size of the catalogue and one history (the clicks
of a session so far), and returns a score for each item.
"""

import itertools
import math
from collections import Counter
from fractions import Fraction


def pop(train, items, history):
    clicks = Counter(click for session in train for click in session)
    return [clicks[item] for item in range(items)]


def s_pop(train, items, history):
    support = pop(train, items, history)
    return [history.count(item) + Fraction(support[item], max(support) + 1) for item in range(items)]


def markov(train, items, history):
    following = Counter()  # in order of first appearance
    for session in train:
        following.update(after for before, after in itertools.pairwise(session) if before == history[-1])
    ranked = sorted(following, key=lambda item: -following[item])
    return [len(ranked) - ranked.index(item) if item in following else 0 for item in range(items)]


def item_knn(train, items, history, damping, alpha):
    def size(*wanted):
        return sum(all(item in session for item in wanted) for session in train)

    now = history[-1]
    scores = []
    for item in range(items):
        together = size(now, item) if item != now else 0
        norm = (size(now) + damping) ** alpha * (size(item) + damping) ** (1 - alpha)
        scores.append(together / norm if together else 0.0)
    return scores


def v_sknn(train, items, history, neighbours, recent):
    length = len(history)
    # The place of the last click on each item wins.
    weight = {item: Fraction(place, length) for place, item in enumerate(history, start=1)}
    sharing = [session for session in reversed(train) if set(session) & set(history)][:recent]

    def similarity(session):
        return sum(weight.get(item, 0) for item in set(session))

    nearest = sorted(sharing, key=similarity, reverse=True)[:neighbours]  # stable: the more recent first among equals
    scores = []
    for item in range(items):
        found = sum(
            similarity(session) * max(weight.get(other, 0) for other in session)
            for session in nearest
            if item in session
        )
        has = sum(item in session for session in train)
        scores.append(float(found) * math.log(len(train) / has) if found else 0.0)
    return scores


def bpr_mf(vectors, history):
    """`vectors`: list of a list of numbers for each item."""
    return [
        sum(sum(a * b for a, b in zip(vectors[item], vectors[seen], strict=True)) for seen in history) / len(history)
        for item in range(len(vectors))
    ]
