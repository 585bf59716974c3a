"""Each form of click log: what a few rows of it mean, and the counts of the real ones."""

import datetime as dt
import typing

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_logs import form, put_together

from gru4rec import cli, config
from gru4rec.errors import InputError
from gru4rec.sessions import clean, formats


def ms(text: str) -> int:
    return round(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC).timestamp() * 1000)


def sessions_of(text: str, path, **settings) -> dict:
    """Session id → [(item, time), …] of a file that holds `text`."""
    path.write_text(text)
    found = put_together([path], form(**settings)).sessions
    columns = (found[name].to_pylist() for name in ("session", "items", "times"))
    return {session: list(zip(items, times, strict=True)) for session, items, times in zip(*columns, strict=True)}


def test_settings_name_every_form():
    choices = typing.get_args(typing.get_type_hints(config.Prepare)["format"])
    assert set(choices) == {"columns", *formats.FORMATS}


def test_diginetica_is_in_order_of_day_and_timeframe(tmp_path):
    text = (
        "session_id;user_id;item_id;timeframe;eventdate\n"
        "1;NA;81766;526309;2016-05-09\n1;7;31331;1031018;2016-05-09\n1;NA;32118;243569;2016-05-09\n"
        "2;NA;5;900;2016-05-10\n2;NA;6;800;2016-05-09\n"
    )
    day = ms("2016-05-09")
    assert sessions_of(text, tmp_path / "a.csv", format="diginetica") == {
        "1": [("32118", day + 243569), ("81766", day + 526309), ("31331", day + 1031018)],
        "2": [("6", day + 800), ("5", day + 86_400_900)],
    }


def test_retailrocket_takes_views_and_cuts_visits_at_half_an_hour(tmp_path):
    start, half = 1433221332117, 30 * 60_000
    rows = [
        (start, 257597, "view", 355908),
        (start + 1, 257597, "addtocart", 355908),
        (start + half, 257597, "view", 2),  # exactly the gap: the same session
        (start + 2 * half + 1, 257597, "view", 3),
        (start + 5, 9, "transaction", 4),
        (start + 7, 9, "view", 5),
    ]
    text = "timestamp,visitorid,event,itemid,transactionid\n" + "".join(f"{t},{v},{e},{i},\n" for t, v, e, i in rows)
    assert sessions_of(text, tmp_path / "a.csv", format="retailrocket") == {
        f"257597_{start}": [("355908", start), ("2", start + half)],
        f"257597_{start + 2 * half + 1}": [("3", start + 2 * half + 1)],
        f"9_{start + 7}": [("5", start + 7)],
    }
    found = put_together([tmp_path / "a.csv"], form(format="retailrocket"))
    assert (found.rows, found.clicks, found.left_out, found.rejected.num_rows) == (6, 4, 2, 0)
    one_hour = sessions_of(text, tmp_path / "a.csv", format="retailrocket", session_gap="1h")
    assert [len(clicks) for clicks in one_hour.values()] == [3, 1]


def test_rows_left_out_move_no_other_rows_number(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        "timestamp,visitorid,event,itemid,transactionid\n1,1,view,1,\n2,1,cart,,\nx,1,cart,1,\nx,1,view,1,\n1,2,view\n"
    )
    found = put_together([path], form(format="retailrocket"))
    assert (found.rows, found.clicks, found.left_out) == (5, 1, 2)
    assert found.rejected["row"].to_pylist() == [5, 6]
    table = pa.table({"timestamp": [1, None, -1], "visitorid": [1, 1, 1], "event": ["view", "cart", "view"]})
    pq.write_table(table.append_column("itemid", pa.array([1, 2, 3])), tmp_path / "a.parquet")
    found = put_together([tmp_path / "a.parquet"], form(format="retailrocket"))
    assert (found.rows, found.clicks, found.left_out) == (3, 1, 1)
    assert found.rejected["row"].to_pylist() == [3]
    assert found.sessions["session"].to_pylist() == ["1_1"]


