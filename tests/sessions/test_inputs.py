"""What a rerun compares: files and settings that matter, and nothing else."""

import dataclasses
import os

import pyarrow.parquet as pq
import pytest
from prepared_folder import prepared_folder
from simple_log import simple_log

from gru4rec import cli, config, storage
from gru4rec.sessions import inputs


@pytest.fixture
def given():
    return cli.check(config.Prepare, {"clicks": ("log",), "out": "out"})


def test_files_count_by_path_size_and_time_of_change(tmp_path, given):
    one, other = tmp_path / "a.csv", tmp_path / "b.csv"
    for path in (one, other):
        path.write_text("x")
        os.utime(path, ns=(10**18, 10**18))
    names = [str(one), str(other)]
    first = inputs.fingerprint(inputs.states([names, []]), [], given)
    assert inputs.fingerprint(inputs.states([names, []]), [], given) == first
    assert inputs.fingerprint(inputs.states([names[:1], []]), [], given) != first
    assert inputs.fingerprint(inputs.states([names[:1], names[1:]]), [], given) != first
    assert inputs.fingerprint(inputs.states([[], names]), [], given) != first
    os.utime(one, ns=(10**18, 10**18 + 1))
    touched = inputs.fingerprint(inputs.states([names, []]), [], given)
    assert touched != first
    one.write_text("xy")
    os.utime(one, ns=(10**18, 10**18))
    assert inputs.fingerprint(inputs.states([names, []]), [], given) not in (first, touched)


def test_every_setting_counts_but_those_that_change_nothing(given):
    first = inputs.fingerprint(inputs.states([[], []]), [], given)
    for field in dataclasses.fields(config.Prepare):
        changed = dataclasses.replace(given)
        object.__setattr__(changed, field.name, "something else")
        same = inputs.fingerprint([[], []], [], changed) == first
        assert same == (
            field.name in {"clicks", "test_clicks", "base", "out", "partitions", "force", "verbose", "debug"}
        )


def test_the_version_counts(given, monkeypatch):
    first = inputs.fingerprint(inputs.states([[], []]), [], given)
    monkeypatch.setattr(inputs, "VERSION", inputs.VERSION + 1)
    assert inputs.fingerprint(inputs.states([[], []]), [], given) != first


def test_objects_count_by_content_even_within_one_second(bucket, given):
    _, uri = bucket
    found = []
    for content in (b"abc", b"abd", b"abc"):
        storage.write_bytes(uri("in/a.csv"), content)
        found.append(inputs.fingerprint(inputs.states([[uri("in/a.csv")], []]), [], given))
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize("name", ["train/part-00000.parquet", "test/part-00000.parquet", "items.parquet"])
def test_a_folder_counts_only_where_all_of_it_is_as_it_was_written(tmp_path, capsys, name):
    log = simple_log(60, 20, seed=3)[0]
    made = prepared_folder(tmp_path / "out", {"train": log, "test": log}, 20)
    storage.write_json(f"{made.folder}/prepare.json", made.summary | {"made_of": "abc"})
    assert inputs.already_prepared(made.folder, "other") is None
    assert inputs.already_prepared(made.folder, "abc")["fingerprint"] == made.fingerprint
    assert capsys.readouterr().err == ""
    path = tmp_path / "out" / name
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    content = bytearray(path.read_bytes())
    content[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(content)
    pq.read_metadata(path)
    assert inputs.already_prepared(made.folder, "abc") is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path}: ")
    assert line.endswith(": preparing again")
