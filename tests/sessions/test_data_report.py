"""The data report: its numbers are the folder's, it is one file, and nothing of a log becomes markup."""

import itertools
import re
import tracemalloc
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prepared_folder import complete, prepared_folder
from simple_log import simple_log

from gru4rec import cli, config
from gru4rec.errors import InputError
from gru4rec.sessions import data_counts, data_figures, data_report
from gru4rec.sessions.data_counts import Split, Tally
from gru4rec.sessions.prepare import prepare
from gru4rec.sessions.prepared import SPLITS, Prepared, Sessions

HOSTILE = (
    "\"'><script src=http://evil.example/x.js>alert(1)</script><img src=//evil.example onerror=x>&lt;\x1b[31m\u202e"
)
SEEN = HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
VOID = {"meta", "br", "img", "link", "input"}


class Page(HTMLParser):
    """What a browser sees: tags with their attributes, tables by id as rows of texts, all the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text, self.open = "", []  # type: ignore[var-annotated]
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables[dict(attrs)["id"]] = self.rows = []
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag  # every tag is closed where it should be

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def body(self, table: str) -> dict[str, list[str]]:
        """The rows below the heading: first cell → the others."""
        return {row[0]: row[1:] for row in self.tables[table][1:]}


def number(text: str) -> int:
    return int(text.replace(",", ""))


def check_alone(text: str) -> Page:
    """The page needs nothing but itself and runs nothing."""
    page = Page(text)
    assert page.open == []
    allowed = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "code", "div", "figure", "table"}
    allowed |= {"thead", "tbody", "tfoot", "tr", "th", "td"}
    allowed |= {"svg", "g", "defs", "path", "use", "text", "rect", "clippath"}
    ids = Counter(attributes["id"] for _, attributes in page.tags if "id" in attributes)
    assert not [found for found, times in ids.items() if times > 1]
    for tag, attributes in page.tags:
        assert tag in allowed
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("src", "action", "srcset", "data")
            if name.endswith("href"):
                assert value[0] == "#"
                assert value[1:] in ids
            if not name.startswith("xmlns"):
                assert "//" not in value
            for place in re.findall(r"url\((.*?)\)", value or ""):
                assert place[0] == "#"
                assert place[1:] in ids
    assert "@import" not in text
    assert "url(http" not in text
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert text.count("<svg") == 3
    assert len(text.encode()) < 500_000
    return page


@pytest.fixture
def prepared(tmp_path):
    train, _ = simple_log(900, 60)
    test, _ = simple_log(300, 60, seed=1)
    valid, _ = simple_log(50, 60, seed=2)
    return complete(prepared_folder(tmp_path / "data", {"train": train, "valid": valid, "test": test}, 61))


def rows_of(prepared: Prepared, split: str) -> list[dict]:
    return [row for path in prepared.files(split) for row in pq.read_table(path).to_pylist()]


class TestTally:
    @given(st.lists(st.lists(st.integers(0, 2**62) | st.integers(0, 9), max_size=20), max_size=5))
    def test_counts_as_a_counter_does(self, parts):
        tally, every = Tally(), sorted(number for part in parts for number in part)
        for part in parts:
            tally.add(np.array(part, np.int64))
        assert dict(zip(tally.values.tolist(), tally.counts.tolist(), strict=True)) == Counter(every)
        assert tally.values.tolist() == sorted(set(every))
        assert tally.total == len(every)
        for share in (0.5, 0.99, 1) if every else ():
            found = tally.quantile(share)
            assert sum(one <= found for one in every) >= share * len(every)
            assert sum(one < found for one in every) < share * len(every)
        edges = np.array([0, 1, 3, 9, 2**40, 2**62 + 1])
        binned = [sum(low <= one < high for one in every) for low, high in itertools.pairwise(edges)]
        assert tally.binned(edges).tolist() == binned


class TestCounts:
    def test_equal_the_folders(self, prepared):
        found = data_counts.count(prepared)
        for name, split in found.splits.items():
            rows = rows_of(prepared, name)
            days = {
                "clicks_by_day": Counter(time.date() for row in rows for time in row["times"]),
                "sessions_by_day": Counter(row["start"].date() for row in rows),
            }
            for what, expected in days.items():
                tally = getattr(split, what)
                shown = [np.datetime64(day, "D").item() for day in tally.values.tolist()]
                assert dict(zip(shown, tally.counts.tolist(), strict=True)) == expected
            lengths = dict(zip(split.lengths.values.tolist(), split.lengths.counts.tolist(), strict=True))
            assert lengths == Counter(len(row["items"]) for row in rows)
        np.testing.assert_array_equal(found.test_clicks, np.bincount(prepared.read("test").items, minlength=61))
        assert found.rejected == []

    def test_rejected_rows_by_reason(self, prepared):
        rows = [{"file": "a", "row": i, "reason": f"r{i % 3 if i % 5 else 0}", "text": str(i)} for i in range(100)]
        found = data_counts.count(complete(prepared, rows)).rejected
        assert {entry.reason: entry.rows for entry in found} == Counter(row["reason"] for row in rows)
        assert [entry.rows for entry in found] == sorted((entry.rows for entry in found), reverse=True)
        for entry in found:
            assert entry.examples == [row for row in rows if row["reason"] == entry.reason][:3]

    def test_reasons_without_end_are_kept_together(self, prepared, monkeypatch):
        monkeypatch.setattr(data_counts, "REASONS", 10)
        rows = [{"file": "a", "row": i, "reason": f"{i} columns", "text": ""} for i in range(100)]
        found = data_counts.count(complete(prepared, rows)).rejected
        assert len(found) == 11
        assert (found[0].reason, found[0].rows, len(found[0].examples)) == (data_counts.OTHER, 90, 3)

    def test_memory_does_not_grow_with_sessions(self, tmp_path):
        peaks = []
        for sessions in (5_000, 25_000):
            train, _ = simple_log(sessions, 50)
            folder = prepared_folder(tmp_path / str(sessions), {"train": train}, 50, shards=sessions // 1000)
            tracemalloc.start()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Prepared, "batches", batches_of(500))
                data_counts.count(folder)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        # What other threads of this process allocate meanwhile counts too; 20,000 sessions more would take above 1 MB.
        assert peaks[1] < peaks[0] + 200_000

    def test_a_damaged_file_is_named(self, prepared):
        with open(prepared.files("train")[1], "r+b") as file:
            file.write(b"no Parquet")
            file.truncate(100)
        with pytest.raises(InputError, match=r"part-00001\.parquet: cannot be read"):
            data_report.write(prepared.folder)


def batches_of(rows: int):
    """`Prepared.batches` in parts of so many sessions."""

    def batches(self, split, columns):
        for path in self.files(split):
            yield from pq.ParquetFile(path).iter_batches(rows, columns=columns)

    return batches


class TestPage:
    def test_numbers_are_the_folders(self, prepared):
        page = check_alone(data_report.page(prepared))
        summary, steps = prepared.summary, page.body("steps")
        assert number(steps["rows in (clicks, 2 file(s))"][1]) == summary["rows_in"]
        parts = [number(cells[1]) for name, cells in steps.items() if name.startswith(("removed:", "left:"))]
        assert sum(parts) == summary["rows_in"] == number(steps["removed and left"][1])
        assert steps["removed and left"][2] == "100.00 %"
        assert steps["removed: rare items (train)"][:2] == ["1", "5"]
        for name in SPLITS:
            rows = rows_of(prepared, name)
            lengths = sorted(len(row["items"]) for row in rows)
            shown = page.body("splits")[name]
            assert [number(cell) for cell in shown[:2]] == [len(rows), sum(lengths)]
            assert [number(cell) for cell in steps[f"left: {name}"][:2]] == [len(rows), sum(lengths)]
            assert float(shown[2]) == pytest.approx(np.mean(lengths), abs=0.005)
            assert [number(cell) for cell in shown[3:7]] == [
                int(np.quantile(lengths, share, method="inverted_cdf")) for share in (0.5, 0.9, 0.99, 1)
            ]
            times = [time for row in rows for time in row["times"]]
            assert shown[7:] == [str(min(times).date()), str(max(times).date())]

    def test_shares_of_items(self, prepared):
        page = Page(data_report.page(prepared))
        support = sorted(prepared.support.tolist(), reverse=True)
        for name, most in (("top 1 %", 1), ("top 10 %", 7), ("top 100 %", 61)):
            clicks = sum(support[:most])
            share = f"{100 * clicks / sum(support):.2f} %"
            assert page.body("popularity")[name] == [str(most), f"{clicks:,}", share]
        top = page.tables["top"][1:]
        assert [number(row[2]) for row in top] == support[:10]
        by_id = dict(zip(prepared.items["item_id"].to_pylist(), prepared.support.tolist(), strict=True))
        assert all(by_id[int(row[1])] == number(row[2]) for row in top)

    def test_items_of_the_test_split(self, prepared):
        page = Page(data_report.page(prepared))
        left = sum(prepared.summary["splits"][name]["clicks"] for name in ("valid", "test"))
        shown = f"Of {left + 5:,} validation and test clicks, 3 ({3 / (left + 5):.2%}".replace("%", " %)")
        assert shown in page.text
        clicks, rows = prepared.read("test").items.tolist(), page.body("support")
        total = rows.pop("all")
        assert [number(cell) for cell in total[:3]] == [61, len(set(clicks)), len(clicks)]
        assert [sum(number(row[place]) for row in rows.values()) for place in range(3)] == [
            61,
            len(set(clicks)),
            len(clicks),
        ]
        few = {item for item, support in enumerate(prepared.support.tolist()) if 10 <= support < 20}
        assert rows["10–19"][:3] == [str(len(few)), str(len(few & set(clicks))), str(sum(c in few for c in clicks))]
        assert rows["0"][:3] == ["1", "0", "0"]

    def test_equal_bytes_for_equal_data_wherever_it_lies(self, prepared, tmp_path):
        data_report.write(prepared.folder)
        (tmp_path / "elsewhere").symlink_to(prepared.folder)
        data_report.write(str(tmp_path / "elsewhere"))
        text = (tmp_path / "data" / "report.html").read_text()
        assert text == data_report.page(prepared)
        assert str(tmp_path) not in text

    def test_the_users_matplotlib_settings_change_nothing_and_are_left_alone(self, prepared):
        import matplotlib

        before = data_report.page(prepared)
        with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "timezone": "Asia/Tokyo"}):
            mine = dict(matplotlib.rcParams)
            assert data_report.page(prepared) == before
            assert dict(matplotlib.rcParams) == mine

    def test_one_session_and_nothing_to_test(self, tmp_path):
        only = Sessions(np.array([0, 2]), np.array([0, 0], np.int32))
        prepared = complete(prepared_folder(tmp_path / "data", {"train": only}, 1), removed=(0, 0, 0, 0))
        page = check_alone(data_report.page(prepared))
        assert "There is no test split." in page.text
        assert page.body("splits")["test"] == ["0", "0", *[""] * 7]
        assert "1 day(s) have clicks; between the first and the last, 0 have none." in page.text

    def test_what_comes_from_the_log_is_text(self, prepared):
        ids = pa.array([HOSTILE + str(i) for i in range(61)])
        pq.write_table(prepared.items.set_column(0, "item_id", ids), f"{prepared.folder}/items.parquet")
        rejected = [{"file": HOSTILE, "row": 3, "reason": HOSTILE, "text": HOSTILE}] * 2
        page = check_alone(data_report.page(complete(prepared, rejected)))
        assert all(row[1].startswith(SEEN) for row in page.tables["top"][1:])
        assert page.tables["rejected"][1:] == [[SEEN, "2", "100.00 %"], ["all", "2", ""]]
        assert page.tables["examples"][1:] == [[SEEN, SEEN, "3", SEEN]] * 2

    def test_it_stays_small(self, prepared):
        """Long texts that grow when they are escaped, and more reasons than anyone reads."""
        ids = pa.array(['"' * 300 + str(i) for i in range(61)])
        pq.write_table(prepared.items.set_column(0, "item_id", ids), f"{prepared.folder}/items.parquet")
        text = "\U000e0001" * 300
        rejected = [{"file": text, "row": i, "reason": f"{i % 500}{text}", "text": text} for i in range(2000)]
        page = check_alone(data_report.page(complete(prepared, rejected)))
        assert page.body("rejected")["490 more reasons"] == ["1,960", "98.00 %"]
        assert number(page.body("rejected")["all"][0]) == 2000


def spans(path: str) -> list[tuple[float, float]]:
    """Least and most x and y of a path of straight lines."""
    points = np.array(re.findall(r"[ML] (\S+) (\S+)", path), float)
    return list(zip(points.min(axis=0).tolist(), points.max(axis=0).tolist(), strict=True))


class TestFigures:
    @pytest.mark.parametrize("days", [[0], [2_932_896], [0, 2_932_896], range(16000, 16030), range(2000)])
    def test_days_from_1970_to_9999(self, days):
        splits = {name: Split() for name in SPLITS}
        for place, split in enumerate(splits.values()):
            split.clicks_by_day.add(np.repeat(np.array(days[place::3], np.int64), 5 + place))
            split.sessions_by_day.add(np.array(days[place::3], np.int64))
        drawn = data_figures.by_day(splits)
        assert len(drawn) < 160_000
        assert str(np.datetime64(days[0], "D")) in drawn
        edges = data_figures._day_edges(days[0], days[-1])
        assert len(edges) <= 202
        clicks = sum(splits[name].clicks_by_day.binned(edges).sum() for name in SPLITS)
        assert clicks == sum(splits[name].clicks_by_day.total for name in SPLITS)

    @given(st.integers(1, 10**7))
    def test_no_session_length_is_left_out(self, longest):
        edges = data_figures._length_edges(longest)
        assert edges[0] == 1
        assert edges[-1] == longest + 1
        assert (np.diff(edges) > 0).all()

    @pytest.mark.parametrize("lengths", [[7], [2] * 30, [2, 3, 4, 5], [*range(2, 60), 10**6]])
    @pytest.mark.filterwarnings("error")
    def test_every_axis_has_numbers(self, lengths):
        """Also where all sessions are nearly equal; and the longest is in the figure, however seldom it is."""
        split = Split()
        split.lengths.add(np.array(lengths))
        lengths_drawn = data_figures.session_lengths({"train": split})
        for drawn in (lengths_drawn, data_figures.popularity(np.array(lengths)[::-1])):
            for axis in ("axis_1", "axis_2"):
                part = drawn[drawn.index(f"matplotlib.{axis}") :]
                assert re.search(r"<text [^>]*>[\d,.]+</text>", part[: part.index("</g>\n  </g>")])
        drawn, frame = (
            re.search(rf'id="lengths-{part}".*? d="(.*?)"', lengths_drawn, re.S)[1] for part in ("patch_3", "patch_2")
        )
        assert len(re.findall(r"[ML]", drawn)) >= 2
        (left, right), (top, bottom) = spans(frame)
        for low, high, least, most in zip(*zip(*spans(drawn), strict=True), (left, top), (right, bottom), strict=True):
            assert least <= low <= high <= most

    def test_titles_and_axes(self):
        split = Split()
        for tally in (split.clicks_by_day, split.sessions_by_day, split.lengths):
            tally.add(np.arange(1, 900))
        drawn = data_figures.by_day({"train": split}) + data_figures.session_lengths({"train": split})
        drawn += data_figures.popularity(np.arange(10**6, 0, -1))
        for said in (
            "clicks in 5 days",
            "(UTC)",
            "length of the session (clicks)",
            "training clicks",
            "Item popularity",
        ):
            assert said in drawn


@pytest.mark.ray
class TestPrepare:
    @pytest.fixture
    def log(self, tmp_path):
        """A log of hostile ids, with rows that cannot be read, in a file with a hostile name."""
        rows = [
            f'{s},"{i}<b>&amp;{HOSTILE.replace(chr(34), "")}",{s * 3000 + i}'
            for s in range(200)
            for i in range(2 + s % 4)
        ]
        rows += [
            "<script>alert(1)</script>",
            "1,2,<i>never</i>",
            "1,2,<i>never</i>",
            '9,"new",600000',
            '9,"0<b>",600001',
        ]
        name = tmp_path / "log" / "a<img src=x onerror=alert(1)>&.csv"
        name.parent.mkdir()
        name.write_text("SessionId,ItemId,Time\n" + "\n".join(rows))
        return name.parent

    def test_prepare_writes_it_and_its_sums_add_up(self, ray_local, log, tmp_path):
        given = {"clicks": (str(log),), "test_days": 2, "min_session_length": 3}
        result = prepare(cli.check(config.Prepare, {**given, "out": str(tmp_path / "out")}))
        text = (tmp_path / "out" / "report.html").read_text()
        page, prepared = check_alone(text), Prepared(str(tmp_path / "out"))
        steps = page.body("steps")
        parts = [number(cells[1]) for name, cells in steps.items() if name.startswith(("removed:", "left:"))]
        assert sum(parts) == result["rows_in"] == number(steps["removed and left"][1])
        assert number(steps["removed: rows that cannot be read"][1]) == 3
        assert [number(steps[f"left: {name}"][1]) for name in SPLITS] == [result[f"{name}_clicks"] for name in SPLITS]
        unknown = next(s["clicks"] for s in prepared.summary["steps"] if s["name"].startswith("items unknown"))
        assert unknown == 2
        assert f"{unknown} (" in page.text
        assert {row[3] for row in page.tables["examples"][1:]} == {"<script>alert(1)</script>", "1,2,<i>never</i>"}
        assert page.tables["examples"][1][1].endswith("a<img src=x onerror=alert(1)>&.csv")
        prepare(cli.check(config.Prepare, {**given, "out": str(tmp_path / "again")}))
        assert (tmp_path / "again" / "report.html").read_text() == text

    def test_no_report(self, ray_local, log, tmp_path):
        out = tmp_path / "out"
        prepare(cli.check(config.Prepare, {"clicks": (str(log),), "out": str(out), "test_days": 2, "report": False}))
        assert (out / "prepare.json").exists()
        assert not (out / "report.html").exists()
