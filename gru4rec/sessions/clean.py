"""Clicks → clean sessions, as pure functions on Arrow tables; each works on a whole partition at once.

Sessions are a table of one row a session: `log` int8 (0: --clicks, 1: --test-clicks), `session` (id),
`position` int64 (of its first row in the log), `items` list<id>, `times` list<int64> (ms), clicks in order
of (time, file, row), and, where the log says when a session began, `began` int64 (ms).

What is taken away, in this order; steps 1, 2 and 5 only where asked for:

1. Exact duplicates: clicks of the same session, item and time as another; the first stays.
2. Consecutive repeats: clicks on the item of the click before them; the first of a run stays.
3. Sessions with fewer than `min_length` clicks, in every log; so are 4 and 5.
4. Sessions with more than `max_length` clicks.
5. Sessions with more than `max_per_minute` clicks in some minute: [t, t + 60 s) for any t.
6. The split: by the end or the start of a session, see `Rules`. Each session belongs to one split as a whole.
7. Training clicks on items with fewer than `min_item_support` training clicks. Only training clicks count,
   since an item that is known from the test split alone could not have been learnt. With a support of 1
   nothing is removed.
8. Training sessions that now have fewer than `min_length` clicks. Once: supports are not counted again
   afterwards, so that an item can end up with less support than asked for, as in the published preparation
   of the RSC15 log. Or until nothing changes: 7 and 8 again and again, until every item has its support and
   every session its length; what is left then is the most that can be, in whichever order it is reached.
   Steps 1 and 2 are not repeated: where a rare item goes, two clicks on another can become neighbours.
9. Validation and test clicks on items that the training split, after step 8, does not have.
10. Validation and test sessions that now have fewer than `min_length` clicks, and never fewer than 2: a
    single click leaves nothing to predict.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from gru4rec.sessions.prepared import SPLITS

NEVER = np.iinfo(np.int64).max
MINUTE = 60_000  # ms
TRAIN, VALID, TEST = range(len(SPLITS))


@dataclass(frozen=True)
class Rules:
    """What is known so far about what stays."""

    min_length: int
    max_length: int  # 0: no limit
    session_type: pa.DataType  # of the ids that are written
    item_type: pa.DataType
    drop_duplicates: bool = False
    drop_repeats: bool = False
    max_per_minute: int = 0  # 0: no limit
    split_by: str = "end"  # or "start": what counts of a session of log 0, its last click or its beginning:
    valid_from: int = NEVER  # ms; at or after it the session is validation,
    test_from: int = NEVER  # and from here on test
    supported: pa.Array | None = None  # items with enough support; None: all
    known: pa.Array | None = None  # items that stay whatever their support, the first of the index; None: there is none


def sessionise(clicks: pa.Table, gap: int = 0) -> pa.Table:
    """Put clicks together to sessions; all clicks of a session must be in `clicks`.

    `clicks`: log, session, item, time, position, and `began` (ms) where the log says when a session began; in any
    order. With a `gap` (ms) the column session holds users, in text, and all clicks of a user must be in `clicks`:
    one more than `gap` after the user's click before begins a session, whose id is `USER_TIME`, with the time of its
    first click in ms. Returns one row a session, in order of `position`.
    """
    clicks = clicks.combine_chunks()
    log = _numpy(clicks["log"])
    time, position = _numpy(clicks["time"]), _numpy(clicks["position"])
    session = _chunk(clicks["session"])
    key = _codes(session)
    order = np.lexsort((position, time, key, log))
    new = np.ones(len(order), bool)
    if len(order):
        new[1:] = (np.diff(key[order]) != 0) | (np.diff(log[order]) != 0)
        if gap:
            new[1:] |= np.diff(time[order]) > gap
    starts = np.flatnonzero(new)
    offsets = pa.array(np.append(starts, len(order)).astype(np.int32))
    firsts = _least(position[order], starts)
    heads = pa.array(order[starts])
    ids = session.take(heads)
    if gap:
        ids = pc.binary_join_element_wise(ids, pa.array(time[order[starts]]).cast(pa.string()), "_")
    columns = {
        "log": clicks["log"].take(heads),
        "session": ids,
        "position": firsts,
        "items": pa.ListArray.from_arrays(offsets, _chunk(clicks["item"]).take(pa.array(order))),
        "times": pa.ListArray.from_arrays(offsets, pa.array(time[order])),
    }
    if "began" in clicks.column_names:
        columns["began"] = _least(_numpy(clicks["began"])[order], starts)
    return pa.table(columns).take(pa.array(np.argsort(firsts)))


def _least(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The least of `values` from each of `starts` to the next."""
    return np.minimum.reduceat(values, starts) if len(starts) else values[:0]


