"""``memexp doctor``: line by line what of this machine is in order, and what to do about what is not.

print_findings(store=None, ray=False)    # exit status 0 if a local sweep can run, else 1

A local sweep is ``memexp run SWEEP --local``: Ray, a GPU, the hub and object storage may be missing and it runs.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
from rich.console import Console

from memexp import __version__
from memexp.errors import MemexpError, one_line
from memexp.plan.room import here
from memexp.report.terminal import say
from memexp.sources.hub import network_error
from memexp.store import Store, default_store
from memexp.wording import amount

__all__ = ["Finding", "diagnosed", "print_findings"]

ENOUGH_MEMORY, LEAST_MEMORY = 4 * 10**9, 10**9
"""Bytes below which larger models than the tiny ones have no room, and below which torch and a tiny one have none."""
ENOUGH_DISK, LEAST_DISK = 2 * 10**9, 50 * 10**6
"""Bytes below which weights of the hub and snapshots have no room, and below which rows of a small sweep have none."""
HUB_SECONDS = 3.0
"""How long the hub is waited for."""
TORCH_SECONDS = 120.0
"""How long torch may take to load, which on a network file system it does."""
STORE_SECONDS = "5"
"""How long object storage without an answer is waited for, where a sweep would wait ten minutes."""


@dataclass(frozen=True)
class Finding:
    """One line of the answer."""

    what: str
    """What was looked at."""
    says: str
    """What was found."""
    state: Literal["ok", "note", "wrong"] = "ok"
    """A note is not in order, or not there, and nothing that a local sweep on the tiny models needs."""
    todo: str = ""
    """What to do about it."""
    stops: bool = False
    """Whether no local sweep can run."""


def print_findings(store: str | None, ray: bool) -> int:
    """Print a line for each thing as soon as it is known; 0 if a local sweep can run, else 1.

    Args:
        store: folder or URL; by default MEMEXP_STORE, else ``results``.
        ray: whether to start Ray, or to join the cluster, as a run would.
    """
    console, stops = Console(), False
    for finding in diagnosed(store or default_store(), ray):
        style = {"ok": "green", "note": "yellow", "wrong": "red"}[finding.state]
        say(console, f"{finding.state:5}  {finding.what:8}  {finding.says}", style)
        if finding.todo:
            say(console, f"{'':17}to do: {finding.todo}")
        stops = stops or finding.stops
    say(console, "a local sweep cannot run here" if stops else "a local sweep can run here: memexp run SWEEP --local")
    return 1 if stops else 0


def diagnosed(store: str, ray: bool) -> Iterator[Finding]:
    """What is found, what takes long last."""
    with _asked_torch() as torch:  # takes seconds, so it is begun first
        yield from _python()
        yield from _memory()
        yield from _disk(store)
        yield _writable(store)
        yield from _hub()
        yield from _credentials(store)
        yield from _torch(*_answer(torch))
    yield _started_ray(store) if ray else _ray()


def _python() -> Iterator[Finding]:
    """Python, memexp, and whether the packages are there in the versions that memexp asks for."""
    yield Finding("python", f"{platform.python_version()} at {sys.prefix}, memexp {__version__}")
    from packaging.requirements import Requirement

    lacking, count = [], 0
    for line in importlib.metadata.requires("memexp") or []:
        need = Requirement(line)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            has = importlib.metadata.version(need.name)
            if not need.specifier.contains(has.partition("+")[0], prereleases=True):
                lacking.append(f"{need.name} is {has} and should be {need.specifier}")
        except importlib.metadata.PackageNotFoundError:
            lacking.append(f"{need.name} is missing")
    if lacking:
        todo = "make setup, or pip install -c constraints.txt . in a checkout of memexp"
        yield Finding("packages", "; ".join(lacking), "wrong", todo, stops=True)
    else:
        yield Finding("packages", f"the {count} that memexp needs, in versions that it knows")


def _memory() -> Iterator[Finding]:
    """Memory that is free now, of what this machine or container has; and cores."""
    whole, free = here().host, psutil.virtual_memory().available
    says = f"{_gb(min(free, whole))} of {_gb(whole)} free, {amount(_cores(), 'core')}"
    if free < LEAST_MEMORY:
        yield Finding("memory", says, "wrong", "end other programs: torch alone takes half a GB", stops=True)
    elif free < ENOUGH_MEMORY:
        todo = "enough for the tiny models; `memexp plan SWEEP` says what a sweep takes"
        yield Finding("memory", says, "note", todo)
    else:
        yield Finding("memory", says)


def _cores() -> int:
    """Of this process, where the system tells."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _disk(store: str) -> Iterator[Finding]:
    """Room where results go, and where Ray and snapshots of a trial put what is not to stay."""
    places = {"temporary files": Path(tempfile.gettempdir())}
    if "://" not in store:
        places = {"results": Path(store).expanduser().absolute()} | places
    for what, path in places.items():
        there = next(one for one in (path, *path.parents) if one.exists())
        free = shutil.disk_usage(there).free
        says = f"{_gb(free)} free for {what} in {path}"
        if free < ENOUGH_DISK:
            todo = "make room, or give another folder with " + ("--store" if what == "results" else "TMPDIR")
            state: Literal["note", "wrong"] = "wrong" if free < LEAST_DISK else "note"
            yield Finding("disk", says, state, todo, stops=free < LEAST_DISK)
        else:
            yield Finding("disk", says)


