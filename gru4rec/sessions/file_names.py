"""Which files of a folder are read, by their names: what is not read is counted, and said."""

from collections.abc import Sequence

from gru4rec import storage

PARQUET = (".parquet", ".pq")
PACKED = (".gz", ".bz2", ".zip", ".zst", ".xz", ".7z")
UNPACK = "compressed files are not read; unpack it first"

_SHOWN = 5  # names in a message


def visible(name: str) -> bool:
    """Whether no part of a path inside a folder begins with `.` or `_`, as what is none of its content does."""
    return not any(part[0] in "._" for part in name.split("/") if part)


def not_read(given: str, names: Sequence[str], known: Sequence[str]) -> str:
    """The line that says which files of a folder are not read, their names ending in none of `known`."""
    shown = ", ".join(storage.shown(name) for name in names[:_SHOWN]) + ", …" * (len(names) > _SHOWN)
    return f"{given}: {len(names)} file(s) are not read, whose names do not end in {' '.join(known)}: {shown}"
