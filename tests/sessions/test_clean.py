"""Cleaning, against an obvious implementation on lists."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gru4rec.sessions import clean, write
from gru4rec.sessions.clean import NEVER, TEST, TRAIN, VALID, Rules

CLICK = st.tuples(st.integers(0, 1), st.integers(0, 8), st.integers(0, 5), st.integers(0, 60))  # log session item time
CLICKS = st.lists(CLICK, min_size=1, max_size=80)


def table(clicks, ids=str):
    log, session, item, time = zip(*clicks, strict=True)
    return pa.table(
        {
            "log": pa.array(log, pa.int8()),
            "session": [ids(s) for s in session],
            "item": [ids(i) for i in item],
            "time": pa.array(time, pa.int64()),
            "position": pa.array(range(len(clicks)), pa.int64()),
        }
    )


def slow_sessions(clicks):
    """[(log, session, first position, items, times)] in order of first position."""
    found = {}
    for position, (log, session, item, time) in enumerate(clicks):
        found.setdefault((log, session), []).append((time, position, item))
    return [
        (
            log,
            str(s),
            min(p for _, p, _ in c),
            [str(i) for _, _, i in sorted(c)],
            [t for t, _, _ in sorted(c)],
        )
        for (log, s), c in sorted(found.items(), key=lambda e: min(p for _, p, _ in e[1]))
    ]


def as_lists(sessions):
    return list(zip(*(column.to_pylist() for column in sessions.columns), strict=True))


def rules(**changes):
    given = {"min_length": 1, "max_length": 0, "session_type": pa.string(), "item_type": pa.string()}
    return Rules(**{**given, **changes})


@given(CLICKS, st.randoms())
def test_sessions_are_whole_and_in_order_whatever_the_order_of_rows(clicks, random):
    rows = list(range(len(clicks)))
    random.shuffle(rows)
    found = clean.sessionise(table(clicks).take(pa.array(rows)))
    assert as_lists(found) == slow_sessions(clicks)


def test_integer_sessions_and_no_clicks():
    clicks = [(0, 7, 1, 5), (0, 3, 2, 4), (0, 7, 3, 5), (1, 7, 4, 0)]
    found = clean.sessionise(table(clicks, int))
    assert as_lists(found) == [(0, 7, 0, [1, 3], [5, 5]), (0, 3, 1, [2], [4]), (1, 7, 3, [4], [0])]
    assert clean.sessionise(table(clicks).slice(0, 0)).num_rows == 0


def slow_clean(clicks, min_length, max_length, support, valid_from, test_from):
    """The steps of the docstring, one by one: ({split: [(session, [item], …)]}, item index)."""
    splits = {TRAIN: [], VALID: [], TEST: []}
    for log, session, position, items, times in slow_sessions(clicks):
        if len(items) < min_length or (max_length and len(items) > max_length):
            continue
        split = TEST if log or times[-1] >= test_from else VALID if times[-1] >= valid_from else TRAIN
        splits[split].append((position, session, list(zip(times, items, strict=True))))
    counts = Counter(item for *_, clicks in splits[TRAIN] for _, item in clicks)
    # Clicks that go may be the first: a session then starts at the first that is left.
    left = [(p, s, [c for c in clicks if counts[c[1]] >= support]) for p, s, clicks in splits[TRAIN]]
    train = sorted((c[0][0], p, s, [i for _, i in c]) for p, s, c in left if len(c) >= min_length)
    index = {}
    for *_, items in train:
        for item in items:
            index.setdefault(item, len(index))
    out = {TRAIN: [(s, [index[i] for i in items]) for _, _, s, items in train]}
    for split in (VALID, TEST):
        known = [(p, s, [c for c in clicks if c[1] in index]) for p, s, clicks in splits[split]]
        kept = sorted((c[0][0], p, s, c) for p, s, c in known if len(c) >= max(2, min_length))
        out[split] = [(s, [index[i] for _, i in c]) for _, _, s, c in kept]
    return out, index, Counter(i for *_, items in train for i in items)


@given(
    CLICKS,
    st.integers(1, 3),
    st.sampled_from([0, 4]),
    st.integers(1, 4),
    st.sampled_from([(NEVER, NEVER), (30, NEVER), (40, 40), (20, 40)]),
    st.integers(1, 3),
)
def test_cleaning_is_what_the_steps_say_for_any_number_of_partitions(clicks, shortest, longest, least, cuts, parts):
    wanted, index, support = slow_clean(clicks, shortest, longest, least, *cuts)
    given = rules(min_length=shortest, max_length=longest, valid_from=cuts[0], test_from=cuts[1])
    rows = table(clicks)
    by_part = np.array([session % parts for _, session, _, _ in clicks])
    partitions = [clean.sessionise(rows.filter(pa.array(by_part == part))) for part in range(parts)]
    counts = clean.merged_support([clean.support(clean.kept(p, given)) for p in partitions])
    enough = [i for i, n in zip(*(c.to_pylist() for c in counts.columns), strict=True) if n >= least]
    given = rules(
        min_length=shortest,
        max_length=longest,
        valid_from=cuts[0],
        test_from=cuts[1],
        supported=pa.array(enough, pa.string()),
    )
    cleaned = [clean.supported(clean.kept(p, given), given) for p in partitions]
    firsts = clean.merged_first_clicks([clean.first_clicks(p) for p in cleaned])
    assert firsts["item"].to_pylist() == list(index)
    assert firsts["support"].to_pylist() == [support[item] for item in index]
    every = pa.concat_tables([clean.indexed(p, firsts["item"].combine_chunks())[0] for p in cleaned])
    lengths = clean.lengths(every)
    split = every["split"].to_numpy()
    every = every.filter(pa.array((lengths >= 1) & ((split == TRAIN) | (lengths >= max(2, shortest)))))
    for number, sessions in wanted.items():
        mine = write.ordered(every.filter(pa.array(every["split"].to_numpy() == number)))
        assert list(zip(mine["session"].to_pylist(), mine["items"].to_pylist(), strict=True)) == sessions


def test_with_a_support_of_one_nothing_goes():
    sessions = clean.kept(clean.sessionise(table([(0, 1, 1, 1), (0, 1, 2, 2), (0, 2, 3, 3)])), rules())
    assert clean.supported(sessions, rules()).equals(sessions)


def test_split_is_by_the_end_of_the_session():
    given = rules(valid_from=10, test_from=20)
    log, end = np.array([0, 0, 0, 0, 1]), np.array([9, 10, 19, 20, 0])
    assert clean.split_of(log, end, given).tolist() == [TRAIN, VALID, VALID, TEST, TEST]


@pytest.mark.parametrize(
    ("ids", "integers"),
    [
        (["0", "-5", "214536502", str(2**63 - 1)], True),
        (["007"], False),
        (["1", "a"], False),
        (["+1"], False),
        (["1.0"], False),
        (["-0"], False),
        ([str(2**63)], False),
        ([" 1"], False),
    ],
)
def test_integers_are_those_that_come_back_as_the_same_text(ids, integers):
    assert clean.are_integers(pa.chunked_array([ids])) is integers


@pytest.mark.parametrize("ids", [int, str])
def test_first_clicks_of_a_large_catalogue_are_in_order(ids):
    """Arrow works in batches of some ten thousand rows: the order must hold beyond them."""
    random = np.random.default_rng(0)
    count = 120_000
    item = random.integers(0, 70_000, count).tolist()
    clicks = [(0, n // 4, i, n) for n, i in enumerate(item)]
    given = rules(session_type=pa.int64() if ids is int else pa.string(), item_type=pa.array([ids(0)]).type)
    rows = table(clicks, ids)
    half = np.arange(count) // 4 % 2 == 0
    parts = [clean.kept(clean.sessionise(rows.filter(pa.array(mask))), given) for mask in (half, ~half)]
    firsts = clean.merged_first_clicks([clean.first_clicks(part) for part in parts])
    support = Counter(item)
    assert firsts["item"].to_pylist() == [ids(i) for i in dict.fromkeys(item)]
    assert firsts["support"].to_pylist() == [support[i] for i in dict.fromkeys(item)]