def _writable(where: str) -> Finding:
    """Whether results can be written, of which nothing stays."""
    from memexp.store import patience

    before = os.environ.get(patience.SETTING)
    try:
        os.environ.setdefault(patience.SETTING, STORE_SECONDS)
        store = Store(where)
        with store.without_trace():
            store.check_writable()
    except MemexpError as error:
        todo = "give a folder that you may write with --store or MEMEXP_STORE"
        if "://" in where:
            todo = "see the credentials below; or give a folder with --store"
        return Finding("store", one_line(error), "wrong", todo, stops=True)
    finally:
        if before is None:
            os.environ.pop(patience.SETTING, None)
    return Finding("store", f"{store.location} can be written")


def _hub() -> Iterator[Finding]:
    """The Hugging Face hub: whether it is to be asked, whether it answers, and whether there is a token."""
    from huggingface_hub import constants, get_token

    cache = f"models in the cache {constants.HF_HUB_CACHE} and the tiny ones"
    if constants.HF_HUB_OFFLINE:
        todo = "unset HF_HUB_OFFLINE for others"
        yield Finding("hub", f"offline (HF_HUB_OFFLINE): {cache} can be used", "note", todo)
    else:
        why = _unanswered(constants.ENDPOINT)
        if why is None:
            yield Finding("hub", f"{constants.ENDPOINT} answers")
        else:
            todo = f"{cache} can be used; behind a proxy set HTTPS_PROXY, and without a network HF_HUB_OFFLINE=1"
            yield Finding("hub", f"{constants.ENDPOINT} does not answer: {why}", "note", todo)
    if get_token():
        yield Finding("hub", "a token is there")
    else:
        todo = "only for models whose terms one has to accept: hf auth login, or HF_TOKEN"
        yield Finding("hub", "no token", "note", todo)


def _unanswered(endpoint: str) -> str | None:
    """Why the hub does not answer; None where it does, whatever it says."""
    from huggingface_hub import get_session

    try:
        get_session().head(endpoint, timeout=HUB_SECONDS)
    except (OSError, network_error()) as error:
        return one_line(error, 120)
    return None


