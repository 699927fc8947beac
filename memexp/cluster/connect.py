"""Connecting to a Ray cluster, or starting one on this machine, and refusing at once what it could never hold.

with connected(address=None, needs=[Resources(workers=2)], store=store) as cluster:
    cluster.slots(Resources())
"""

from __future__ import annotations

import _thread
import contextlib
import math
import os
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray

from memexp.errors import ClusterError, one_line
from memexp.spec import Resources
from memexp.store import Store

__all__ = ["DRIVER", "Cluster", "connected"]

DRIVER = "memexp_driver"
"""Custom resource that a driver of a worker group holds instead of a CPU: on a small machine that CPU would be the one
its workers wait for. Declared by `connected` on a local cluster and by cluster.yaml on a head node."""
DRIVERS = 1_000

BOOTSTRAPPED = "~/ray_bootstrap_config.yaml"
"""What ``ray up`` leaves on a head node."""

SERVERS = ("raylet", "gcs_server")
"""What a local cluster cannot do without."""
LOOK_EVERY = 0.2
"""Seconds between two looks at them: Ray itself takes two to notice."""

GRACE = 4.0
"""Seconds that what is under way has to end when one of them is dead."""

# File systems that every node of a cluster sees alike; anything else is taken for a node's own disk.
SHARED_FILE_SYSTEMS = (
    "nfs",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "glusterfs",
    "cifs",
    "smb",
    "afs",
    "fuse",
    "9p",
    "wekafs",
)


@dataclass(frozen=True)
class Cluster:
    """What may be asked of a connected cluster."""

    nodes: tuple[Mapping[str, float], ...]
    """Resources of each node that is alive."""
    reachable: Mapping[str, float] | None = None
    """Total resources its autoscaler may reach, None without an autoscaler."""
    kinds: tuple[tuple[Mapping[str, float], int], ...] = ()
    """Resources of each kind of node the autoscaler may start, and how many of them."""

    @property
    def spans_machines(self) -> bool:
        """Whether trials may execute on another node than the driver's."""
        return len(self.nodes) > 1 or self.reachable is not None

    def total(self, resource: str) -> float:
        """All there is of a resource, or may come to be."""
        now = sum(node.get(resource, 0.0) for node in self.nodes)
        return max(now, (self.reachable or {}).get(resource, 0.0))

    def slots(self, resources: Resources) -> int:
        """How many trials with these resources can execute side by side."""
        return max(1, self._workers(resources) // resources.workers)

    def _workers(self, resources: Resources) -> int:
        """How many workers fit on the nodes there are, or may come to be; none is on two of them."""
        wanted = {"CPU": resources.cpus, "GPU": resources.gpus}

        def fit(node: Mapping[str, float]) -> int:
            return min(math.floor(node.get(name, 0.0) / amount + 1e-9) for name, amount in wanted.items() if amount)

        return max(sum(map(fit, self.nodes)), sum(fit(node) * count for node, count in self.kinds))

    def check(self, resources: Resources) -> None:
        """Raise ClusterError if a trial with these resources could never start."""
        wanted = {"CPU": resources.cpus, "GPU": resources.gpus}
        named = f"Resources(workers={resources.workers}, cpus={resources.cpus:g}, gpus={resources.gpus:g})"
        nodes = [*self.nodes, *(node for node, _ in self.kinds)]
        for name, amount in wanted.items():
            total = resources.workers * amount
            if total > self.total(name):
                raise ClusterError(f"{named} needs {total:g} {name}s and the cluster can reach {self.total(name):g}")
            if not any(node.get(name, 0.0) >= amount for node in nodes):
                raise ClusterError(f"a worker with {amount:g} {name}s fits on no node of the cluster")
        if self._workers(resources) < resources.workers:
            raise ClusterError(
                f"{named}: only {self._workers(resources)} such workers fit on the nodes that the cluster can reach"
            )
        if resources.workers > 1 and self.total(DRIVER) < 1:
            raise ClusterError(
                f"trials of several workers need the resource {DRIVER!r}: start the head node with "
                f"--resources='{{\"{DRIVER}\": {DRIVERS}}}'"
            )


@contextlib.contextmanager
def connected(address: str | None, needs: Iterable[Resources], store: Store) -> Iterator[Cluster]:
    """Connect to a cluster for the time of the context, and check it before anything is started on it.

    Args:
        address: ``host:port``, ``auto`` for the cluster this machine belongs to, or ``local`` for one of its own, which
            ends with the context. None takes RAY_ADDRESS, else ``auto`` on a node made by ``ray up``, else ``local``.
        needs: the resources of the trials to come.
        store: where results are to go.

    Raises:
        ClusterError: there is no such cluster, it cannot hold a trial, or its nodes would not share the store.
    """
    needs = set(needs)
    address = (
        address or os.environ.get("RAY_ADDRESS") or ("auto" if Path(BOOTSTRAPPED).expanduser().exists() else "local")
    )
    already = ray.is_initialized()  # within a test or a notebook that keeps a cluster
    if not already:
        _init(address, sharded=any(resources.workers > 1 for resources in needs))
    with contextlib.nullcontext() if already else _ours():
        cluster = _look()
        for resources in needs:
            cluster.check(resources)
        if cluster.spans_machines and store.is_local and not _is_shared(Path(store.location)):
            raise ClusterError(
                f"the store {store.location} is on this node's own disk, which the cluster's other nodes cannot see: "
                "give --store s3://... or a folder on a shared file system"
            )
        yield cluster


@contextlib.contextmanager
def _ours() -> Iterator[None]:
    """A connection that ends with the context; with one line at once where a server that this process started dies.

    Ray by itself prints the end of its log several times, and after some ten seconds ends this process from below.
    """
    printer = ray._private.worker
    printed, printer._worker_logs_enabled = printer._worker_logs_enabled, False
    servers = [(child.name(), child) for child in psutil.Process().children() if child.name() in SERVERS]
    over = threading.Event()
    dead: list[str] = []

    def look() -> None:
        while not over.wait(LOOK_EVERY):
            dead.extend(_died(name) for name, server in servers if not _lives(server))
            if dead and not over.is_set():
                _thread.interrupt_main()
                if not over.wait(GRACE):  # the main thread waits for the dead
                    print(f"memexp: {dead[0]}", file=sys.stderr, flush=True)
                    os._exit(2)
                return

    thread = threading.Thread(target=look, daemon=True, name="memexp-servers")
    thread.start()
    try:
        yield
    except KeyboardInterrupt:
        if not dead:
            raise
        raise ClusterError(dead[0]) from None
    finally:
        if not dead:
            over.set()
        ray.shutdown()
        over.set()
        thread.join()
        printer._worker_logs_enabled = printed


def _died(name: str) -> str:
    return f"Ray's {name} died (killed, or out of memory); the same command goes on"


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)  # a child, whom nobody may have waited for yet
    except psutil.NoSuchProcess:
        return False


