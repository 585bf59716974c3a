"""Scoring from and to an object store, on a server of this machine."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gru4rec import cli, config, lock, storage
from gru4rec.config import Hyperparameters
from gru4rec.model.network import initialise
from gru4rec.scoring import batch
from gru4rec.scoring.job import score
from gru4rec.tracking import folder


def open_part(path):
    filesystem, inner = storage.locate(path)
    return filesystem.open_input_file(inner)


@pytest.mark.ray
@pytest.mark.parametrize("with_ray", [False, True])
def test_model_sessions_and_result_on_an_object_store(bucket, ray_local, capsys, monkeypatch, with_ray):
    monkeypatch.setattr(batch, "PIECES_HERE", 1 - with_ray)
    monkeypatch.setattr(lock, "SETTLE_S", 1.1)
    _, uri = bucket
    ids = pa.array(range(100, 130))
    items = pa.table({"item_id": ids, "item_index": pa.array(range(30), pa.int32()), "support": [1] * 30})
    folder.save(initialise(Hyperparameters(layers=(4,)), 30), items, uri("model"))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"session_id": [1, 2], "items": [[100, 101], [5]]}), sink)
    storage.write_bytes(uri("raw/a.parquet"), sink.getvalue())

    def run(**given):
        given = {"model": uri("model"), "sessions": uri("raw"), "out": uri("out"), "experiment": "", **given}
        flags = [part for name, value in given.items() for part in ("--" + name.replace("_", "-"), value)]
        return cli.run(config.Score, score, flags), capsys.readouterr()

    names = []
    for top_k in ("5", "5", "6"):  # the second does nothing, the third replaces what counts
        code, said = run(top_k=top_k, date="2026-11-22", keep="1")
        assert code == 0
        result = json.loads(said.out.splitlines()[-1])
        names.append(result["result"])
        assert result["sessions_out"] == 2
        assert result["unchanged"] == (len(names) == 2)
        assert "hush" not in said.out + said.err
    place = uri("out/date=2026-11-22")
    content = storage.read_bytes(storage.join(place, "manifest.json")).decode()
    assert "hush" not in content
    assert names[0] == names[1] != names[2]
    assert storage.list_files(place) == ["manifest.json"]
    assert storage.list_folders(place) == ["_claims", names[2]]
    assert storage.list_files(storage.join(place, "_claims")) == []
    assert storage.list_files(storage.join(place, names[2])) == [
        "exposure.parquet",
        "manifest.json",
        "part-00000.parquet",
    ]
    with open_part(storage.join(place, json.loads(content)["files"][0]["name"])) as file:
        assert pq.read_table(file)["items"].to_pylist()[0]
    for given in ({"sessions": uri("nothing")}, {"model": uri("nothing")}, {"out": uri("raw")}):
        code, said = run(**given)
        assert code == 2
        assert "hush" not in said.err
