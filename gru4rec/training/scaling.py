"""How training speed grows with workers: two processes on this machine, and a model of the step's time.

Two processes with as many threads each take the ways of `WAYS` in turn: one alone, both at once without exchange (the
most that the machine allows), both as exact data-parallel workers. One that only pretends to have others shows what
their lanes add to a step's compute, and sums of several sizes what the exchange takes; from these alone `step_time`
predicts what was measured, and what GPUs would do.

The processes hear and answer in lines of JSON. Needs torch, numpy and pyarrow alone.
"""

import argparse
import contextlib
import datetime
import functools
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any, NamedTuple, Self

import numpy as np
import torch
import torch.distributed as dist

from gru4rec.config import Hyperparameters
from gru4rec.errors import GRU4RecError
from gru4rec.model.network import initialise
from gru4rec.model.optimizers import state_names
from gru4rec.sessions.prepared import Sessions
from gru4rec.training import lanes
from gru4rec.training.bench import configurations, sessions_like
from gru4rec.training.exchange import Alone, Collective, Exchange
from gru4rec.training.lanes import Block
from gru4rec.training.step_time import NETWORKS, Link, efficiency, fitted, touched_rows
from gru4rec.training.trainer import BLOCK_STEPS, Trainer

WORKERS = 2
GPUS = (8, 64)
SYNC_EVERY = (1, 8, 64)
SUMS = (1_000, 30_000, 100_000, 300_000, 1_000_000)  # float32 numbers
CALLS = 40  # sums of a measurement
PATIENCE = 60.0  # seconds that one process waits for the other


class Pretended:
    """The exchange of one process as if it were the first of `size` workers; the others' lanes walk the same log.

    Their clicks are known and touched as those of real workers; nothing is summed.
    """

    rank = 0

    def __init__(self, size: int, sessions: Sessions, seed: int = 0) -> None:
        self.size = size
        self.sent = 0
        self._sessions = sessions
        self._rng = np.random.default_rng(seed)
        self._others: list[Block] = []  # drawn once, for drawing takes longer than a gathering would

    def gather(self, block: Block) -> Block:
        if not self._others:
            steps, own = block.inputs.shape
            self._others = [self._drawn(steps, own * (self.size - 1)) for _ in range(2)]
        self._others.reverse()
        return Block(*(np.concatenate(pair, axis=1) for pair in zip(block, self._others[0], strict=True)))

    def _drawn(self, steps: int, others: int) -> Block:
        """Transitions from anywhere in the log, [T, others]."""
        items = self._sessions.items
        last = self._sessions.offsets[1:] - 1  # a session's last click is followed by none
        click = self._rng.choice(np.delete(np.arange(len(items)), last), (steps, others))
        return Block(items[click], items[click + 1], np.zeros(click.shape, bool), np.ones(click.shape, bool))

    def add(self, values: torch.Tensor) -> None:
        self.sent += values.numel() * values.element_size()

    def average(self, table: torch.Tensor, rows: torch.Tensor, counts: torch.Tensor, own: torch.Tensor) -> None:
        self.sent += len(rows) * table[0].numel() * table.element_size()

    def share(self, numbers: np.ndarray) -> np.ndarray:
        return np.stack([numbers] * self.size)

    def collect(self, content: bytes) -> list[bytes]:
        return [content] * self.size


def _pretended(size: int, log: Sessions) -> Exchange:
    return Pretended(size, log)


WAYS: dict[str, Callable[[Sessions], Exchange]] = {
    "one alone": lambda _: Alone(),
    "two, no exchange": lambda _: Alone(),
    "two, exact": lambda _: Collective(timeout=PATIENCE),
    "two, exact, gloo": lambda _: Collective(share_memory=False),
    **{f"two, --sync-every {every}": lambda _: Collective(timeout=PATIENCE) for every in (8, 64)},
    **{f"one of {size}, pretended": functools.partial(_pretended, size) for size in (WORKERS, *GPUS)},
}
"""Ways to train by name, each with the exchange that it trains with, made from the log; "two" run in both at once."""


