"""Going on from a prepared folder (`--base OLD`): its clicks come from there, and only new files are read.

A prepared folder holds all that its logs had but rejected rows and doubles: the sessions of its splits, and in
`left_out/` the clicks that cleaning took away, which may count one day: an item that is rare tonight is not in a
month, and a session that is too short at midnight goes on. Both come back as clicks, before those of the new files, and
all are cleaned and split anew. So the result is that of all logs prepared at once, but for two things. Items keep the
index that they have in the base, new ones come after them, and none goes for want of clicks. And where times are
equal, clicks and sessions of the base come in the order in which it holds them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gru4rec import config, storage
from gru4rec.errors import InputError
from gru4rec.sessions import id_bytes, inputs
from gru4rec.sessions.catalogue import is_integer
from gru4rec.sessions.formats import Format
from gru4rec.sessions.inputs import State
from gru4rec.sessions.prepared import ITEMS, LEFT_OUT, SPLITS, Prepared
from gru4rec.sessions.sources import Source

LEFT_OUT_COLUMNS = ("session_id", "item_id", "time")
TEST_LOG = "test_"
"""How names of files in `left_out/` begin that hold clicks of a test log."""

LOGS = ("base", "base_test_clicks")
"""Names in prepare.json of what comes from a base, by the log that it came from: --clicks or --test-clicks."""


class Base(NamedTuple):
    """A prepared folder to go on from."""

    prepared: Prepared
    logs: list[list[State]]  # the files that it is made of, those of its own base too, by log

    @property
    def lineage(self) -> list[str]:
        """What the bases before it, and it, are made of: digests, oldest first."""
        return [*self.prepared.summary.get("lineage", []), self.prepared.summary["made_of"]]

    @property
    def items(self) -> pa.Array:
        """Item ids in order of their index."""
        return self.prepared.items["item_id"].combine_chunks()

    @property
    def has_test_log(self) -> bool:
        """Whether its test split is a log of its own."""
        return bool(self.logs[1])


def opened(settings: config.Prepare, form: Format) -> Base | None:
    """The folder that `--base` names; None where it names none. Raises InputError for one that does not fit."""
    if not settings.base:
        return None
    name = f"--base {storage.shown(settings.base)}"
    if form.start:
        raise InputError(f"--base: not for --format {settings.format}, whose sessions' beginnings are not kept")
    prepared = Prepared(settings.base)
    prepared.verify_items()
    logs = inputs.read_files(prepared)
    if logs is None:
        raise InputError(f"{name}: was prepared before there was --base; prepare it again, from its logs")
    earlier = prepared.summary["settings"]
    if bool(form.gap) != bool(earlier["user_column"] or earlier["format"] == "retailrocket"):
        raise InputError(f"{name}: cuts sessions from users' clicks by a gap and these settings do not, or the reverse")
    return Base(prepared, logs)


def new_files(
    base: Base, logs: Sequence[Sequence[str]], states: Sequence[Sequence[State]]
) -> tuple[list[list[str]], list[list[State]]]:
    """(paths of each log that the base is not made of, all files that it and these are), from paths and `states`.

    Raises InputError for a file that has changed since the base was made: what it held then is there already.
    """
    new, every = [], []
    for paths, found, known in zip(logs, states, base.logs, strict=True):
        of_base = {state.path: state for state in known}
        for state in found:
            if of_base.get(state.path, state) != state:
                raise InputError(
                    f"{state.path}: has changed since {storage.shown(base.prepared.folder)} was made of it: its clicks "
                    "would count twice; give new clicks in new files, or prepare all again without --base"
                )
        added = [(path, state) for path, state in zip(paths, found, strict=True) if state.path not in of_base]
        new.append([path for path, _ in added])
        every.append(known + [state for _, state in added])
    return new, every


def sources(base: Base) -> list[Source]:
    """The files of the base that hold clicks: the first of all files."""
    prepared = base.prepared
    catalogue = storage.join(prepared.data, ITEMS)
    item_type = _plain(base.items.type)
    of_items = id_bytes.of_text(base.items) / max(len(base.items), 1)
    named = [(int(split == "test" and base.has_test_log), path) for split in SPLITS for path in prepared.files(split)]
    folder = storage.join(prepared.data, LEFT_OUT)
    named += [(int(name.startswith(TEST_LOG)), storage.join(folder, name)) for name in storage.list_files(folder)]
    found = []
    for number, (log, path) in enumerate(named):
        filesystem, inner = storage.locate(path)
        try:
            with filesystem.open_input_file(inner) as file:
                parquet = pq.ParquetFile(file)
                schema = parquet.schema_arrow
                session_type = _plain(schema.field("session_id").type)
                groups = [parquet.metadata.row_group(place) for place in range(parquet.metadata.num_row_groups)]
                names = parquet.schema.names
                leaf = names.index("element") if "element" in names else 0  # what each click has one of
                size = file.size()
                text = [
                    name for name in LEFT_OUT_COLUMNS[:2] if name in names and not is_integer(schema.field(name).type)
                ]
                length = id_bytes.mean(file, parquet.metadata, text) + (0 if "item_id" in names else of_items)
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            raise InputError(f"{storage.shown(path)}: cannot be read: {error}") from error
        clicks = tuple(group.column(leaf).num_values for group in groups)
        kinds = session_type, item_type
        found.append(Source(number, log, path, size, "", 0, (), kinds, clicks, id_bytes=length, catalogue=catalogue))
    return found


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind if is_integer(kind) else pa.string()


def clicks(source: Source, row_groups: range, form: Format) -> tuple[pa.Array, pa.Array, pa.Array]:
    """(session, item, time in ms) of each click in these row groups of a file of a base; with a gap, users as sessions.

    Raises OSError or pa.ArrowException where the file cannot be read.
    """
    filesystem, inner = storage.locate(source.path)
    with filesystem.open_input_file(inner) as file:
        table = pq.ParquetFile(file).read_row_groups(row_groups, use_threads=False).combine_chunks()
    if "items" in table.column_names:
        lengths = pc.list_value_length(table["items"]).to_numpy()
        session = _chunk(table["session_id"]).take(pa.array(np.repeat(np.arange(len(table)), lengths)))
        item = _catalogue(source.catalogue).take(_chunk(table["items"]).flatten())
        time = _chunk(table["times"]).flatten().cast(pa.int64())
    else:
        session, item, time = (_chunk(table[name]) for name in LEFT_OUT_COLUMNS)
    if form.gap:  # the id of a session that was cut from a user's clicks is USER_TIME
        session = pc.replace_substring_regex(session, "_[0-9]+$", "")
    return session, item, time


def _catalogue(path: str) -> pa.Array:
    """Item ids by index."""
    filesystem, inner = storage.locate(path)
    with filesystem.open_input_file(inner) as file:
        return _chunk(pq.ParquetFile(file).read(["item_id"])["item_id"])


def _chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])
