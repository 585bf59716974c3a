"""Scoring from and to an object store, on a server of this machine."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gru4rec import cli, config, storage
from gru4rec.config import Hyperparameters
from gru4rec.model.network import initialise
from gru4rec.scoring.job import score
from gru4rec.tracking import folder


@pytest.mark.ray
def test_model_sessions_and_result_on_an_object_store(bucket, ray_local, capsys):
    _, uri = bucket
    ids = pa.array(range(100, 130))
    items = pa.table({"item_id": ids, "item_index": pa.array(range(30), pa.int32()), "support": [1] * 30})
    folder.save(initialise(Hyperparameters(layers=(4,)), 30), items, uri("model"))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"session_id": [1, 2], "items": [[100, 101], [5]]}), sink)
    storage.write_bytes(uri("raw/a.parquet"), sink.getvalue())

    def run(**given):
        given = {"model": uri("model"), "sessions": uri("raw"), "out": uri("out"), **given}
        flags = [part for name, value in given.items() for part in ("--" + name, value)]
        return cli.run(config.Score, score, flags), capsys.readouterr()

    for _ in range(2):  # the second replaces the first
        code, said = run()
        assert code == 0
        assert json.loads(said.out.splitlines()[-1])["sessions_out"] == 2
        assert "hush" not in said.out + said.err
    manifest = storage.read_bytes(uri("out/manifest.json")).decode()
    assert "hush" not in manifest
    assert storage.list_files(uri("out")) == ["manifest.json", "part-00000.parquet"]
    assert json.loads(manifest)["files"] == [{"name": "part-00000.parquet", "rows": 2}]
    for given in ({"sessions": uri("nothing")}, {"model": uri("nothing")}, {"out": uri("raw")}):
        code, said = run(**given)
        assert code == 2
        assert "hush" not in said.err
