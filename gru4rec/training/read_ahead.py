"""Reading ahead: another thread reads what comes next while this one works on what is there."""

import threading
import time
import weakref
from collections.abc import Generator, Iterator
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")

AHEAD = 2
"""Parts that are read and not yet taken, at most: one ready, one being read."""


class ReadAhead(Iterator[T], Generic[T]):
    """The parts that a generator gives, read by a thread of its own, at most AHEAD of them before they are taken.

    What the generator raises is raised here in its turn, as it is. The thread ends with the generator, with close(),
    and when nothing refers to this object any longer. `waited`: seconds that the consumer was blocked so far.
    """

    def __init__(self, parts: Generator[T, None, None]) -> None:
        self.waited = 0.0
        self._wanted: SimpleQueue[bool] = SimpleQueue()  # True: read another part; False: end
        self._ready: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()
        for _ in range(AHEAD):
            self._wanted.put(True)
        # The thread knows the queues and not this object, which could otherwise never be collected.
        arguments = (parts, self._wanted, self._ready)
        self._thread = threading.Thread(target=_read, args=arguments, name="read ahead", daemon=True)
        self._end = weakref.finalize(self, _end, self._wanted)
        self._thread.start()

    def __next__(self) -> T:
        if not self._end.alive:
            raise StopIteration
        try:
            part, error = self._ready.get_nowait()
        except Empty:
            began = time.perf_counter()
            part, error = self._ready.get()
            self.waited += time.perf_counter() - began
        if part is None:
            self.close()
            raise error or StopIteration
        self._wanted.put(True)
        return part

    def close(self) -> None:
        """End the thread, and the generator in it; waits for the part that is being read. No part comes any more."""
        self._end()
        self._thread.join()


def _read(
    parts: Generator[T, None, None],
    wanted: SimpleQueue[bool],
    ready: SimpleQueue[tuple[T | None, BaseException | None]],
) -> None:
    try:
        while wanted.get():
            ready.put((next(parts), None))
    except StopIteration:
        ready.put((None, None))
    except BaseException as error:
        ready.put((None, error))
    finally:
        parts.close()


def _end(wanted: SimpleQueue[bool]) -> None:
    """Let the thread end once it has read the part in hand. Takes no lock: the garbage collector calls it anywhere."""
    try:
        while True:
            wanted.get_nowait()
    except Empty:
        wanted.put(False)