def test_globo_knows_when_a_session_began(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        "user_id,session_id,session_start,session_size,click_article_id,click_timestamp\n"
        "0,15,1506825423000,2,157541,1506826828020\n0,15,1506825423000,2,68866,1506826858020\n0,16,soon,1,1,1506826858020\n"
    )
    found = put_together([path], form(format="globo"))
    assert found.sessions["began"].to_pylist() == [1506825423000]
    assert found.sessions["times"].to_pylist() == [[1506826828020, 1506826858020]]
    assert found.rejected["reason"].to_pylist() == ["no readable start of the session between 1970 and 9999"]


def test_uci_eshop_is_in_order_of_day_and_click(tmp_path):
    text = (
        "year;month;day;order;country;session ID;page 1 (main category);page 2 (clothing model)\n"
        "2008;4;1;2;29;1;1;A16\n2008;4;1;1;29;1;1;A13\n2008;4;31;1;29;2;1;A1\n2008;13;1;1;29;2;1;A1\n2008;4;x;1;29;2;1;A1\n"
    )
    day = ms("2008-04-01")
    assert sessions_of(text, tmp_path / "a.csv", format="uci-eshop") == {"1": [("A13", day + 1), ("A16", day + 2)]}
    assert put_together([tmp_path / "a.csv"], form(format="uci-eshop")).rejected["row"].to_pylist() == [4, 5, 6]


