"""Whether every node could execute a trial, asked of each before the first one: a line that names the node where not.

    with all_fit(ray.nodes(), store, reads):
        ...                    # no trial has failed yet for what a node lacks
    check_here()               # at the start of a trial, on a node that came later

Asked is whether a worker there can read and write the store, and sees in it what the driver wrote, whether models and
streams of files are there, and whether memexp and what computes are of the same versions. On one machine nothing is
asked. What an autoscaler adds is asked when the first trial begins there.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import pickle
import platform
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import memexp
from memexp.cluster.environment import take
from memexp.cluster.noticeboard import found, left
from memexp.errors import ClusterError, MemexpError, one_line
from memexp.plan.heartbeat import tidied
from memexp.plan.room import Room, here
from memexp.sources import ResolvedModel, Stream
from memexp.sources.hub import hub_file
from memexp.sources.pinned import location
from memexp.sources.streams import FileStream, HubTexts
from memexp.store import Store

__all__ = ["Needed", "all_fit", "check_here", "rooms", "versions"]

NOTICE = "nodes"

WITHIN = 60.0
"""Seconds in which a node has to answer."""
STORE_WITHIN = 20.0
"""Seconds in which a node has to reach the store, which by itself waits for minutes."""


@dataclass(frozen=True)
class Needed:
    """What a node needs to execute trials."""

    store: Store
    sign: str
    """A side file of it that the driver wrote."""
    folders: tuple[str, ...]
    """Local models and tokenizers, and folders of streams."""
    files: tuple[str, ...]
    """Of streams."""
    hub: tuple[tuple[str, str], ...]
    """Models of the hub, with their commits."""
    versions: Mapping[str, str]
    """Of what has to be the same everywhere, by name."""

    @classmethod
    def of(cls, store: Store, sign: str, reads: Iterable[ResolvedModel | Stream]) -> Needed:
        """For the models and streams of trials; what ships with memexp is there with it."""
        folders, files, hub = set[str](), set[str](), set[tuple[str, str]]()
        for one in reads:
            if isinstance(one, ResolvedModel):
                for source, commit in ((one.source, one.commit), (one.tokenizer.source, one.tokenizer.commit)):
                    folders |= {source} if source and commit is None and location(source) == source else set()
                hub |= {(one.source, one.commit)} if one.source and one.commit else set()
            elif isinstance(one, FileStream):
                files |= {part.path for part in one.parts}
            elif isinstance(one, HubTexts):
                folders |= {one.source.dataset} if one.commit is None else set()
        return cls(store, sign, tuple(sorted(folders)), tuple(sorted(files)), tuple(sorted(hub)), versions())

    def lacking(self) -> str | None:
        """Why this node could not execute them, None where it could."""
        return self._versions() or self._files() or self._hub() or self._in_time(self._store)

    def _versions(self) -> str | None:
        here = versions()
        pairs = ((name, here[name], there) for name, there in self.versions.items())
        differ = [f"{name} {has} instead of {wanted}" for name, has, wanted in pairs if has != wanted]
        return f"has {', '.join(differ)}" if differ else None

    def _files(self) -> str | None:
        for path in map(Path, (*self.folders, *self.files)):
            try:
                for file in [path] if str(path) in self.files else path.iterdir():
                    if not file.is_dir():
                        file.open("rb").close()
            except OSError as error:
                return f"cannot read {error.filename} ({error.strerror}): it has to be where every node sees it"
        return None

    def _hub(self) -> str | None:
        for repo, commit in self.hub:
            try:
                if hub_file(repo, "config.json", commit) is None:
                    return f"has not got model {repo!r} in its cache, and does not reach the hub"
            except MemexpError as error:
                return one_line(error)
        return None

    def _store(self) -> str | None:
        try:
            self.store.check_writable()
            if self.store.get_text(self.sign) is None:
                return f"has another folder {self.store.location}: it does not see there what the driver wrote"
        except MemexpError as error:
            return one_line(error)
        return None

    @staticmethod
    def _in_time(look: Any) -> str | None:
        found: list[str | None] = []
        thread = threading.Thread(target=lambda: found.append(look()), daemon=True)
        thread.start()
        thread.join(STORE_WITHIN)
        return found[0] if found else f"does not reach the store within {STORE_WITHIN:.0f} seconds"


@functools.cache
def versions() -> dict[str, str]:
    """Versions in this process of what has to be the same everywhere; of memexp also a hash of its code."""
    code = hashlib.sha256()
    folder = Path(memexp.__file__).parent
    for file in sorted(folder.rglob("*.py")):
        code.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
    found = {name: version(name) for name in ("ray", "torch", "transformers")}
    return {"memexp": f"{memexp.__version__} ({code.hexdigest()[:8]})", "Python": platform.python_version()} | found


@contextlib.contextmanager
def all_fit(
    nodes: Sequence[Mapping[str, Any]], store: Store, reads: Iterable[ResolvedModel | Stream]
) -> Iterator[None]:
    """While the context lasts, trials are executed on nodes only that could.

    Args:
        nodes: what `ray.nodes` tells of those that are alive; those without a CPU or GPU execute none.
        store: where results go.
        reads: what trials read from where they are executed.

    Raises:
        ClusterError: a node could not.
    """
    able = [node for node in nodes if {"CPU", "GPU"} & node["Resources"].keys()]
    needed = Needed.of(store, f".nodes/{uuid.uuid4().hex}.txt", reads)
    store.put_text(needed.sign, "seen by every node\n")

    def end() -> None:
        with contextlib.suppress(MemexpError):
            store.delete(needed.sign)

    with tidied(end):
        _check(able, needed)
        with left(NOTICE, pickle.dumps((needed, [node["NodeID"] for node in able]))):
            yield


def rooms(nodes: Sequence[Mapping[str, Any]]) -> list[Room | None]:
    """What memory each of the nodes has that `ray.nodes` tells of; None where one does not say it in time.

    Of a single one this process tells, which is on it.
    """
    if len(nodes) == 1:
        return [here()]
    ask = ray.remote(num_cpus=0, max_retries=0)(here)
    asked = [ask.options(scheduling_strategy=_on(node)).remote() for node in nodes]
    ray.wait(asked, num_returns=len(asked), timeout=WITHIN)
    found: list[Room | None] = []
    for answer in asked:
        try:
            found.append(ray.get(answer, timeout=0))
        except (GetTimeoutError, RayError):  # what ails it is said where all nodes are asked whether they fit
            found.append(None)
    return found


def _on(node: Mapping[str, Any]) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)


def check_here() -> None:
    """Raise ClusterError where this node was not there when all were asked, and could not execute a trial."""
    _check_once(ray.get_runtime_context().get_job_id())


@functools.cache
def _check_once(job: str) -> None:
    notice = found(NOTICE)
    if notice is None:
        return
    needed, asked = pickle.loads(notice)
    own = ray.get_runtime_context().get_node_id()
    if own not in asked and (why := needed.lacking()) is not None:
        [node] = [node for node in ray.nodes() if node["NodeID"] == own]
        raise ClusterError(_line(node, why))


def _check(nodes: Sequence[Mapping[str, Any]], needed: Needed) -> None:
    ask = ray.remote(num_cpus=0, max_retries=0)(_lacking)
    asked = {}
    for node in nodes:
        asked[ask.options(scheduling_strategy=_on(node)).remote(needed)] = node
    ray.wait(list(asked), num_returns=len(asked), timeout=WITHIN)
    for answer, node in asked.items():
        try:
            why = ray.get(answer, timeout=0)
        except GetTimeoutError:
            why = f"does not answer within {WITHIN:.0f} seconds"
        except WorkerCrashedError:
            why = "starts no worker that can import memexp: install it there as it is here"
        except RayError as error:
            why = f"cannot execute memexp: {one_line(error)}"
        if why is not None:
            raise ClusterError(_line(node, why))


def _lacking(needed: Needed) -> str | None:
    take()
    return needed.lacking()


def _line(node: Mapping[str, Any], why: str) -> str:
    return f"node {node['NodeManagerAddress']} ({node['NodeManagerHostname']}) {why}"
