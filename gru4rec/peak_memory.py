"""Memory of a process and everything it has started, with what they share counted once (Linux)."""

import contextlib
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

_SHARED = "/dev/shm"  # noqa: S108  where Ray keeps its object store


class Sample(NamedTuple):
    """Memory at one moment, bytes."""

    moment: float  # seconds since 1970
    own: int  # of all processes; pages that several map are shared out among them
    shared: int  # what has been put into shared memory since the sampler was made: Ray's object store

    @property
    def total(self) -> int:
        return self.own + self.shared


class Sampler:
    """Looks at the memory of a process tree a few times a second while its block runs.

    `samples` then holds what it saw. The processes' own memory is Pss_Anon and Pss_File of /proc/PID/smaps_rollup;
    shared memory is counted at its source, as the growth of /dev/shm, since pages of an object that no living process
    has touched appear in none of them. So whatever else fills /dev/shm meanwhile is counted too. A process that
    outlives its parent and is no longer below `root` is missed; Ray's are children of the driver or of its raylet.
    """

    def __init__(self, root: int, period: float = 0.2) -> None:
        """`root`: the process at the top; `period`: seconds between two looks."""
        self.samples: list[Sample] = []
        self._root, self._period = root, period
        self._before = _in_shared_memory()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def peak(self) -> Sample:
        """The sample with the highest total."""
        return max(self.samples, key=lambda sample: sample.total)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            own = sum(map(own_memory, tree(self._root)))
            shared = max(0, _in_shared_memory() - self._before)
            self.samples.append(Sample(time.time(), own, shared))
            if self._over.wait(self._period):
                return


def tree(root: int) -> list[int]:
    """The process `root` and all processes below it."""
    below: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):  # has ended meanwhile
                # The name, in brackets, may hold anything; the parent is the second word after it.
                stat = Path(f"/proc/{entry}/stat").read_text(errors="replace")
                below.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry))
    found = [root]
    for process in found:  # grows while it is walked
        found += below.get(process, [])
    return found


def own_memory(process: int) -> int:
    """Bytes of a process outside shared memory, pages that several map shared out among them; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    sizes = {name: value for name, _, value in (line.partition(":") for line in lines)}
    return sum(int(sizes[name].split()[0]) * 1024 for name in ("Pss_Anon", "Pss_File") if name in sizes)


def _in_shared_memory() -> int:
    try:
        found = os.statvfs(_SHARED)
    except OSError:
        return 0
    return (found.f_blocks - found.f_bfree) * found.f_frsize
