"""From a piece of the input to its part file: read, score, write, read back. Knows nothing of Ray.

A part that an earlier run of the same command has written is only read back.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from gru4rec import storage
from gru4rec.config import Hyperparameters
from gru4rec.errors import GRU4RecError, InputError
from gru4rec.model.encode import Start, final
from gru4rec.model.network import GRU4Rec, zero_states
from gru4rec.scoring import parts, source, states, steady
from gru4rec.scoring.recommend import Rules, known_clicks, lists, select
from gru4rec.scoring.topk import assortment
from gru4rec.sessions.catalogue import catalogue, encoder
from gru4rec.sessions.prepared import Sessions

TRIES, WAIT_S = 3, 1.0
"""A piece is tried so many times where an object store fails, first after this, then after twice this, and so on."""


@dataclass(frozen=True)
class Work:
    """What all pieces of a result have in common."""

    folder: str  # of the result
    key: str
    top_k: int
    exclude_seen: bool
    allowed: np.ndarray | None  # [n] int64: indices of the items that lists may show; None: all
    min_score: float | None
    embeddings: bool
    skip_corrupt: bool
    items: pa.Table  # the model's catalogue
    prepared: pa.Table | None  # the items table that clicks are indices of; None: clicks are item ids
    session_id: pa.DataType
    remember: bool = False  # write states for the next night
    earlier: states.Earlier | None = None  # what to go on from

    @property
    def longest(self) -> int:
        """Items of a list that nothing is left out of."""
        return min(self.top_k, len(self.items) if self.allowed is None else len(self.allowed))

    @property
    def short_allowed(self) -> bool:
        """Whether an option may leave lists shorter."""
        return self.exclude_seen or self.min_score is not None


class Outcome(NamedTuple):
    """A part, and what came of it."""

    part: parts.Part
    kept: bool  # it was there already
    exposure: np.ndarray  # lists that show each item, [V] int64


class Scorer:
    """Holds a model and its catalogue; turns pieces into part files."""

    def __init__(self, model: GRU4Rec, work: Work, index: states.Index | None = None) -> None:
        """`index` is that of `work.earlier`."""
        self.model, self.work = model, work
        self.known = catalogue(work.items)
        self.within = assortment(model, work.allowed)
        self.multiple = steady.rows(model)
        self.rules = Rules(
            work.top_k,
            work.exclude_seen,
            within=self.within,
            min_score=work.min_score,
            embeddings=work.embeddings,
            multiple=self.multiple,
        )
        self.reader = source.Reader(work.skip_corrupt)
        self.encode, self.index_of = encoder(self.known, work.prepared), encoder(self.known)
        self.index = index
        self.usable = index is not None and index.usable and steady.steady(model, self.within)
        self.widths = [state.shape[1] for state in zero_states(model.hyperparameters, 0)]

    def piece(self, number: int, spans: list[source.Span]) -> Outcome:
        """Make the part of a piece, unless it is there, and read it back.

        Raises InputError where the input cannot be read, OSError where the part cannot be written.
        """
        folder, key = self.work.folder, self.work.key
        beside = states.states_name(number)
        if parts.kept(folder, number, key) and (not self.work.remember or parts.kept(folder, number, key, beside)):
            with contextlib.suppress(*parts.DAMAGED):  # it is made again
                found = self._verified(number)
                if not found.part.first_wrong:
                    return found._replace(kept=True)
        read = self.reader.read(spans)
        sessions = self.empty() if read.sessions is None else read.sessions
        if self.work.remember:
            table, clicks, reached, counts = self.score_on(sessions)
            states.write(folder, number, clicks, reached, {"key": key, "piece": number, **counts})
        else:
            table = self.score(sessions)
        parts.write_part(folder, number, table, key, read.rejected, read.corrupt)
        return self._verified(number)

    def score(self, sessions: pa.Table) -> pa.Table:
        """Recommendations of a table of sessions, with session_id in the type that all parts share."""
        clicks, unknown = known_clicks(sessions["items"], self.encode)
        ended = final(self.model, clicks, None, self.multiple)
        return lists(self.model, self.known, self._session_id(sessions), clicks, unknown, ended, self.rules)

    def score_on(self, sessions: pa.Table) -> tuple[pa.Table, Sessions, np.ndarray, dict[str, int]]:
        """The same recommendations, of which what the earlier result knows is not computed again.

        Also the known clicks of each session, the states [n, Σ S·H] after them, and how many lists were taken over and
        how many sessions continued.
        """
        session_id = self._session_id(sessions)
        clicks, unknown = known_clicks(sessions["items"], self.encode)
        found, unused = self._known(session_id, clicks)
        others = np.setdiff1d(np.arange(clicks.count), found.unchanged)
        of_state = np.where(found.clicks > 0, np.cumsum(found.clicks > 0) - 1, -1)
        ended = final(
            self.model,
            select(clicks, others, found.clicks[others]),
            Start(of_state[others], states.layers(found.states, self.widths, self.model.device)),
            self.multiple,
        )
        reached = np.zeros((clicks.count, sum(self.widths)), np.float32)
        reached[found.unchanged] = found.states[of_state[found.unchanged]]
        known = ended.of >= 0
        reached[others[known]] = torch.cat(ended.states, dim=1).cpu().numpy()[ended.of[known]]
        table = lists(
            self.model,
            self.known,
            session_id.take(pa.array(others)),
            select(clicks, others),
            unknown[others],
            ended,
            self.rules,
        )
        if found.lists is not None:
            taken = found.lists.set_column(0, "session_id", session_id.take(pa.array(found.unchanged)))
            at = taken.column_names.index("unknown_clicks")
            taken = taken.set_column(at, "unknown_clicks", pa.array(unknown[found.unchanged].astype(np.int32)))
            order = np.argsort(np.concatenate([others, found.unchanged]))
            table = pa.concat_tables([table, taken.cast(table.schema)]).take(pa.array(order)).combine_chunks()
        counts = {
            "taken_over": len(found.unchanged),
            "continued": int((found.clicks[others] > 0).sum()),
            "unused": unused,
        }
        return table, clicks, reached, counts

    def _known(self, session_id: pa.ChunkedArray, clicks: Sessions) -> tuple[states.Known, int]:
        """What the earlier result knows; nothing, and 1, where it cannot be used: it is but a shorter way."""
        nothing = states.nothing(clicks.count, sum(self.widths))
        if self.work.earlier is None or self.index is None:
            return nothing, 0
        if not self.usable:
            return nothing, 1
        try:
            return states.known(self.work.earlier, self.index, session_id, clicks, sum(self.widths)), 0
        except parts.DAMAGED:
            return nothing, 1

    def _session_id(self, sessions: pa.Table) -> pa.ChunkedArray:
        return sessions["session_id"].cast(self.work.session_id)

    def empty(self) -> pa.Table:
        """What sessions without rows are read as."""
        items = pa.list_(pa.int32() if self.work.prepared is not None else self.known.ids.type)
        return pa.table({"session_id": pa.array([], self.work.session_id), "items": pa.array([], items)})

    def _verified(self, number: int) -> Outcome:
        name, work = parts.part_name(number), self.work
        part, exposure = parts.verify(work.folder, name, work.longest, len(work.items), self.index_of)
        if work.remember:
            beside = states.states_name(number)
            noted = parts.read_footer(work.folder, beside)
            counts = {name: noted.get(name, 0) for name in ("taken_over", "continued", "unused")}
            size = storage.sizes(work.folder, [beside])[0] or 0
            part = part._replace(**counts, states_bytes=size)
        return Outcome(part, False, exposure)


def attempt(make: Callable[[], Outcome], folder: str) -> dict[str, Any]:
    """The outcome as plain values, and errors as such too, since Ray wraps what is raised.

    An object store that fails is given another chance; a full disk would not change in seconds.
    """
    for again in reversed(range(1 if storage.is_local(folder) else TRIES)):
        try:
            return _plain(make())
        except GRU4RecError as error:
            return failed(str(error), isinstance(error, InputError))
        except (OSError, pa.ArrowException) as error:
            said = f"{storage.shown(folder)}: cannot be written or read back: {error}; run the same command again"
            if not again:
                return failed(said)
            time.sleep(WAIT_S * 2 ** (TRIES - 1 - again))
        except ValueError as error:
            return failed(f"{type(error).__name__}: {error}")
    raise AssertionError("unreachable")


def _plain(outcome: Outcome) -> dict[str, Any]:
    shown = np.flatnonzero(outcome.exposure)
    return {
        "error": "",
        "bad_input": False,
        "part": json.dumps(outcome.part._asdict()),
        "kept": outcome.kept,
        "shown": shown.astype(np.int32).tobytes(),
        "lists": outcome.exposure[shown].astype(np.int32).tobytes(),
    }


def failed(error: str, bad_input: bool = False) -> dict[str, Any]:
    """As `attempt`, of a piece that was not made."""
    return {"error": error, "bad_input": bad_input, "part": "", "kept": False, "shown": b"", "lists": b""}


def outcome(plain: dict[str, Any], items: int) -> Outcome:
    """What `attempt` made plain, of a catalogue of so many items; raises the error that it tells of."""
    if plain["error"]:
        raise (InputError if plain["bad_input"] else GRU4RecError)(plain["error"])
    exposure = np.zeros(items, np.int64)
    exposure[np.frombuffer(plain["shown"], np.int32)] = np.frombuffer(plain["lists"], np.int32)
    part = json.loads(plain["part"])
    return Outcome(parts.Part(**{**part, "corrupt": tuple(part["corrupt"])}), plain["kept"], exposure)


def given(model: GRU4Rec) -> dict[str, Any]:
    """A model as plain arrays, to lie once in the memory that the actors of a machine share."""
    weights = {name: weight.cpu().numpy() for name, weight in model.tensors().items()}
    return {"weights": weights, "hyperparameters": dataclasses.asdict(model.hyperparameters)}


def taken(given: dict[str, Any], device: str) -> GRU4Rec:
    tensors = {name: torch.from_numpy(weight) for name, weight in given["weights"].items()}
    return GRU4Rec.from_tensors(Hyperparameters(**given["hyperparameters"]), tensors).to(device)