def _codes(ids: pa.Array) -> np.ndarray:
    """Numbers that are equal where ids are: integers themselves, for text the place in its dictionary."""
    ids = ids if pa.types.is_integer(ids.type) else ids.dictionary_encode().indices
    return ids.to_numpy(zero_copy_only=False)


def lengths(sessions: pa.Table) -> np.ndarray:
    """Clicks of each session, [sessions] int64."""
    return _numpy(pc.list_value_length(sessions["items"])).astype(np.int64)


def starts_and_ends(sessions: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Time of the first and the last click of each session, ms, [sessions] int64 each. No session may be
    empty.
    """
    bounds = _offsets(sessions)
    times = _values(sessions["times"]).to_numpy(zero_copy_only=False)
    return times[bounds[:-1]], times[bounds[1:] - 1]


def moments(sessions: pa.Table, rules: Rules) -> np.ndarray:
    """The time by which each session is split, ms, [sessions] int64: its last click; or its beginning, as the log
    says it, else its first click.
    """
    start, end = starts_and_ends(sessions)
    if rules.split_by == "end":
        return end
    return _numpy(sessions["began"]) if "began" in sessions.column_names else start


def without_doubles(sessions: pa.Table, rules: Rules) -> tuple[pa.Table, int, int]:
    """Steps 1 and 2: (sessions, exact duplicates, consecutive repeats removed). No session becomes empty."""
    counts = []
    for wanted, doubles in ((rules.drop_duplicates, _duplicates), (rules.drop_repeats, _repeats)):
        found = doubles(sessions) if wanted else np.zeros(0, bool)
        counts.append(int(found.sum()))
        if counts[-1]:
            sessions = keep_clicks(sessions, ~found)
    return sessions, counts[0], counts[1]


def _clicks(sessions: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(session, item, time) of each click as numbers, [clicks] each."""
    session = np.repeat(np.arange(len(sessions)), lengths(sessions))
    return session, _codes(_values(sessions["items"])), _values(sessions["times"]).to_numpy(zero_copy_only=False)


def _duplicates(sessions: pa.Table) -> np.ndarray:
    """Clicks of the same session, item and time as one before, [clicks] bool."""
    session, item, time = _clicks(sessions)
    tied = np.zeros(len(item) + 1, bool)
    tied[1:-1] = (np.diff(session) == 0) & (np.diff(time) == 0)
    some = np.flatnonzero(tied[:-1] | tied[1:])  # few logs have many ties: only those are sorted
    some = some[np.lexsort((item[some], time[some], session[some]))]
    same = np.ones(max(0, len(some) - 1), bool)
    for column in (session, item, time):
        same &= np.diff(column[some]) == 0
    found = np.zeros(len(item), bool)
    found[some[1:][same]] = True
    return found


def _repeats(sessions: pa.Table) -> np.ndarray:
    """Clicks on the item of the session's click before, [clicks] bool."""
    session, item, _ = _clicks(sessions)
    found = np.zeros(len(item), bool)
    found[1:] = (np.diff(session) == 0) & (np.diff(item) == 0)
    return found


def too_short(sessions: pa.Table, rules: Rules) -> np.ndarray:
    return lengths(sessions) < rules.min_length


def too_long(sessions: pa.Table, rules: Rules) -> np.ndarray:
    found = lengths(sessions)
    return found > rules.max_length if rules.max_length else np.zeros(len(found), bool)


def too_fast(sessions: pa.Table, rules: Rules) -> np.ndarray:
    """Whether some minute of the session has more than `max_per_minute` clicks, [sessions] bool."""
    found = np.zeros(len(sessions), bool)
    most = rules.max_per_minute
    if most:
        session, _, time = _clicks(sessions)
        found[session[most:][(session[most:] == session[:-most]) & (time[most:] - time[:-most] < MINUTE)]] = True
    return found


def typed(sessions: pa.Table, rules: Rules) -> pa.Table:
    """The same sessions with ids of the types that are written."""
    items = _list(_offsets(sessions), _values(sessions["items"]).cast(rules.item_type))
    sessions = sessions.set_column(sessions.schema.get_field_index("items"), "items", items)
    ids = sessions["session"].cast(rules.session_type)
    return sessions.set_column(sessions.schema.get_field_index("session"), "session", ids)


def are_integers(ids: pa.ChunkedArray) -> bool:
    """Whether all ids are integers, or such in text, see `integers`."""
    return pa.types.is_integer(ids.type) or integers(ids) is not None


def integers(ids: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Ids in text as int64; None where one of them is no integer that comes back as the same text: no leading zero, no
    plus, 64 bits.
    """
    try:
        found = ids.cast(pa.int64())
    except pa.ArrowInvalid:
        return None
    return None if pc.any(pc.not_equal(found.cast(pa.string()), ids)).as_py() else found


def hashes(ids: pa.ChunkedArray) -> np.ndarray:
    """64-bit hashes of ids, [ids] uint64; equal ids have equal hashes, and numbers have no other equal ones."""
    if pa.types.is_integer(ids.type):
        return pd.util.hash_array(ids.to_numpy(), categorize=False)
    encoded = _chunk(ids).dictionary_encode()  # text is slow to hash, and a session's id stands at all its clicks
    texts = encoded.dictionary.to_pandas().to_numpy(object)
    return pd.util.hash_array(texts, categorize=False)[encoded.indices.to_numpy()]


def split_of(log: np.ndarray, moment: np.ndarray, rules: Rules) -> np.ndarray:
    """TRAIN, VALID or TEST for sessions of a log (0 or 1) with such `moments` (ms); [sessions] int8."""
    by_time = np.where(moment < rules.valid_from, TRAIN, np.where(moment < rules.test_from, VALID, TEST))
    return np.where(log == 1, TEST, by_time).astype(np.int8)


def kept(sessions: pa.Table, rules: Rules) -> pa.Table:
    """Steps 1 to 6: sessions of a good length and rate, with a column `split` int8."""
    return good(without_doubles(sessions, rules)[0], rules)


def good(sessions: pa.Table, rules: Rules) -> pa.Table:
    """Steps 3 to 6."""
    sessions = filtered(sessions, ~(too_short(sessions, rules) | too_long(sessions, rules) | too_fast(sessions, rules)))
    split = split_of(_numpy(sessions["log"]), moments(sessions, rules), rules)
    return typed(sessions, rules).append_column("split", pa.array(split))


def supported(sessions: pa.Table, rules: Rules) -> pa.Table:
    """Steps 7 and 8, with the items of `rules`, on sessions with a split. Other splits are left as they are."""
    if rules.supported is None:
        return sessions
    train = _numpy(sessions["split"]) == TRAIN
    known = pc.is_in(_values(sessions["items"]), rules.supported).to_numpy(zero_copy_only=False)
    sessions = keep_clicks(sessions, known | ~np.repeat(train, lengths(sessions)))
    return filtered(sessions, ~(train & (lengths(sessions) < rules.min_length)))


def indexed(sessions: pa.Table, item_ids: pa.Array) -> tuple[pa.Table, np.ndarray]:
    """Step 9: item ids → places in `item_ids` (int32), without clicks on other items.

    Returns (sessions, some of them empty now; clicks removed from each, [sessions] int64).
    """
    before = lengths(sessions)
    index = pc.index_in(_values(sessions["items"]), item_ids)
    items = _list(_offsets(sessions), index.cast(pa.int32()))
    sessions = sessions.set_column(sessions.schema.get_field_index("items"), "items", items)
    if index.null_count:
        sessions = keep_clicks(sessions, index.is_valid().to_numpy(zero_copy_only=False))
    return sessions, before - lengths(sessions)


def support(sessions: pa.Table) -> pa.Table:
    """Clicks of each item in the training sessions: item, support int64, in no order."""
    train = filtered(sessions.select(["items"]), _numpy(sessions["split"]) == TRAIN)
    counts = pc.value_counts(_values(train["items"]))
    return pa.table({"item": counts.field("values"), "support": counts.field("counts")})


def first_clicks(sessions: pa.Table) -> pa.Table:
    """Where each item of the training sessions is clicked first, when these are walked in order.

    Returns item, support int64, start int64 and position int64 (of the session), place int64 (in the
    session), in order of (start, position, place).
    """
    train = filtered(sessions.select(["position", "items", "times"]), _numpy(sessions["split"]) == TRAIN)
    start, _ = starts_and_ends(train)
    order = np.lexsort((_numpy(train["position"]), start))
    train = train.select(["position", "items"]).take(pa.array(order))
    counts = lengths(train)
    items = _values(train["items"]).dictionary_encode()
    codes = items.indices.to_numpy(zero_copy_only=False)
    first = _first_places(codes)
    session = np.repeat(np.arange(len(counts)), counts)[first] if len(codes) else first
    return pa.table(
        {
            "item": items.dictionary,
            "support": np.bincount(codes, minlength=len(first)).astype(np.int64),
            "start": start[order][session],
            "position": _numpy(train["position"])[session],
            "place": first - _offsets(train)[session],
        }
    )


def _first_places(codes: np.ndarray) -> np.ndarray:
    """Where each code of a dictionary stands first: a dictionary, and so its codes, is in order of first appearance."""
    return np.flatnonzero(np.diff(np.maximum.accumulate(codes), prepend=-1)) if len(codes) else codes


def merged_support(parts: list[pa.Table]) -> pa.Table:
    """The supports of all parts added up: item, support."""
    return pa.concat_tables(parts).group_by("item").aggregate([("support", "sum")]).rename_columns(["item", "support"])


def merged_first_clicks(parts: list[pa.Table]) -> pa.Table:
    """The first clicks over all parts, supports added up; in order again: the row is the item's index."""
    every = pa.concat_tables(parts)
    columns = [every[name].to_numpy() for name in ("place", "position", "start")]
    every = every.take(pa.array(np.lexsort(columns)))
    # Not `group_by`: beyond some ten thousand rows its groups are in no order.
    items = _chunk(every["item"]).dictionary_encode()
    codes = items.indices.to_numpy(zero_copy_only=False)
    first = _first_places(codes)
    support = np.zeros(len(first), np.int64)
    np.add.at(support, codes, _numpy(every["support"]))
    found = every.take(pa.array(first))
    return found.set_column(found.schema.get_field_index("support"), "support", pa.array(support))


def behind(known: pa.Array, firsts: pa.Table) -> pa.Table:
    """item and support of the `known` items, 0 where they have no click, then of all others, in their order."""
    place = pc.index_in(known, firsts["item"].combine_chunks())
    support = pc.take(firsts["support"], place).fill_null(0)
    new = firsts.filter(pc.invert(pc.is_in(firsts["item"], known))).select(["item", "support"])
    return pa.concat_tables([pa.table({"item": known, "support": support}), new]).combine_chunks()


def numbered(sessions: pa.Table) -> pa.Table:
    """The same with a number for each click in a list column `number` int32, so that it is known which are left."""
    numbers = _list(_offsets(sessions), pa.array(np.arange(lengths(sessions).sum(), dtype=np.int32)))
    return sessions.append_column("number", numbers)


def left_out(before: pa.Table, after: pa.Table) -> np.ndarray:
    """Which clicks of sessions that were `numbered` are not there `after`, [clicks before] bool."""
    found = np.ones(int(lengths(before).sum()), bool)
    found[_values(after["number"]).to_numpy(zero_copy_only=False)] = False
    return found


def filtered(sessions: pa.Table, keep: np.ndarray) -> pa.Table:
    return sessions if keep.all() else sessions.filter(pa.array(keep))


def keep_clicks(sessions: pa.Table, keep: np.ndarray) -> pa.Table:
    """Only the clicks for which `keep` ([clicks] bool) is true; sessions can become empty, none goes."""
    before = np.concatenate([[0], np.cumsum(keep)])
    offsets = before[_offsets(sessions)]
    mask = pa.array(keep)
    for name in ("items", "times", "number"):
        if name not in sessions.column_names:
            continue
        values = _values(sessions[name]).filter(mask)
        place = sessions.schema.get_field_index(name)
        sessions = sessions.set_column(place, name, _list(offsets, values))
    return sessions


def _chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])


def _numpy(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy()


def _values(column: pa.ChunkedArray) -> pa.Array:
    """The clicks of a list column, end to end."""
    return _chunk(column).flatten()


def _offsets(sessions: pa.Table) -> np.ndarray:
    """Where each session begins among the clicks, and the end; [sessions + 1] int64."""
    return np.concatenate([[0], np.cumsum(lengths(sessions))])


def _list(offsets: np.ndarray, values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)
