"""Ten minutes on one GPU: does memexp compute there what it computes on a CPU, in the memory it says, and how fast?

    python -m benchmarks.gpu                            # everything, into benchmarks/GPU.json
    python -m benchmarks.gpu --parts numbers,waits      # some of it; the others keep their results
    python -m benchmarks.gpu --device cpu --small       # the script itself, tried without a GPU

Without Ray, which need not be installed. Parts in this order, each with what it found or why it failed:

    core       whether memexp's core can be imported where there is no Ray
    card       versions, memory, and what the card reaches: FLOP/s of large products, bytes/s of a copy
    numbers    losses, likelihoods and completions beside the CPU's; how often a repeated trial is bit-equal
    waits      how often the host waits for the device, per training step and per token of recall
    memory     the most that was allocated, beside what the tests' meter counts and what `memexp plan` says
    speed      ms a step, likelihoods and recall of 124M full, 1.3B full and 8B LoRA in three precisions
    processes  one, two and four processes on the one card
    nccl       NCCL with one rank, through fully_shard
    faults     out of memory, and a device-side assertion: what is recorded, and that the process ends
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_checks import faults, nccl, numbers, waits
from benchmarks.gpu_memory import memory
from benchmarks.gpu_speed import card, processes, speed
from benchmarks.results import stamp

__all__ = ["main"]

Part = Callable[[torch.device, bool], Mapping[str, Any]]


def core(device: torch.device, small: bool) -> Mapping[str, Any]:
    """Import everything a trial needs while Ray cannot be imported, in a process of its own."""
    from benchmarks.gpu_checks import in_a_process

    return in_a_process(
        "import sys; sys.modules['ray'] = None\n"
        "import json, memexp.trial.execute, memexp.core.load, memexp.core.generate\n"
        "print(json.dumps({'imported without ray': True}))"
    )


PARTS: Mapping[str, Part] = {
    "core": core,
    "card": card,
    "numbers": numbers,
    "waits": waits,
    "memory": memory,
    "speed": speed,
    "processes": processes,
    "nccl": nccl,
    "faults": faults,
}


def main(argv: list[str] | None = None) -> int:
    """The command. Status 1 where a part failed or a check did not hold."""
    options = _options().parse_args(argv)
    parts = [part for part in options.parts.split(",") if part]
    if unknown := [part for part in parts if part not in PARTS]:
        print(f"benchmarks.gpu: no part {unknown[0]!r}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    if options.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks.gpu: torch sees no CUDA device here; --device cpu --small tries the script", file=sys.stderr)
        return 2
    device = torch.device("cuda", 0) if options.device == "cuda" else torch.device("cpu")
    began, failed = time.monotonic(), False
    command = shlex.join(["python", "-m", "benchmarks.gpu", *(argv if argv is not None else sys.argv[1:])])
    for part in parts:
        if time.monotonic() - began > 60 * options.minutes:
            print(f"{part}: left out, {options.minutes:g} minutes are over", flush=True)
            failed = True
            continue
        found = _found(part, device, options.small)
        failed = failed or "failed" in found
        print(f"{part}: {json.dumps(found)}", flush=True)
        _add(options.out, part, {**found, "made": stamp(command)})
    return int(failed)


def _found(part: str, device: torch.device, small: bool) -> dict[str, Any]:
    began = time.monotonic()
    try:
        found = dict(PARTS[part](device, small))
    except Exception as error:  # the other parts go on: a machine is lent for minutes
        found = {"failed": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc().splitlines()[-8:]}
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return found | {"seconds": round(time.monotonic() - began, 1)}


def _add(file: Path, part: str, found: Mapping[str, Any]) -> None:
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    known[part] = found
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny models only")
    parser.add_argument("--minutes", type=float, default=10.0, help="no part begins after so many")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "GPU.json", help="file for what was found")
    return parser


if __name__ == "__main__":
    sys.exit(main())
