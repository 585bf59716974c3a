"""Reading ahead in a thread: the same parts, never more than a few at a time, and the thread goes."""

import threading
import time

import pytest

from gru4rec.training.read_ahead import AHEAD, ReadAhead


def test_all_parts_come_in_their_order():
    assert list(ReadAhead(number for number in range(1000))) == list(range(1000))


def test_no_more_is_read_than_is_wanted():
    read: list[int] = []
    resting = threading.Event()

    def parts():
        for number in range(100):
            read.append(number)
            if number + 1 == AHEAD or number == AHEAD:
                resting.set()
            yield number

    ahead = ReadAhead(parts())
    assert resting.wait(10)
    resting.clear()
    time.sleep(0.05)
    assert read == list(range(AHEAD))
    assert next(ahead) == 0
    assert resting.wait(10)
    time.sleep(0.05)
    assert read == list(range(AHEAD + 1))
    ahead.close()
    assert read == list(range(AHEAD + 1))
    assert next(ahead, None) is None


def test_closing_ends_the_generator_in_its_own_thread():
    ended: list[threading.Thread] = []

    def parts():
        try:
            while True:
                yield 1
        finally:
            ended.append(threading.current_thread())

    ahead = ReadAhead(parts())
    next(ahead)
    ahead.close()
    assert [thread.name for thread in ended] == ["read ahead"]
    assert not ended[0].is_alive()


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_an_error_is_raised_as_it_is_after_the_parts_before_it(error):
    def parts():
        yield 1
        raise error

    ahead = ReadAhead(parts())
    assert next(ahead) == 1
    with pytest.raises(type(error)) as caught:
        next(ahead)
    assert caught.value is error
    assert next(ahead, None) is None


def test_waited_counts_only_the_time_without_a_part():
    go = threading.Event()
    given = threading.Event()

    def parts():
        go.wait(10)
        yield 1
        yield 2
        given.set()
        yield 3

    ahead = ReadAhead(parts())
    timer = threading.Timer(0.1, go.set)
    timer.start()
    assert next(ahead) == 1
    assert 0.05 < ahead.waited < 5
    assert given.wait(10)  # the second part lies ready since the third is asked for
    before = ahead.waited
    time.sleep(0.05)
    assert next(ahead) == 2
    assert ahead.waited == before
    ahead.close()
    timer.join()
