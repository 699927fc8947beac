"""RESULTS.json, to which every part is added when it is done, and RESULTS.md, which says the same for people.

add(folder, "parts", "recall", found | made(command, sentences, pairs))
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["add", "made", "render", "stamp"]

PACKAGES = ("memexp", "torch", "transformers", "accelerate", "ray", "pyarrow", "rouge-score", "lm-eval", "optuna")

TITLES = {
    "study": "Study, one exposure",
    "recognition": "Recognition, all targets and foils",
    "recall": "Recall, all targets",
    "grid": "Grid of 3 exposures × 3 learning rates",
    "retention": "Probes and snapshots on a long trajectory",
    "harness": "lm-evaluation-harness",
    "ray": "What Ray costs: four equal trials on two CPUs",
    "trials": "What Ray costs: 200 tiny trials",
    "search": "Search for the best learning rate",
    "large_store": "10,000 conditions and 20,000 results in a bucket on loopback",
    "real": "A real model, SmolLM2-135M, 48 pairs",
    "lanes": "Eight conditions in lanes",
    "prefixes": "What prompts begin with, passed through once",
    "passes": "Probes of the same texts in one forward pass",
    "packing": "The published grid on simulated devices",
    "planning": "Planning 100,000 conditions",
    "scale": "Hundreds and thousands of trials on eight nodes",
    "sizes": "Batch sizes of the careful way",
}

PREFACE = """\
# How fast memexp is

Written by `make bench` (see `python -m benchmarks --help`); RESULTS.json holds the same, with every single value.

A GPT-2 of 4.2 million parameters made from its configuration, study lists with the lengths of experiment 1 (arXiv
2303.17557), batch 16, float32, no dropout, one thread.

- (a) is the published scripts' way, written anew from their protocol (benchmarks/published): a process each for study,
  recognition and recall, padding to 128 tokens, one text at a time in both probes, a training of its own for every
  number of exposures, models through the disk.
- (b) is a careful user's: Trainer with dynamic padding, batched scoring, batched `generate`.
- (c) is memexp's own trials in plain processes.
- Probes and snapshots on a long trajectory: tiny-m and the sentences that ship with memexp.
- HFLM is lm-evaluation-harness's own way of asking a model of transformers, which memexp's scorer stands in for. It has
  the fastest of 4, 8, 16, 32 and 64 prompts in a batch, task by task. "On memexp's modules" it has memexp's linear
  layers too, so that what is left is the scorer's. tiny-m ships with memexp; GPT-2 is the model above with a context of
  512 tokens and random weights, so that it nearly always generates as much as it may. What the harness alone does,
  rendering prompts above all, counts for everybody.

- The real model is SmolLM2-135M-Instruct as `make real` makes it: as it is for recognition and recall, studied at 1e-4.

Lanes: "host" is the real depth with widths of 8, so that CPU seconds are what a GPU would wait for; "CPU" is a
computation that fills a core by itself, which lanes cannot fill any better: `Resources(lanes="auto")` keeps one there.

Prefixes: with the shots drawn anew for every question, as the published protocol has it, prompts share next to nothing.

What is asked of a number, a floor ("at least") and an aim, was set before anything was measured.

(a), (b) and HFLM use torch as it comes, which multiplies float32 matrices by MKL. memexp has oneDNN do it where that is
as exact (memexp/core/matmul.py): on an AMD EPYC of family 26, model 2 (Zen 5) about twice as fast; on one of family 25,
model 17 (Zen 4, folder zen4) and one of family 23, model 1 (Zen 1) both are equally fast, and what is left is memexp's
own. Others were not measured. Each part says in RESULTS.json on which it was.

"Search" asks something else: whether a search over a continuous range finds, with half the trials, what a grid finds.
The interval of the mean is what ten seeds leave open of the grid's mean best, that of one seed is where 95 % of seeds
have theirs. benchmarks/sampler_choice.py says what the two objectives are: the rugged one came first, and tiny-s was
added when it had missed.

The large store is in a server in memory (benchmarks/s3.py), a process of its own beside the command: its requests are
those of any S3, its seconds are not. What was remembered of earlier commands is forgotten at the beginning of a round.

