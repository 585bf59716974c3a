"""The model card: what it says, and that nothing in names and ids can break it."""

import ast
import dataclasses
import datetime
import json
import re
import shlex

import pytest
from markdown_it import MarkdownIt  # rich needs it, and so it is there

from gru4rec.config import Hyperparameters
from gru4rec.tracking import model_card
from gru4rec.tracking.model_card import MODEL, Facts

HOSTILE = 'a|b\n# no\r```\n<script>alert(1)</script> [x](y) *_` \\ \u2028 \x1b[31m " \udcff'


def moment(day: int) -> datetime.datetime:
    return datetime.datetime(2014, 9, day, 12, 30)


FACTS = Facts(
    model_name="gru4rec",
    data="prepared",
    summary={
        "rows_in": 5000,
        "rejected": 12,
        "fingerprint": "abc123",
        "splits": {
            "train": {"sessions": 1200, "clicks": 4000, "transitions": 2800},
            "valid": {"sessions": 0, "clicks": 0, "transitions": 0},
            "test": {"sessions": 100, "clicks": 400, "transitions": 300},
        },
    },
    spans={"train": (moment(1), moment(29)), "test": (moment(29), moment(30))},
    items=2500,
    hyperparameters=dataclasses.asdict(Hyperparameters(layers=(100, 50))),
    training={"workers": 2, "warm_start": ""},
    metrics={
        MODEL: {"mrr_at_20": 0.3, "mrr_at_5": 0.2, "recall_at_20": 0.7, "recall_at_5": 0.5},
        "pop": {"mrr_at_20": 0.01, "mrr_at_5": 0.005, "recall_at_20": 0.07, "recall_at_5": 0.05},
    },
    intervals={MODEL: {"recall_at_20": (0.69, 0.71)}, "pop": {"recall_at_20": (0.0699, 0.0701)}},
    predictions=300,
    sessions=98,
    example=[214536502, 214536500],
)


def test_it_says_what_is_known():
    card = model_card.text(FACTS)
    for said in (
        "# GRU4Rec gru4rec\n",
        "Prepared data prepared, 2,500 items. Of 5,000 rows, 12 could not be read. Fingerprint: abc123",
        "| train | 1,200 | 4,000 | 2014-09-01 | 2014-09-29 |\n| test | 100 | 400 | 2014-09-29 | 2014-09-30 |",
        "300 predictions in 98 sessions",
        "|  | GRU4Rec | pop |",
        "| Recall@5 | 0.5000 | 0.0500 |\n| Recall@20 | 0.7000 (0.6900–0.7100) | 0.0700 (0.0699–0.0701) |\n| MRR@5 |",
        "intervals of 95 %, drawn over sessions",
        "clicks until 2014-09-29",
        "| layers | 100, 50 |",
        "| warm\\_start | none |",
        'load_model("models:/gru4rec/VERSION")',
        '"items": [[214536502, 214536500]]',
    ):
        assert said in card
    assert "valid" not in card
    for heading in ("Intended use", "Data", "Metrics", "Limits", "Settings", "How to use it"):
        assert f"\n## {heading}\n" in card


def test_equal_facts_give_equal_bytes():
    assert model_card.text(FACTS) == model_card.text(dataclasses.replace(FACTS))
    assert model_card.summary(FACTS) == model_card.summary(dataclasses.replace(FACTS))


def test_the_short_form():
    assert model_card.summary(FACTS) == (
        "Trained on prepared: 1,200 sessions, until 2014-09-29; 2,500 items. Test split, 300 predictions: "
        "Recall@20 0.7000 (0.6900–0.7100), MRR@20 0.3000. More in README.md beside the weights."
    )


def test_what_is_not_known_is_left_out_or_said():
    bare = {"fingerprint": "f", "splits": {"train": {"sessions": 1, "clicks": 2}, "test": {"files": []}}}
    facts = dataclasses.replace(FACTS, model_name="", summary=bare, spans={}, predictions=0, example=[])
    card = model_card.text(facts)
    assert "nothing to predict" in card
    assert "models:/" not in card
    assert "None" not in card
    assert model_card.summary(facts).startswith("Trained on prepared: 1 sessions; 2,500 items. More")
    unranked = dataclasses.replace(FACTS, intervals={"pop": FACTS.intervals["pop"]})
    assert "No intervals for GRU4Rec: ranking so many predictions" in model_card.text(unranked)


@pytest.mark.parametrize("field", ["model_name", "data", "fingerprint", "setting", "id"])
def test_names_and_ids_cannot_break_the_markdown(field):
    changed = {
        "model_name": {"model_name": HOSTILE},
        "data": {"data": HOSTILE},
        "fingerprint": {"summary": {**FACTS.summary, "fingerprint": HOSTILE}},
        "setting": {"training": {"workers": 2, "warm_start": HOSTILE}},
        "id": {"example": [HOSTILE.replace("\udcff", ""), "b"]},
    }[field]
    facts = dataclasses.replace(FACTS, **changed)
    card, plain = model_card.text(facts), model_card.text(FACTS)
    card.encode()
    model_card.summary(facts).encode()
    assert "\n" not in model_card.summary(facts)
    assert re.sub(r"[\x20-\x7e\n–]", "", card) == ""
    assert parsed(card) == parsed(plain)


def parsed(card: str) -> list[str]:
    """What a Markdown parser makes of the card, without the words."""
    found = []
    for token in MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(card):
        inside = [child.type for child in token.children or []]
        found += [token.type, token.info, *inside]
    return found


def test_the_commands_hold_their_words_together():
    facts = dataclasses.replace(FACTS, model_name="my model; rm", example=["it's", 'a "b"'])
    lines = model_card.text(facts).splitlines()
    (serve,) = [shlex.split(line) for line in lines if line.startswith("mlflow")]
    assert serve[4] == "models:/my model; rm/VERSION"
    (curl,) = [shlex.split(line) for line in lines if line.startswith("curl")]
    assert json.loads(curl[4])["dataframe_records"][0]["items"] == ["it's", 'a "b"']
    (python,) = [line for line in lines if line.startswith("sessions")]
    assert ast.literal_eval(python.partition('"items": ')[2][:-2]) == [["it's", 'a "b"']]
