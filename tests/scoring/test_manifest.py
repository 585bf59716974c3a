"""The results in a folder: which counts, what may be there, what is deleted."""

import json
import os

import pyarrow as pa
import pytest

from gru4rec.config import Hyperparameters
from gru4rec.errors import GRU4RecError, InputError
from gru4rec.model.network import initialise
from gru4rec.scoring import manifest, source
from gru4rec.tracking.folder import LoadedModel


def content(name, published, files=("part-00000.parquet",)):
    listed = [{"name": f"{name}/{file}", "rows": 1, "bytes": 2} for file in files]
    mark = {"format": manifest.FORMAT, "format_version": manifest.FORMAT_VERSION}
    return {**mark, "result": name, "published": published, "files": listed}


def result(folder, name, published="", files=("part-00000.parquet",)):
    """A result's folder; published where a moment is given."""
    (folder / name).mkdir()
    for file in files:
        (folder / name / file).write_text("ok")
    if published:
        manifest.publish(str(folder), name, content(name, published, files))


def held(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_published_last_counts(tmp_path):
    result(tmp_path, "v1-00000000", "2026-01-01")
    result(tmp_path, "v2-00000000", "2026-01-02")
    assert manifest.current(str(tmp_path))["result"] == "v2-00000000"
    (tmp_path / "manifest.json").write_bytes((tmp_path / "v1-00000000" / "manifest.json").read_bytes())
    assert manifest.current(str(tmp_path))["result"] == "v1-00000000"


def test_what_is_not_whole_is_not_published(tmp_path):
    result(tmp_path, "v1-00000000", "2026-01-01")
    result(tmp_path, "v2-00000000")
    for size in (0, 1, 3):
        (tmp_path / "v2-00000000" / "part-00000.parquet").write_text("x" * size)
        with pytest.raises(GRU4RecError, match="a file is gone"):
            manifest.publish(str(tmp_path), "v2-00000000", content("v2-00000000", "2026-01-02"))
    assert manifest.current(str(tmp_path))["result"] == "v1-00000000"


@pytest.mark.parametrize(
    ("keep", "left"),
    [(1, ["v2"]), (2, ["v2", "v4"]), (3, ["v2", "v3", "v4"]), (4, ["v1", "v2", "v3", "v4"])],
)
def test_the_newest_are_kept_and_always_the_one_that_counts(tmp_path, keep, left):
    for version in range(1, 5):
        result(tmp_path, f"v{version}-00000000", f"2026-01-0{version}")
    (tmp_path / "manifest.json").write_bytes((tmp_path / "v2-00000000" / "manifest.json").read_bytes())
    result(tmp_path, "v8-00000000")  # begun, never published
    result(tmp_path, "v9-00000000")  # the same, long ago
    for path in (tmp_path / "v9-00000000" / "part-00000.parquet", tmp_path / "v9-00000000"):
        os.utime(path, (0, 0))
    (tmp_path / f"manifest.json.{'0' * 32}.tmp").write_text("{")
    (tmp_path / "mine.txt").write_text("")
    manifest.prune(str(tmp_path), keep)
    assert held(tmp_path) == ["manifest.json", "mine.txt", *(f"{name}-00000000" for name in [*left, "v8"])]


def test_nights_are_those_before_newest_first(tmp_path):
    for day in ("01", "02", "04"):
        (tmp_path / f"date=2026-01-{day}").mkdir()
        result(tmp_path / f"date=2026-01-{day}", "v1-00000000", f"2026-01-{day}")
    (tmp_path / "date=2026-01-03").mkdir()  # never published
    (tmp_path / "date=2026-01-01" / "manifest.json").write_text("[]")  # unreadable
    found = manifest.nights(str(tmp_path), "2026-01-04", 5)
    assert [night["published"] for night in found] == ["2026-01-02"]
    assert [night["published"] for night in manifest.nights(str(tmp_path), "2026-02-01", 1)] == ["2026-01-04"]
    assert manifest.nights(str(tmp_path / "nowhere"), "2026-01-04", 5) == []


def test_out_may_be_new_empty_an_earlier_result_or_one_begun(tmp_path):
    manifest.check_out(str(tmp_path / "new"), "", "/in")
    (tmp_path / "empty").mkdir()
    manifest.check_out(str(tmp_path / "empty"), "2026-01-01", "/in")
    (tmp_path / "old" / "date=2026-01-01").mkdir(parents=True)
    result(tmp_path / "old", "v1-00000000", "2026-01-01")
    result(tmp_path / "old", "model-0123abcd")
    (tmp_path / "old" / ".lock").write_text("")
    manifest.check_out(str(tmp_path / "old"), "", "/in")
    manifest.check_out(str(tmp_path / "old"), "2026-01-01", "/in")


@pytest.mark.parametrize("name", ["thesis.txt", "v1", "part-00000.parquet", "v1-0123456g"])
def test_out_may_not_be_anything_else(tmp_path, name):
    (tmp_path / "date=2026-01-01").mkdir()
    (tmp_path / name).write_text("[1]")
    for date in ("", "2026-01-01"):
        with pytest.raises(InputError, match="holds something else"):
            manifest.check_out(str(tmp_path), date, "/in")
    with pytest.raises(InputError, match="is a file"):
        manifest.check_out(str(tmp_path / name), "", "/in")
    (tmp_path / name).rename(tmp_path / "date=2026-01-01" / name)
    with pytest.raises(InputError, match="holds something else"):
        manifest.check_out(str(tmp_path), "2026-01-01", "/in")


def test_a_result_of_an_earlier_release_is_not_touched(tmp_path):
    (tmp_path / "part-00000.parquet").write_text("old")
    (tmp_path / "manifest.json").write_text(json.dumps({"format": manifest.FORMAT, "format_version": 1}))
    with pytest.raises(InputError, match="holds a result of an earlier release"):
        manifest.check_out(str(tmp_path), "", "/in")


@pytest.mark.parametrize("text", ["[1]", "{", '{"format": "another"}', f'{{"format": "{manifest.FORMAT}"}}'])
def test_a_manifest_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json"):
        manifest.check_out(str(tmp_path), "", "/in")


def test_out_may_not_hold_the_input(tmp_path):
    for sessions in (tmp_path, tmp_path / "raw", tmp_path / "raw" / "a.parquet", tmp_path.parent):
        with pytest.raises(InputError, match="holds the sessions to score, or lies among them"):
            manifest.check_out(str(tmp_path), "", str(sessions))


def test_the_key_depends_on_model_catalogue_input_and_settings():
    def weights(seed=1, support=1, ids="abc", layers=(4,)):
        items = {"item_id": list(ids), "item_index": pa.array(range(3), pa.int32()), "support": [support, 1, 1]}
        return LoadedModel(initialise(Hyperparameters(layers=layers, seed=seed), 3), pa.table(items), {})

    def model(**given):
        return manifest.model_digest(weights(**given))

    def found(digest="d", path="p"):
        return source.Source(path, [], pa.int64(), "f", digest, None)

    given = (model(), found(), {"top_k": 20})
    same = manifest.key(*given)
    assert manifest.key(model(), found(path="elsewhere"), {"top_k": 20}) == same
    others = [
        (model(seed=2), *given[1:]),
        (model(support=2), *given[1:]),
        (model(ids="abd"), *given[1:]),
        (given[0], found("e"), given[2]),
        (*given[:2], {"top_k": 21}),
    ]
    assert len({same, *(manifest.key(*other) for other in others)}) == 6
    changed = weights()
    changed.model.item_bias[2] = 1e-30
    assert manifest.key(manifest.model_digest(changed), *given[1:]) != same
