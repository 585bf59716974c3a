"""Click times in every form become the same milliseconds."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gru4rec.sessions.times import LATEST, milliseconds

MS = 1_396_867_869_277  # 2014-04-07T10:51:09.277Z


@pytest.mark.parametrize(
    ("value", "unit"),
    [
        ("2014-04-07T10:51:09.277Z", "s"),
        ("2014-04-07 10:51:09.277", "s"),
        ("2014-04-07T12:51:09.277+02:00", "s"),
        ("2014-04-07T10:51:09.2770004Z", "s"),
        ("1396867869.277", "s"),
        (" 1396867869.277 ", "s"),
        ("+1396867869277", "ms"),
        ("1.396867869277e12", "ms"),
        ("1396867869277499", "us"),
        ("1396867869276500000", "ns"),
    ],
)
def test_text(value, unit):
    for column in (pa.array([value]), pa.array([value.encode()])):
        ms, ok = milliseconds(column, unit)
        assert ok.all()
        assert ms.tolist() == [MS]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "abc",
        "now",
        "NaN",
        "inf",
        "-1",
        "1e400",
        "2014-13-01",
        "2014-02-30T00:00:00Z",
        "0x10",
        "12:30",
        "2014-",
        None,
    ],
)
def test_what_is_no_time_is_not_readable_and_spoils_no_other(value):
    ms, ok = milliseconds(pa.array([value, "1396867869.277", "2014-04-07T10:51:09.277Z"]), "s")
    assert ok.tolist() == [False, True, True]
    assert ms.tolist() == [0, MS, MS]


def test_bytes_that_are_no_text():
    _, ok = milliseconds(pa.array([b"\xff", b"12"]), "s")
    assert ok.tolist() == [False, True]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([MS], pa.timestamp("ms", "UTC")),
        pa.array([MS], pa.timestamp("ms")),
        pa.array([MS * 1_000_000 + 499_999], pa.timestamp("ns")),
        pa.array([MS / 1000]),
        pa.array([MS], pa.timestamp("ms", "Europe/Berlin")),
    ],
)
def test_parquet_types(column):
    ms, ok = milliseconds(column, "s")
    assert ok.all()
    assert ms.tolist() == [MS]


def test_dates_and_nulls():
    ms, ok = milliseconds(pa.array([dt.date(1970, 1, 2), None]), "s")
    assert ms.tolist() == [86_400_000, 0]
    assert ok.tolist() == [True, False]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_numbers_beyond_the_calendar_are_not_readable(unit):
    _, ok = milliseconds(pa.array([2**63 - 1, -(10**9), 0]), unit)
    assert ok.tolist() == [unit == "ns", False, True]


@given(st.lists(st.integers(0, LATEST), min_size=1), st.sampled_from(["s", "ms", "us", "ns"]))
def test_whole_milliseconds_survive_every_form(values, unit):
    values = [value for value in values if unit != "ns" or value < 2**63 // 1_000_000]
    scale = {"s": 0.001, "ms": 1, "us": 1_000, "ns": 1_000_000}[unit]
    numbers = pa.array([value / 1000 for value in values] if unit == "s" else [value * scale for value in values])
    for column in (numbers, pa.array([repr(v) for v in numbers.to_pylist()], pa.string())):
        ms, ok = milliseconds(column, unit)
        assert ok.all()
        np.testing.assert_array_equal(ms, values)