def _credentials(store: str) -> Iterator[Finding]:
    """Whether there are credentials for object storage; never what they are."""
    needed = {"s3": store.startswith("s3://"), "gs": store.startswith("gs://")}
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    have = [name for name in names if os.environ.get(name)]
    if len(have) == 2:
        where = "an endpoint of your own" if os.environ.get("AWS_ENDPOINT_URL") else "AWS"
        yield Finding("s3", f"{' and '.join(names)} are set, for {where}")
    elif have:
        [lacking] = set(names) - set(have)
        yield Finding("s3", f"{have[0]} is set and {lacking} is not", "wrong", f"set {lacking}, or unset {have[0]}")
    else:
        todo = f"for a store s3://...: set {' and '.join(names)}, or use an instance's role; ~/.aws is not read"
        yield Finding("s3", "no credentials in the environment", "wrong" if needed["s3"] else "note", todo)
    name = "GOOGLE_APPLICATION_CREDENTIALS"
    file = os.environ.get(name)
    if file and os.path.isfile(os.path.expanduser(file)):
        yield Finding("gcs", f"{name} names a file that is there")
    elif file:
        yield Finding("gcs", f"{name} names a file that is not there", "wrong", "let it name the key's JSON file")
    else:
        todo = f"for a store gs://...: let {name} name the key's JSON file, or use an instance's account"
        yield Finding("gcs", "no credentials in the environment", "wrong" if needed["gs"] else "note", todo)


def _asked_torch() -> subprocess.Popen[str]:
    """A process that loads torch and says what it finds: what is broken there is not to end this one."""
    # -P: a six.py in the folder one is in would be imported instead of the library.
    command = [sys.executable, "-P", "-m", "memexp.core.here"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _answer(torch: subprocess.Popen[str]) -> tuple[dict[str, Any] | None, str]:
    """What it found, or None and the last line of what it said of itself."""
    try:
        said, errors = torch.communicate(timeout=TORCH_SECONDS)
        if torch.returncode == 0:
            return json.loads(said.splitlines()[-1]), ""
        return None, one_line((errors.strip().splitlines() or [f"it ended with {torch.returncode}"])[-1])
    except subprocess.TimeoutExpired:
        torch.kill()
        return None, f"it did not load within {TORCH_SECONDS:.0f} s"


def _torch(found: dict[str, Any] | None, why: str) -> Iterator[Finding]:
    """Whether torch computes, and on what."""
    if found is None:
        todo = "install it again: make setup, or pip install -c constraints.txt . in a checkout of memexp"
        yield Finding("torch", f"cannot be used: {why}", "wrong", todo, stops=True)
        return
    built = f"built for CUDA {found['cuda']}" if found["cuda"] else "built for the CPU"
    yield Finding("torch", f"{found['version']}, {built}; it computes")
    driver = len(here().gpus)
    for name, size in found["gpus"]:
        yield Finding("gpu", f"{name} with {_gb(size)}; it computes")
    if found["gpus"]:
        return
    if not driver:
        yield Finding("gpu", "none: all is computed on the CPU", "note", "enough for the tiny models")
    elif found["cuda"]:
        todo = "compare CUDA_VISIBLE_DEVICES, and the versions of the driver (nvidia-smi) and of torch's CUDA"
        yield Finding("gpu", f"the driver knows {driver} and torch sees none", "wrong", todo)
    else:
        todo = "install a build of torch for CUDA: constraints.txt says how indexes of builds are named"
        yield Finding("gpu", f"the driver knows {driver}, and torch was built without CUDA", "wrong", todo)


def _ray() -> Finding:
    """Ray as it is installed; it takes seconds to start."""
    version, address = importlib.metadata.version("ray"), os.environ.get("RAY_ADDRESS")
    joins = f"runs join {address} (RAY_ADDRESS)" if address else "runs start it on this machine"
    return Finding("ray", f"{version}, {joins}; memexp doctor --ray tries it")


def _started_ray(store: str) -> Finding:
    """Ray as a run would start or join it, with room for one trial."""
    from memexp.cluster.connect import connected
    from memexp.spec import Resources

    began = time.monotonic()
    try:
        with connected(None, [Resources()], Store(store)) as cluster:
            cpus, nodes = cluster.total("CPU"), len(cluster.nodes)
    except MemexpError as error:
        return Finding("ray", one_line(error), "wrong", "until it starts: memexp run SWEEP --local")
    took = time.monotonic() - began
    return Finding("ray", f"{amount(nodes, 'node')} with {amount(round(cpus), 'CPU')}, ready after {took:.0f} s")


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
