"""Start a RayJob as a copy of a suspended one, wait for its end, and end as it did.

The Job that this runs in is called JOB_NAME, such as `train-november`: RayJob `train` is copied to RayJob
`train-november-ray`, and RUN_NAME in its entrypoint becomes `train-november`. (KubeRay's own Job, which submits, has
the RayJob's name: so that cannot be this one's.) A pod that is started again finds the copy and goes on waiting. The
copy belongs to the Job and is deleted with it; one of an earlier Job of this name is waited for until it is gone.
Nothing but Python is needed.

Exit codes: 0 the RayJob succeeded; 1 it failed, was deleted, or cannot be made; 2 and others: Kubernetes could not be
asked, or something unforeseen, so that another try is worth while.
"""

import http.client
import json
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Collection
from typing import Any

ACCOUNT = os.environ.get("SERVICE_ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount")
EVERY_S = float(os.environ.get("EVERY_S", "15"))
PATIENCE_S = float(os.environ.get("PATIENCE_S", "600"))  # for Kubernetes to answer, and an earlier copy to be gone
LONGEST = 47  # name of a RayJob, by KubeRay
OVER = ("Complete", "Failed", "ValidationFailed")  # what a RayJob's jobDeploymentStatus does not change from


def copy_of(template: dict[str, Any], name: str, job_uid: str) -> dict[str, Any]:
    """The RayJob that the Job of this name is to run."""
    spec = {**template["spec"], "suspend": False}
    spec["entrypoint"] = spec["entrypoint"].replace("RUN_NAME", name)
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job_uid, "controller": False}
    metadata = {"name": f"{name}-ray", "labels": template["metadata"].get("labels", {}), "ownerReferences": [owner]}
    return {"apiVersion": template["apiVersion"], "kind": "RayJob", "metadata": metadata, "spec": spec}


class Refused(Exception):
    """Kubernetes answered, with a status that asking again does not change."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"status {status} {message}".strip())
        self.status = status


def ask(path: str, body: dict[str, Any] | None = None, final: Collection[int] = (404,)) -> dict[str, Any]:
    """What Kubernetes answers about RayJobs of this namespace; tried again for ten minutes where it does not.

    Raises Refused for a status in `final`; any other error (a token that has just run out, a server that starts) may
    pass. Raises TimeoutError where it did not.
    """
    with open(f"{ACCOUNT}/namespace") as file:
        namespace = file.read().strip()
    server = os.environ.get("KUBERNETES", "https://kubernetes.default.svc")
    url = f"{server}/apis/ray.io/v1/namespaces/{namespace}/rayjobs{path}"
    content = None if body is None else json.dumps(body).encode()
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            with open(f"{ACCOUNT}/token") as file:  # Kubernetes changes it from time to time
                headers = {"Authorization": f"Bearer {file.read().strip()}", "Content-Type": "application/json"}
            trusted = ssl.create_default_context(cafile=f"{ACCOUNT}/ca.crt") if url.startswith("https:") else None
            request = urllib.request.Request(url, content, headers)  # noqa: S310
            with urllib.request.urlopen(request, timeout=30, context=trusted) as answer:  # noqa: S310
                return json.load(answer)
        except urllib.error.HTTPError as error:
            message = message_of(error)
            if error.code in final:
                raise Refused(error.code, message) from error
            why = f"status {error.code} {message}".strip()
        except (OSError, http.client.HTTPException, ValueError) as error:  # the last: half an answer is no JSON
            why = f"{type(error).__name__}: {error}"
        if time.monotonic() > deadline:
            raise TimeoutError(f"Kubernetes does not answer: {why}")
        print(f"Kubernetes does not answer: {why}; trying again", flush=True)
        time.sleep(min(EVERY_S, 15))


def message_of(error: urllib.error.HTTPError) -> str:
    """What Kubernetes says beside the status, in one line."""
    try:
        return " ".join(json.load(error)["message"].split())
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return ""


def main() -> int:
    name, uid = os.environ["JOB_NAME"], os.environ["JOB_UID"]
    template = name.partition("-")[0]
    if len(f"{name}-ray") > LONGEST or not re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name):
        return failed(f"Job {name}: names have up to {LONGEST - 4} small letters, digits and dashes, a letter first")
    try:
        made = copy_of(ask(f"/{template}"), name, uid)
    except Refused as error:
        return failed(f"RayJob {template}, to make {name} of: {error}")
    copy = made["metadata"]["name"]
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            ask("", made, (400, 404, 409, 422))
        except Refused as error:
            if error.status != 409:
                return failed(f"RayJob {copy}: {error}")
            there = owner(copy)
            if there == uid:
                print(f"RayJob {copy} is there already", flush=True)
                return wait(copy)
            if time.monotonic() > deadline:
                return failed(f"RayJob {copy} is there already and not of this Job: delete it, or take another name")
            if there:
                print(f"RayJob {copy} is of an earlier Job; waiting until it is gone", flush=True)
                time.sleep(EVERY_S)
            continue
        print(f"RayJob {copy} started: {made['spec']['entrypoint']}", flush=True)
        return wait(copy)


def owner(name: str) -> str:
    """The uid of the Job that a RayJob belongs to; `another` where that is none or the RayJob is being deleted; empty
    where there is no RayJob of this name."""
    try:
        metadata = ask(f"/{name}")["metadata"]
    except Refused:
        return ""
    uids = [one["uid"] for one in metadata.get("ownerReferences", []) if one["kind"] == "Job"]
    return uids[0] if uids and "deletionTimestamp" not in metadata else "another"


def wait(name: str) -> int:
    """Tell how the RayJob fares until it has ended; the exit code."""
    told = ""
    while True:
        try:
            status = ask(f"/{name}").get("status", {})
        except Refused as error:
            return failed(f"RayJob {name}: {error}: was it deleted?")
        deployed, job = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
        cluster = status.get("rayClusterName", "")
        line = f"{deployed or 'new'} {job} {cluster}".strip()
        if line != told:
            told = line
            print(line, flush=True)
        if deployed in OVER:
            break
        time.sleep(EVERY_S)
    if deployed == "Complete" and job == "SUCCEEDED":
        return 0
    said = " ".join(f"{status.get('reason', '')} {status.get('message', '')}".split())
    return failed(f"RayJob {name}: {job or deployed} {said}".strip() + f"; see kubectl logs job/{name}")


def failed(why: str) -> int:
    print(f"error: {why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    try:
        code = main()
    except Exception as error:  # Python itself would end with 1, which says that the RayJob failed
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        code = 2
    sys.exit(code)
