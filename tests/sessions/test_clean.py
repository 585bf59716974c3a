"""Cleaning, against an obvious implementation on lists."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gru4rec import config
from gru4rec.sessions import clean, passes, write
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


def walked(clicks, given):
    """Steps 1 and 2 on one session's (time, item): what stays."""
    if given.drop_duplicates:
        clicks = list(dict.fromkeys(clicks))
    if given.drop_repeats:
        clicks = [c for n, c in enumerate(clicks) if not n or clicks[n - 1][1] != c[1]]
    return clicks


def unwanted(clicks, given):
    """Steps 3 to 5 on one session's (time, item): whether it goes."""
    times = [time for time, _ in clicks]
    most = max(sum(start <= time < start + 60_000 for time in times) for start in times)
    return (
        len(clicks) < given.min_length
        or bool(given.max_length and len(clicks) > given.max_length)
        or bool(given.max_per_minute and most > given.max_per_minute)
    )


def rare_gone(train, given, least, fixpoint):
    """Steps 7 and 8 on [(position, session, [(time, item), …])]."""
    while True:
        counts = Counter(item for *_, clicks in train for _, item in clicks)
        left = [(p, s, [c for c in clicks if counts[c[1]] >= least]) for p, s, clicks in train]
        left = [(p, s, c) for p, s, c in left if len(c) >= given.min_length]
        if not fixpoint or left == train:
            return left
        train = left


def slow_clean(clicks, given, least, fixpoint):
    """The steps of the docstring, one by one: ({split: [(session, [item], …)]}, item index)."""
    splits = {TRAIN: [], VALID: [], TEST: []}
    for log, session, position, items, times in slow_sessions(clicks):
        walk = walked(list(zip(times, items, strict=True)), given)
        if unwanted(walk, given):
            continue
        moment = walk[-1][0] if given.split_by == "end" else walk[0][0]
        split = TEST if log or moment >= given.test_from else VALID if moment >= given.valid_from else TRAIN
        splits[split].append((position, session, walk))
    left = rare_gone(splits[TRAIN], given, least, fixpoint)
    # Clicks that go may be the first: a session then starts at the first that is left.
    train = sorted((c[0][0], p, s, [i for _, i in c]) for p, s, c in left)
    index = {}
    for *_, items in train:
        for item in items:
            index.setdefault(item, len(index))
    out = {TRAIN: [(s, [index[i] for i in items]) for _, _, s, items in train]}
    for split in (VALID, TEST):
        known = [(p, s, [c for c in clicks if c[1] in index]) for p, s, clicks in splits[split]]
        kept = sorted((c[0][0], p, s, c) for p, s, c in known if len(c) >= max(2, given.min_length))
        out[split] = [(s, [index[i] for _, i in c]) for _, _, s, c in kept]
    return out, index, Counter(i for *_, items in train for i in items)


class Partitions(list):
    """Some blocks of sessions with the one method of a Ray dataset that the passes need."""

    def map_batches(self, task, **_):
        return Partitions(task(block) for block in self)

    def iter_batches(self, **_):
        return iter(block for block in self if block.num_rows)


RULES = st.builds(
    dict,
    min_length=st.integers(1, 3),
    max_length=st.sampled_from([0, 4]),
    drop_duplicates=st.booleans(),
    drop_repeats=st.booleans(),
    max_per_minute=st.sampled_from([0, 1, 3]),
    split_by=st.sampled_from(["end", "start"]),
)


@given(
    CLICKS,
    RULES,
    st.integers(2, 4),
    st.booleans(),
    st.sampled_from([(NEVER, NEVER), (30, NEVER), (40, 40), (20, 40)]),
    st.sampled_from([1, 3_000]),
    st.integers(1, 3),
)
def test_cleaning_is_what_the_steps_say_for_any_number_of_partitions(clicks, some, least, fixpoint, cuts, scale, parts):
    clicks = [(log, session, item, time * scale) for log, session, item, time in clicks]
    valid_from, test_from = (cut if cut == NEVER else cut * scale for cut in cuts)
    given = rules(**some, valid_from=valid_from, test_from=test_from)
    wanted, index, support = slow_clean(clicks, given, least, fixpoint)
    rows = table(clicks)
    by_part = np.array([session % parts for _, session, _, _ in clicks])
    partitions = Partitions(clean.sessionise(rows.filter(pa.array(by_part == part))) for part in range(parts))
    settings = config.Prepare(clicks=("x",), out="x", min_item_support=least, filter="fixpoint" if fixpoint else "once")
    given = passes.enough_support(partitions, given, settings)
    cleaned = [clean.supported(clean.kept(p, given), given) for p in partitions]
    firsts = clean.merged_first_clicks([clean.first_clicks(p) for p in cleaned])
    assert firsts["item"].to_pylist() == list(index)
    assert firsts["support"].to_pylist() == [support[item] for item in index]
    if fixpoint:
        assert all(count >= least for count in support.values())
    every = pa.concat_tables([clean.indexed(p, firsts["item"].combine_chunks())[0] for p in cleaned])
    lengths = clean.lengths(every)
    split = every["split"].to_numpy()
    every = every.filter(pa.array((lengths >= 1) & ((split == TRAIN) | (lengths >= max(2, given.min_length)))))
    for number, sessions in wanted.items():
        mine = write.ordered(every.filter(pa.array(every["split"].to_numpy() == number)))
        assert list(zip(mine["session"].to_pylist(), mine["items"].to_pylist(), strict=True)) == sessions


