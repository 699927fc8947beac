"""The parts of the benchmark: each checks that results are equal, then times alternately, and returns what it found.

found = PARTS["recall"](Bench(material, scratch, pairs=5, grid_pairs=5))
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import grid, packing, planned, real, scaled
from benchmarks.child import execute, python
from benchmarks.equality import CELL, Unequal, compare, compare_stores
from benchmarks.executed import TINY_TRIALS
from benchmarks.harness import ALONE, HFLMS, ROWS, TASKS
from benchmarks.large_store import MOST, executed
from benchmarks.material import Material, lengthen
from memexp.store import Store

__all__ = ["PARTS", "Bench", "finding", "profile"]

Found = dict[str, Any]
"""What a part found, as it stands in RESULTS.json."""


@dataclass
class Bench:
    """One call of the benchmark."""

    material: Material
    scratch: Path
    """A folder for what children write."""
    pairs: int
    grid_pairs: int
    count: int = 0
    """Folders handed out so far."""

    def fresh(self) -> Path:
        """An empty folder."""
        self.count += 1
        folder = self.scratch / str(self.count)
        folder.mkdir()
        return folder

    def measure(self, way: str, part: str) -> Found:
        """One way of one part in a process of its own: cpu, wall and result."""
        return self.told("benchmarks.timed", way, part)

    def told(self, module: str, *arguments: str) -> Found:
        """What a module says of the material in a process of its own."""
        out = self.scratch / "told.json"
        execute(python("-m", module, *arguments, self.material.folder, out))
        found: Found = json.loads(out.read_text())
        return found

    def answer(self, way: str, task: str) -> Found:
        """One way of answering a task of lm-evaluation-harness likewise."""
        return self.told("benchmarks.harnessed", way, task)

    def train(self) -> None:
        """Make the model that all ways are probed on, unless it is there."""
        if not self.material.trained.exists():
            arguments = ["--model", self.material.model, "--data", self.material.file("targets"), "--lr", 1e-3]
            arguments += ["--epochs", 1, "--order", self.material.file("order"), "--out", self.material.trained]
            execute(python("benchmarks/published/study.py", *arguments))


def finding(
    what: str,
    values: Sequence[float],
    at_least: float | None = None,
    aim: float | None = None,
    at_most: float | None = None,
) -> Found:
    """A number of interest, once per pair, beside what is asked of its median."""
    median = statistics.median(values)
    verdict = ""
    if at_most is not None:
        verdict = "held" if median <= at_most else "missed"
    elif at_least is not None:
        verdict = "floor held" if median >= at_least else "floor missed"
        if aim is not None:
            verdict = "aim reached" if median >= aim else f"{verdict}, aim missed"
    asked = {"at_least": at_least, "aim": aim, "at_most": at_most}
    spread = {"median": median, "min": min(values), "max": max(values), "values": list(values)}
    return {"what": what, **spread, **{k: v for k, v in asked.items() if v is not None}, "verdict": verdict}


def equal_first(bench: Bench, part: str) -> Found:
    """Every way once, untimed, and how far the results are apart. Raises Unequal."""
    if part != "study":
        bench.train()
    results = {way: bench.measure(way, part)["result"] for way in ("published", "careful", "memexp")}
    return compare(part, results)


def against_scripts(bench: Bench, part: str, floor: float, aim: float, careful_floor: float) -> Found:
    """Study, recognition or recall by all three ways."""
    equality = equal_first(bench, part)
    ways = ("published", "memexp", "careful")
    cpu: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(bench.pairs):
        round_ = {way: bench.measure(way, part) for way in ways}
        compare(part, {way: measured["result"] for way, measured in round_.items()})
        for way in ways:
            cpu[way].append(round_[way]["cpu"])
    return {
        "equality": equality,
        "unit": "CPU seconds, without importing and loading",
        "series": cpu,
        "findings": [
            finding("(a) published / memexp", _ratios(cpu["published"], cpu["memexp"]), at_least=floor, aim=aim),
            finding("(b) careful / memexp", _ratios(cpu["careful"], cpu["memexp"]), at_least=careful_floor),
        ],
    }


def on_a_real_model(bench: Bench) -> Found:
    """Study, recognition and recall by the published way and memexp, on a model of 135 million parameters."""
    found = real.measured(bench)
    findings = []
    for part in real.PARTS:
        published, ours = (found["series"][f"{part}: {way}"] for way in ("published", "memexp"))
        findings.append(finding(f"{part}: (a) published / memexp", _ratios(published, ours)))
    return found | {"findings": findings}


def the_grid(bench: Bench) -> Found:
    """The whole grid against the published scripts: in float32, and with bfloat16 declared on a CPU that has it."""
    equality: Found = {part: equal_first(bench, part) for part in ("study", "recognition", "recall")}
    ours = {"memexp": "grid"}
    if grid.has_bf16():
        ours["memexp in bfloat16"] = "grid-bf16"
    else:
        equality["bfloat16"] = "not measured: this CPU has none of AVX512-BF16, AMX and Arm's bf16"
    cpu: dict[str, list[float]] = {way: [] for way in ("published", *ours)}
    apart: dict[str, list[float]] = {way: [] for way in ours}
    for pair in range(bench.grid_pairs):
        folder = bench.fresh()
        seconds, expected = grid.published(bench.material, folder)
        cpu["published"].append(seconds)
        shutil.rmtree(folder)
        for way, sweep in ours.items():
            folder = bench.fresh()
            seconds, cells = grid.ours(bench.material, folder, sweep)
            cpu[way].append(seconds)
            apart[way].append(grid.worst(cells, expected))
            shutil.rmtree(folder)
        if apart["memexp"][-1] > CELL:  # bfloat16 is declared since it changes numbers
            raise Unequal(f"grid: a cell's mean differs by {apart['memexp'][-1]:.3f}, more than {CELL}")
        spent = ", ".join(f"{way} {seconds[-1]:.0f} s" for way, seconds in cpu.items())
        print(f"grid: pair {pair + 1} of {bench.grid_pairs}: {spent}", flush=True)
    floors: dict[str, dict[str, float]] = {
        "memexp": {"at_least": 6.0, "aim": 9.0},
        "memexp in bfloat16": {"at_least": 9.0},
    }
    findings = []
    for way in ours:
        findings += [
            finding(f"(a) published / {way}", _ratios(cpu["published"], cpu[way]), **floors[way]),
            finding(f"largest difference of a cell's mean, {way} (trained apart)", apart[way]),
        ]
    unit = "CPU seconds, starting of all processes included"
    return {"equality": equality, "unit": unit, "series": cpu, "findings": findings}


def behind_harness(bench: Bench) -> Found:
    """memexp's scorer and HFLM on the same tasks; HFLM in batches of the size that was fastest in a first try."""
    lengthen(bench.material)
    found: Found = {"equality": {}, "tried": {}, "series": {}, "findings": []}
    for name, asked in TASKS.items():
        part = f"harness {asked.title}"
        tried = {f"{how}@{rows}": bench.answer(f"{how}@{rows}", name) for how in HFLMS.values() for rows in ROWS}
        ways = {"memexp": "memexp"} | {way: _fastest(tried, how) for way, how in HFLMS.items()}
        first = {way: tried.get(how) or bench.answer(how, name) for way, how in ways.items()}
        found["tried"][asked.title] = {how: measured["cpu"] for how, measured in tried.items()}
        found["equality"][asked.title] = compare(part, _results(first), reference="HFLM")
        cpu: dict[str, list[float]] = {way: [] for way in (*ways, "the harness alone")}
        for _ in range(bench.pairs):
            round_ = {way: bench.answer(how, name) for way, how in ways.items()}
            compare(part, _results(round_), reference="HFLM")
            round_["the harness alone"] = bench.answer(ALONE, name)
            for way, measured in round_.items():
                cpu[way].append(measured["cpu"])
        spent = ", ".join(f"{way} {statistics.median(seconds):.2f} s" for way, seconds in cpu.items())
        print(f"{part}: {spent}", flush=True)
        for way, seconds in cpu.items():
            rows = ways.get(way, "").partition("@")[2]
            found["series"][f"{asked.title}: {way}{rows and f', {rows} at a time'}"] = seconds
        found["findings"] += [
            finding(f"{asked.title}: {way} / memexp", _ratios(cpu[way], cpu["memexp"]), at_least=floor)
            for way, floor in (("HFLM", 1.0), ("HFLM on memexp's modules", None))
        ]
    return found | {"unit": "CPU seconds, without importing, loading and building the task"}