Each number is the median over alternated pairs, beside the smallest and the largest; beside (a), (b) and HFLM memexp
is the faster one above 1. Results were compared before anything was timed, and after each timing.
"""


def made(command: str, sentences: int, pairs: int) -> dict[str, Any]:
    """When, where and by what a part is about to be made. Nothing in it names the machine."""
    return {"made": stamp(command) | {"sentences": sentences, "pairs": pairs}}


def stamp(command: str) -> dict[str, Any]:
    """When, where and by what `command` is carried out; of the packages those that are installed."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "commit": _commit(),
        "machine": _machine(),
        "load": round(os.getloadavg()[0], 1),  # of others: wall seconds say nothing on a busy machine
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name)) is not None},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def add(folder: Path, section: str, name: str, found: Mapping[str, Any]) -> None:
    """Put `found` in its place in RESULTS.json, keeping everything else, and write RESULTS.md anew."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "RESULTS.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    results.setdefault(section, {})[name] = found
    for path, text in ((file, json.dumps(results, indent=1) + "\n"), (folder / "RESULTS.md", render(results))):
        partial = path.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)


def render(results: Mapping[str, Any]) -> str:
    """RESULTS.md."""
    parts, profiles = results.get("parts", {}), results.get("profiles", {})
    known = [name for name in TITLES if name in parts]
    lines = [PREFACE, *_summary({name: parts[name] for name in known})]
    for name in known:
        lines += _part(TITLES[name], parts[name])
    for name, profile in profiles.items():
        lines += _profile(name, profile)
    return "\n".join(lines).rstrip() + "\n"


def _summary(parts: Mapping[str, Any]) -> list[str]:
    lines = ["| | median | smallest to largest | asked | |", "|---|---|---|---|---|"]
    for name, part in parts.items():
        for found in part.get("findings", []):
            asked = ", ".join(
                f"{word} {found[key]:g}"
                for key, word in (("at_least", "at least"), ("aim", "aim"), ("at_most", "at most"))
                if key in found
            )
            spread = f"{found['min']:.3g} to {found['max']:.3g}"
            what = f"{TITLES[name]}: {found['what']}"
            lines.append(f"| {what} | {found['median']:.3g} | {spread} | {asked} | {found['verdict']} |")
    return [*lines, ""]


def _part(title: str, part: Mapping[str, Any]) -> list[str]:
    lines = [f"## {title}", "", *_made(part["made"]), ""]
    if "equality" in part:
        lines += ["Equality:", "", *(f"- {line}" for line in _flat(part["equality"])), ""]
    lines += [f"{part['unit'][0].upper()}{part['unit'][1:]}:", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {', '.join(f'{v:.2f}' for v in values)} |" for name, values in part["series"].items()]
    return [*lines, ""]


def _made(made: Mapping[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    return [
        f"`{made['command']}`",
        "",
        f"{made['date']}, {made['sentences']} sentences, pairs: {made['pairs']}, commit {made['commit']}. "
        f"{made['machine']}, load average {made['load']} before it began, Python {made['python']}, {versions}.",
    ]


def _flat(value: Any, name: str = "") -> list[str]:
    """Nested numbers as lines."""
    if isinstance(value, Mapping) and any(isinstance(inner, Mapping) for inner in value.values()):
        return [line for key, inner in value.items() for line in _flat(inner, f"{name} {key}".strip())]
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key} {number:.2g}" if isinstance(number, float) else f"{key} {number}"
                          for key, number in value.items())  # fmt: skip
        return [f"{name}: {inner}" if name else inner]
    return [f"{name} {value}".strip()]


def _profile(name: str, profile: Mapping[str, Any]) -> list[str]:
    lines = [f"## Where memexp's time goes: {name}", "", *_made(profile["made"]), ""]
    lines += [f"{profile['cpu']:.2f} CPU seconds without a profiler."]
    for key, title in (("lines", "Line of memexp"), ("functions", "Innermost Python function")):
        lines += ["", f"| {title} | share |", "|---|---|"]
        lines += [f"| `{where.replace('|', chr(92) + '|')}` | {share:.1%} |" for where, share in profile[key]]
    lines += ["", "| torch operation | share of all operations | calls |", "|---|---|---|"]
    lines += [f"| `{where}` | {share:.1%} | {calls} |" for where, share, calls in profile["operations"]]
    return [*lines, ""]


def _machine() -> str:
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        pairs = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
        said = {key.strip(): value.strip() for key, _, value in pairs}
        # A name such as "AMD EPYC" stands for several generations.
        numbers = [f"{key} {said[key]}" for key in ("cpu family", "model") if key in said]
        name = ", ".join([said.get("model name", name), *numbers])
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{name}, {os.cpu_count()} CPUs, {memory:.0f} GiB, {platform.system()}"


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    told = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return told.stdout.strip() or "unknown"
