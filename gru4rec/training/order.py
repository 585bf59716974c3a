"""Which worker trains on which shards, and in which order: a function of shards, epoch, rank and workers alone."""

import functools
from collections.abc import Sequence

from gru4rec.config import Hyperparameters
from gru4rec.model import negatives
from gru4rec.sessions.prepared import Shard, Shuffled, Source

_ORDER = 64  # purpose of random streams, beside those of the trainer


def order(shards: Sequence[Shard], settings: Hyperparameters, epoch: int, rank: int, size: int) -> list[Source]:
    """The shards of a worker in an epoch: rank, rank + size, … of all in time order.

    Or of all in a new order each epoch, and so the sessions of each shard.
    """
    if settings.order == "time":
        return list(shards[rank::size])
    places = negatives.stream(settings.seed, _ORDER, epoch, 0).permutation(len(shards))
    return [
        Shuffled(shards[place], functools.partial(negatives.stream, settings.seed, _ORDER, epoch, 1 + int(place)))
        for place in places[rank::size]
    ]