def test_movielens_users_are_sessions(tmp_path):
    text = (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n196\t7\t1\t881250900.5\n"
    )
    assert sessions_of(text, tmp_path / "a.inter", format="movielens") == {
        "196": [("7", 881250900500), ("242", 881250949000)]
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"session_gap": "30"}, "--session-gap: .*got '30'"),
        ({"session_gap": "0m"}, "--session-gap: .*got '0m'"),
        ({"session_gap": "30m"}, "--session-gap: .*needs --user-column"),
        ({"user_column": "who"}, "--user-column: needs --session-gap"),
        ({"user_column": "who", "session_gap": "1h", "session_column": "s"}, "give one of them"),
        ({"user_column": "who", "session_gap": "1h", "format": "globo"}, "--user-column: needs --format columns"),
        ({"session_gap": "1h", "format": "globo"}, "--session-gap: the sessions of --format globo are given"),
        ({"session_column": "s", "format": "movielens"}, "--session-column: needs --format columns, not movielens"),
        ({"item_column": "i", "format": "yoochoose"}, "--item-column: needs --format columns"),
        ({"time_column": "t", "format": "uci-eshop"}, "--time-column: needs --format columns"),
        ({"time_unit": "ms", "format": "yoochoose"}, "--time-unit: needs --format columns"),
        ({"separator": "\t", "format": "diginetica"}, "--separator: needs --format columns"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(InputError, match=message):
        form(**settings)


@pytest.mark.parametrize("given", [";;", "§", "→", '"', "\n", "\r", "\0", "\\n", "tab"])
def test_a_separator_that_is_none_is_named(given, capsys):
    arguments = ["--clicks", "x", "--out", "y", "--separator", given]
    assert cli.run(config.Prepare, lambda settings: {}, arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --separator: one ASCII character")
    assert error.count("\n") == 1


def test_a_tab_may_be_written_as_a_shell_hands_it_on():
    assert form(separator="\\t").separator == form(separator="\t").separator == "\t"


@pytest.mark.parametrize(("given", "gap"), [("45s", 45_000), ("30m", 1_800_000), ("2h", 7_200_000)])
def test_gaps(given, gap):
    assert form(user_column="who", session_gap=given).gap == gap


CLICK = st.tuples(st.integers(0, 1), st.sampled_from(["a", "a_1", "7"]), st.integers(0, 40))  # log, user, time


@given(st.lists(CLICK, max_size=40), st.integers(1, 12), st.integers(1, 3), st.randoms())
def test_the_gap_rule_against_a_walk_for_any_order_and_partitions(clicks, gap, parts, random):
    wanted = {}
    for log, user in {(log, user) for log, user, _ in clicks}:
        last = None
        for time in sorted(t for other, who, t in clicks if (other, who) == (log, user)):
            if last is None or time - last > gap:
                current = wanted.setdefault((log, f"{user}_{time}"), [])
            current.append(time)
            last = time
    columns = list(zip(*clicks, strict=True)) or [(), (), ()]
    types = (pa.int8(), pa.string(), pa.int64())
    log, user, time = (pa.array(column, kind) for column, kind in zip(columns, types, strict=True))
    place = pa.array(range(len(clicks)), pa.int64())
    table = pa.table({"log": log, "session": user, "item": user, "time": time, "position": place})
    rows = list(range(len(clicks)))
    random.shuffle(rows)
    table = table.take(pa.array(rows, pa.int64()))
    part = np.array([sum(who.encode()) % parts for who in table["session"].to_pylist()])
    found = [clean.sessionise(table.filter(pa.array(part == number)), gap) for number in range(parts)]
    every = pa.concat_tables(found)
    keys = zip(every["log"].to_pylist(), every["session"].to_pylist(), strict=True)
    assert dict(zip(keys, every["times"].to_pylist(), strict=True)) == wanted
    assert every.num_rows == len(wanted)


class TestRealLogs:
    """Rows, clicks and sessions of each folder as its README counts them, from raw rows to sessions."""

    @pytest.mark.parametrize(
        ("name", "path", "settings", "counts"),
        [
            ("yoochoose-head", "yoochoose-clicks-head.dat", {"format": "yoochoose"}, (99_364, 23_917, None)),
            ("yoochoose-head", "yoochoose-test-head.dat", {"format": "yoochoose"}, (94_029, 23_725, None)),
            ("yoochoose-100k", "train_full.tsv", {}, (70_278, None, None)),
            ("yoochoose-100k", "test.tsv", {}, (13_568, None, None)),
            ("yoochoose64", "train.parquet", {}, (486_026, 116_167, 17_376)),
            ("yoochoose64", "test.parquet", {}, (71_222, 15_324, None)),
            ("globo", "", {"format": "globo"}, (1_308_526, 459_117, 23_033)),
            ("uci-eshop", "", {"format": "uci-eshop"}, (165_474, 24_026, 217)),
            ("movielens-100k", "", {"format": "movielens"}, (100_000, 943, 1_682)),
            ("diginetica-sample", "", {"format": "diginetica"}, (12_391, 2_986, None)),
        ],
    )
    def test_counts(self, shared_data, name, path, settings, counts):
        found = put_together([shared_data / name / path], form(**settings))
        items = len(found.sessions["items"].combine_chunks().flatten().unique())
        assert found.rejected.num_rows == found.left_out == 0
        measured = (found.rows, found.sessions.num_rows, items)
        assert [m for m, c in zip(measured, counts, strict=True) if c] == [c for c in counts if c]
        assert found.clicks == found.rows

    def test_globo_beginnings_and_imputed_last_clicks(self, shared_data):
        """Hours 98 to 102, of which one has no row."""
        files = [shared_data / "globo" / f"clicks_hour_{hour:03d}.csv" for hour in range(98, 103)]
        found = put_together(files, form(format="globo")).sessions
        times = found["times"].to_pylist()
        assert all(row[-1] - row[-2] == 30_000 for row in times)
        assert all(began <= row[0] for began, row in zip(found["began"].to_pylist(), times, strict=True))
        assert all(len(set(items)) == len(items) for items in found["items"].to_pylist())

    def test_diginetica_order_within_a_session(self, shared_data):
        found = put_together([shared_data / "diginetica-sample"], form(format="diginetica")).sessions
        first = dict(zip(found["session"].to_pylist(), found["items"].to_pylist(), strict=True))["1"]
        frames = {81766: 526309, 31331: 1031018, 32118: 243569, 9654: 75848, 32627: 1112408}
        frames |= {33043: 173912, 12352: 329870, 35077: 390072, 36118: 487369, 129055: 991416}
        assert first == [str(item) for item in sorted(frames, key=frames.__getitem__)]
