"""Files and folders that a job leaves where its user wants them: looked at before the work, made after it."""

import os
from collections.abc import Iterator
from typing import Any

from gru4rec import storage
from gru4rec.errors import InputError


def check_file(flag: str, path: str) -> None:
    """Raises InputError, in the name of the setting `flag`, where the file `path` could not be written at the end.

    An empty path is no file. Folders above it may be absent: `write_text` makes them. Object stores are not tried.
    """
    if not path or not storage.is_local(path):
        return
    if os.path.isdir(storage.locate(path)[1]):
        raise InputError(f"{flag} {path}: is a folder; name a file")
    _check_place(flag, path)


def check_folder(flag: str, path: str) -> None:
    """As `check_file`, for a folder that does not have to be there; what it holds is for the caller to judge."""
    if path and storage.is_local(path):
        _check_place(flag, path)


def _check_place(flag: str, path: str) -> None:
    """Raises InputError where nothing can be made at the local `path`: it goes by the nearest folder that is there."""
    place = os.path.dirname(storage.locate(path)[1])
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    if not os.path.isdir(place):
        raise InputError(f"{flag} {path}: {place} is not a folder; name another place")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{flag} {path}: {place} cannot be written to; name another place")


_COPIES = "/runtime_resources/working_dir_files/"  # where Ray unpacks the working directories of submitted jobs


def lost_with_the_job(settings: Any) -> Iterator[str]:
    """One line for each place that a job writes to inside the copy of the working directory that it was submitted with:
    Ray deletes that some time after the job.
    """
    here = os.path.join(os.getcwd(), "")
    if _COPIES not in here:
        return
    for name in ("out", "storage", "model_out"):
        path = getattr(settings, name, "")
        if path and "://" not in path and storage.absolute(path).startswith(here):
            yield (
                f"--{name.replace('_', '-')} {path} lies in the copy of the working directory that this submitted job "
                "runs in, and is lost with it; give an absolute path, or one on storage such as s3://"
            )


def write_text(path: str, text: str) -> None:
    """Write a file as `storage.write_bytes` does, and make the local folders above it that are absent."""
    if storage.is_local(path):
        os.makedirs(os.path.dirname(storage.locate(path)[1]), exist_ok=True)
    storage.write_bytes(path, text.encode())