def _fastest(tried: Mapping[str, Found], how: str) -> str:
    return min((call for call in tried if call.startswith(f"{how}@")), key=lambda call: tried[call]["cpu"])


def _results(measured: Mapping[str, Found]) -> dict[str, Any]:
    return {way: found["result"] for way, found in measured.items()}


def with_ray(bench: Bench) -> Found:
    """Four equal trials on a cluster of two CPUs and in two plain processes."""
    times = _both(bench, "seeds")
    rest = _ratios(times["Ray, after start-up"], times["plain, after start-up"])
    return times.pop("report") | {
        "series": times,
        "findings": [
            finding("(c) Ray / plain, after start-up", rest, at_most=1.10),
            finding("seconds until the first trial begins, with Ray", times["Ray, start-up"], at_most=15.0),
        ],
    }


def many_trials(bench: Bench) -> Found:
    """200 trials of a tiny condition on a cluster of two CPUs and in two plain processes."""
    times = _both(bench, "tiny")
    report = times.pop("report")
    if report["equality"]["recall"] != TINY_TRIALS * 8:
        raise ValueError("not every trial is there")
    ray, plain = times["Ray, after start-up"], times["plain, after start-up"]
    added = [(one - other) / TINY_TRIALS for one, other in zip(ray, plain, strict=True)]
    return report | {
        "series": times,
        "findings": [
            finding("(c) seconds that Ray adds to a trial", added, at_most=0.5),
            finding("seconds a trial with Ray, start-up left out", [seconds / TINY_TRIALS for seconds in ray]),
            finding("seconds until the first trial begins, with Ray", times["Ray, start-up"]),
        ],
    }


