"""What is measured: model versions, model folders and baselines, each asked for ranks and lists in the same way."""

import dataclasses
import re
import statistics
import time
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa

from gru4rec import storage
from gru4rec.evaluation import baselines, model_ranks
from gru4rec.evaluation.metrics import Ties
from gru4rec.evaluation.model_ranks import Ranked
from gru4rec.evaluation.relevance import Relevant
from gru4rec.model.network import GRU4Rec
from gru4rec.scoring.recommend import recommend
from gru4rec.sessions.catalogue import catalogue, encoder
from gru4rec.sessions.prepared import Prepared, Sessions
from gru4rec.tracking import folder, registry
from gru4rec.tracking.folder import LoadedModel

_TIMED = 200  # sessions whose list is timed, one by one


class Contender(Protocol):
    """A model or baseline. Shapes: R relevant items, S sessions, all of the prepared data's items."""

    @property
    def label(self) -> str:
        """What it is called in results."""

    def ready(self, device: str = "cpu") -> "Contender":
        """The same, ready to be asked on this device (`cpu`, `cuda`)."""

    def rank(self, sessions: Sessions, relevant: Relevant, next_only: bool, ties: Ties) -> Ranked:
        """Ranks of the relevant items [R]; `next_only`: they are the next clicks."""

    def lists(self, sessions: Sessions, k: int) -> np.ndarray:
        """The k best items (or fewer) after the last click of each session, [S, k] int64; -1: not in the data."""


@dataclass(frozen=True)
class Model:
    """A model with the catalogue that it was trained on."""

    label: str
    model: GRU4Rec
    support: np.ndarray  # [V] its training clicks
    index: np.ndarray  # [P] int64: its index of each prepared item; -1: it does not know it

    def ready(self, device: str = "cpu") -> "Model":
        return self if self.model.device.type == device else dataclasses.replace(self, model=self.model.to(device))

    def rank(self, sessions: Sessions, relevant: Relevant, next_only: bool, ties: Ties) -> Ranked:
        return model_ranks.rank(self.model, self.support, sessions, self.index, ties, relevant)

    def lists(self, sessions: Sessions, k: int) -> np.ndarray:
        prepared = np.full(self.model.item_count, -1)
        known = self.index >= 0
        prepared[self.index[known]] = np.flatnonzero(known)
        return prepared[model_ranks.lists(self.model, self.support, sessions, self.index, k)]


@dataclass(frozen=True)
class Baseline:
    """A baseline, learnt from the training split when it is first needed: by a worker, where there are any."""

    label: str
    data: str  # the prepared folder

    def ready(self, device: str = "cpu") -> "LearntBaseline":
        prepared = Prepared(self.data)
        train, items = prepared.read("train"), len(prepared.items)
        quick = baselines.counted(self.label, train, items)
        return LearntBaseline(self.label, items, baselines.learn(self.label, train, items), quick)

    def rank(self, sessions: Sessions, relevant: Relevant, next_only: bool, ties: Ties) -> Ranked:
        return self.ready().rank(sessions, relevant, next_only, ties)

    def lists(self, sessions: Sessions, k: int) -> np.ndarray:
        return self.ready().lists(sessions, k)


@dataclass(frozen=True)
class LearntBaseline:
    """A baseline that has seen the training split."""

    label: str
    items: int
    scorer: baselines.Scorer
    counted: baselines.Counted | None  # for next clicks

    def ready(self, device: str = "cpu") -> "LearntBaseline":
        return self

    def rank(self, sessions: Sessions, relevant: Relevant, next_only: bool, ties: Ties) -> Ranked:
        if next_only and self.counted:
            return Ranked(self.counted(sessions, ties), 0, 0)
        found = baselines.ranks_of(self.scorer, sessions, self.items, ties, relevant=None if next_only else relevant)
        return Ranked(found.numpy(), 0, 0)

    def lists(self, sessions: Sessions, k: int) -> np.ndarray:
        return baselines.best_items(self.scorer, sessions, self.items, k)[1].numpy()


@dataclass(frozen=True)
class About:
    """What is known of a contender besides its figures."""

    kind: str  # "version", "folder" or "baseline"
    name: str = ""  # of the registered model
    version: str = ""
    model_id: str = ""  # of MLflow's logged model
    fingerprint: str = ""  # of the data it was trained on
    latency_ms: float = float("nan")
    size_mb: float = float("nan")


@dataclass(frozen=True)
class Opened:
    """A contender, and what is known of it."""

    contender: Contender
    about: About = field(default_factory=lambda: About("baseline"))

    @property
    def label(self) -> str:
        return self.contender.label


def label_of(uri: str) -> str:
    """A short name: gru4rec/3 for models:/gru4rec/3, the last part of a folder's path."""
    found = re.fullmatch(r"models:/+(.+)", uri)
    return found[1] if found else storage.shown(uri).rstrip("/").rpartition("/")[2]


def model(
    uri: str, prepared: Prepared, tracking_uri: str = "", timed: Sessions | None = None, label: str = ""
) -> Opened:
    """The model at a URI or in a folder; with `timed` sessions, the time of their lists is measured.

    Its label is a short name unless one is given.

    Raises InputError where there is none.
    """
    resolved, version = registry.resolve(uri, tracking_uri)
    place = registry.fetch(resolved, tracking_uri)
    loaded = folder.load(place)
    known = catalogue(loaded.items)
    index = encoder(known, prepared.items)(pa.array(np.arange(len(prepared.items)), pa.int32()))
    found = registry.about(resolved, tracking_uri) if version else {}
    about = About(
        "version" if version else "folder",
        name=found.get("name", ""),
        version=version or "",
        model_id=found.get("model_id", ""),
        fingerprint=found.get("data_fingerprint", ""),
        latency_ms=float("nan") if timed is None else _latency(loaded, prepared, timed),
        size_mb=_size(place),
    )
    return Opened(Model(label or label_of(resolved), loaded.model, known.support, index), about)


def baseline(name: str, prepared: Prepared) -> Opened:
    """A baseline that learns from the training split."""
    return Opened(Baseline(name, prepared.folder), About("baseline", fingerprint=prepared.fingerprint))


def _latency(loaded: LoadedModel, prepared: Prepared, sessions: Sessions) -> float:
    """Median ms of the list of one session, asked for alone."""
    known = catalogue(loaded.items)
    ids = prepared.items["item_id"].combine_chunks()
    rows = np.random.default_rng(0).permutation(sessions.count)[:_TIMED]
    taken = []
    for row in rows.tolist():
        clicked = ids.take(pa.array(sessions.items[sessions.offsets[row] : sessions.offsets[row + 1]]))
        session = pa.table({"session_id": pa.nulls(1), "items": pa.ListArray.from_arrays([0, len(clicked)], clicked)})
        began = time.perf_counter()
        recommend(loaded.model, known, session, 20)
        taken.append(time.perf_counter() - began)
    return 1e3 * statistics.median(taken) if taken else 0.0


def _size(place: str) -> float:
    """MB of what is needed to recommend: weights and catalogue, without the optimizer's state."""
    filesystem, inner = storage.locate(place)
    sizes = [
        filesystem.get_file_info(f"{inner}/{name}").size or 0
        for name in storage.list_files(place)
        if name != folder.OPTIMIZER
    ]
    return sum(sizes) / 1e6