def _init(address: str, sharded: bool) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    # Threads that spin while they wait cost other trials on the same cores up to four times their speed.
    variables = {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    # A process that is to be reused has to let go of its last trial: of gigabytes, on a busy machine. Tune allows it
    # two seconds and counts the next trial as failed.
    environment = {"env_vars": variables | {"TUNE_FUNCTION_THREAD_TIMEOUT_S": "600"}}
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        # Ray itself would knock for minutes where nobody answers.
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise ClusterError(f"no Ray cluster answers at {address}: {error.strerror or error}") from error
    try:
        if address == "local":
            # Where Tune may stop a nested Train trial its cleaner asks the dashboard; without one the next trial hangs.
            ray.init("local", resources={DRIVER: DRIVERS}, include_dashboard=sharded, runtime_env=environment, **quiet)
        else:
            ray.init(address, runtime_env=environment, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(f"no Ray cluster at {address!r}: {one_line(error, 200)}") from error


def _look() -> Cluster:
    nodes = tuple(node["Resources"] for node in ray.nodes() if node["Alive"])
    return Cluster(nodes, *_autoscaled())


def _autoscaled() -> tuple[Mapping[str, float] | None, tuple[tuple[Mapping[str, float], int], ...]]:
    """Totals the autoscaler of a ``ray up`` cluster may reach, and the resources and number of each kind of node.

    From its own configuration: Ray itself tells only what is there already, and a lone head has no GPU.
    """
    file = Path(BOOTSTRAPPED).expanduser()
    if not file.exists():
        return None, ()
    import yaml

    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        kinds = config["available_node_types"]
        totals: Counter[str] = Counter()
        found = []
        for name, kind in kinds.items():
            count = 1 if name == config.get("head_node_type") else int(kind.get("max_workers", 0))
            found.append((kind.get("resources", {}), count))
            for resource, amount in kind.get("resources", {}).items():
                totals[resource] += count * amount
        return totals, tuple(found)
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ClusterError(f"{file}: not a cluster configuration: {type(error).__name__}: {error}") from error


def _is_shared(path: Path) -> bool:
    """Whether `path` is on a network file system, as far as the kernel's table of mounts tells."""
    path = path.resolve()
    try:
        mounts = psutil.disk_partitions(all=True)
    except OSError:
        return False
    holding = [mount for mount in mounts if path.is_relative_to(mount.mountpoint)]
    nearest = max(reversed(holding), key=lambda mount: len(mount.mountpoint), default=None)  # of two the later one
    return nearest is not None and nearest.fstype.startswith(SHARED_FILE_SYSTEMS)