def _both(bench: Bench, sweep: str) -> dict[str, Any]:
    """Start-up and rest of a sweep with Ray and in plain processes, in pairs, and what is reported with them."""
    names = [f"{how}, {what}" for how in ("Ray", "plain") for what in ("start-up", "after start-up")]
    times: dict[str, Any] = {name: [] for name in names}
    cache = {"XDG_CACHE_HOME": str(bench.fresh())}
    equality: Found = {}
    for pair in range(bench.pairs + 1):  # the first is for equality, and fills the cache of model sizes
        stores = {}
        for how, name in (("plain", "plain"), ("ray", "Ray")):
            stores[how] = Store(bench.fresh())
            command = python("-m", "benchmarks.executed", how, sweep, bench.material.folder, stores[how].location)
            cost = execute([*command, "--processes", "2"], cache)
            start = _first_stage(stores[how]) - cost.began
            if pair:
                times[f"{name}, start-up"].append(start)
                times[f"{name}, after start-up"].append(cost.wall - start)
        equality = compare_stores(stores["plain"], stores["ray"])
        for store in stores.values():
            shutil.rmtree(store.location)
    unit = "wall seconds; start-up ends when the first trial begins, the rest when the process has ended"
    return times | {"report": {"equality": equality, "unit": unit}}


def _first_stage(store: Store) -> float:
    """When the first stage of all began, in seconds since the epoch."""
    rows = store.scan("stages")
    assert rows is not None  # every trial leaves its stages
    return min(row["finished"].timestamp() - row["seconds"] for row in rows.to_pylist())


