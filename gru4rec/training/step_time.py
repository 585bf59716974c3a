"""A model of the time of a step with several workers: compute, bytes and latency.

step = growth(W) · compute · contention + sum(bytes, W)

growth: the targets and inputs of the other workers' lanes are negatives and touched rows here as well. contention: what
the workers of one machine take from each other (memory, cache, clock). sum: latency + bytes / bandwidth.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gru4rec.config import Hyperparameters


@dataclass(frozen=True)
class Link:
    """What a sum over the workers takes, as measured."""

    latency: float  # seconds
    bandwidth: float  # bytes a second

    def seconds(self, size: float) -> float:
        """Of a sum of `size` bytes."""
        return self.latency + size / self.bandwidth


def fitted(sizes: Sequence[float], seconds: Sequence[float]) -> Link:
    """The link whose times are nearest to those measured, in proportion to each; `sizes` in bytes, two or more.

    Where larger sums took no longer the bandwidth is infinite; a latency below 0 is 0.
    """
    times = np.asarray(seconds, np.float64)
    slope, latency = np.polyfit(np.asarray(sizes, np.float64), times, 1, w=1 / times)
    return Link(max(float(latency), 0.0), 1 / slope if slope > 0 else math.inf)


@dataclass(frozen=True)
class Network:
    """What a network of GPUs is taken to do, not measured: a ring all-reduce."""

    name: str
    bandwidth: float  # bytes a second, of one GPU
    latency: float  # seconds
    by_doubling: bool  # the latency counts once for every doubling of the GPUs, not once

    def seconds(self, size: float, gpus: int) -> float:
        """Of an all-reduce of `size` bytes over `gpus`, two or more."""
        rounds = math.log2(gpus) if self.by_doubling else 1
        return rounds * self.latency + 2 * (gpus - 1) / gpus * size / self.bandwidth


NETWORKS = (
    Network("NVLink", 300e9, 20e-6, by_doubling=False),
    Network("100 Gbit/s Ethernet", 12.5e9, 30e-6, by_doubling=True),
)


def touched_rows(support: np.ndarray, settings: Hyperparameters, workers: int, steps: int) -> float:
    """Distinct items that `workers` touch in `steps` on their own, all with the same extra negatives: expected.

    Inputs and targets are drawn by their `support` [V]; independent draws, so a little too many. Tied embedding.
    """
    popular = support / support.sum()
    drawn = np.maximum(support, 1).astype(np.float64) ** settings.sample_alpha
    drawn /= drawn.sum()
    clicks, negatives = 2 * settings.batch_size * workers * steps, settings.n_sample * steps
    return float((1 - (1 - popular) ** clicks * (1 - drawn) ** negatives).sum())


def efficiency(step: float, growth: float, summed: float, sync_every: int = 1) -> float:
    """Events/s of several workers over as many times those of one, whose step takes `step` seconds.

    `growth`: how much longer a worker computes among the others; `summed`: seconds of a sum, each `sync_every` steps.
    """
    return step / (step * growth + summed / sync_every)
