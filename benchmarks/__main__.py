"""Time memexp beside other ways and write RESULTS.md and RESULTS.json.

    python -m benchmarks                                        # what `make bench` does: hours
    python -m benchmarks --parts study,recall --pairs 5         # some parts; the others keep their results
    python -m benchmarks --profile recall                       # where memexp's time goes
    python -m benchmarks --sentences 32 --pairs 1 --out FOLDER  # a glance: no verdict holds

Ends with status 1 and one line, before anything is timed, where two ways give different results.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from pathlib import Path

from benchmarks.child import ENVIRONMENT, Failed
from benchmarks.equality import Unequal
from benchmarks.material import make
from benchmarks.parts import PARTS, Bench, Found, profile
from benchmarks.results import add, made
from benchmarks.sampler_choice import SENTENCES

DEFAULT = [part for part in PARTS if part != "sizes"]
PROFILES = [f"{part}{dtype}" for dtype in ("", "@bfloat16") for part in ("study", "recognition", "recall")]


def main() -> int:
    """The command."""
    options = _options().parse_args()
    os.environ.update(ENVIRONMENT)  # torch is not imported yet
    parts = [part for part in options.parts.split(",") if part] if not options.profile else []
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        print(f"benchmarks: no part {unknown[0]!r}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    command = shlex.join(["python", "-m", "benchmarks", *_public(sys.argv[1:])])
    with tempfile.TemporaryDirectory(prefix="memexp-bench-") as scratch:
        material = make(Path(scratch) / "material", options.sentences)
        pairs = options.pairs
        bench = Bench(material, Path(scratch), pairs, options.grid_pairs or pairs)
        try:
            if options.profile:
                stamp = made(command, options.sentences, 0)
                found = profile(bench, options.profile) | stamp
                add(options.out, "profiles", options.profile, found)
                _tell(options.profile, found)
            for part in parts:
                used = bench.grid_pairs if part == "grid" else 1 if part in ("sizes", "search") else pairs
                stamp = made(command, SENTENCES if part == "search" else options.sentences, used)
                found = PARTS[part](bench) | stamp
                add(options.out, "parts", part, found)
                _tell(part, found)
        except (Unequal, Failed) as error:
            print(f"benchmarks: {error}", file=sys.stderr)
            return 1
    return 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(DEFAULT), help=f"of {', '.join(PARTS)} (default: all but sizes)")
    parser.add_argument("--pairs", type=_positive, default=5, help="alternated pairs")
    parser.add_argument("--grid-pairs", type=_positive, help="of the grids (default: as many)")
    parser.add_argument("--sentences", type=_positive, default=600, help="targets, and as many foils")
    parser.add_argument("--profile", choices=PROFILES, help="instead of timing, profile memexp's side of a part")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for RESULTS.md and .json")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _public(arguments: list[str]) -> list[str]:
    """The arguments but for --out, which may say where somebody's files are."""
    kept = [a for i, a in enumerate(arguments) if a != "--out" and (i == 0 or arguments[i - 1] != "--out")]
    return [a for a in kept if not a.startswith("--out=")]


def _tell(part: str, found: Found) -> None:
    """One line for every finding, at once."""
    for item in found.get("findings", []):
        print(f"{part}: {item['what']}: {item['median']:.3g} {item['verdict']}", flush=True)
    if "lines" in found:
        print(json.dumps(found, indent=1), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
