"""How fast a training step is, beside what a good engineer would write in a day and beside the hardware's bound.

Three figures for each configuration, taken in turn in one process so that the machine's mood is the same for all:
this engine; `PlainTrainer`, the same step in plain PyTorch; and the floor, the step's score products alone plus one
read and one write of every touched row and its accumulator. No Ray: it runs wherever torch does.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
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

    def __init__(self, settings: Hyperparameters, support: np.ndarray) -> None:
        super().__init__()
        torch.sparse.check_sparse_tensor_invariants.disable()  # as by default; says so, where torch would warn
        self.settings = settings
        units = settings.layers[-1]
        self.item = nn.Embedding(len(support), units, sparse=True)
        self.bias = nn.Embedding(len(support), 1, sparse=True)
        self.cell = nn.GRUCell(units, units)
        nn.init.uniform_(self.item.weight, -0.02, 0.02)
        nn.init.zeros_(self.bias.weight)
        self.optimizer = torch.optim.Adagrad(self.parameters(), lr=settings.learning_rate)
        self.cumulated = torch.from_numpy(np.cumsum(np.maximum(support, 1) ** settings.sample_alpha))
        self.log_support = torch.from_numpy(np.log(np.maximum(support, 1))).float()

    def steps(self, sessions: Sessions) -> Iterator[None]:
        """Train, a mini-batch each time, over and over the sessions."""
        batch = self.settings.batch_size
        queue = itertools.cycle(range(sessions.count))
        walked = [next(queue) for _ in range(batch)]
        cursor = sessions.offsets[walked]
        hidden = torch.zeros(batch, self.settings.layers[-1])
        while True:
            for lane in range(batch):
                if cursor[lane] + 1 >= sessions.offsets[walked[lane] + 1]:
                    walked[lane] = next(queue)
                    cursor[lane] = sessions.offsets[walked[lane]]
                    hidden[lane] = 0
            hidden = self._step(
                torch.from_numpy(sessions.items[cursor].astype(np.int64)),
                torch.from_numpy(sessions.items[cursor + 1].astype(np.int64)),
                hidden,
            )
            cursor = cursor + 1
            yield

    def _step(self, inputs: Tensor, targets: Tensor, hidden: Tensor) -> Tensor:
        settings = self.settings
        drawn = torch.rand(settings.n_sample, dtype=torch.float64) * self.cumulated[-1]
        extra = torch.searchsorted(self.cumulated, drawn).clamp_(max=len(self.cumulated) - 1)
        columns = torch.cat([targets, extra])
        x = nn.functional.dropout(self.item(inputs), settings.dropout_embed)
        new = nn.functional.dropout(self.cell(x, hidden), settings.dropout_hidden)
        scores = new @ self.item(columns).t() + self.bias(columns).t()
        if settings.loss == "cross-entropy":
            scale = torch.ones(len(columns))
            scale[len(targets) :] = settings.sample_alpha
            logits = scores - settings.logq * scale * self.log_support[columns]
            loss = nn.functional.cross_entropy(logits, torch.arange(len(targets)), reduction="sum")
        else:
            r = nn.functional.elu(scores, settings.elu_param)
            own = r.diagonal().unsqueeze(1)
            s = torch.softmax(r.masked_fill(torch.eye(*r.shape, dtype=torch.bool), -torch.inf), dim=1)
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
        for number, block in enumerate(lanes.blocks([sessions], settings.batch_size, BLOCK_STEPS)):
            yield len(trainer.train_block(epoch, number, block))


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
    if device == "cpu":
        plain = PlainTrainer(settings, support).steps(sessions)
        runs["plain"] = lambda: (next(plain), 1)[1]
    floor = floor_steps(settings, items, device)
    runs["floor"] = lambda: (next(floor), 1)[1]
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
