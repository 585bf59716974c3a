"""Simulated click logs with a structure that a session-aware model can learn.

Behind the items are *routes*: closed walks through the catalogue, each a ring of slots with one item in
each. An item stands in several slots, a popular one in many. A session has an intent that nobody sees: a
route, a place on it and a direction. It goes along the route in strides of any length up to half of it, and
now and then jumps to an item by popularity. So the last click alone leaves several routes and both
directions open, while the last two or three disclose them; and there are too many pairs to count them all,
while what stands on a route together can be embedded together.

Popularity follows a shifted Zipf law. It drifts: with the days, a growing share of sessions takes routes,
and of jumps takes items, by a second, independent popularity. Lengths are log-normal: many short sessions,
a few very long ones.

The log is a function of the settings alone. It is made and written chunk by chunk, in order of time, each
chunk from its own seed, in memory that does not grow with the log.
"""

import dataclasses
import functools
import uuid
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from gru4rec import config, outputs, storage
from gru4rec.errors import InputError

SUMMARY = "_simulate.json"  # no click log, and so no file that prepare would say it does not read
_EARLIER = "simulate.json"  # as it was called once
CHUNK = 100_000  # sessions a file
ROUTE = 24  # slots of a route
SLOTS = 2  # slots of an item, on average
LONGEST_STRIDE = 12  # slots; all strides from 1 are as likely
JUMP = 0.1  # share of clicks that follow popularity instead of the route
SPREAD = 0.9  # standard deviation of the logarithm of the length
LONGEST = 500  # clicks of a session
GAP = 40.0  # seconds between two clicks, median
FIRST_DAY = 1_735_689_600_000  # 2025-01-01, ms


class World(NamedTuple):
    """What all chunks share; `early` and `late` are the popularities at both ends of the drift, cumulated."""

    routes: np.ndarray  # [routes, slots] int32, item
    early_items: np.ndarray  # [items] float64
    late_items: np.ndarray
    early_routes: np.ndarray  # [routes] float64
    late_routes: np.ndarray
    location: float  # of the log-normal length


