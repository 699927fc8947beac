"""``memexp submit``, ``logs`` and ``stop``: sweeps that a cluster executes whatever becomes of this machine.

submit("sweeps/mine.py", ["--lr", "1e-3"], load, store="s3://bucket/mine", address=None, folder=None)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from memexp.errors import SpecError, visible
from memexp.script import said_if_slow
from memexp.store import Store, default_store
from memexp.submission.luggage import packed

if TYPE_CHECKING:
    from memexp.sweep import Sweep

__all__ = ["print_log", "print_probes", "stop", "submit"]


def submit(
    script: str,
    arguments: Sequence[str],
    load: Callable[[str], Sweep],
    store: str | None,
    address: str | None,
    folder: str | None,
    retry_diverged: bool = False,
) -> int:
    """Have a cluster execute a sweep script, and say how to look at it.

    Args:
        script: the sweep.
        arguments: its own.
        load: makes the sweep of a script.
        store: where results go.
        address: of the cluster's dashboard.
        folder: what travels; by default the present folder where the script is in it, else the script's.
        retry_diverged: see `Sweep.run`.

    Raises:
        SpecError: the script makes no sweep where only what travels is there, or results would stay on the head's disk.
        ClusterError: the cluster does not take it.
    """
    location = store or default_store()
    if Store(location).is_local and not Path(location).is_absolute():
        raise SpecError(
            f"--store: {location} would be a folder of the head that goes with the job; name a bucket (s3://... or "
            "gs://...), or a folder that the whole cluster sees by its absolute path"
        )
    here = Path.cwd()
    chosen = Path(folder) if folder else here if Path(script).resolve().is_relative_to(here) else Path(script).parent
    if not chosen.is_dir():
        raise SpecError(f"--dir: {folder}: no such folder")
    from memexp.cluster.jobs import Jobs

    jobs = Jobs(address)
    with said_if_slow("packing ..."), packed(chosen, script) as luggage:
        within = luggage.script.relative_to(luggage.folder)
        sweep = load(str(within))
        luggage.check(sweep.conditions)
        command = ["memexp", "run", "--address", "auto", "--store", location]
        command += ["--retry-diverged"] if retry_diverged else []
        command += [str(within), *(["--", *arguments] if arguments else [])]
        name = jobs.submit(sweep.name, command, luggage.folder)
    told = f" --address {jobs.address}" if address else ""
    print(f"submitted {name} to {jobs.address}; this machine may be switched off")
    print(f"  memexp status --watch --store {location}")
    print(f"  memexp logs --follow{told} {name}")
    print(f"  memexp stop{told} {name}")
    return 0


def print_log(name: str | None, address: str | None, follow: bool) -> int:
    """Print what a submitted sweep has said; with `follow` until it is over: 0 then only if it is complete."""
    from memexp.cluster.jobs import Jobs

    jobs = Jobs(address)
    name = jobs.the(name)
    for text in jobs.log(name, follow):
        print(text, end="", flush=True)
    if not follow:
        return 0
    whole, said = jobs.ended(name)
    print(f"{name}: {said}")
    return 0 if whole else 1


def print_probes(store: Store, sweep: str | None) -> int:
    """Print what probes of one's own printed, of one sweep or all, measurement by measurement."""
    paths = [path for path in store.list_text(".logs/") if sweep is None or path.split("/")[1] == sweep]
    for path in paths:
        print(f"== {path}")
        for line in (store.get_text(path) or "").splitlines():
            print(visible(line))
    if not paths:
        print(f"no probe of {sweep or 'any sweep'} has printed anything into {store.location}")
    return 0


def stop(name: str | None, address: str | None) -> int:
    """Stop a submitted sweep; the same submission goes on where it was."""
    from memexp.cluster.jobs import Jobs

    jobs = Jobs(address)
    name = jobs.the(name)
    with said_if_slow(f"stopping {name} ..."):
        how = jobs.stop(name)
    print(f"{name}: {how}" + ("; submitted again, it goes on" if how == "stopped" else ""))
    return 0