def probes_on_the_way(bench: Bench) -> Found:
    """A trajectory of 1,000 steps of interference with one probe at its end, with twelve, and with snapshots too."""
    sentences = len(bench.material.texts("targets"))
    steps, items = ("1000", "80") if sentences >= 600 else (str(sentences), str(max(1, sentences // 5)))
    ways = {"one probe": "one", "twelve probes": "twelve", "twelve probes and ten snapshots": "snapshots"}
    series: dict[str, list[float]] = {way: [] for way in ways}
    equality: Found = {}
    for _ in range(bench.pairs):
        round_ = {way: bench.told("benchmarks.retained", how, steps, items) for way, how in ways.items()}
        if any(measured["result"] != round_["one probe"]["result"] for measured in round_.values()):
            raise Unequal("retention: probes or snapshots on the way change what is measured at the end")
        equality = {"items after the last step, equal to the last bit": len(round_["one probe"]["result"])}
        for way, measured in round_.items():
            series[way].append(measured["cpu"] - measured["probes"])
    first, *others = ways
    return {
        "equality": equality,
        "unit": f"CPU seconds of {steps} steps, the probes' own left out",
        "series": series,
        "findings": [finding(f"{way} / {first}", _ratios(series[way], series[first]), at_most=1.10) for way in others],
    }


def against_grid(bench: Bench) -> Found:
    """Searches of 8 trials beside the best of a grid of 16 points, for 10 seeds and every sampler."""
    found: Found = {"unit": "best mean NLL, in thousandths, seed by seed", "series": {}, "findings": []}
    for objective, best in bench.told("benchmarks.sampler_choice").items():
        grid = best["grid"]
        one = 2.262 * statistics.stdev(grid)  # Student's t of 9 degrees of freedom, 95 %
        for how, values in best.items():
            what = f"{objective}, {'grid of 16 points' if how == 'grid' else f'{how}, 8 trials'}"
            found["series"][what] = [1000 * value for value in values]
            if how == "grid":
                continue
            for name, width in (("the mean", one / len(grid) ** 0.5), ("one seed", one)):
                hits = sum(value <= other + width for value, other in zip(values, grid, strict=True))
                asked = 9 if (how, name) == ("gp", "the mean") else None
                title = f"{what}: seeds of {len(grid)} within the 95 % interval of {name} from the grid's best"
                found["findings"].append(finding(f"{title} ({width:.4f})", [hits], at_least=asked))
    return found


def many_results(bench: Bench) -> Found:
    """What commands cost on a bucket with 20,000 results."""
    spent = executed(bench.fresh(), bench.pairs)
    findings = []
    for name, costs in spent.commands.items():
        seconds, requests = MOST.get(name, (None, None))
        findings.append(finding(f"{name}: seconds", [cost[0] for cost in costs], at_most=seconds))
        if any(cost[1] for cost in costs):
            findings.append(finding(f"{name}: requests", [cost[1] for cost in costs], at_most=requests))
    return {
        "equality": {"conditions": spent.conditions, "results": spent.results},
        "unit": "wall seconds of the whole command",
        "series": {name: [cost[0] for cost in costs] for name, costs in spent.commands.items()},
        "findings": findings,
    }


def in_lanes(bench: Bench) -> Found:
    """A step of eight conditions in lanes beside one condition's, as many times as there are pairs."""
    found: Found = {"equality": {}, "unit": "CPU seconds of a step and condition, the median of each time"}
    series: dict[str, list[float]] = {}
    for _ in range(bench.pairs):
        for title, spent in bench.told("benchmarks.laned").items():
            found["equality"][title] = {"loss_relative": spent.pop("loss_relative")}
            for how, seconds in spent.items():
                series.setdefault(f"{title}, {how}", []).append(statistics.median(seconds))
    found["findings"] = [
        finding(
            f"{title}: alone / one of eight",
            _ratios(series[f"{title}, alone"], series[f"{title}, in lanes"]),
            at_least=5.0 if title.startswith("host") else None,
        )
        for title in found["equality"]
    ]
    return found | {"series": series}


def shared_prefixes(bench: Bench) -> Found:
    """Tasks with shots, each prompt in full and what prompts begin with once."""
    lengthen(bench.material)
    found: Found = {"equality": {}, "unit": "CPU seconds, without importing, loading and building the task"}
    found |= {"series": {}, "findings": []}
    for title, case in bench.told("benchmarks.prefixed").items():
        found["equality"][title] = {"items": case["items"], "nats": case["apart"]}
        found["series"] |= {f"{title}, {way}": seconds for way, seconds in case["cpu"].items()}
        ratios = _ratios(case["cpu"]["in full"], case["cpu"]["shared"])
        asked = 2.0 if title.startswith("questions with 5") else None
        found["findings"].append(finding(f"{title}: in full / shared", ratios, at_least=asked))
    return found


def passed_once(bench: Bench) -> Found:
    """Four probes of one pair in one forward pass, beside recognition by itself; equal bit for bit to each apart."""
    bench.train()
    found = bench.told("benchmarks.passed_once")
    cpu = found["cpu"]
    return {
        "equality": {"texts": found["texts"], "rows": "equal bit for bit"},
        "unit": "CPU seconds, without importing and loading",
        "series": cpu,
        "findings": [
            finding("four probes in one pass / recognition", _ratios(cpu["together"], cpu["recognition"]), at_most=1.3),
            finding("four probes, a pass each / recognition", _ratios(cpu["apart"], cpu["recognition"])),
        ],
    }


def busy_devices(bench: Bench) -> Found:
    """The published grid on simulated devices: when the last trial ends, beside the lower bound."""
    found = packing.measured()
    ratios = found.pop("ratios")
    return found | {
        "findings": [
            finding(f"{devices} devices: makespan / lower bound", ratio, at_most=1.10 if devices in (8, 64) else None)
            for devices, ratio in ratios.items()
        ]
    }


def a_large_plan(bench: Bench) -> Found:
    """What it takes to plan 100,000 conditions."""
    found = [planned.planned(bench.fresh()) for _ in range(bench.pairs)]
    cpu, mib = [one.cpu for one in found], [one.mib for one in found]
    return {
        "equality": {name: found[0].plan[name] for name in ("conditions", "stages", "steps", "steps_unshared")},
        "unit": "CPU seconds of the whole command",
        "series": {"memexp plan": cpu},
        "findings": [
            finding("CPU seconds", cpu, at_most=15.0),
            finding("MiB of its process", mib, at_most=500.0),
        ],
    }


def thousands_of_trials(bench: Bench) -> Found:
    """What driver, Ray and store take for hundreds and for thousands of trials."""
    alone = scaled.executed(bench.fresh(), scaled.SIZES)
    beside = scaled.executed(bench.fresh(), scaled.SIZES[:2], scaled.FILLED)

    def more(what: str, of: Sequence[scaled.Executed] = alone) -> float:
        """For a trial more."""
        first, *_, last = of
        return float(getattr(last, what) - getattr(first, what)) / (last.trials - first.trials)

    first = more("requests", alone[:2])
    found = [
        finding("requests of a trial to an empty store", [first]),
        finding(
            "20,000 results of others in the store: requests of a trial, times", [more("requests", beside) / first]
        ),
        finding("CPU seconds of the driver for a trial more", [more("cpu")]),
        finding("wall seconds for a trial more", [more("seconds")]),
        finding("MiB of the driver for 1,000 trials more", [1_000 * more("driver")]),
        finding("MiB of Ray's global control store for 1,000 trials more", [1_000 * more("gcs")]),
    ]
    for one in alone:
        most = {"at_most": 470.0} if one.trials == 1_000 else {}
        found.append(finding(f"{one.trials:,} trials: MiB of the driver", [one.driver], **most))
        found.append(finding(f"{one.trials:,} trials: MiB of Ray's global control store", [one.gcs]))
    return {
        "equality": {"trials": [one.trials for one in alone]},
        "unit": "wall seconds of the whole command",
        "series": {f"{one.trials:,} trials": [one.seconds] for one in alone},
        "findings": found,
    }


def profile(bench: Bench, part: str) -> Found:
    """Where memexp's time goes in study, recognition or recall; ``study@bfloat16`` with that dtype declared."""
    if not part.startswith("study"):
        bench.train()
    return bench.told("benchmarks.profiled", part)


def sizes(bench: Bench) -> Found:
    """CPU seconds of the careful way with other numbers of texts in a batch, once each."""
    bench.train()
    series = {}
    for part in ("recognition", "recall"):
        for rows in (4, 8, 16, 32, 64):
            series[f"{part}, {rows} texts"] = [bench.measure(f"careful@{rows}", part)["cpu"]]
    return {"unit": "CPU seconds of the careful way by texts in a batch", "series": series, "findings": []}


def _ratios(theirs: Sequence[float], ours: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(theirs, ours, strict=True)]


PARTS: dict[str, Callable[[Bench], Found]] = {
    "sizes": sizes,
    "study": lambda bench: against_scripts(bench, "study", floor=2.4, aim=3.0, careful_floor=1.2),
    "recognition": lambda bench: against_scripts(bench, "recognition", floor=4.0, aim=5.0, careful_floor=1.2),
    "recall": lambda bench: against_scripts(bench, "recall", floor=8.0, aim=12.0, careful_floor=1.3),
    "grid": the_grid,
    "retention": probes_on_the_way,
    "harness": behind_harness,
    "ray": with_ray,
    "trials": many_trials,
    "search": against_grid,
    "large_store": many_results,
    "real": on_a_real_model,
    "lanes": in_lanes,
    "prefixes": shared_prefixes,
    "passes": passed_once,
    "packing": busy_devices,
    "planning": a_large_plan,
    "scale": thousands_of_trials,
}
"""By name, in the order they are executed."""
