"""A Ray cluster of several nodes on this machine, in processes of its own, which all end with the test.

As a script, it runs the cluster: it prints the address, and then obeys the commands on its standard input.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import psutil

TOKEN = "5f" * 32
"""The secret of the clusters. With it, Ray writes no secret to the home folder."""


def environment() -> dict[str, str]:
    """Return the variables for processes that use the clusters."""
    return {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
        # A dead node is noticed within seconds.
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_failure_threshold": "4",
    }


class RayCluster:
    """A cluster. Its first node cannot be removed.

    Attributes:
        address: HOST:PORT.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.killed: list[psutil.Process] = []
        self.address = self._read()

    def add_node(self, cpus: int = 1, **variables: str) -> None:
        """Add a node whose processes have more environment variables."""
        self._send({"command": "add", "cpus": cpus, "variables": variables})

    def remove_node(self) -> None:
        """Kill all processes of the node that was added first."""
        self._send({"command": "remove"})

    def kill(self) -> None:
        """Kill all processes of all nodes."""
        self.killed = self.processes()
        for process in self.killed:
            process.kill()

    def processes(self) -> list[psutil.Process]:
        """Return all processes of the cluster."""
        root = psutil.Process(self._process.pid)
        return [root, *root.children(recursive=True)]

    def workers(self) -> list[psutil.Process]:
        """Return the processes that compute parts."""
        found = []
        for process in self.processes():
            try:
                if "MapWorker" in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def _send(self, command: dict[str, object]) -> None:
        stdin: IO[str] | None = self._process.stdin
        assert stdin
        stdin.write(json.dumps(command) + "\n")
        stdin.flush()
        assert self._read() == "done"

    def _read(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline().strip()
        assert line, "The cluster stopped."
        return line


@contextmanager
def run_cluster(*cpus: int) -> Iterator[RayCluster]:
    """Run a cluster of nodes with these numbers of processors. Afterwards, check that no process is left."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    process = subprocess.Popen(
        [sys.executable, __file__, folder, *map(str, cpus)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    processes: list[psutil.Process] = []
    try:
        cluster = RayCluster(process)
        yield cluster
        processes = cluster.killed or cluster.processes()
    finally:
        processes = processes or [
            psutil.Process(process.pid),
            *psutil.Process(process.pid).children(recursive=True),
        ]
        assert process.stdin and process.stdout
        process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
        _, alive = psutil.wait_procs(processes, timeout=15)
        for left in alive:
            left.kill()
        process.wait()
        process.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)
    assert alive == []


def main(folder: str, *cpus: str) -> None:
    """Run a cluster until standard input ends."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray prints
    # Ray writes the address to this folder. Some versions do not create it.
    os.environ["RAY_TMPDIR"] = folder
    os.mkdir(os.path.join(folder, "ray"))
    from ray.cluster_utils import Cluster

    common = {"include_dashboard": False, "temp_dir": folder}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": int(cpus[0]), **common})
    nodes = [cluster.add_node(num_cpus=int(count)) for count in cpus[1:]]
    print(cluster.address, file=output, flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        if command["command"] == "add":
            nodes.append(cluster.add_node(num_cpus=command["cpus"], env_vars=command["variables"] or None))
        else:
            cluster.remove_node(nodes.pop(0), allow_graceful=False)
        print("done", file=output, flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
