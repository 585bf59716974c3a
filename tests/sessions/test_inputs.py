"""What a rerun compares: files and settings that matter, and nothing else."""

import dataclasses
import os

import pytest

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
