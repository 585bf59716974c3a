"""Click times in any written form → milliseconds since 1970 UTC."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

UNITS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
LATEST = 253_402_300_799_999  # the end of the year 9999
_INTEGER = r"^[+-]?([0-9]{1,18}|[1-8][0-9]{18})$"  # what 64 bits surely hold
_DECIMAL = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"


def milliseconds(column: pa.Array, unit: str) -> tuple[np.ndarray, np.ndarray]:
    """(ms [rows] int64, readable [rows] bool) of a time column.

    `column` holds numbers in `unit` (s, ms, us, ns) since 1970 UTC, ISO-8601 text, both as text or bytes,
    or Arrow timestamps or dates; a time without a zone is UTC. Rounded to the nearest ms. Not readable:
    missing, neither a number nor a date, before 1970 or after the year 9999; its ms is 0.
    """
    kind = column.type
    if pa.types.is_timestamp(kind):
        ms, ok = _rounded(column.cast(pa.int64()), kind.unit)
    elif pa.types.is_date(kind):
        ms, ok = _rounded(column.cast(pa.timestamp("ms")).cast(pa.int64()), "ms")
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        ms, ok = _rounded(column, unit)
    else:
        ms, ok = _from_text(column, unit)
    return checked(ms, ok)


def in_another_unit(column: pa.Array, unit: str) -> dict[int, tuple[str, int]]:
    """Place in `column` → (unit, year) of each time that would lie in 1990 to 2099 if it were in another unit than
    `unit`. No number does so in two units; a date is the same in each.
    """
    found: dict[int, tuple[str, int]] = {}
    for other in UNITS_PER_SECOND:
        if other != unit:
            ms, ok = milliseconds(column, other)
            years = ms.astype("datetime64[ms]").astype("datetime64[Y]").astype(np.int64) + 1970
            found |= {int(i): (other, int(years[i])) for i in np.flatnonzero(ok & (years >= 1990) & (years < 2100))}
    return found


def checked(ms: np.ndarray, ok: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(ms, readable) with times before 1970 and after the year 9999 not readable; the ms of such is 0."""
    ok = ok & (ms >= 0) & (ms <= LATEST)
    return np.where(ok, ms, 0), ok


def whole_numbers(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(numbers [rows] int64, readable [rows] bool) of whole numbers from 0 to LATEST, given as such or as text."""
    if pa.types.is_integer(column.type):
        numbers, ok = _rounded(column, "ms")
    else:
        text = pc.ascii_trim_whitespace(_ascii(column).fill_null(""))
        ok = pc.match_substring_regex(text, r"^[0-9]{1,18}$").to_numpy(zero_copy_only=False)
        numbers = pc.if_else(pa.array(ok), text, "0").cast(pa.int64()).to_numpy()
    return checked(numbers, ok)


def calendar(year: pa.Array, month: pa.Array, day: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(ms [rows] int64, readable [rows] bool) of days of the calendar (UTC), each column whole numbers."""
    (y, is_y), (m, is_m), (d, is_d) = (whole_numbers(column) for column in (year, month, day))
    ok = is_y & is_m & is_d & (y >= 1970) & (y <= 9999) & (m >= 1) & (m <= 12) & (d >= 1) & (d <= 31)
    months = np.where(ok, (y - 1970) * 12 + m - 1, 0).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + np.where(ok, d - 1, 0)
    ok &= days.astype("datetime64[M]") == months  # no 31st of June
    return checked(days.astype("datetime64[ms]").astype(np.int64), ok)


def _rounded(column: pa.Array, unit: str) -> tuple[np.ndarray, np.ndarray]:
    """Numbers in `unit` → ms, half up. Integers stay integers: a float cannot hold every ns."""
    ok = column.is_valid().to_numpy(zero_copy_only=False)
    values = column.fill_null(0).to_numpy(zero_copy_only=False)
    per_second = UNITS_PER_SECOND[unit]
    if values.dtype.kind == "f":
        # Rounded, not floor(x + 0.5): the sum would itself be rounded for large x.
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = np.rint(values.astype(np.float64) * (1_000 / per_second))
        ok = ok & np.isfinite(scaled) & (np.abs(scaled) <= LATEST)
        return np.where(ok, scaled, 0).astype(np.int64), ok
    if values.dtype.kind == "u":
        ok = ok & (values <= np.iinfo(np.int64).max)
        values = np.where(ok, values, 0)
    values = values.astype(np.int64)
    if per_second > 1_000:
        step = per_second // 1_000
        return values // step + (values % step >= step - step // 2), ok
    ok = ok & (np.abs(values) <= LATEST)  # what is beyond would overflow
    return np.where(ok, values, 0) * (1_000 // per_second), ok


def _from_text(column: pa.Array, unit: str) -> tuple[np.ndarray, np.ndarray]:
    text = pc.ascii_trim_whitespace(_ascii(column).fill_null(""))
    moments = _all_with_zone(text)
    if moments is not None:  # no number ends with Z
        return moments, np.ones(len(text), bool)
    ms, ok = np.zeros(len(text), np.int64), np.zeros(len(text), bool)
    left = np.ones(len(text), bool)
    for pattern, kind in ((_INTEGER, pa.int64()), (_DECIMAL, pa.float64())):
        if not left.any():
            break
        numbers = left & pc.match_substring_regex(text, pattern).to_numpy(zero_copy_only=False)
        if numbers.any():
            unsigned = pc.replace_substring_regex(text.filter(pa.array(numbers)), r"^\+", "")
            ms[numbers], ok[numbers] = _rounded(unsigned.cast(kind), unit)
        left &= ~numbers
    # A date has a dash after its year; the parser alone would take a bare year or a word such as "now" for
    # one.
    dates = left & pc.match_substring_regex(text, r"^[0-9]{4}-[0-9]").to_numpy(zero_copy_only=False)
    if dates.any():
        ms[dates], ok[dates] = _from_dates(text.filter(pa.array(dates)))
    return ms, ok


def _all_with_zone(text: pa.Array) -> np.ndarray | None:
    """ms of dates that all end with Z and have no more digits than ms, [rows] int64; None where one is different."""
    if not pc.all(pc.ends_with(text, "Z")).as_py():
        return None
    try:
        return text.cast(pa.timestamp("ms", "UTC")).cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid:
        return None


def _from_dates(text: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    moments = _all_with_zone(text)
    if moments is not None:
        return moments, np.ones(len(text), bool)
    parsed = pd.to_datetime(pd.Series(text.to_pylist()), format="ISO8601", utc=True, errors="coerce")
    moments = parsed.dt.tz_convert(None).to_numpy().astype("datetime64[us]")
    return _rounded(pa.array(moments).cast(pa.int64()), "us")


def _ascii(column: pa.Array) -> pa.Array:
    """Text of a binary or text column; what is not ASCII becomes "" (it is no time)."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([v.decode() if v is not None and v.isascii() else "" for v in column.to_pylist()])
