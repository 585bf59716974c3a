"""What starts RayJobs, against a server that answers as Kubernetes does."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "cluster" / "kubernetes" / "base" / "start_rayjob.py"
RAYJOBS = "/apis/ray.io/v1/namespaces/shop/rayjobs"


class Kubernetes(BaseHTTPRequestHandler):
    """RayJobs of one namespace; a copy goes through `states`, one a question."""

    rayjobs: dict
    states: list  # or a failure
    failures: list  # of the next questions: statuses, or `half` for half an answer
    going: int  # questions after which a RayJob that is being deleted is gone
    token = ""

    def do_GET(self) -> None:
        kind = type(self)
        name = self.path.removeprefix(RAYJOBS + "/")
        if kind.failures:
            return self._fail(kind.failures.pop(0))
        there = kind.rayjobs.get(name, {}).get("metadata", {})
        if "deletionTimestamp" in there:
            kind.going -= 1
            if not kind.going:
                del kind.rayjobs[name]
            return self._answer(200, {"metadata": there})
        if name not in kind.rayjobs:
            return self._answer(404, {})
        if name.endswith("-ray") and kind.states:
            state = kind.states.pop(0)
            if not isinstance(state, dict):
                return self._fail(state)
            kind.rayjobs[name]["status"] = state
        return self._answer(200, kind.rayjobs[name])

    def do_POST(self) -> None:
        made = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == RAYJOBS
        name = made["metadata"]["name"]
        if name in type(self).rayjobs:
            return self._answer(409, {"message": "there already"})
        type(self).rayjobs[name] = made
        return self._answer(201, made)

    def _fail(self, how: int | str) -> None:
        self._answer(*((200, {}, 10) if how == "half" else (how, {"message": "no\nway"})))

    def _answer(self, status: int, content: dict, lost: int = 0) -> None:
        assert self.headers["Authorization"] == "Bearer let me in"
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) + lost))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *given) -> None:
        pass


@pytest.fixture
def kubernetes(tmp_path):
    template = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": "train", "uid": "1", "resourceVersion": "7"},
        "spec": {"suspend": True, "entrypoint": "python train.py --run-name RUN_NAME", "backoffLimit": 3},
    }
    kind = type("Here", (Kubernetes,), {"rayjobs": {"train": template}, "states": [], "failures": [], "going": 0})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kind.place = tmp_path
    kind.address = f"http://127.0.0.1:{server.server_address[1]}"
    for name, content in (("namespace", "shop"), ("token", "let me in\n")):
        (tmp_path / name).write_text(content)
    yield kind
    server.shutdown()
    server.server_close()


def start(kubernetes, name: str, **more: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "KUBERNETES": kubernetes.address, "SERVICE_ACCOUNT": str(kubernetes.place), "EVERY_S": "0.01"}
    env |= {"JOB_NAME": name, "JOB_UID": "u-1", **more}
    return subprocess.run(
        [sys.executable, str(SCRIPT)], env=env, capture_output=True, text=True, check=False, timeout=120
    )


RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "rayClusterName": "c1"}
SUCCEEDED = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}


def copy(uid: str, **metadata: str) -> dict:
    """A RayJob of the Job with this uid."""
    return {"metadata": {"ownerReferences": [{"kind": "Job", "uid": uid}], **metadata}, "status": RUNNING}


def test_a_copy_runs_and_its_end_is_waited_for(kubernetes):
    kubernetes.states = [{}, RUNNING, RUNNING, SUCCEEDED]
    done = start(kubernetes, "train-november")
    assert done.returncode == 0, done.stderr
    made = kubernetes.rayjobs["train-november-ray"]
    assert made["spec"] == {
        "suspend": False,
        "entrypoint": "python train.py --run-name train-november",
        "backoffLimit": 3,
    }
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "train-november", "uid": "u-1", "controller": False}
    assert made["metadata"] == {"name": "train-november-ray", "labels": {}, "ownerReferences": [owner]}
    assert kubernetes.rayjobs["train"]["spec"]["suspend"] is True
    assert done.stdout.splitlines()[1:] == ["new", "Running RUNNING c1", "Complete SUCCEEDED"]


def test_a_pod_that_is_started_again_finds_the_copy(kubernetes):
    kubernetes.rayjobs["train-november-ray"] = copy("u-1")
    kubernetes.states = [{}, RUNNING, SUCCEEDED]
    done = start(kubernetes, "train-november")
    assert (done.returncode, "is there already" in done.stdout) == (0, True)


@pytest.mark.parametrize("state", ["Failed", "Complete"])
def test_a_rayjob_that_failed_is_an_error_of_one_line(kubernetes, state):
    kubernetes.states = [
        {"jobDeploymentStatus": state, "jobStatus": "FAILED", "reason": "AppFailed", "message": "a\nb"}
    ]
    done = start(kubernetes, "train-x")
    assert done.returncode == 1
    assert done.stderr == "error: RayJob train-x-ray: FAILED AppFailed a b; see kubectl logs job/train-x-ray\n"


def test_kubernetes_is_asked_again_and_what_is_missing_is_said(kubernetes):
    kubernetes.failures = [503, 401, 403, "half"]
    done = start(kubernetes, "tarin-november")
    assert done.stdout.count("trying again") == 4
    assert (done.returncode, done.stderr) == (1, "error: RayJob tarin, to make tarin-november of: status 404\n")


def test_a_rayjob_that_is_deleted_while_it_runs(kubernetes):
    kubernetes.rayjobs["train-x-ray"] = copy("u-1")
    kubernetes.states = [RUNNING, RUNNING, 404]
    done = start(kubernetes, "train-x")
    assert done.returncode == 1
    assert done.stderr.startswith("error: RayJob train-x-ray: status 404 no way: was it deleted?")


def test_a_rayjob_is_lost_sight_of_for_a_while(kubernetes):
    kubernetes.states = [RUNNING, 401, 403, "half", 500, RUNNING, SUCCEEDED]
    done = start(kubernetes, "train-x")
    assert done.returncode == 0
    assert done.stdout.count("trying again") == 4


@pytest.mark.parametrize("more", [{"SERVICE_ACCOUNT": "/nowhere"}, {"KUBERNETES": "http://127.0.0.1:1"}])
def test_what_is_not_the_rayjobs_failure_ends_with_2(kubernetes, more):
    done = start(kubernetes, "train-x", PATIENCE_S="0", **more)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("error: ")


def test_a_rayjob_that_kuberay_refuses(kubernetes):
    kubernetes.states = [{"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed", "message": "no"}]
    done = start(kubernetes, "train-x")
    assert done.returncode == 1
    assert done.stderr.startswith("error: RayJob train-x-ray: ValidationFailed ValidationFailed no;")


@pytest.mark.parametrize("name", ["train-" + 38 * "x", "train-v1.2", "train-", "7train"])
def test_names_that_kuberay_would_refuse(kubernetes, name):
    done = start(kubernetes, name)
    assert done.returncode == 1
    assert done.stderr == f"error: Job {name}: names have up to 43 small letters, digits and dashes, a letter first\n"
    kubernetes.states = [SUCCEEDED]
    assert start(kubernetes, "train-" + 37 * "x").returncode == 0


@pytest.mark.parametrize("uid", ["u-0", "u-1"])
def test_the_rayjob_of_an_earlier_job_is_waited_for_until_it_is_gone(kubernetes, uid):
    kubernetes.rayjobs["train-x-ray"] = copy(uid, deletionTimestamp="2026-01-01T00:00:00Z")
    kubernetes.going = 3
    kubernetes.states = [SUCCEEDED]
    done = start(kubernetes, "train-x")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("waiting until it is gone") == 3
    assert kubernetes.rayjobs["train-x-ray"]["metadata"]["ownerReferences"][0]["uid"] == "u-1"


@pytest.mark.parametrize("there", [copy("u-0"), {"metadata": {}}])
def test_a_rayjob_of_somebody_else_stays_as_it_is(kubernetes, there):
    kubernetes.rayjobs["train-x-ray"] = there
    done = start(kubernetes, "train-x", PATIENCE_S="0.1")
    assert done.returncode == 1
    assert done.stderr.startswith("error: RayJob train-x-ray is there already and not of this Job")
    assert kubernetes.rayjobs["train-x-ray"] == there
