"""Making, damaging and looking at checkpoints in tests."""

import contextlib
import errno
import re

import pytest

from gru4rec import storage
from gru4rec.training.checkpoints import Damaged, newest, save


def put(place, name, size=100, block=0, **files):
    contents = {"weights": bytes([size % 251]) * size, "model/config": name.encode(), **files}
    save(place, name, {file: lambda content=content: content for file, content in contents.items()}, {"block": block})


def everything(place):
    """Paths in `place`, folders and files."""
    filesystem, inner = storage.locate(place)
    found = filesystem.get_file_info(storage.fs.FileSelector(inner, allow_not_found=True, recursive=True))
    return {info.path[len(inner) + 1 :] for info in found}


def fail_on(kind, message="", code=errno.ENOSPC):
    def make():
        raise kind(code, message) if issubclass(kind, OSError) else kind(message)

    return make


def find_newest(place, wanted=lambda about: True):
    """The newest, and what was said of damaged ones."""
    said = []
    return newest(place, wanted, lambda damage: said.append(str(damage))), [without_options(text) for text in said]


def without_options(text):
    """A message without the options of the URIs in it."""
    return re.sub(r"\?endpoint_override=\S+&region=us-east-1", "", text)


@contextlib.contextmanager
def damaged(message):
    with pytest.raises(Damaged) as error:
        yield
    assert message in without_options(str(error.value))
    assert "hush" not in str(error.value)


def damage(place, name, file, how):
    path = storage.join(place, name, file)
    content = storage.read_bytes(path)
    if how == "missing":
        storage.remove_file(path)
    else:
        flipped = content[:-1] + bytes([content[-1] ^ 128])
        storage.write_bytes(
            path, {"empty": b"", "torn": content[:-2], "longer": content + b" x", "flipped": flipped}[how]
        )
