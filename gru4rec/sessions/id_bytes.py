"""How long ids in text are, and how many of them a table can hold."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

MOST = 2**31 - 1
"""Bytes of text that Arrow holds in one array of its type `string`."""

_ROWS = 1024  # that are looked at
_BUFFER = 2**20  # bytes read at a time; without, all of a column of a row group


def mean(file: pa.NativeFile, footer: pq.FileMetaData, columns: Sequence[str]) -> float:
    """Bytes that the ids of a row of a Parquet file have in these columns of text together, about: by the first rows of
    its middle row group. The footer does not tell: it gives sizes of what is packed, each id once.

    0 where they cannot be read: whoever reads all of the file will say so.
    """
    groups = [group for group in range(footer.num_row_groups) if footer.row_group(group).num_rows]
    if not groups or not columns:
        return 0.0
    parquet = pq.ParquetFile(file, metadata=footer, buffer_size=_BUFFER, pre_buffer=False)
    try:
        read = parquet.iter_batches(_ROWS, [groups[len(groups) // 2]], columns=list(columns), use_threads=False)
        rows = next(read)
        return sum(of_text(rows[name]) for name in columns) / rows.num_rows
    except (OSError, pa.ArrowException, StopIteration):
        return 0.0


def of_text(ids: pa.Array | pa.ChunkedArray) -> int:
    """Bytes of all ids; 0 for integers."""
    if pa.types.is_dictionary(ids.type):
        ids = ids.cast(ids.type.value_type)
    return 0 if pa.types.is_integer(ids.type) else pc.sum(pc.binary_length(ids)).as_py() or 0


def too_many(clicks: pa.Table, partitions: int) -> str:
    """What is wrong where a partition's clicks have more bytes of ids than can be put together to sessions; else ""."""
    for name in ("session", "item"):
        found = of_text(clicks[name])
        if found > MOST:
            return (
                f"the {name} ids of one of {partitions} partitions have {found:,} bytes together, more than the "
                f"{MOST:,} that it can hold: give --partitions {partitions * (1 + 2 * found // MOST)} or more"
            )
    return ""
