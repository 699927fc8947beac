"""`memexp prune`: what no sweep of a store refers to any more is shown, and removed where that is asked for.

    memexp prune                # how many files and bytes, by table and reason
    memexp prune --remove

A result that is removed is measured again where a sweep asks for it; no file refers to another, so that whoever is
killed in between leaves a store that reads, and the same command goes on. Never removed: what was imported, what other
tools have put there, ``training/``, ``stages/``, ``sweeps/`` and ``searches/``.

Nothing is removed while a sweep is executed on the store, and no sweep is begun while something is removed: each looks
for the other's sign of life (memexp/plan/heartbeat.py). One that is begun in the very moment finds at its end what it
lacks, and says so.
"""

from __future__ import annotations

import re
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from memexp.errors import StoreError
from memexp.plan.attempts import Attempt, Log
from memexp.plan.heartbeat import ended, heartbeat, running
from memexp.records import BARE
from memexp.report.status import incomplete
from memexp.store import Store, snapshots
from memexp.store.references import References, references
from memexp.store.threads import threaded
from memexp.wording import amount

__all__ = ["PRUNING", "Candidate", "Found", "check_not_pruned", "find", "prune", "remove"]

PRUNING = "memexp-prune"
"""What signs of life call it, where others have the name of a sweep."""
AT_ONCE = 100
"""Files that are removed before it is asked again whether a sweep has been started."""
SEEN_WITHIN = 30.0
"""Seconds in which its own sign of life has to be there."""
_LOG = re.compile(r"\.logs/[^/]+/(.+)-([0-9a-f]{16})-([0-9a-f]{16})-[^/]*")


@dataclass(frozen=True)
class Candidate:
    """A file that no sweep refers to."""

    table: str
    """Its kind, or the hidden folder that it is in."""
    reason: str
    name: str
    """Of a result, as the store has it; else the path of a side file."""
    size: int
    """Bytes."""

    @property
    def first(self) -> bool:
        """Whether it goes before others: the mark of a snapshot before what it vouches for."""
        return self.table == snapshots.FOLDER and self.name.count("/") == 2


@dataclass(frozen=True)
class Found:
    """What could be removed."""

    candidates: Sequence[Candidate]
    remarks: Sequence[str]
    """What was left out of consideration, and why, a line each."""


def prune(store: Store, really: bool) -> int:
    """Show what no sweep refers to, and remove it where that is `really` wanted; returns the exit status.

    Raises StoreError where it cannot be read or removed, is an export, or a sweep is executed on it.
    """
    store.check_no_export()
    console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
    if not really:
        found = find(store)
        _show(found, console)
        if found.candidates:
            console.print(f"{_sum(found.candidates)}; nothing was removed: --remove does it")
        if signs := _others(store):
            console.print(f"{signs}: --remove would refuse")
        return 0
    attempt = Attempt(PRUNING, uuid.uuid4().hex[:12])
    with heartbeat(store, attempt, 0):
        _wait_until_seen(store)
        _check_alone(store, 0)
        found = find(store)
        _show(found, console)
        remove(store, found.candidates)
    if found.candidates:
        console.print(f"{_sum(found.candidates)} removed")
    return 0


def _wait_until_seen(store: Store) -> None:
    """Before its sign of life is there, no sweep would know. Raises StoreError where it cannot be written."""
    until = time.monotonic() + SEEN_WITHIN
    while PRUNING not in running(store):
        if time.monotonic() > until:
            raise StoreError(f"cannot write to {store.location}, so that no sweep would know: nothing is removed")
        time.sleep(0.05)


def check_not_pruned(store: Store) -> None:
    """Raise StoreError where something is being removed from `store`: a sweep might rely on it."""
    for sign in running(store).get(PRUNING, []):
        where = f"pid {sign.get('pid')} on {sign.get('host')}"
        raise StoreError(f"memexp prune is removing files from {store.location} ({where}): begin when it has ended")


def remove(store: Store, candidates: Sequence[Candidate]) -> None:
    """Remove these files. Raises StoreError where one cannot be, or a sweep has been started meanwhile."""

    def one(candidate: Candidate) -> None:
        if candidate.table.startswith("."):
            store.delete(candidate.name)
        else:
            store.remove(candidate.table, candidate.name)

    done = 0
    for first in (True, False):
        files = [candidate for candidate in candidates if candidate.first is first]
        for at in range(0, len(files), AT_ONCE):
            _check_alone(store, done)
            batch = files[at : at + AT_ONCE]
            threaded(one, batch)
            done += len(batch)


def _others(store: Store) -> str:
    """Who else is at work on the store, in words; nothing where nobody is."""
    own = 0
    said = []
    for sweep, signs in sorted(running(store).items()):
        for sign in signs:
            own += sweep == PRUNING
            if sweep != PRUNING or own > 1:
                said.append(f"{sweep} is being executed (pid {sign.get('pid')} on {sign.get('host')})")
    return ", ".join(said)


