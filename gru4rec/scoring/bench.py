"""How fast the batch job scores, beside the obvious pipeline and beside the matrix products that nobody can do without.

In turn, on the same machine and the same Ray, with as many processes of one thread as there are CPUs:

* the job: from Parquet to published lists, verified, all of it but Ray's own start;
* the obvious pipeline on Ray Data: `read_parquet`, cut so that all processes have work, `map_batches` over pandas, the
  batch padded and sent through `nn.GRU`, the whole matrix of scores, `torch.topk`, `write_parquet`; nothing is checked,
  and readers see halves;
* the bound: the products of the recurrent layer and of outputs and item table, alone, of as many rows.

The lists of both ways are compared.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from torch import Tensor, nn

from gru4rec import on_ray
from gru4rec.config import Hyperparameters, Score
from gru4rec.model.network import GRU4Rec, initialise
from gru4rec.scoring import batch
from gru4rec.scoring.scorer import given, taken
from gru4rec.sessions.prepared import Sessions
from gru4rec.tracking.folder import LoadedModel
from gru4rec.training.bench import sessions_like

UNITS, K = 100, 20
SCORES = 2e10  # that a run computes where the number of sessions is left open: so many that its start is a small part
FILES = 8
WARM_UP = 20_000  # sessions
CLOSE = 1e-5  # two ways to round a score of about 1
OBVIOUS_BYTES = 500 << 20  # of the matrix of scores that the obvious pipeline makes at once, at most
OBVIOUS_ROWS = 1024


def run(catalogues: Sequence[int], sessions: int, repeats: int, scratch: str = "") -> dict[str, Any]:
    """Seconds of each way at each catalogue size, with ratios; tells them on stderr."""
    rows = []
    with (
        on_ray.connected(),
        on_ray.without_explained_lines(),
        tempfile.TemporaryDirectory(dir=scratch or None) as place,
    ):
        processes = int(ray.cluster_resources()["CPU"])
        if WARM_UP:
            _measure(place, 1000, WARM_UP, processes, 1)  # compiled code, imports and workers are there afterwards
        for items in catalogues:
            count = sessions or round(SCORES / items)
            rows.append(_measure(place, items, count, processes, repeats))
            print(_line(rows[-1]), file=sys.stderr, flush=True)
    return {"what": "score", "units": UNITS, "top_k": K, "processes": processes, "rows": rows}


def _line(row: dict[str, Any]) -> str:
    speed = row["sessions"] / row["score"]["median"]
    return (
        f"{row['items']:,} items, {row['sessions']:,} sessions: {speed:,.0f} sessions/s, "
        f"{row['to_obvious']['median']:.1f} times as fast as the obvious pipeline "
        f"({row['to_obvious']['min']:.1f}–{row['to_obvious']['max']:.1f}), "
        f"{row['share_of_bound']['median']:.0%} of the bound "
        f"({row['share_of_bound']['min']:.0%}–{row['share_of_bound']['max']:.0%})"
    )


def _measure(place: str, items: int, count: int, processes: int, repeats: int) -> dict[str, Any]:
    path, loaded = f"{place}/{items}", _model(items)
    drawn = _sessions(path, items, count, loaded)
    lengths = drawn.lengths
    seconds: dict[str, list[float]] = {"score": [], "obvious": [], "bound": []}
    for repeat in range(repeats):
        out, other = f"{place}/{items}-{repeat}", f"{place}/{items}-{repeat}-obvious"
        began = time.perf_counter()
        settings = Score(model="m", sessions=path, out=out, top_k=K, experiment="", max_fallback_share=1.0)
        done = batch.run(batch.find(settings, loaded, None, "m"))
        seconds["score"].append(time.perf_counter() - began)
        seconds["obvious"].append(_obvious(path, other, loaded, processes))
        seconds["bound"].append(_bound(loaded.model, lengths, processes))
        agreed, apart = _agreed(out, done, other)
        if agreed < 0.9 or apart > CLOSE:
            raise AssertionError(f"{agreed:.1%} of the lists are the same both ways, scores differ by up to {apart:g}")
    ours = seconds["score"]
    return {
        "items": items,
        "sessions": len(lengths),
        "clicks": int(lengths.sum()),
        **{name: _spread(values) for name, values in seconds.items()},
        "to_obvious": _spread([other / own for other, own in zip(seconds["obvious"], ours, strict=True)]),
        "share_of_bound": _spread([bound / own for bound, own in zip(seconds["bound"], ours, strict=True)]),
        "lists_that_agree": agreed,
    }


def _model(items: int) -> LoadedModel:
    table = {"item_id": np.arange(items) * 7 + 10**6, "item_index": pa.array(range(items), pa.int32())}
    return LoadedModel(
        initialise(Hyperparameters(layers=(UNITS,)), items),
        pa.table({**table, "support": np.ones(items, np.int64)}),
        {},
    )


def _sessions(path: str, items: int, count: int, loaded: LoadedModel) -> Sessions:
    drawn = sessions_like(items, 1, 5 * count)
    drawn = Sessions(drawn.offsets[: count + 1], drawn.items[: drawn.offsets[count]])
    ids = loaded.items["item_id"].to_numpy()[drawn.items]
    column = pa.ListArray.from_arrays(pa.array(drawn.offsets.astype(np.int32)), pa.array(ids))
    table = pa.table({"session_id": np.arange(count), "items": column})
    Path(path).mkdir()
    for number in range(FILES):  # so that Ray Data has something to share out
        first, end = (count * at // FILES for at in (number, number + 1))
        pq.write_table(table.slice(first, end - first), f"{path}/{number}.parquet")
    return drawn


class Obvious:
    """A batch of sessions through the network, all scores, and torch's top-k."""

    def __init__(self, model: dict[str, Any], ids: np.ndarray) -> None:
        torch.set_num_threads(1)
        weights = taken(model, "cpu").tensors()
        self.table, self.bias = weights["item_table"], weights["item_bias"]
        self.gru = nn.GRU(UNITS, UNITS, batch_first=True)
        names = {"weight_ih_l0": "weight_input", "weight_hh_l0": "weight_hidden"}
        names |= {"bias_ih_l0": "bias_input", "bias_hh_l0": "bias_hidden"}
        self.gru.load_state_dict({torchs: weights[f"gru.0.{ours}"] for torchs, ours in names.items()})
        self.ids, self.index = ids, {item: index for index, item in enumerate(ids.tolist())}

    @torch.inference_mode()
    def __call__(self, frame: pd.DataFrame) -> pd.DataFrame:
        clicks = [torch.tensor([self.index[item] for item in row]) for row in frame["items"]]
        lengths = torch.tensor([len(row) for row in clicks])
        padded = nn.utils.rnn.pad_sequence(clicks, batch_first=True)
        output, _ = self.gru(self.table[padded])
        scores = output[torch.arange(len(clicks)), lengths - 1] @ self.table.T + self.bias
        best = torch.topk(scores, K)
        listed = list(self.ids[best.indices.numpy()])
        return pd.DataFrame({"session_id": frame["session_id"], "items": listed, "scores": list(best.values.numpy())})


