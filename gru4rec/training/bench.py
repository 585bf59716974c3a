"""How fast a training step is, beside what a good engineer would write in a day and beside the hardware's bound.

Three figures for each configuration, taken in turn in one process so that the machine's mood is the same for all:
this engine; `PlainTrainer`, the same step in plain PyTorch; and the floor, the step's score products alone plus one
read and one write of every touched row and its accumulator. `catalogue` compares the engine at two catalogue sizes.

It runs wherever torch, numpy and pyarrow are, with no other package: `python -m gru4rec.training.bench --device cuda`.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gru4rec.config import PRESETS, Hyperparameters
from gru4rec.model.network import initialise
from gru4rec.sessions.prepared import Sessions
from gru4rec.training import lanes
from gru4rec.training.trainer import BLOCK_STEPS, Trainer

ITEMS = {
    "rsc15": 37_483,
    "yoochoose": 54_000,
    "rees46": 172_000,
    "coveo": 10_868,
    "retailrocket": 36_824,
    "diginetica": 64_000,
}
"""About as many items as the data sets of the presets have."""

CATALOGUES = (37_483, 2_000_000)


def configurations() -> dict[str, tuple[Hyperparameters, int]]:
    """Settings and catalogue size by name: the published ones, and 100 units with 32 to 256 lanes."""
    published = {name: (Hyperparameters(**preset), ITEMS[name]) for name, preset in PRESETS.items()}
    base, items = published["rsc15"]
    return published | {f"lanes-{count}": (replace(base, batch_size=count), items) for count in (32, 64, 128, 256)}


def sessions_like(items: int, lanes_: int, steps: int, seed: int = 0) -> Sessions:
    """Sessions of 2 to 12 clicks with Zipf popularity, enough for `steps` mini-batches of `lanes_` lanes."""
    rng = np.random.default_rng(seed)
    count = max(lanes_ * 4, lanes_ * steps // 5)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(2, 13, count))])
    order = rng.permutation(items)
    clicks = order[np.minimum(rng.zipf(1.2, offsets[-1]) - 1, items - 1)]
    return Sessions(offsets, clicks.astype(np.int32))


class PlainTrainer(nn.Module):
    """The same step in plain PyTorch: sparse embeddings, GRUCell, autograd, torch's Adagrad, lanes walked in Python.

    Momentum is left out: torch's sparse Adagrad has none.
    """

    def __init__(self, settings: Hyperparameters, support: np.ndarray, device: str = "cpu") -> None:
        super().__init__()
        self.device = device
        torch.sparse.check_sparse_tensor_invariants.disable()  # as by default; says so, where torch would warn
        self.settings = settings
        units = settings.layers[-1]
        self.item = nn.Embedding(len(support), units, sparse=True)
        self.bias = nn.Embedding(len(support), 1, sparse=True)
        self.cell = nn.GRUCell(units, units)
        nn.init.uniform_(self.item.weight, -0.02, 0.02)
        nn.init.zeros_(self.bias.weight)
        self.to(device)
        self.optimizer = torch.optim.Adagrad(self.parameters(), lr=settings.learning_rate)
        self.cumulated = torch.from_numpy(np.cumsum(np.maximum(support, 1) ** settings.sample_alpha)).to(device)
        self.log_support = torch.from_numpy(np.log(np.maximum(support, 1))).float().to(device)

    def steps(self, sessions: Sessions) -> Iterator[None]:
        """Train, a mini-batch each time, over and over the sessions."""
        batch = self.settings.batch_size
        queue = itertools.cycle(range(sessions.count))
        walked = [next(queue) for _ in range(batch)]
        cursor = sessions.offsets[walked]
        hidden = torch.zeros(batch, self.settings.layers[-1], device=self.device)
        while True:
            for lane in range(batch):
                if cursor[lane] + 1 >= sessions.offsets[walked[lane] + 1]:
                    walked[lane] = next(queue)
                    cursor[lane] = sessions.offsets[walked[lane]]
                    hidden[lane] = 0
            hidden = self._step(
                torch.from_numpy(sessions.items[cursor].astype(np.int64)).to(self.device),
                torch.from_numpy(sessions.items[cursor + 1].astype(np.int64)).to(self.device),
                hidden,
            )
            cursor = cursor + 1
            yield

    def _step(self, inputs: Tensor, targets: Tensor, hidden: Tensor) -> Tensor:
        settings = self.settings
        drawn = torch.rand(settings.n_sample, dtype=torch.float64, device=self.device) * self.cumulated[-1]
        extra = torch.searchsorted(self.cumulated, drawn).clamp_(max=len(self.cumulated) - 1)
        columns = torch.cat([targets, extra])
        x = nn.functional.dropout(self.item(inputs), settings.dropout_embed)
        new = nn.functional.dropout(self.cell(x, hidden), settings.dropout_hidden)
        scores = new @ self.item(columns).t() + self.bias(columns).t()
        if settings.loss == "cross-entropy":
            scale = torch.ones(len(columns), device=self.device)
            scale[len(targets) :] = settings.sample_alpha
            logits = scores - settings.logq * scale * self.log_support[columns]
            loss = nn.functional.cross_entropy(logits, torch.arange(len(targets), device=self.device), reduction="sum")
        else:
            r = nn.functional.elu(scores, settings.elu_param)
            own = r.diagonal().unsqueeze(1)
            s = torch.softmax(
                r.masked_fill(torch.eye(*r.shape, dtype=torch.bool, device=self.device), -torch.inf), dim=1
            )
            loss = -torch.log((s * torch.sigmoid(own - r)).sum(dim=1) + 1e-24)
            loss = (loss + settings.bpreg * (s * r**2).sum(dim=1)).sum()
        self.optimizer.zero_grad()
        (loss / settings.batch_size).backward()
        self.optimizer.step()
        return new.detach()


def engine_steps(settings: Hyperparameters, support: np.ndarray, sessions: Sessions, device: str) -> Iterator[int]:
    """Train with the engine; yields the mini-batches of each block."""
    trainer = Trainer(initialise(settings, len(support), device), support)
    for epoch in itertools.count():
        for _, losses in trainer.train_blocks(epoch, lanes.Schedule([sessions], settings.batch_size, BLOCK_STEPS)):
            yield len(losses)


def floor_steps(settings: Hyperparameters, items: int, device: str) -> Iterator[None]:
    """The three score products, and one read and one write of every touched row and its accumulator."""
    units, batch = settings.layers[-1], settings.batch_size
    touched = min(2 * batch + settings.n_sample, items)
    table, accumulator = (torch.zeros(items, units, device=device) for _ in range(2))
    hidden = torch.randn(batch, units, device=device)
    d_scores = torch.randn(batch, touched, device=device)
    drawn = [torch.randperm(items, device=device)[:touched] for _ in range(16)]
    rows, d_rows, sums = (torch.empty(touched, units, device=device) for _ in range(3))
    scores, d_hidden = torch.empty_like(d_scores), torch.empty_like(hidden)
    for where in itertools.cycle(drawn):
        torch.index_select(table, 0, where, out=rows)
        torch.mm(hidden, rows.t(), out=scores)
        torch.mm(d_scores, rows, out=d_hidden)
        torch.mm(d_scores.t(), hidden, out=d_rows)
        torch.index_select(accumulator, 0, where, out=sums)
        accumulator.index_copy_(0, where, sums)
        table.index_copy_(0, where, rows)
        yield


def measure(name: str, seconds: float, repeats: int, device: str = "cpu") -> dict[str, Any]:
    """Mini-batches a second of the three, `repeats` times in turn for `seconds` each: minimum, median, maximum."""
    settings, items = configurations()[name]
    sessions = sessions_like(items, settings.batch_size, 2000)
    support = np.bincount(sessions.items, minlength=items)
    runs: dict[str, Callable[[], int]] = {}
    engine = engine_steps(settings, support, sessions, device)
    runs["engine"] = lambda: next(engine)
    plain = PlainTrainer(settings, support, device).steps(sessions)
    runs["plain"] = lambda: (next(plain), 1)[1]
    floor = floor_steps(settings, items, device)
    runs["floor"] = lambda: (next(floor), 1)[1]
    rates = _in_turn(runs, seconds, repeats, device)
    found: dict[str, Any] = {"configuration": name, "lanes": settings.batch_size, "items": items}
    for kind, values in rates.items():
        found[kind] = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    found["events_per_second"] = found["engine"]["median"] * settings.batch_size
    found |= {
        f"engine_to_{kind}": statistics.median(a / b for a, b in zip(rates["engine"], rates[kind], strict=True))
        for kind in rates
        if kind != "engine"
    }
    return found


def _in_turn(runs: dict[str, Callable[[], int]], seconds: float, repeats: int, device: str) -> dict[str, list[float]]:
    """Steps a second of each, `repeats` times in turn for `seconds`; a call returns the steps that it made."""
    rates: dict[str, list[float]] = {kind: [] for kind in runs}
    for step in runs.values():
        step()  # compile, allocate
    for _ in range(repeats):
        for kind, step in runs.items():
            began, done = time.perf_counter(), 0
            while time.perf_counter() - began < seconds:
                done += step()
            if device != "cpu":
                torch.cuda.synchronize()
            rates[kind].append(done / (time.perf_counter() - began))
    return rates


def catalogue(seconds: float, repeats: int, device: str = "cpu") -> dict[str, Any]:
    """The engine with 100 units and 32 lanes on the smaller and the larger of two catalogues, and its memory."""
    settings, _ = configurations()["lanes-32"]
    runs: dict[str, Callable[[], int]] = {}
    for items in CATALOGUES:
        sessions = sessions_like(items, settings.batch_size, 2000)
        steps = engine_steps(settings, np.bincount(sessions.items, minlength=items), sessions, device)
        runs[str(items)] = steps.__next__
    rates = _in_turn(runs, seconds, repeats, device)
    few, many = (rates[str(items)] for items in CATALOGUES)
    found: dict[str, Any] = {
        "items": list(CATALOGUES),
        "steps_per_second": [statistics.median(few), statistics.median(many)],
        "ratio": statistics.median(b / a for a, b in zip(few, many, strict=True)),
        "ratios": [b / a for a, b in zip(few, many, strict=True)],
    }
    if device == "cpu":
        command = [sys.executable, "-m", "gru4rec.training.bench", "--memory", str(CATALOGUES[-1])]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        found["memory"] = json.loads(done.stdout)
    return found


def memory(items: int) -> dict[str, float]:
    """Peak resident bytes of an engine of 100 units that trains, beyond what Python and torch take before it.

    And those of the tables with their accumulators, the velocities that momentum needs not counted.
    """
    settings, _ = configurations()["lanes-32"]
    small = sessions_like(1000, settings.batch_size, 100)
    next(engine_steps(settings, np.bincount(small.items, minlength=1000), small, "cpu"))  # compile
    before = _peak()
    sessions = sessions_like(items, settings.batch_size, 2000)
    steps = engine_steps(settings, np.bincount(sessions.items, minlength=items), sessions, "cpu")
    for _ in range(5):
        next(steps)
    peak = _peak() - before
    table = items * (settings.width + 1) * 4
    return {"peak": peak, "tables_and_accumulators": 2 * table, "ratio": peak / (2 * table)}


def _peak() -> int:
    """Most bytes that this process has had resident (Linux; `getrusage` would count what its parent had)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def markdown(rows: list[dict[str, Any]]) -> str:
    """The figures as a Markdown table: median mini-batches/s (minimum–maximum), and ratios."""
    lines = [
        "| configuration | lanes | items | engine mb/s | plain mb/s | floor mb/s "
        "| engine/plain | engine/floor | events/s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shown = [
            f"{row[kind]['median']:,.0f} ({row[kind]['min']:,.0f}–{row[kind]['max']:,.0f})" if kind in row else "–"
            for kind in ("engine", "plain", "floor")
        ]
        ratios = [f"{row[key]:.2f}" if key in row else "–" for key in ("engine_to_plain", "engine_to_floor")]
        cells = [row["configuration"], row["lanes"], f"{row['items']:,}", *shown, *ratios]
        lines.append("| " + " | ".join(map(str, cells)) + f" | {row['events_per_second']:,.0f} |")
    return "\n".join(lines)


def main() -> None:
    """The bench where nothing but torch, numpy and pyarrow is installed; `jobs/bench.py` is the same as a job."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--configurations", nargs="+", choices=[*configurations(), "catalogue"], metavar="NAME")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.memory:
        print(json.dumps(memory(given.memory)))
        return
    print(json.dumps(run(given.configurations or (), given.seconds, given.repeats, given.threads, given.device)))


def run(names: Sequence[str], seconds: float, repeats: int, threads: int, device: str) -> dict[str, Any]:
    """Measure what is named (nothing: all); tells its progress and the table on stderr."""
    torch.set_num_threads(threads)
    rows, result = [], {"what": "train", "threads": threads, "device": device}
    for name in names or [*configurations(), "catalogue"]:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        if name == "catalogue":
            result[name] = catalogue(seconds, repeats, device)
        else:
            rows.append(measure(name, seconds, repeats, device))
    print(markdown(rows), file=sys.stderr)
    if "catalogue" in result:
        print(json.dumps(result["catalogue"]), file=sys.stderr)
    return {**result, "rows": rows}


if __name__ == "__main__":
    main()
