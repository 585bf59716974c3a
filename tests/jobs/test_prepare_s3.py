"""Preparing from and to an object store, on a server of this machine."""

import os
import signal
import subprocess
import sys
import textwrap

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


KILLED = textwrap.dedent("""
    import os, signal, sys
    from gru4rec import cli, config, storage
    from gru4rec.sessions.prepare import prepare
    where = sys.argv.pop(1)
    write = storage.write_json
    def dies(path, content):
        publishes = "/out/prepare.json" in path
        if not publishes or where == "after":
            write(path, content)
        if publishes:
            os.kill(os.getpid(), signal.SIGKILL)
    storage.write_json = dies
    cli.run(config.Prepare, prepare, sys.argv[1:])
""")


@pytest.mark.ray
def test_killed_at_the_moment_of_publishing(bucket, ray_local):
    """Right before prepare.json is replaced, and right after; what a killed job left is nobody's data."""
    client, uri = bucket

    def log(sessions):
        rows = "".join(f"{session},{item},{session}\n" for session in range(sessions) for item in (1, 2, session % 5))
        client.put_object(Bucket="logs", Key="log.csv", Body=("SessionId,ItemId,Time\n" + rows).encode())

    def whole(sessions):
        found = Prepared(uri("out"))
        found.verify("train")
        return found.read("train").count == sessions

    log(20)
    arguments = ["--clicks", uri("log.csv"), "--out", uri("out"), "--min-item-support", "1", "--test-days", "0"]
    assert cli.run(config.Prepare, prepare, arguments) == 0
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for sessions, where in ((21, "before"), (22, "after")):
        log(sessions)
        command = [sys.executable, "-c", KILLED, where, *arguments]
        job = subprocess.run(command, env=environment, capture_output=True)
        assert job.returncode == -signal.SIGKILL, job.stderr.decode()
        assert whole(20 if where == "before" else 22)
    log(23)
    assert cli.run(config.Prepare, prepare, arguments) == 0
    assert whole(23)
    on = prepare(cli.parse(config.Prepare, [*arguments, "--base", uri("out")]))
    assert on["unchanged"]


def test_options_of_a_uri_stay_at_its_end(bucket):
    _, uri = bucket
    assert storage.join(uri("a/"), "b", "c").startswith("s3://who:hush@logs/a/b/c?endpoint_override=http")
    assert storage.beside(uri("a"), ".x").startswith("s3://who:hush@logs/a.x?")
    assert storage.shown(uri("a")).startswith("s3://logs/a?")
