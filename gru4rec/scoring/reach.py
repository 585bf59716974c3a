"""Whether every node sees the folder that the driver has made for a result."""

import contextlib
import socket
import uuid
from collections.abc import Iterator

from gru4rec import storage
from gru4rec.errors import GRU4RecError

MARK = ".run-"


@contextlib.contextmanager
def marked(folder: str) -> Iterator[str]:
    """The name of a file that lies in a local `folder` within the block; "" on object stores, which all nodes reach.

    The name is new: a node may have a folder of the same name for itself, and network file systems remember for a while
    which names were not there. Raises GRU4RecError where the file cannot be written.
    """
    if not storage.is_local(folder):
        yield ""
        return
    mark = f"{MARK}{uuid.uuid4().hex}"
    try:
        for name in storage.list_files(folder):
            if name.startswith(MARK):  # of a run that was killed
                storage.remove_file(storage.join(folder, name))
        storage.write_bytes(storage.join(folder, mark), b"")
    except OSError as error:
        raise GRU4RecError(
            f"{storage.shown(folder)}: cannot be written: {error}; run the same command again"
        ) from error
    try:
        yield mark
    finally:
        with contextlib.suppress(OSError):
            storage.remove_file(storage.join(folder, mark))


def unseen(folder: str, mark: str) -> str:
    """What is wrong where this process does not see the file that `marked` has written; else ""."""
    try:
        if not mark or storage.exists(storage.join(folder, mark)):
            return ""
    except OSError:
        pass  # it may not look there
    return (
        f"--out: the node {socket.gethostname()} does not see {storage.shown(folder)}, which the driver has made: give "
        "a folder that all nodes reach, on a shared file system or an object store"
    )
