"""The processes below one that a test has started, as Linux shows them, and whether all of them are gone."""

import os
import threading
import time
from typing import NamedTuple

PATIENCE_S = 90.0
"""Seconds for processes to end. Ray's agents go with their raylet within seconds; but where that was killed, they first
try for a minute to tell the head of it, which may be dead too.
"""


class Process(NamedTuple):
    """A process that no other is taken for: numbers are given again, beginnings are not."""

    pid: int
    began: int  # clock ticks since the machine's start


class Family:
    """All descendants that a process ever has, also those that outlive it or go to another parent."""

    def __init__(self, root: int) -> None:
        self._known: dict[Process, str] = {}
        began = _stat(root)
        if began:
            self._known[Process(root, began[1])] = "driver"
        self._over = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)
        self._looking.start()

    def alive(self, name: str = "") -> list[Process]:
        """Those that live (zombies do not) and whose command line begins with `name`."""
        self._add_children()
        living = (process for process in list(self._known) if _lives(process))
        return sorted(process for process in living if _command(process.pid).startswith(name))

    def left(self, within_s: float) -> list[str]:
        """What still lives after so many seconds, for a person to read; ends the watch."""
        until = time.monotonic() + within_s
        while (living := self.alive()) and time.monotonic() < until:
            time.sleep(0.2)
        self._over.set()
        self._looking.join()
        return [f"{process.pid} {_command(process.pid)[:100]}" for process in living]

    def kill(self) -> None:
        """End whatever is left."""
        for process in self.alive():
            signalled(process, 9)

    def _look(self) -> None:
        while not self._over.wait(0.1):
            self._add_children()

    def _add_children(self) -> None:
        known = {process.pid for process in list(self._known) if _lives(process)}
        found = {int(name): stat for name in os.listdir("/proc") if name.isdigit() and (stat := _stat(int(name)))}
        grown = True
        while grown:
            grown = False
            for pid, (parent, began) in found.items():
                if parent in known and pid not in known:
                    known.add(pid)
                    self._known[Process(pid, began)] = ""
                    grown = True


def _stat(pid: int) -> tuple[int, int] | None:
    """Parent and beginning; None for what does not live."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else (int(fields[1]), int(fields[19]))


def _lives(process: Process) -> bool:
    found = _stat(process.pid)
    return found is not None and found[1] == process.began


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read().replace("\0", " ")
    except OSError:
        return ""


def parent(process: Process) -> int:
    """The number of the process that started it, or that it was left to; 0 where it does not live."""
    found = _stat(process.pid)
    return found[0] if found and found[1] == process.began else 0


def signalled(process: Process, number: int) -> bool:
    """Send it, if the process still is the one that was meant; whether it was."""
    if not _lives(process):
        return False
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    return True
