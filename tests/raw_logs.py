"""Raw files put together to sessions in this process, as prepare's tasks do it."""

from typing import NamedTuple

import pyarrow as pa

from gru4rec import cli, config
from gru4rec.sessions import clean, formats, read, sources


class Read(NamedTuple):
    """What came out of some files."""

    sessions: pa.Table
    clicks: int
    rejected: pa.Table
    left_out: int
    rows: int


def form(**settings) -> formats.Format:
    return formats.chosen(cli.check(config.Prepare, {"clicks": ("x",), "out": "x", **settings}))


def put_together(paths, chosen: formats.Format, read_bytes: int = sources.READ_BYTES) -> Read:
    """All files at `paths` (files, folders, globs) in one partition."""
    files = sources.open_all([sources.paths_of([str(path) for path in paths], "--clicks").files], chosen, {})
    types = sources.carried_types(files)
    found = [read.read(piece, chosen, types) for task in sources.pieces(files, read_bytes) for piece in task]
    clicks = pa.concat_tables([f.clicks for f in found])
    return Read(
        clean.sessionise(clicks, chosen.gap),
        clicks.num_rows,
        pa.concat_tables([f.rejected for f in found]),
        sum(f.left_out for f in found),
        sum(f.rows for f in found),
    )
