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
    states: list
    failures: int
    token = ""

    def do_GET(self) -> None:
        kind = type(self)
        name = self.path.removeprefix(RAYJOBS + "/")
        if kind.failures:
            kind.failures -= 1
            return self._answer(503, {})
        if name not in kind.rayjobs:
            return self._answer(404, {})
        if name.endswith("-ray") and kind.states:
            kind.rayjobs[name]["status"] = kind.states.pop(0)
            if kind.rayjobs[name]["status"] is None:  # it was deleted
                return self._answer(404, {})
        return self._answer(200, kind.rayjobs[name])

    def do_POST(self) -> None:
        made = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == RAYJOBS
        name = made["metadata"]["name"]
        if name in type(self).rayjobs:
            return self._answer(409, {"message": "there already"})
        type(self).rayjobs[name] = made
        return self._answer(201, made)

    def _answer(self, status: int, content: dict) -> None:
        assert self.headers["Authorization"] == "Bearer let me in"
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
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
    kind = type("Here", (Kubernetes,), {"rayjobs": {"train": template}, "states": [], "failures": 0})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kind.place = tmp_path
    kind.address = f"http://127.0.0.1:{server.server_address[1]}"
    for name, content in (("namespace", "shop"), ("token", "let me in\n")):
        (tmp_path / name).write_text(content)
    yield kind
    server.shutdown()
    server.server_close()


def start(kubernetes, name: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "KUBERNETES": kubernetes.address, "SERVICE_ACCOUNT": str(kubernetes.place), "EVERY_S": "0.01"}
    env |= {"JOB_NAME": name, "JOB_UID": "u-1"}
    return subprocess.run(
        [sys.executable, str(SCRIPT)], env=env, capture_output=True, text=True, check=False, timeout=120
    )


RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "rayClusterName": "c1"}


def test_a_copy_runs_and_its_end_is_waited_for(kubernetes):
    kubernetes.states = [{}, RUNNING, RUNNING, {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}]
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
    kubernetes.rayjobs["train-november-ray"] = {"status": RUNNING}
    kubernetes.states = [RUNNING, {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}]
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
    kubernetes.failures = 2
    done = start(kubernetes, "tarin-november")
    assert done.stdout.count("trying again") == 2
    assert (done.returncode, done.stderr) == (1, "error: RayJob tarin, to make tarin-november of: status 404\n")


def test_a_rayjob_that_is_deleted_while_it_runs(kubernetes):
    kubernetes.rayjobs["train-x-ray"] = {"status": RUNNING}
    kubernetes.states = [RUNNING, None]
    done = start(kubernetes, "train-x")
    assert done.returncode == 1
    assert done.stderr.startswith("error: RayJob train-x-ray: status 404: was it deleted?")
