"""Connecting to Ray or starting it, quietly and within a time limit; and how many workers a cluster has room for."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from densenet_cli.engines import CORES_PER_PROCESS, available_cores
from densenet_cli.errors import ProcessError, UsageError
from densenet_cli.ray import versions
from densenet_cli.text import plural

REQUIREMENT = "ray[data]>=2.60,<2.64"
"""What to install: the extra ``ray`` of this package, whose pyarrow Ray Data requires, too."""

CONNECT_TIMEOUT = 10.0
"""Seconds for a TCP connection to the address."""

HANDSHAKE_TIMEOUT = 15.0
"""Seconds for Ray to answer. Without a check, ``ray.init`` tries for two minutes."""

PROBE_TIMEOUT = 120.0
"""Seconds for a task that reads the versions on a node. Starting the first process there takes several."""

MAX_THREADS = 8
"""Threads per worker. More workers with fewer threads lose less work when one is killed."""

CPU_SHARE = 0.9
"""Share of the cores that workers reserve. The rest is free for other tasks of the cluster, so that neither waits
forever for the other."""

OBJECT_STORE_BYTES = 512 << 20
"""Memory for objects with ``local``: the weights and small messages."""

_CHECK_CODE = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the new behavior, about which a warning would be printed
}


def check_installed() -> None:
    """Raise ``UsageError`` if Ray Data is not installed."""
    from importlib.util import find_spec

    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise UsageError(f"`ray` needs more packages. Run: pip install '{REQUIREMENT}'")


@contextmanager
def connect(address: str) -> Iterator[None]:
    """Be connected to Ray during the block.

    Args:
        address: What ``resolve`` returns: ``local`` to start Ray on this machine, or HOST:PORT.

    Raises:
        UsageError: Ray refuses the connection, for example because its version differs.
        ProcessError: Ray cannot be started.
    """
    with _quiet():
        if address == "local":
            with _local_environment(), _local_folder() as folder:
                yield from _run(
                    "local",
                    num_cpus=available_cores(),
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _temp_dir=folder,
                )
        else:
            yield from _run(address)


def _run(address: str, **options: Any) -> Iterator[None]:
    import ray

    silent = {"logging_level": logging.CRITICAL, "log_to_driver": False, "configure_logging": False}
    try:
        with _kept_process_group(), _kept_signal_handlers():
            ray.init(address=address, **silent, **options)
    except KeyboardInterrupt:
        ray.shutdown()
        raise
    except (RuntimeError, ConnectionError, OSError, ValueError, SystemExit) as error:
        ray.shutdown()
        reason = " ".join(str(error).split())[:300]
        if address == "local":
            raise ProcessError(f"Ray cannot be started on this machine: {reason}") from error
        raise UsageError(
            f"Cannot connect to Ray at {address}: {reason.rstrip('.')}. Run the command on a node of the cluster, with "
            "the versions of Python and Ray that the cluster has."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def resolve(address: str) -> str:
    """Return ``local``, or HOST:PORT of a cluster that answers. Raises ``UsageError``."""
    if address == "local":
        return address
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "")
        if not address:
            from ray._private import services  # there is no public function

            try:
                address = str(services.get_ray_address_from_environment("auto", None))
            except ConnectionError:
                raise UsageError(
                    "No Ray cluster runs on this machine. Start one with ray start --head, or set `ray` to local to "
                    "use only this machine."
                ) from None
    host, separator, port = address.rpartition(":")
    if "://" in address or not separator or not port.isdecimal():
        raise UsageError(
            f"`ray` must be auto, local, or the HOST:PORT of a cluster, not {address}. To use a cluster from another "
            "machine, start the command there with ray job submit."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT).close()
    except (OSError, OverflowError) as error:
        reason = "it does not answer" if isinstance(error, TimeoutError) else getattr(error, "strerror", None) or error
        raise UsageError(f"Cannot connect to Ray at {address}: {reason}.") from None
    try:
        subprocess.run(
            [sys.executable, "-c", _CHECK_CODE, address],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=HANDSHAKE_TIMEOUT,
            check=True,
        )
    except (subprocess.SubprocessError, OSError) as error:
        reason = "no Ray cluster answers there"
        if b"AuthToken" in (getattr(error, "stderr", None) or b""):
            reason = "it does not accept the token of this machine. Set RAY_AUTH_TOKEN to that of the cluster"
        raise UsageError(f"Cannot connect to Ray at {address}: {reason}.") from None
    return address


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray from printing, from showing progress bars, and from sending data."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        import ray.data
        from ray._private import worker

        warnings.filterwarnings("ignore")  # after the imports, which add filters of their own
        ray.data.DataContext.get_current().enable_progress_bars = False
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        # Prints that a node has died, among other things that Ray handles.
        printer = getattr(worker, "print_to_stdstream", None)
        worker.print_to_stdstream = lambda *_, **__: None
        try:
            yield
        finally:
            worker.print_to_stdstream = printer


@contextmanager
def _kept_signal_handlers() -> Iterator[None]:
    """Keep the signal handlers, which ``ray.init`` replaces."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        with suppress(ValueError):  # not in the main thread
            for number, handler in handlers.items():
                signal.signal(number, handler)