def simulate(settings: config.Simulation, out: str) -> dict[str, Any]:
    """Write a simulated click log into the folder `out` and return its counts.

    Parquet files with the columns SessionId int64, ItemId int64, Time timestamp[ms, UTC]; rows in order of
    session start, a session's clicks together. Raises InputError where `out` holds something else than a
    simulated log.
    """
    _check_out(out)
    made = world(settings)
    staging = storage.absolute(storage.beside(out, f".{uuid.uuid4().hex[:8]}.staging"))
    clicks = files = 0
    try:
        storage.make_folder(staging)
        for number in range(-(-settings.sessions // CHUNK)):
            table = chunk(settings, made, number)
            storage.write_parquet(storage.join(staging, f"part-{number:05d}.parquet"), table)
            clicks, files = clicks + table.num_rows, files + 1
        counts = {"sessions": settings.sessions, "items": settings.items, "clicks": clicks, "files": files}
        names = [field.name for field in dataclasses.fields(config.Simulation)]
        summary = {**counts, "settings": {name: getattr(settings, name) for name in names}}
        storage.write_json(storage.join(staging, SUMMARY), summary)
        storage.publish(staging, storage.absolute(out), last=SUMMARY)
    finally:
        storage.remove_folder(staging)
    return {**counts, "out": storage.shown(out)}


def _check_out(out: str) -> None:
    outputs.check_folder("--out", out)
    if not storage.free_for(out, SUMMARY) and not storage.free_for(out, _EARLIER):
        raise InputError(
            f"--out {storage.shown(out)}: holds something that simulate did not write; give another folder"
        )


def popularity(count: int, skew: float) -> np.ndarray:
    """Probability of each rank, [count] float64: (rank + shift)^−skew, shifted so that no head outshines
    the rest.
    """
    weights = (np.arange(1, count + 1) + count / 50) ** -skew
    return weights / weights.sum()


def world(settings: config.Simulation) -> World:
    """Routes and popularities, from the seed alone."""
    random = np.random.default_rng([settings.simulation_seed, 0])
    slots = max(SLOTS * settings.items, 2)
    early = random.permutation(popularity(settings.items, settings.skew))
    late = random.permutation(early)
    # Every item has a slot; the others go by popularity, half of them by the late one, so that it can be
    # reached.
    extra = slots - settings.items
    drawn = np.concatenate(
        [
            random.choice(settings.items, extra - extra // 4, p=early),
            random.choice(settings.items, extra // 4, p=late),
        ]
    )
    filled = random.permutation(np.concatenate([np.arange(settings.items), drawn])).astype(np.int32)
    length = min(ROUTE, slots)
    routes = filled[: slots // length * length].reshape(-1, length)
    left = filled[slots // length * length :]
    if len(left):  # the last slots make a route with the first ones of the others
        routes = np.concatenate([routes, np.concatenate([left, filled[: length - len(left)]])[None]])
    of_routes = random.permutation(popularity(len(routes), settings.skew))
    return World(
        routes,
        np.cumsum(early),
        np.cumsum(late),
        np.cumsum(of_routes),
        np.cumsum(random.permutation(of_routes)),
        length_location(settings.mean_length),
    )


def lengths_from(normal: np.ndarray, location: float) -> np.ndarray:
    """Session lengths, [n] int64 in 1…LONGEST, from standard normal values."""
    return 1 + np.minimum(np.exp(location + SPREAD * normal), LONGEST - 1).astype(np.int64)


@functools.cache
def length_location(mean: float) -> float:
    """The location of the log-normal at which lengths have this mean: by bisection, since they are whole
    numbers.
    """
    from statistics import NormalDist

    quantiles = np.array([NormalDist().inv_cdf((i + 0.5) / 20_000) for i in range(20_000)])
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if lengths_from(quantiles, middle).mean() < mean else (low, middle)
    return middle


def chunk(settings: config.Simulation, made: World, number: int) -> pa.Table:
    """Chunk `number` of the log: SessionId, ItemId, Time, sessions in order of start."""
    random = np.random.default_rng([settings.simulation_seed, 1, number])
    first = number * CHUNK
    count = min(CHUNK, settings.sessions - first)
    # Chunks share out the days by their sessions, so that the log is in order of time from file to file.
    share = (first + np.sort(random.random(count)) * count) / settings.sessions
    lengths = lengths_from(random.standard_normal(count), made.location)
    items = walk(random, made, lengths, settings.drift * share)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    gaps = np.rint(1000 * GAP * np.exp(random.standard_normal(len(items)))).astype(np.int64)
    gaps[offsets[:-1]] = 0
    since = np.cumsum(gaps)
    start = FIRST_DAY + (share * settings.days * 86_400_000).astype(np.int64)
    times = since + np.repeat(start - since[offsets[:-1]], lengths)
    return pa.table(
        {
            "SessionId": np.repeat(np.arange(first, first + count), lengths),
            "ItemId": items.astype(np.int64),
            "Time": pa.array(times).cast(pa.timestamp("ms", "UTC")),
        }
    )


def walk(random: np.random.Generator, made: World, lengths: np.ndarray, late: np.ndarray) -> np.ndarray:
    """The items that sessions click, end to end, [clicks] int32.

    lengths: [sessions] clicks of each; late: [sessions] probability of following the late popularity.
    """
    count, slots = len(lengths), made.routes.shape[1]
    route = _drawn(random, made.early_routes, made.late_routes, late)
    place = random.integers(0, slots, count)
    direction = np.where(random.random(count) < 0.5, 1, -1)
    # All sessions walk abreast, the longest first in line, so that those still under way are always the head.
    line = np.argsort(-lengths, kind="stable")
    under_way = np.searchsorted(-lengths[line], -np.arange(lengths.max()), side="left")
    offsets = np.cumsum(lengths) - lengths
    items = np.empty(int(lengths.sum()), np.int32)
    for step, active in enumerate(under_way.tolist()):
        who = line[:active]
        if step:
            stride = random.integers(1, LONGEST_STRIDE + 1, active)
            place[who] = (place[who] + direction[who] * stride) % slots
        clicked = made.routes[route[who], place[who]]
        jumps = random.random(active) < JUMP
        clicked[jumps] = _drawn(random, made.early_items, made.late_items, late[who[jumps]])
        items[offsets[who] + step] = clicked
    return items


def _drawn(random: np.random.Generator, early: np.ndarray, late: np.ndarray, share: np.ndarray) -> np.ndarray:
    """One draw for each element of `share`, by the late cumulated popularity with that probability."""
    value = random.random(len(share))
    chosen = np.searchsorted(early, value, side="right")
    turned = random.random(len(share)) < share
    chosen[turned] = np.searchsorted(late, value[turned], side="right")
    return np.minimum(chosen, len(early) - 1)
