"""Preparing from and to an object store, on a server of this machine."""

import pytest

from gru4rec import cli, config, storage
from gru4rec.sessions.prepare import prepare
from gru4rec.sessions.prepared import Prepared


@pytest.mark.ray
def test_reads_and_writes_s3(bucket, ray_local):
    client, uri = bucket
    rows = "".join(f"{session},{item},{session}\n" for session in range(20) for item in (1, 2, session))
    for name, text in (("a.csv", rows), ("b.csv", "1,x\n30,1,30\n30,2,31\n")):
        client.put_object(Bucket="logs", Key=f"in/{name}", Body=("SessionId,ItemId,Time\n" + text).encode())
    given = {"clicks": (uri("in"),), "out": uri("out/x"), "min_item_support": 1, "test_days": 0}
    result = prepare(cli.check(config.Prepare, given))
    assert (result["rows_in"], result["rejected"], result["train_clicks"]) == (63, 1, 62)
    found = Prepared(uri("out/x"))
    assert found.read("train").count == 21
    assert b"21 sessions with 62 clicks" in storage.read_bytes(storage.join(found.data, "report.html"))
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket="logs")["Contents"]]
    files = [key for key in keys if not key.endswith("/")]
    assert all(key.startswith(("in/", "out/x/")) for key in files)
    assert "hush" not in str(found.summary) + str(result)
    prepare(cli.check(config.Prepare, {**given, "clicks": (uri("in/a.*"),)}))
    assert Prepared(uri("out/x")).read("train").count == 20


def test_options_of_a_uri_stay_at_its_end(bucket):
    _, uri = bucket
    assert storage.join(uri("a/"), "b", "c").startswith("s3://who:hush@logs/a/b/c?endpoint_override=http")
    assert storage.beside(uri("a"), ".x").startswith("s3://who:hush@logs/a.x?")
    assert storage.shown(uri("a")).startswith("s3://logs/a?")
