"""A Ray cluster of several nodes on this machine, which come and go: `Cluster` here, and the process that has them.

Ray must start nodes in a process's main thread, and tests should not be connected to a cluster that they break: so
the nodes belong to a process of their own, which does what it reads, and answers each line with one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from chaos.processes import PATIENCE_S, Family

ROOT = Path(__file__).resolve().parents[2]

NOT_LAST = {"RAY_worker_niceness": "0"}  # by default whatever else the machine does goes before Ray's workers


class Cluster:
    """A head without CPUs, where drivers are, and nodes of one CPU each, by name."""

    def __init__(self, folder: Path, nodes: str) -> None:
        folder.mkdir(parents=True)
        path = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
        env = {**os.environ, **NOT_LAST, "TMPDIR": str(folder), "PYTHONPATH": os.pathsep.join(path)}
        env["RAY_AUTH_MODE"] = "disabled"  # a token would be written to the home folder
        with open(folder / "stderr", "w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "chaos.cluster"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=env,
                cwd=folder,
                text=True,
                start_new_session=True,
            )
        self.family = Family(self._process.pid)
        self.environment = {"RAY_ADDRESS": self._ask("start"), "RAY_AUTH_MODE": "disabled"}
        for name in nodes:
            self.add(name)

    def add(self, name: str) -> None:
        self._ask(f"add {name}")

    def kill(self, name: str) -> None:
        """As when its machine is switched off."""
        self._ask(f"kill {name}")

    def placement_groups(self) -> int:
        """Those that are not removed."""
        return int(self._ask("groups"))

    def close(self) -> list[str]:
        """End it; what is left of it."""
        if self._process.poll() is None:
            self._ask("end")
            self._process.wait(60)
        left = self.family.left(PATIENCE_S)
        self.family.kill()
        return left

    def _ask(self, line: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        while answer := self._process.stdout.readline():
            if answer.startswith("answer "):
                return json.loads(answer.removeprefix("answer "))
        raise AssertionError(f"the cluster's process ended at {line!r}")


def _serve() -> None:
    import ray
    from ray.cluster_utils import Cluster as RayCluster
    from ray.util import placement_group_table

    memory = 150_000_000  # of each node's object store, bytes
    cluster, nodes = None, {}
    for line in sys.stdin:
        command, _, name = line.strip().partition(" ")
        answer: Any = None
        if command == "start":
            head = {"num_cpus": 0, "object_store_memory": memory, "include_dashboard": True}
            cluster = RayCluster(initialize_head=True, head_node_args=head)
            answer = cluster.address
        elif command == "add":
            nodes[name] = cluster.add_node(num_cpus=1, object_store_memory=memory)
        elif command == "kill":
            cluster.remove_node(nodes.pop(name), allow_graceful=False)
        elif command == "groups":
            ray.init(cluster.address, log_to_driver=False)
            answer = sum(group["state"] != "REMOVED" for group in placement_group_table().values())
            ray.shutdown()
        elif command == "end":
            cluster.shutdown()
        print("answer", json.dumps(answer), flush=True)
        if command == "end":
            return


if __name__ == "__main__":
    _serve()
