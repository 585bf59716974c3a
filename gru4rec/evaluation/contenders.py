"""What is compared: model versions, model folders and baselines, each measured on the same predictions."""

import re
import statistics
import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from gru4rec import storage
from gru4rec.config import Compare
from gru4rec.evaluation import baselines, model_ranks
from gru4rec.model.encode import final_states
from gru4rec.scoring.recommend import recommend, select
from gru4rec.scoring.topk import best_items
from gru4rec.sessions.catalogue import catalogue, encoder
from gru4rec.sessions.prepared import Prepared, Sessions
from gru4rec.tracking import folder, registry
from gru4rec.tracking.folder import LoadedModel

LIST = 20  # items of a list whose coverage is measured
_TIMED = 200  # sessions whose list is timed, one by one


@dataclass(frozen=True)
class Contender:
    """A model or baseline with its rank of every next click."""

    label: str
    ranks: np.ndarray  # [T] float64
    kind: str  # "version", "folder" or "baseline"
    name: str = ""  # of the registered model
    version: str = ""
    model_id: str = ""  # of MLflow's logged model
    fingerprint: str = ""  # of the data it was trained on
    unknown: int = 0  # next clicks on items that it does not know
    unstarted: int = 0  # next clicks before which it knows none of the session's
    coverage: float = float("nan")  # share of the prepared catalogue that its lists show
    latency_ms: float = float("nan")
    size_mb: float = float("nan")


def label_of(uri: str) -> str:
    """A short name: gru4rec/3 for models:/gru4rec/3, the last part of a folder's path."""
    found = re.fullmatch(r"models:/+(.+)", uri)
    return found[1] if found else storage.shown(uri).rstrip("/").rpartition("/")[2]


def model(uri: str, prepared: Prepared, sessions: Sessions, settings: Compare) -> Contender:
    """Measure the model at a URI or in a folder. Raises InputError where there is none."""
    resolved, version = registry.resolve(uri, settings.tracking_uri)
    place = registry.fetch(resolved, settings.tracking_uri)
    loaded = folder.load(place)
    known = catalogue(loaded.items)
    index = encoder(known, prepared.items)(pa.array(np.arange(len(prepared.items)), pa.int32()))
    ranked = model_ranks.rank(loaded.model, known.support, sessions, index, settings.ties)
    about = registry.about(resolved, settings.tracking_uri) if version else {}
    return Contender(
        label_of(resolved),
        ranked.ranks,
        "version" if version else "folder",
        name=about.get("name", ""),
        version=version or "",
        model_id=about.get("model_id", ""),
        fingerprint=about.get("data_fingerprint", ""),
        unknown=ranked.unknown,
        unstarted=ranked.unstarted,
        coverage=_coverage(loaded, sessions, index),
        latency_ms=_latency(loaded, prepared, sessions),
        size_mb=_size(place),
    )


def baseline(name: str, prepared: Prepared, train: Sessions, sessions: Sessions, settings: Compare) -> Contender:
    """Learn a baseline from the training split and measure it."""
    ranks = baselines.ranks(name, train, sessions, len(prepared.items), settings.ties)
    return Contender(name, np.asarray(ranks, np.float64), "baseline", fingerprint=prepared.fingerprint)


def _coverage(loaded: LoadedModel, sessions: Sessions, index: np.ndarray) -> float:
    """Share of the prepared items [P] that are in a list after the last click of some session."""
    clicked = index[sessions.items]
    known = clicked >= 0
    kept = Sessions(np.concatenate([[0], np.cumsum(known)])[sessions.offsets], clicked[known].astype(np.int32))
    active = select(kept, np.flatnonzero(kept.lengths))
    _, items = best_items(loaded.model, final_states(loaded.model, active), LIST)
    shown = np.zeros(loaded.model.item_count, bool)
    shown[items.cpu().numpy().ravel()] = True
    return float(shown[index[index >= 0]].sum() / max(len(index), 1))


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
        recommend(loaded.model, known, session, LIST)
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
