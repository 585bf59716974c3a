"""The page on the last nights."""

import re

from gru4rec.config import Score
from gru4rec.scoring import night


def content(date, sessions, fallback=0, overlap=None, passed=True):
    totals = {"sessions": sessions, "rejected": 1, "fallback": fallback, "listed": 20 * sessions}
    totals |= {"items_shown": 7, "unknown_clicks": 2}
    checks = [{"gate": "overlap_with_yesterday", "figure": overlap, "passed": passed}]
    return {"date": date, "result": "v1-<b>", "totals": totals, "checks": checks, "seconds": 1.0}


def test_a_row_a_night_and_the_figures():
    nights = [content("2026-11-20", 0), content("2026-11-21", 10, 5, 0.25, False)]
    page = night.drift(nights)
    rows = re.findall(r"<tr>(.*?)</tr>", page.partition("<tbody>")[2])
    cells = [re.findall(r">([^<]*)</td>", row) for row in rows]
    assert cells == [
        ["2026-11-20", "v1-&lt;b&gt;", "0", "1", "–", "7", "–", "passed"],
        ["2026-11-21", "v1-&lt;b&gt;", "10", "1", "50.00 %", "7", "0.250", "failed: overlap_with_yesterday"],
    ]
    assert page.count("<svg") == 4
    assert night.drift(nights) == page


def test_the_names_of_the_figures_are_those_of_every_night():
    found = night.metrics(content("2026-11-21", 10, 5, 0.25))
    assert found == {
        "sessions": 10,
        "rejected": 1,
        "items_shown": 7,
        "unknown_clicks": 2,
        "seconds": 1,
        "fallback_share": 0.5,
        "mean_list_length": 20,
        "gate_overlap_with_yesterday": 0.25,
        "gates_failed": 0,
    }


def test_the_warning_that_nothing_was_recorded_shows_no_password(monkeypatch, capsys):
    def refused(*_):
        raise OSError("http://team:hush@tracking.example/api: refused")

    monkeypatch.setattr(night, "_record", refused)
    assert night.record(Score(model="m", sessions="s", out="o"), content("2026-11-21", 10), {}) == ""
    said = capsys.readouterr().err
    assert "not recorded in MLflow: http://***@tracking.example/api: refused" in said
