"""Fixtures of the training tests."""

import pytest


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path):
    """An absent place for checkpoints on each kind of storage."""
    if request.param == "local":
        return str(tmp_path / "run" / "checkpoints")
    return request.getfixturevalue("bucket")[1]("run/checkpoints")