@contextmanager
def _kept_process_group() -> Iterator[None]:
    """Keep ``ray.init`` from leaving the process group, in which Ctrl-C reaches this process.

    Ray would need a group of its own to end its processes if this one is killed. On Linux, the kernel ends the main
    ones, and the others notice that within two minutes.
    """
    if sys.platform != "linux" or os.getpgrp() == os.getpid():
        yield
        return

    def refuse() -> None:
        raise OSError("kept")

    original, os.setpgrp = os.setpgrp, refuse
    try:
        yield
    finally:
        os.setpgrp = original


@contextmanager
def _local_environment() -> Iterator[None]:
    """Settings of a Ray of our own: a secret that is not written to the home folder, and processes that are not slowed.

    Without the secret, other users of this machine could run code as this one.
    """
    settings = {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_worker_niceness": "0"}
    before = {name: os.environ.get(name) for name in (*settings, "RAY_AUTH_MODE")}  # the latter is set by ray.init
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _local_folder() -> Iterator[str]:
    """A temporary folder for Ray's logs and sockets, whose paths may have only 107 bytes."""
    parent = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="ray-", dir=parent if len(os.fsencode(parent)) < 24 else "/tmp")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class WorkerPlan(NamedTuple):
    """How workers fit a cluster.

    Attributes:
        threads: The number of threads of a worker.
        workers: The number of workers that the nodes have room for now.
        nodes: The number of nodes.
        cores: The number of cores of all nodes.
    """

    threads: int
    workers: int
    nodes: int
    cores: float

    @property
    def cpus(self) -> float:
        """The cores that Ray reserves for a worker."""
        return self.threads * CPU_SHARE

    def __str__(self) -> str:
        nodes = plural(self.nodes, "node")
        return (
            f"Ray: {nodes} with {plural(round(self.cores), 'core')}, {plural(self.workers, 'worker')} with "
            f"{plural(self.threads, 'thread')} each."
        )


def plan_workers(cpus: list[float], threads: int | None = None, precision: str = "float32") -> WorkerPlan:
    """Decide how many threads a worker has, so that workers use as many cores as possible.

    Args:
        cpus: The number of cores of each node.
        threads: The number of threads that the user chose, or None.
        precision: The precision, on which it depends how many threads one process can use.

    Raises:
        UsageError: No node has room for a worker.
    """
    nodes = [count for count in cpus if count > 0]
    largest = int(max(nodes, default=0))
    if largest < (threads or 1):
        if not largest:
            raise UsageError("The cluster is too small: none of its nodes has a core for a worker.")
        raise UsageError(
            f"The cluster is too small for workers with {plural(threads or 1, 'thread')}: its largest node has "
            f"{plural(largest, 'core')}. Use fewer `threads`."
        )
    limit = min(largest, MAX_THREADS, CORES_PER_PROCESS[precision])

    def room(count: int) -> int:
        return sum(int(node / (count * CPU_SHARE)) for node in nodes)

    def used(count: int) -> tuple[float, int]:
        return sum(min(node, int(node / (count * CPU_SHARE)) * count) for node in nodes), count

    chosen = threads or max(range(1, limit + 1), key=used)
    return WorkerPlan(chosen, room(chosen), len(nodes), sum(nodes))


def alive_nodes() -> list[dict[str, Any]]:
    """Return what Ray knows about the nodes of the cluster."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def node_cpus(nodes: list[dict[str, Any]]) -> list[float]:
    """Return the number of cores of each node."""
    return [float(node["Resources"].get("CPU", 0)) for node in nodes]


def check_nodes(nodes: list[dict[str, Any]], required: dict[str, str]) -> None:
    """Check that all nodes with cores have the versions of this machine.

    Raises:
        UsageError: One has other versions, lacks this package, or does not answer.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Ray sends the function as code, because this package may be missing there.
    ray.cloudpickle.register_pickle_by_value(versions)
    task = ray.remote(num_cpus=0, max_retries=1)(versions.installed_versions)
    packages = [name for name in required if name != versions.PYTHON]
    references = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            packages
        ): node["NodeManagerAddress"]
        for node in nodes
        if node["Resources"].get("CPU", 0) > 0
    }
    ready, waiting = ray.wait(list(references), num_returns=len(references), timeout=PROBE_TIMEOUT)
    for reference in ready:
        try:
            found = ray.get(reference)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1][:200]
            raise UsageError(f"The node {references[reference]} cannot run tasks: {reason}") from None
        versions.check_versions(required, references[reference], found)
    if waiting:
        raise UsageError(
            f"The node {references[waiting[0]]} did not answer within {PROBE_TIMEOUT:g} seconds. Restart or remove it."
        )