def _check_alone(store: Store, done: int) -> None:
    if signs := _others(store):
        how = f"{done} files were removed, the same command goes on" if done else "nothing is removed"
        raise StoreError(f"{signs}: {how} when it has ended")


# ---------------------------------------------------------------------------------------------------------
# What nobody refers to


def find(store: Store) -> Found:
    """All that could be removed, in no order. Raises StoreError naming a file that is not memexp's."""
    known = references(store)
    side = [
        Candidate(path.split("/")[0], reason, path, store.size(path) or 0)
        for reason, paths in (
            ("sign of life of a command that was killed", ended(store)),
            ("left by a command that was killed", store.list_text(".nodes/")),
        )
        for path in paths
    ]
    if not known.sweeps:
        return Found(side, ["no sweep is known here, so that nothing tells which results belong to one"])
    kept, remarks = list(_snapshots(store, known)), []
    open_ = incomplete(store)
    if open_:
        remarks.append(f"snapshots are kept as long as sweeps lack results, which may need them: {', '.join(open_)}")
        kept = [one for one in kept if one.reason == HALF]
    return Found([*_results(store, known), *_logs(store, known), *kept, *side], remarks)


def _results(store: Store, known: References) -> Iterator[Candidate]:
    for kind in store.kinds():
        if kind in BARE:
            continue
        files = store.listed(kind)
        for name, sweep in known.unlisted(kind, files).items():
            reason = f"listed by an earlier start of {sweep}" if sweep else "listed by no sweep"
            yield Candidate(kind, reason, name, files[name].size)


def _logs(store: Store, known: References) -> Iterator[Candidate]:
    """What probes have printed whose measurements no sweep lists."""
    listed = {file.rpartition("-")[0] for file in known.latest}
    for path in store.list_text(".logs/"):
        match = _LOG.fullmatch(path)
        if match and f"{match[1]}/{match[2]}-{match[3]}" not in listed:
            yield Candidate(".logs", "of a measurement that no sweep lists", path, store.size(path) or 0)


HALF = "of a snapshot that was never whole"


def _snapshots(store: Store, known: References) -> Iterator[Candidate]:
    """Of trajectories that lead to nothing that is listed, and what is left of snapshots that were not finished.

    Where the log of attempts does not tell where a trajectory leads, it is kept.
    """
    parents = _parents(store)
    needed = set(known.stages)
    for stage in known.stages:
        at = parents.get(stage)
        while at is not None and at not in needed:
            needed.add(at)
            at = parents.get(at)
    files: dict[str, list[str]] = {}
    for path in store.list_text(f"{snapshots.FOLDER}/"):
        files.setdefault(path.split("/")[1], []).append(path)
    marks = snapshots.find(store).found
    for trajectory, paths in files.items():
        said = [snapshots.said_by(store, mark) for mark in marks if mark.trajectory == trajectory]
        if None in said:  # of another version, perhaps
            continue
        whole = [one for one in said if one is not None]
        leads = {trajectory} if trajectory in parents else {one.plan for one in whole}
        unknown = not leads or not leads <= parents.keys()
        for path in paths:
            part = path.split("/")
            if len(part) > 3 and part[2] not in {one.folder for one in whole}:
                yield Candidate(snapshots.FOLDER, HALF, path, store.size(path) or 0)
            elif not unknown and not leads & needed:
                reason = "of a trajectory to nothing that a sweep lists"
                yield Candidate(snapshots.FOLDER, reason, path, store.size(path) or 0)


def _parents(store: Store) -> dict[str, str | None]:
    """The stage before each one that was ever tried."""
    table = Log.read(store).table
    return dict(zip(table["stage_id"].to_pylist(), table["parent_id"].to_pylist(), strict=True))


# ---------------------------------------------------------------------------------------------------------
# In words


def _show(found: Found, console: Console) -> None:
    count = Counter((one.table, one.reason) for one in found.candidates)
    sizes: Counter[tuple[str, str]] = Counter()
    for one in found.candidates:
        sizes[one.table, one.reason] += one.size
    table = Table()
    for name in ("table", "why", "files", "size"):
        table.add_column(name, justify="right" if name in ("files", "size") else "left")
    for key in sorted(count):
        table.add_row(*key, f"{count[key]}", _size(sizes[key]))
    if count:
        console.print(table)
    else:
        console.print("nothing to remove")
    for line in found.remarks:
        console.print(line)


def _sum(candidates: Sequence[Candidate]) -> str:
    return f"{amount(len(candidates), 'file')}, {_size(sum(one.size for one in candidates))}"


def _size(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