def _obvious(path: str, out: str, loaded: LoadedModel, processes: int) -> float:
    began = time.perf_counter()
    rows = min(OBVIOUS_ROWS, OBVIOUS_BYTES // (4 * loaded.model.item_count))
    # repartition: with the blocks that files are read as, one actor would get them all.
    ray.data.read_parquet(path).repartition(4 * processes).map_batches(
        Obvious,
        fn_constructor_args=(given(loaded.model), loaded.items["item_id"].to_numpy()),
        batch_format="pandas",
        batch_size=rows,
        compute=ray.data.ActorPoolStrategy(size=processes),
        num_cpus=0.5,  # with whole CPUs, nothing would be left for the tasks that read, and it would stand still
    ).write_parquet(out)
    return time.perf_counter() - began


def _agreed(out: str, done: batch.Done, other: str) -> tuple[float, float]:
    """Share of the lists that are the same both ways, and largest difference of two scores at the same place of a list.

    Items that float32 can hardly tell apart may change places, the more the larger the catalogue.
    """
    files = [f"{out}/{file['name']}" for file in done.content["files"]]
    ours, theirs = (
        pa.concat_tables([pq.read_table(file) for file in found]).sort_by("session_id")
        for found in (files, sorted(map(str, Path(other).glob("*.parquet"))))
    )
    lists, scores = ([np.stack(table[name].to_numpy()) for table in (ours, theirs)] for name in ("items", "scores"))
    same = (lists[0] == lists[1]).all(axis=1).mean()
    return float(same), float(np.abs(scores[0] - scores[1]).max(initial=0.0))


class Products:
    """The products of some sessions, in a process of its own."""

    def __init__(self, model: dict[str, Any]) -> None:
        torch.set_num_threads(1)
        self.model = taken(model, "cpu")

    def seconds(self, lengths: np.ndarray) -> float:
        began = time.perf_counter()
        _products(self.model, lengths)
        return time.perf_counter() - began


def _bound(model: GRU4Rec, lengths: np.ndarray, processes: int) -> float:
    """Seconds until all processes have done the products of their share of the sessions."""
    actor = ray.remote(num_cpus=1)(Products)
    put = ray.put(given(model))
    actors = [actor.remote(put) for _ in range(processes)]
    ray.get([one.seconds.remote(lengths[:100]) for one in actors])
    parts = np.array_split(lengths, processes)
    found = max(ray.get([one.seconds.remote(part) for one, part in zip(actors, parts, strict=True)]))
    for one in actors:
        ray.kill(one)
    return found


@torch.inference_mode()
def _products(model: GRU4Rec, lengths: np.ndarray, at_once: int = 4096, columns: int = 4096, rows: int = 256) -> None:
    """Those of the active rows of each click, and of all rows with the item table, into memory that is used again."""
    weights, table, bias = model.dense, model.item_table, model.item_bias
    x, gates = torch.randn(at_once, UNITS), torch.empty(at_once, 3 * UNITS)
    for first in range(0, len(lengths), at_once):
        batch_lengths = lengths[first : first + at_once]
        for click in range(batch_lengths.max()):
            active = int((batch_lengths > click).sum())
            for name in ("input", "hidden"):
                weight, added = weights[f"gru.0.weight_{name}"], weights[f"gru.0.bias_{name}"]
                torch.addmm(added, x[:active], weight.t(), out=gates[:active])
    space = torch.empty(rows * columns)
    for first in range(0, len(lengths), rows):
        some: Tensor = x[: min(rows, len(lengths) - first)]
        for start in range(0, len(table), columns):
            part = table[start : start + columns]
            out = space[: len(some) * len(part)].view(len(some), -1)
            torch.addmm(bias[start : start + columns], some, part.t(), out=out)


def _spread(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}