def sync_every(way: str) -> int:
    """Steps between two exchanges."""
    return int(way.rpartition(" ")[2]) if "--sync-every" in way else 1


def members(way: str) -> int:
    """Processes that take part in a way."""
    return WORKERS if way.startswith("two") else 1


class _Endless(NamedTuple):
    """The same sessions over and over."""

    sessions: Sessions

    def batches(self) -> Iterator[Sessions]:
        return itertools.repeat(self.sessions)


def steps(
    settings: Hyperparameters, support: np.ndarray, own: Sessions, exchange: Exchange, every: int = 1
) -> Iterator[int]:
    """Train over and over `own` sessions, a block each time; yields its steps. `every`: `sync_every`."""
    trainer = Trainer(initialise(settings, len(support)), support, exchange, sync_every=every)
    stream: Iterable[Block] = lanes.Schedule([_Endless(own)], settings.batch_size, BLOCK_STEPS)
    for _, losses in trainer.train_blocks(0, map(exchange.gather, stream) if every == 1 else stream):
        yield len(losses)


class Member:
    """What one of the processes measures."""

    def __init__(self, rank: int, name: str) -> None:
        self._settings, items = configurations()[name]
        self._log = sessions_like(items, WORKERS * self._settings.batch_size, 2000)
        self._support = np.bincount(self._log.items, minlength=items)
        count = self._log.count // WORKERS
        ends = self._log.offsets[rank * count : (rank + 1) * count + 1]
        self._own = Sessions(ends - ends[0], self._log.items[ends[0] : ends[-1]])
        self._begun: dict[str, tuple[Exchange, Iterator[int]]] = {}
        self._sums = {"shared memory": Collective(timeout=PATIENCE), "gloo": Collective(share_memory=False)}

    def train(self, way: str, blocks: int) -> dict[str, float]:
        """Seconds and exchanged bytes of a step, over so many blocks; the first call compiles."""
        if way not in self._begun:
            exchange = WAYS[way](self._log)
            walked = steps(self._settings, self._support, self._own, exchange, sync_every(way))
            self._begun[way] = exchange, walked
            next(self._begun[way][1])
        exchange, walked = self._begun[way]
        sent, began = exchange.sent, time.perf_counter()
        done = sum(itertools.islice(walked, blocks))
        return {"seconds": (time.perf_counter() - began) / done, "bytes": (exchange.sent - sent) / done}

    def sum(self, through: str, numbers: int) -> dict[str, float]:
        """Seconds of a sum of so many float32 numbers over the members."""
        exchange, values = self._sums[through], torch.zeros(numbers)
        exchange.add(values)
        began = time.perf_counter()
        for _ in range(CALLS):
            exchange.add(values)
        return {"seconds": (time.perf_counter() - began) / CALLS}


