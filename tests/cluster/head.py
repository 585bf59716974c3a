"""The head node of a Ray cluster as a person starts it on loopback, with a folder and ports of its own."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chaos.processes import Family

ROOT = Path(__file__).resolve().parents[2]

CLIENT = """
import json, sys
from ray.job_submission import JobSubmissionClient
asked = json.load(sys.stdin)
client = JobSubmissionClient(asked["address"])
name = client.submit_job(entrypoint=asked["entrypoint"], runtime_env=asked["runtime_env"])
import time
while not client.get_job_status(name).is_terminal():
    time.sleep(0.5)
print(json.dumps({"status": client.get_job_status(name).value, "logs": client.get_job_logs(name)}))
"""


class Head:
    """`ray start --head`; ended by the ids of its processes. The folder's path is short: Ray has sockets below it."""

    def __init__(
        self, folder: Path, token: str = "", cpus: int = 2, environment: Mapping[str, str] | None = None
    ) -> None:
        """With a `token`, whoever does not know it is refused. `environment` is the head's own, beside the usual."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "home").mkdir()
        ports = free_ports(6)
        self.address, self.gcs, self.metrics_port = f"http://127.0.0.1:{ports[1]}", f"127.0.0.1:{ports[0]}", ports[2]
        self.environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_", "PYTHONPATH"))
        }
        self.environment |= {
            "HOME": str(folder / "home"),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "RAY_AUTH_MODE": "token" if token else "disabled",
            **({"RAY_AUTH_TOKEN": token} if token else {}),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            **(environment or {}),
        }
        options = {
            "port": ports[0],
            "dashboard-port": ports[1],
            "metrics-export-port": ports[2],
            "dashboard-agent-listen-port": ports[3],
            "ray-client-server-port": ports[4],
            "runtime-env-agent-port": ports[5],
            "node-ip-address": "127.0.0.1",
            "dashboard-host": "127.0.0.1",
            "num-cpus": cpus,
            "object-store-memory": 150_000_000,
            "temp-dir": folder / "ray",
        }
        given = [f"--{name}={value}" for name, value in options.items()]
        with open(folder / "head.log", "w") as log:
            self._process = subprocess.Popen(
                ["ray", "start", "--head", "--block", *given],
                env=self.environment,
                cwd=folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.family = Family(self._process.pid)
        try:
            # The agent, which starts jobs, is there last.
            wait_for(f"http://127.0.0.1:{ports[3]}/api/local_raylet_healthz", self._process, folder / "head.log")
        except BaseException:
            self.close()
            raise

    def submit(self, entrypoint: str, **options: Any) -> subprocess.CompletedProcess:
        """`ray job submit --working-dir .` in the project's folder, to its end; what it prints is the job's log."""
        variables = json.dumps({"env_vars": options.pop("variables", {})})
        command = ["ray", "job", "submit", "--working-dir", ".", "--runtime-env-json", variables, "--"]
        return self._run([*command, *entrypoint.split()], **options)

    def submit_by_client(self, entrypoint: str, variables: dict[str, str]) -> dict[str, str]:
        """The same through JobSubmissionClient: its last status, and its log."""
        runtime = {"working_dir": str(ROOT), "env_vars": variables}
        asked = {"address": self.address, "entrypoint": entrypoint, "runtime_env": runtime}
        done = self._run([sys.executable, "-c", CLIENT], input=json.dumps(asked))
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    def start(self, entrypoint: str) -> str:
        """Submit a job and leave it to itself: its name."""
        command = ["ray", "job", "submit", "--no-wait", "--working-dir", ".", "--", *entrypoint.split()]
        done = self._run(command)
        assert done.returncode == 0, done.stdout + done.stderr
        return re.findall(r"Job '(raysubmit_\w+)'", done.stdout)[0]

    def stop(self, name: str) -> None:
        """`ray job stop`, which waits until the job has ended."""
        done = self._run(["ray", "job", "stop", name])
        assert done.returncode == 0, done.stdout + done.stderr

    def logs(self, name: str) -> str:
        """What a job has printed so far."""
        return self._run(["ray", "job", "logs", name]).stdout

    def job_status(self, name: str) -> str:
        """What `ray job status` says of a job."""
        done = self._run(["ray", "job", "status", name])
        return re.findall(r"pending|running|stopped|succeeded|failed", done.stdout + done.stderr)[0].upper()

    def close(self) -> list[str]:
        """End it; what is left of it."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        left = self.family.left(20)
        self.family.kill()
        self._process.wait(20)
        return left

    def _run(self, command: list[str], **options: Any) -> subprocess.CompletedProcess:
        env = {**self.environment, "RAY_ADDRESS": self.address, **options.pop("env", {})}
        return subprocess.run(
            command, env=env, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900, **options
        )


def wait_for(url: str, process: subprocess.Popen, log: Path, seconds: float = 120) -> None:
    """Until a server answers; fails with the end of its log where it ends before."""
    deadline = time.monotonic() + seconds
    while True:
        assert process.poll() is None, log.read_text()[-3000:]
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):  # noqa: S310
            return
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.2)


def result(log: str) -> dict[str, Any]:
    """The result of a job: the last line of its log that is a JSON object."""
    return json.loads([line for line in log.splitlines() if line.startswith("{")][-1])


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at, all of them held until all are found."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
