"""Places that a job writes to at its end are refused before its work, and made after it."""

import os

import pytest

from gru4rec import outputs
from gru4rec.errors import InputError


def test_folders_above_a_file_are_made(tmp_path):
    path = str(tmp_path / "of" / "november" / "page.html")
    outputs.check_file("--report", path)
    assert list(tmp_path.iterdir()) == []
    for text in ("first", "secönd"):
        outputs.write_text(path, text)
        assert (tmp_path / "of" / "november" / "page.html").read_text(encoding="utf-8") == text
    outputs.check_file("--report", path)
    assert os.listdir(tmp_path / "of" / "november") == ["page.html"]


def test_a_file_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outputs.check_file("--report", "page.html")
    outputs.write_text("page.html", "text")
    assert (tmp_path / "page.html").read_text() == "text"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("folder", "is a folder; name a file"),
        ("file/page.html", "file is not a folder"),
        ("file/below/page.html", "file is not a folder"),
        ("hanging/page.html", "hanging is not a folder"),
    ],
)
def test_a_file_that_cannot_be_is_refused_and_nothing_is_made(tmp_path, path, reason):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "hanging").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=f"--report .*{path}: .*{reason}"):
        outputs.check_file("--report", str(tmp_path / path))
    assert sorted(tmp_path.iterdir()) == before


def test_a_place_without_the_right_to_write_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda place, mode: place != str(tmp_path))  # whoever runs this: root may write
    for check in (outputs.check_file, outputs.check_folder):
        with pytest.raises(InputError, match=f"--out .*: {tmp_path} cannot be written to"):
            check("--out", str(tmp_path / "a" / "b"))


def test_a_folder_may_be_there_and_a_file_in_its_way_may_not(tmp_path):
    (tmp_path / "file").write_text("x")
    outputs.check_folder("--out", str(tmp_path))
    outputs.check_folder("--out", str(tmp_path / "new" / "one"))
    with pytest.raises(InputError, match="file is not a folder"):
        outputs.check_folder("--out", str(tmp_path / "file" / "one"))


def test_no_path_and_object_stores_are_not_looked_at():
    for check in (outputs.check_file, outputs.check_folder):
        check("--out", "")
        check("--out", "s3://key:hush@bucket/pages/page.html?endpoint_override=http://127.0.0.1:1&region=us-east-1")
