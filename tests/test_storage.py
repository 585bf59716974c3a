"""Files are whole or absent, on an object store as well."""

import random
import signal
import time

import pytest

from gru4rec import storage


class Interrupted(Exception):
    pass


def test_an_interrupt_leaves_the_old_object_or_the_new(bucket):
    """Wherever in the writing it comes."""
    _, uri = bucket
    path, contents = uri("manifest.json"), [b"a" * 5000, b"b" * 5000]
    storage.write_bytes(path, contents[0])
    began = time.perf_counter()
    storage.write_bytes(path, contents[0])
    usual, moments = time.perf_counter() - began, random.Random(0)

    def interrupt(*_):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    interrupted = 0
    try:
        for turn in range(40):
            try:
                signal.setitimer(signal.ITIMER_REAL, moments.uniform(0.1, 1.2) * usual)
                storage.write_bytes(path, contents[turn % 2])
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupted:
                interrupted += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert storage.read_bytes(path) in contents
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted


@pytest.mark.parametrize("content", [b"", b"x", bytes(7_000_000)])
def test_what_is_written_to_an_object_store_is_read(bucket, content):
    _, uri = bucket
    storage.write_bytes(uri("a"), content)
    assert storage.read_bytes(uri("a")) == content
