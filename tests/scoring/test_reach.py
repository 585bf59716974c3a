"""The mark in a result's folder by which actors know that they see it."""

import pytest

from gru4rec.errors import GRU4RecError
from gru4rec.scoring import reach


def test_who_sees_the_folder_sees_the_mark(tmp_path):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"  # of the same name, on another node
    for folder in (here, elsewhere):
        folder.mkdir()
        (folder / f"{reach.MARK}of-a-run-that-was-killed").touch()
    with reach.marked(str(here)) as mark:
        assert [path.name for path in here.iterdir()] == [mark]
        assert reach.unseen(str(here), mark) == ""
        for folder in (elsewhere, tmp_path / "absent"):
            wrong = reach.unseen(str(folder), mark)
            assert wrong.startswith("--out: ")
            assert f"does not see {folder}" in wrong
            assert "a folder that all nodes reach" in wrong
    assert not list(here.iterdir())


def test_object_stores_are_reached_by_all():
    with reach.marked("s3://who:hush@bucket/out?region=x") as mark:
        assert reach.unseen("s3://who:hush@bucket/out?region=x", mark) == ""


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(GRU4RecError, match="absent: cannot be written: "), reach.marked(str(tmp_path / "absent")):
        pass
