"""Connecting to a Ray cluster, or starting one on this machine, and refusing at once what it could never hold.

with connected(address=None, needs=[Resources(workers=2)], store=store) as cluster:
    cluster.slots(Resources())
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import ray

from memexp.cluster import environment
from memexp.cluster.addresses import BOOTSTRAPPED, address_of
from memexp.cluster.joining import DRIVER, DRIVERS, joined
from memexp.cluster.nodes import all_fit, rooms
from memexp.errors import ClusterError
from memexp.plan.devices import known_as
from memexp.plan.room import Peak, refuse
from memexp.sources import ResolvedModel, Stream
from memexp.spec import Resources
from memexp.store import Store
from memexp.wording import amount, noun

__all__ = ["DRIVER", "Cluster", "connected"]

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
    most: float = math.inf
    """Nodes it may start of all kinds together."""
    head: Mapping[str, float] = field(default_factory=dict)
    """Resources of its head, which is there already and none of `kinds`."""
    unknown: tuple[str, ...] = ()
    """Kinds of node of which the configuration does not say what they have."""

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
        return max(1, self._fitting(resources))

    def device(self, resources: Resources) -> str:
        """On what such trials are, of `memexp.plan.devices.DEVICES`: the GPU of most nodes, as Ray calls it."""
        if not resources.gpus:
            return "cpu"
        begin = "accelerator_type:"
        named = Counter(name[len(begin) :] for node in self.nodes for name in node if name.startswith(begin))
        return known_as(named.most_common(1)[0][0] if named else "")

    def gpu_memory(self, resources: Resources) -> int:
        """Bytes of the smallest GPU that such trials may be on; 0 where an autoscaler may start some that nobody saw,
        or a node does not say."""
        if self.reachable is not None:
            return 0
        alive = _alive()
        pairs = zip(alive, rooms(alive), strict=True)
        found = [room for node, room in pairs if _fit(node["Resources"], resources)]
        return min((min(room.gpus, default=0) if room else 0 for room in found), default=0)

    def all_cpus(self, resources: Resources) -> float:
        """CPUs that each worker of a trial with these resources holds so that nothing has room beside it."""
        nodes = [*self.nodes, *(node for node, _ in self.kinds)]
        shares = {node.get("CPU", 0.0) / count for node in nodes for count in range(1, resources.workers + 1)}
        wide = (dataclasses.replace(resources, cpus=share) for share in shares if share > resources.cpus)
        held = [one.cpus for one in wide if self._fitting(one)]
        return max(held, default=resources.cpus)

    def _fitting(self, resources: Resources) -> int:
        """How many trials fit on the nodes there are, or may come to be; no worker is on two of them."""
        together = 1 if resources.spread else resources.workers
        now = sum(_fit(node, resources) // together for node in self.nodes)
        then = _together(((_fit(node, resources) // together, count) for node, count in self.kinds), self.most)
        then += _fit(self.head, resources) // together
        return int(max(now, then)) * together // resources.workers

    def _told(self) -> str:
        """The nodes there are, or may come to be, those alike together."""
        counts: Counter[str] = Counter()
        for node, count in [*self.kinds] or [(node, 1) for node in self.nodes]:
            had = [(name, node.get(name, 0.0)) for name in ("CPU", "GPU")]
            counts[" and ".join(f"{has:g} {noun(has, name)}" for name, has in had if has)] += count
        return ", ".join(f"{amount(count, 'node')} of {has}" for has, count in counts.items() if has)

    @property
    def _silent(self) -> str:
        """What to do about nodes that nobody knows."""
        if not self.unknown:
            return ""
        whose = f"node type {self.unknown[0]}" if len(self.unknown) == 1 else f"node types {', '.join(self.unknown)}"
        said = "has no `resources`" if len(self.unknown) == 1 else "have no `resources`"
        return f"; {whose} {said} in the cluster's configuration: give them there, as {{CPU: 4, GPU: 1}}"

    def check(self, resources: Resources) -> None:
        """Raise ClusterError if a trial with these resources could never start."""
        wanted = {"CPU": resources.cpus, "GPU": resources.gpus}
        named = f"Resources(workers={resources.workers}, cpus={resources.cpus:g}, gpus={resources.gpus:g})"
        nodes = [*self.nodes, *(node for node, _ in self.kinds)]
        for name, each in wanted.items():
            total = resources.workers * each
            if total > self.total(name):
                needs = f"{named} needs {total:g} {noun(total, name)}"
                raise ClusterError(f"{needs} and the cluster can reach {self.total(name):g}{self._silent}")
            if not any(node.get(name, 0.0) >= each for node in nodes):
                says = f"a worker with {each:g} {noun(each, name)} fits on no node of the cluster"
                raise ClusterError(f"{says}{self._silent}")
        if not self._fitting(resources):
            apart = not resources.spread and self._fitting(dataclasses.replace(resources, spread=True))
            whom = f"all {resources.workers} workers" if resources.workers > 1 else "its worker"
            raise ClusterError(
                f"{named}: {'no node has' if apart or not resources.spread else 'the nodes have not'} room for "
                f"{whom}{'' if resources.spread or resources.workers == 1 else ' together'}; there are {self._told()}"
                + ("; Resources(spread=True) lets them be on several nodes, whose network is slower" if apart else "")
            )
        if resources.workers > 1 and self.total(DRIVER) < 1:
            raise ClusterError(
                f"trials of several workers need the resource {DRIVER!r}: start the head node with "
                f"--resources='{{\"{DRIVER}\": {DRIVERS}}}'"
            )


def _fit(node: Mapping[str, float], resources: Resources) -> int:
    """How many workers a node holds."""
    wanted = {"CPU": resources.cpus, "GPU": resources.gpus}
    return min(math.floor(node.get(name, 0.0) / each + 1e-9) for name, each in wanted.items() if each)


@contextlib.contextmanager
def connected(
    address: str | None,
    needs: Iterable[Resources],
    store: Store,
    reads: Iterable[ResolvedModel | Stream] = (),
    peaks: Sequence[Peak] = (),
) -> Iterator[Cluster]:
    """Connect to a cluster for the time of the context, and check it before anything is started on it.

    Args:
        address: ``host:port``, ``auto`` for the cluster this machine belongs to, or ``local`` for one of its own, which
            ends with the context. None takes RAY_ADDRESS, else ``auto`` on a node made by ``ray up``, else ``local``.
        needs: the resources of the trials to come.
        store: where results are to go.
        reads: what trials read from where they are executed.
        peaks: what they take of memory.

    Raises:
        ClusterError: there is no such cluster, it cannot hold a trial or what one takes of memory, its nodes would not
            share the store, or one of them could not execute a trial.
    """
    needs = set(needs)
    address = address_of(address)
    already = ray.is_initialized()  # within a test or a notebook that keeps a cluster
    sharded = any(resources.workers > 1 for resources in needs)
    with contextlib.nullcontext() if already else joined(address, sharded), environment.shared():
        cluster = _look()
        for resources in needs:
            cluster.check(resources)
        _check_memory(cluster, peaks)
        if cluster.spans_machines and store.is_local and not _is_shared(Path(store.location)):
            raise ClusterError(
                f"the store {store.location} is on this node's own disk, which the cluster's other nodes cannot see: "
                "give --store s3://... or a folder on a shared file system"
            )
        with all_fit(_alive(), store, reads) if cluster.spans_machines else contextlib.nullcontext():
            yield cluster


def _check_memory(cluster: Cluster, peaks: Sequence[Peak]) -> None:
    """Raise ClusterError where a trial takes more than there is on any node that could hold its workers."""
    if not peaks or cluster.reachable is not None:  # what the autoscaler starts has yet to be seen
        return
    alive = _alive()
    found = rooms(alive)
    for peak in peaks:
        needed = 1 if peak.resources.spread else peak.resources.workers
        pairs = zip(alive, found, strict=True)
        refuse([peak], [room for node, room in pairs if room and _fit(node["Resources"], peak.resources) >= needed])


def _together(each: Iterable[tuple[float, float]], most: float) -> float:
    """What `most` nodes have at best: of each kind what one has, and how many there may be."""
    found = 0.0
    for has, count in sorted(each, reverse=True):
        taken = min(count, most)
        most -= taken
        found += has * taken
    return found


def _look() -> Cluster:
    nodes = tuple(node["Resources"] for node in _alive())
    return _autoscaled(Cluster(nodes))


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _autoscaled(cluster: Cluster) -> Cluster:
    """`cluster` with what the autoscaler of a ``ray up`` cluster may start.

    From its own configuration: Ray itself tells only what is there already, and a lone head has no GPU.
    """
    file = Path(BOOTSTRAPPED).expanduser()
    if not file.exists():
        return cluster
    import yaml

    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        types, head = config["available_node_types"], config.get("head_node_type")
        workers = int(config.get("max_workers", sum(int(kind.get("max_workers", 0)) for kind in types.values())))
        have = {str(name): dict(kind.get("resources") or {}) for name, kind in types.items()}
        kinds = tuple((have[name], int(types[name].get("max_workers", workers))) for name in have if name != head)
        mine = have.get(head, {})
        totals = {
            name: mine.get(name, 0.0) + _together(((node.get(name, 0.0), count) for node, count in kinds), workers)
            for name in {resource for node in have.values() for resource in node}
        }
        unknown = tuple(name for name, node in have.items() if not node)
        return Cluster(cluster.nodes, totals, kinds, workers, mine, unknown)
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