class Crew:
    """The processes, one a worker, which do as told side by side; a context manager."""

    def __init__(self, name: str, threads: int) -> None:
        self._folder = tempfile.TemporaryDirectory()
        command = [sys.executable, "-m", "gru4rec.training.scaling", name, f"{self._folder.name}/meeting", str(threads)]
        self._processes = [
            subprocess.Popen(  # noqa: S603
                [*command, str(rank)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )
            for rank in range(WORKERS)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()
        self._folder.cleanup()

    def ask(self, count: int, task: str, *arguments: str | int) -> dict[str, float]:
        """What the first `count` members answer to a task of `Member`; of each figure the largest.

        Raises GRU4RecError where one fails.
        """
        for process in self._processes[:count]:
            with contextlib.suppress(BrokenPipeError):  # it has ended: its answer will say so
                print(json.dumps([task, *arguments]), file=process.stdin, flush=True)
        answers = [_answer(process) for process in self._processes[:count]]
        return {key: max(answer[key] for answer in answers) for key in answers[0]}


def _answer(process: "subprocess.Popen[str]") -> dict[str, float]:
    assert process.stdout is not None  # noqa: S101
    line = process.stdout.readline()
    if not line:
        raise GRU4RecError(f"a worker of the bench ended with exit code {process.wait()}; its own messages say why")
    return json.loads(line)


def run(name: str, seconds: float, repeats: int, threads: int, gpu_step: float) -> dict[str, Any]:
    """Measure a configuration of the train bench and compare it with the model; tells its tables on stderr.

    `seconds` of each measurement, `repeats` times in turn; `gpu_step`: assumed seconds of a step of one GPU.
    """
    settings, items = configurations()[name]
    with Crew(name, threads) as crew:
        blocks = {}
        for way in WAYS:
            print(f"preparing: {way}", file=sys.stderr, flush=True)
            once = crew.ask(members(way), "train", way, 1)
            blocks[way] = max(1, round(seconds / (once["seconds"] * BLOCK_STEPS)))
        turns: list[dict[str, dict[str, float]]] = []
        sums: list[dict[str, list[float]]] = []
        for turn in range(repeats):
            print(f"measuring: {turn + 1} of {repeats}", file=sys.stderr, flush=True)
            turns.append({way: crew.ask(members(way), "train", way, blocks[way]) for way in WAYS})
            sums.append(
                {
                    through: [crew.ask(WORKERS, "sum", through, numbers)["seconds"] for numbers in SUMS]
                    for through in ("shared memory", "gloo")
                }
            )
    times = {way: [turn[way]["seconds"] for turn in turns] for way in WAYS}
    sent = {way: statistics.median(turn[way]["bytes"] for turn in turns) for way in WAYS}
    links, timed = {}, {}
    for through in sums[0]:
        timed[through] = [statistics.median(turn[through][i] for turn in sums) for i in range(len(SUMS))]
        links[through] = fitted([4 * numbers for numbers in SUMS], timed[through])
    log = sessions_like(items, WORKERS * settings.batch_size, 2000)
    support = np.bincount(log.items, minlength=items)
    result = {
        "what": "scaling",
        "configuration": name,
        "lanes": settings.batch_size,
        "items": items,
        "threads": threads,
        "rows": [_row(way, settings.batch_size, times, sent[way]) for way in WAYS],
        "sums": {
            through: {
                "latency_us": link.latency * 1e6,
                "gigabytes_per_second": None if link.bandwidth == float("inf") else link.bandwidth / 1e9,
                "measured_us": [[4 * size, found * 1e6] for size, found in zip(SUMS, timed[through], strict=True)],
            }
            for through, link in links.items()
        },
        "model": [
            _predicted("two, exact", times, sent, links["shared memory"]),
            _predicted("two, exact, gloo", times, sent, links["gloo"]),
        ],
        "gpu_step_us_assumed": gpu_step * 1e6,
        "gpus": _gpus(settings, support, times, sent, gpu_step),
    }
    print(markdown(result), file=sys.stderr)
    return result


def _ratio(times: dict[str, list[float]], way: str, other: str) -> float:
    """Time of one way over that of another, each pair from the same turn: the median."""
    return statistics.median(a / b for a, b in zip(times[way], times[other], strict=True))


def _row(way: str, batch: int, times: dict[str, list[float]], sent: float) -> dict[str, Any]:
    events = [members(way) * batch / seconds for seconds in times[way]]
    return {
        "way": way,
        "step_ms": _spread([seconds * 1e3 for seconds in times[way]]),
        "events_per_second": _spread(events),
        "to_one": members(way) / _ratio(times, way, "one alone"),
        "bytes_a_step": sent,
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def _predicted(way: str, times: dict[str, list[float]], sent: dict[str, float], link: Link) -> dict[str, Any]:
    """The model's step of two workers, from what was measured without them, beside the measured one."""
    compute = statistics.median(times["one alone"])
    growth = _ratio(times, f"one of {WORKERS}, pretended", "one alone")
    contention = _ratio(times, "two, no exchange", "one alone")
    summed = link.seconds(sent[f"one of {WORKERS}, pretended"])
    step, measured = compute * growth * contention + summed, statistics.median(times[way])
    return {
        "way": way,
        "compute_ms": compute * 1e3,
        "growth": growth,
        "contention": contention,
        "sum_ms": summed * 1e3,
        "predicted_ms": step * 1e3,
        "measured_ms": measured * 1e3,
        "error_percent": 100 * (step / measured - 1),
    }


def _gpus(
    settings: Hyperparameters,
    support: np.ndarray,
    times: dict[str, list[float]],
    sent: dict[str, float],
    step: float,
) -> list[dict[str, Any]]:
    """Expected efficiency of GPUs, with the growth of compute that was measured here."""
    found = []
    kept = 4 * (1 + len(state_names(settings)))  # of each weight, with its optimizer's state
    row = kept * (settings.width + 1)
    dense = kept * sum(weight.numel() for weight in initialise(settings, 1).dense.values())
    for network, count, every in itertools.product(NETWORKS, GPUS, SYNC_EVERY):
        way = f"one of {count}, pretended"
        growth, size = _ratio(times, way, "one alone"), sent[way]
        if every > 1:  # workers step alone; then dense weights and all rows that any has touched are averaged
            growth, size = 1.0, dense + row * touched_rows(support, settings, count, every)
        summed = network.seconds(size, count)
        found.append(
            {
                "network": network.name,
                "gpus": count,
                "sync_every": every,
                "growth": growth,
                "bytes": size,
                "sum_us": summed * 1e6,
                "efficiency": efficiency(step, growth, summed, every),
            }
        )
    return found


def markdown(result: dict[str, Any]) -> str:
    """The figures as Markdown tables: what was measured, sums, the model, GPUs."""
    lines = [
        f"{result['configuration']}: {result['lanes']} lanes a worker, {result['items']:,} items, "
        f"{result['threads']} thread(s) a worker",
        "",
        "| way | step ms | events/s | to one alone | bytes a step |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        step, events = (
            f"{found['median']:,.{digits}f} ({found['min']:,.{digits}f}–{found['max']:,.{digits}f})"
            for found, digits in ((row["step_ms"], 2), (row["events_per_second"], 0))
        )
        lines.append(f"| {row['way']} | {step} | {events} | {row['to_one']:.2f} | {row['bytes_a_step']:,.0f} |")
    lines += ["", "| sum through | latency µs | GB/s |", "|---|---|---|"]
    for through, link in result["sums"].items():
        speed = link["gigabytes_per_second"]
        lines.append(f"| {through} | {link['latency_us']:,.0f} | {'–' if speed is None else f'{speed:.2f}'} |")
    lines += ["", "| model of | compute ms | growth | contention | sum ms | predicted ms | measured ms | error |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for row in result["model"]:
        cells = [f"{row[key]:.2f}" for key in list(row)[1:-1]]
        lines.append(f"| {row['way']} | {' | '.join(cells)} | {row['error_percent']:+.0f} % |")
    lines += [
        "",
        f"GPUs, assumed and not measured: the networks, and {result['gpu_step_us_assumed']:,.0f} µs a step of one; "
        "growth of compute: as measured here",
        "",
        "| network | GPUs | sync-every | growth | MB a sum | sum µs | efficiency |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["gpus"]:
        figures = f"{row['growth']:.2f} | {row['bytes'] / 1e6:.2f} | {row['sum_us']:,.0f} | {row['efficiency']:.0%}"
        lines.append(f"| {row['network']} | {row['gpus']} | {row['sync_every']} | {figures} |")
    return "\n".join(lines)


def _serve(member: Member, asked: IO[str], answers: IO[str]) -> None:
    for line in asked:
        task, *arguments = json.loads(line)
        print(json.dumps({"train": member.train, "sum": member.sum}[task](*arguments)), file=answers, flush=True)


def main() -> None:
    """One process of the bench; `jobs/bench.py --what scaling` starts them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    for name, kind in (("configuration", str), ("meeting", str), ("threads", int), ("rank", int)):
        parser.add_argument(name, type=kind)
    given = parser.parse_args()
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what libraries print is no answer
        torch.set_num_threads(given.threads)
        dist.init_process_group(
            "gloo",
            init_method=f"file://{given.meeting}",
            rank=given.rank,
            world_size=WORKERS,
            timeout=datetime.timedelta(seconds=PATIENCE),
        )
        _serve(Member(given.rank, given.configuration), sys.stdin, answers)


if __name__ == "__main__":
    main()
