"""Files of the training data that are missing or damaged."""

import shutil

import pyarrow.parquet as pq
import pytest
from chaos.job import Job

pytestmark = pytest.mark.chaos


@pytest.fixture
def copied(place, data):
    folder = place / "copy"
    shutil.copytree(data.folder, folder)
    yield folder
    shutil.rmtree(folder)


def fails(job: Job, name: str) -> None:
    job.start()
    assert job.end() == 2
    last = job.errors.splitlines()[-1]
    assert last.startswith("error: ")
    assert name in last
    assert job.checkpoints() == []
    assert "epoch 1/" not in job.errors
    assert job.driver_left() == []


def test_a_missing_file_is_named(place, settings, data, copied, moments, inject):
    file = moments.choice(data.summary["splits"]["train"]["files"])["name"]
    (copied / "train" / file).unlink()
    job = Job(place / "missing", settings.replace(data.folder, str(copied)))
    inject(f"{file} removed")
    fails(job, f"train/{file}: is missing")


@pytest.mark.parametrize("split", ["train", "test"])
def test_one_wrong_byte_is_found_before_training(place, settings, data, copied, moments, inject, split):
    file = moments.choice(data.summary["splits"][split]["files"])["name"]
    path = copied / split / file
    metadata = pq.ParquetFile(path).metadata
    group = moments.randrange(metadata.num_row_groups)
    columns = {metadata.row_group(group).column(i).path_in_schema: i for i in range(metadata.num_columns)}
    chunk = metadata.row_group(group).column(columns["items.list.element"])
    # Well behind the page's header, so that Parquet itself sees nothing wrong.
    place_of_byte = chunk.data_page_offset + chunk.total_compressed_size * moments.uniform(0.5, 0.9) // 1
    content = bytearray(path.read_bytes())
    content[int(place_of_byte)] ^= 1 << moments.randrange(8)
    path.write_bytes(content)
    job = Job(place / f"flipped-{split}", settings.replace(data.folder, str(copied)))
    inject(f"a bit of {split}/{file}, row group {group}, flipped")
    fails(job, f"{split}/{file}")
