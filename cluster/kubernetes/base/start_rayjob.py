"""Start a RayJob as a copy of a suspended one, wait for its end, and end as it did.

The Job that this runs in is called JOB_NAME, such as `train-november`: RayJob `train` is copied to RayJob
`train-november-ray`, and RUN_NAME in its entrypoint becomes `train-november`. (KubeRay's own Job, which submits, has
the RayJob's name: so that cannot be this one's.) A pod that is started again finds the copy and goes on waiting. The
copy belongs to the Job and is deleted with it. Nothing but Python is needed.

Exit codes: 0 the RayJob succeeded, 1 it failed, or there is none to copy; 2 and others: Kubernetes could not be asked.
"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from typing import Any

ACCOUNT = os.environ.get("SERVICE_ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount")
EVERY_S = float(os.environ.get("EVERY_S", "15"))
PATIENCE_S = 600.0  # for Kubernetes to answer


def copy_of(template: dict[str, Any], name: str, job_uid: str) -> dict[str, Any]:
    """The RayJob that the Job of this name is to run."""
    spec = {**template["spec"], "suspend": False}
    spec["entrypoint"] = spec["entrypoint"].replace("RUN_NAME", name)
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job_uid, "controller": False}
    metadata = {"name": f"{name}-ray", "labels": template["metadata"].get("labels", {}), "ownerReferences": [owner]}
    return {"apiVersion": template["apiVersion"], "kind": "RayJob", "metadata": metadata, "spec": spec}


def ask(path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """What Kubernetes answers about RayJobs of this namespace; tried again for ten minutes where it does not."""
    with open(f"{ACCOUNT}/namespace") as file:
        namespace = file.read().strip()
    server = os.environ.get("KUBERNETES", "https://kubernetes.default.svc")
    url = f"{server}/apis/ray.io/v1/namespaces/{namespace}/rayjobs{path}"
    content = None if body is None else json.dumps(body).encode()
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with open(f"{ACCOUNT}/token") as file:  # Kubernetes changes it from time to time
            headers = {"Authorization": f"Bearer {file.read().strip()}", "Content-Type": "application/json"}
        trusted = ssl.create_default_context(cafile=f"{ACCOUNT}/ca.crt") if url.startswith("https:") else None
        try:
            request = urllib.request.Request(url, content, headers)  # noqa: S310
            with urllib.request.urlopen(request, timeout=30, context=trusted) as answer:  # noqa: S310
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise
            why = f"status {error.code}"
        except OSError as error:
            why = str(error)
        if time.monotonic() > deadline:
            raise TimeoutError(f"Kubernetes does not answer: {why}")
        print(f"Kubernetes does not answer: {why}; trying again", flush=True)
        time.sleep(min(EVERY_S, 15))


def main() -> int:
    name = os.environ["JOB_NAME"]
    template = name.partition("-")[0]
    try:
        made = copy_of(ask(f"/{template}"), name, os.environ["JOB_UID"])
    except urllib.error.HTTPError as error:
        print(f"error: RayJob {template}, to make {name} of: status {error.code}", file=sys.stderr)
        return 1
    copy = made["metadata"]["name"]
    try:
        ask("", made)
        print(f"RayJob {copy} started: {made['spec']['entrypoint']}", flush=True)
    except urllib.error.HTTPError as error:
        if error.code != 409:
            print(f"error: RayJob {copy}: {error.code} {error.read().decode()[:500]}", file=sys.stderr)
            return 1
        print(f"RayJob {copy} is there already", flush=True)
    return wait(copy)


def wait(name: str) -> int:
    """Tell how the RayJob fares until it has ended; the exit code."""
    told = ""
    while True:
        try:
            status = ask(f"/{name}").get("status", {})
        except urllib.error.HTTPError as error:
            print(f"error: RayJob {name}: status {error.code}: was it deleted?", file=sys.stderr)
            return 1
        deployed, job = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
        cluster = status.get("rayClusterName", "")
        line = f"{deployed or 'new'} {job} {cluster}".strip()
        if line != told:
            told = line
            print(line, flush=True)
        if deployed in ("Complete", "Failed"):
            break
        time.sleep(EVERY_S)
    if deployed == "Complete" and job == "SUCCEEDED":
        return 0
    said = " ".join(f"{status.get('reason', '')} {status.get('message', '')}".split())
    ended = f"{job or deployed} {said}".strip()
    print(f"error: RayJob {name}: {ended}; see kubectl logs job/{name}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