@given(CLICKS, RULES)
def test_what_the_first_steps_take_is_counted(clicks, some):
    given = rules(**some)
    sessions = clean.sessionise(table(clicks))
    found = passes._lengths(sessions, given, [False, False]).to_pylist()[0]
    before = [list(zip(times, items, strict=True)) for *_, items, times in slow_sessions(clicks)]
    after = [walked(session, given) for session in before]
    left = [session for session in after if not unwanted(session, given)]
    assert found["sessions"] == len(before)
    assert found["duplicates"] + found["repeats"] == sum(map(len, before)) - sum(map(len, after))
    gone = [sum(found[f"{name}_{what}"] for name in ("short", "long", "fast")) for what in ("sessions", "clicks")]
    assert gone == [len(after) - len(left), sum(map(len, after)) - sum(map(len, left))]
    assert found["left"] == len(left)


def test_exact_duplicates_need_not_be_neighbours_and_repeats_need():
    clicks = [(0, 1, 1, 5), (0, 1, 2, 5), (0, 1, 1, 5), (0, 1, 1, 6), (0, 1, 1, 7), (0, 2, 1, 5), (1, 1, 1, 5)]
    sessions = clean.sessionise(table(clicks, int))
    found, duplicates, repeats = clean.without_doubles(sessions, rules(drop_duplicates=True))
    assert (duplicates, repeats) == (1, 0)
    assert found["items"].to_pylist() == [[1, 2, 1, 1], [1], [1]]
    found, duplicates, repeats = clean.without_doubles(sessions, rules(drop_duplicates=True, drop_repeats=True))
    assert (duplicates, repeats) == (1, 1)
    assert found["items"].to_pylist() == [[1, 2, 1], [1], [1]]
    assert found["times"].to_pylist() == [[5, 5, 6], [5], [5]]


def test_a_minute_is_any_minute():
    times = {1: [0, 59_999], 2: [0, 60_000], 3: [30_000, 100_000, 159_999]}
    sessions = clean.sessionise(table([(0, s, n, t) for s, ts in times.items() for n, t in enumerate(ts)]))
    assert clean.too_fast(sessions, rules(max_per_minute=1)).tolist() == [True, False, True]
    assert clean.too_fast(sessions, rules(max_per_minute=2)).tolist() == [False, False, False]
    assert clean.too_fast(sessions, rules()).tolist() == [False, False, False]


def test_with_a_support_of_one_nothing_goes():
    sessions = clean.kept(clean.sessionise(table([(0, 1, 1, 1), (0, 1, 2, 2), (0, 2, 3, 3)])), rules())
    assert clean.supported(sessions, rules()).equals(sessions)


def test_split_by_start_is_by_what_the_log_says_where_it_says_it():
    clicks = table([(0, 1, 1, 5), (0, 1, 2, 90), (0, 2, 2, 8)])
    assert clean.moments(clean.sessionise(clicks), rules()).tolist() == [90, 8]
    assert clean.moments(clean.sessionise(clicks), rules(split_by="start")).tolist() == [5, 8]
    began = clicks.append_column("began", pa.array([4, 3, 8]))
    assert clean.moments(clean.sessionise(began), rules(split_by="start")).tolist() == [3, 8]
    assert clean.moments(clean.sessionise(began), rules()).tolist() == [90, 8]


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


def test_known_items_keep_their_places_also_without_a_click():
    firsts = pa.table({"item": ["n", "b", "m"], "support": [3, 9, 4], "start": [1, 2, 3]})
    found = clean.behind(pa.array(["a", "b", "c"]), firsts)
    assert found.to_pydict() == {"item": ["a", "b", "c", "n", "m"], "support": [0, 9, 0, 3, 4]}


@given(CLICKS, st.data())
def test_what_is_left_out_is_what_is_not_left(clicks, data):
    sessions = clean.numbered(clean.sessionise(table(clicks)))
    count = int(clean.lengths(sessions).sum())
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)), bool)
    after = clean.keep_clicks(sessions, keep)
    assert (clean.left_out(sessions, after) == ~keep).all()
    assert (clean.left_out(sessions, clean.filtered(after, clean.lengths(after) > 1)) >= ~keep).all()
