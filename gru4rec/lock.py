"""One run at a time for one folder of results, or of a search.

On a local (or shared) file system a lock on the file `.lock`, which the kernel releases when its process ends, however
that ends. Object stores know no locks: there a run writes a claim, `_claims/RUN.json`, and while it runs `RUN.beat`
every few seconds. The earliest claim wins, by the store's own times; whoever finds an earlier one stops, unless its
run is dead: its process is gone, where that was on the same machine, or its beat has stood still for PATIENCE_S.

This only spares work and gives clear messages: what a run writes stays whole should it ever fail. Two of scoring write
the same bytes to the same files, or different results to different folders, and one step decides which counts; of two
searches, the one that takes over a trial of the other ends that one.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from pyarrow import fs

from gru4rec import storage
from gru4rec.errors import GRU4RecError
from gru4rec.storage import shown

LOCK, CLAIMS = ".lock", "_claims"
BEAT_S, PATIENCE_S = 5.0, 30.0
SETTLE_S = 2.1
"""Seconds after which a claim made at the same time is seen to be earlier or later: stores give times in seconds."""


def held(folder: str) -> contextlib.AbstractContextManager[Callable[[], None]]:
    """Hold the lock of `folder`, which is made, within the block; gives a function that checks that it still is held.

    Raises GRU4RecError where another run holds it; so does the function where another took it over.
    """
    storage.make_folder(folder)
    return _local(folder) if storage.is_local(folder) else _in_store(folder)


def _busy(folder: str, who: str) -> GRU4RecError:
    return GRU4RecError(
        f"{shown(folder)}: another run is writing here ({who}); nothing was changed; wait for its end and run again"
    )


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


@contextlib.contextmanager
def _local(folder: str) -> Iterator[Callable[[], None]]:
    path = storage.locate(storage.join(folder, LOCK))[1]
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _busy(folder, os.read(descriptor, 200).decode(errors="replace").strip() or "just begun") from None
        except OSError:
            pass  # a file system without locks
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{_me()}\n".encode())

        def check() -> None:
            try:
                same = os.path.samestat(os.fstat(descriptor), os.stat(path))
            except FileNotFoundError:
                same = False
            if not same:
                raise GRU4RecError(f"{path}: was deleted or replaced while the job ran; run the same command again")

        yield check
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _in_store(folder: str) -> Iterator[Callable[[], None]]:
    name, claims = uuid.uuid4().hex, storage.join(folder, CLAIMS)
    beat, claim = (storage.join(claims, f"{name}.{ending}") for ending in ("beat", "json"))
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(BEAT_S):
            with contextlib.suppress(OSError):  # the next one may get through
                storage.write_bytes(beat, b"alive")

    beating = threading.Thread(target=go_on, daemon=True)
    try:
        storage.write_bytes(beat, b"alive")
        storage.write_json(claim, {"who": _me(), **_process(os.getpid())})
        beating.start()
        time.sleep(SETTLE_S)
        _stop_for_earlier(folder, claims, name)

        def check() -> None:
            if not storage.exists(claim):
                raise GRU4RecError(f"{shown(folder)}: another run has taken over; nothing was published by this one")

        yield check
    finally:
        over.set()
        if beating.ident:
            beating.join()
        for path in (claim, beat):
            with contextlib.suppress(OSError):
                storage.remove_file(path)


def _stop_for_earlier(folder: str, claims: str, own: str) -> None:
    """Raises GRU4RecError where an earlier claim is alive; deletes those that are dead."""
    made = _times(claims, ".json")
    for name in sorted(made, key=lambda name: (made[name], name)):
        if name == own:
            return
        about: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            about = json.loads(storage.read_bytes(storage.join(claims, f"{name}.json")))
        if _alive(claims, name, about):
            raise _busy(folder, about.get("who", "just begun"))
        for ending in ("json", "beat"):
            with contextlib.suppress(OSError):
                storage.remove_file(storage.join(claims, f"{name}.{ending}"))
    raise GRU4RecError(f"{shown(folder)}: the claim of this run is gone; run the same command again")


def _alive(claims: str, name: str, about: dict[str, Any]) -> bool:
    mine = _process(os.getpid())
    if about.get("machine") == mine["machine"]:
        return _process(int(about["pid"])) == {key: about[key] for key in mine}
    before = _times(claims, ".beat").get(name)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        time.sleep(min(1.0, BEAT_S))
        if name not in _times(claims, ".json"):
            return False  # it has ended meanwhile
        if _times(claims, ".beat").get(name) != before:
            return True
    return False


def _times(claims: str, ending: str) -> dict[str, Any]:
    """When the store wrote each claim, or its beat."""
    filesystem, inner = storage.locate(claims)
    found = filesystem.get_file_info(fs.FileSelector(inner, allow_not_found=True))
    return {info.base_name.removesuffix(ending): info.mtime_ns for info in found if info.base_name.endswith(ending)}


def _process(pid: int) -> dict[str, Any]:
    """Tells a process from all others; its beginning is "" where it does not live or the system does not say."""
    began = ""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
        began = "" if fields[0] in "ZX" else fields[19]
    return {"machine": _machine(), "pid": pid, "began": began}


def _machine() -> str:
    """The running system and its space of process ids: containers of one machine do not see each other's."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            name = file.read() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return uuid.uuid4().hex  # no machine's: only the beat tells
    return hashlib.sha256(name.encode()).hexdigest()[:16]
