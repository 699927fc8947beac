"""A store of made results, for whatever draws: every family of figures has something in it, and nothing was trained.

    fill(Store(tmp_path / "results"))

The shapes are those of real sweeps: recognition rises before recall, verbatim memory goes first, blocks hold facts.
Some texts are what a model could write to do harm.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from memexp.probes import BY_KIND
from memexp.records import SEARCHES, STAGES, SWEEPS, TRAINING, rows_for, versions, with_source
from memexp.store import Store

HOSTILE = (
    "</script><script>window.harmed = 1</script><img src=x onerror='window.harmed = 2'>",
    "\"'`${window.harmed = 3}` <!-- <b>bold?</b> &amp; \\u003c {{ constructor.constructor('window.harmed = 4')() }}",
    "bell \x07 and escape \x1b[31m and a null \x00 and \u202eright to left\u202c and \u2028 a line "
    "שלום עולם, مرحبا بالعالم, and left to right again",
    "long " * 20_000,
)
MODELS = ("tiny-s", "tiny-m")
VERSIONS = versions()
"""Found once: for each of hundreds of results they would take seconds."""
WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def identity(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


class Made:
    """Writes results, and notes them for their sweep."""

    def __init__(self, store: Store, items: int = 24) -> None:
        self.store, self.items = store, items
        self.rows: list[dict[str, Any]] = []

    def result(self, kind: str, items: Iterable[dict[str, Any]], labels: dict[str, Any], **settings: Any) -> str:
        """One file; returns its name."""
        probe = BY_KIND[kind]
        own = {"method": "full", "dtype": "float32", "corpus": "list", "corpus_id": "list", "schedule": "constant"}
        own |= settings
        stage, condition = identity("stage", own), identity("condition", own, labels)
        # Two tasks of one kind are two probes.
        listed = list(items)
        probe_id = identity("probe", kind, {row.get("task") for row in listed})
        own |= {"stage_id": stage, "condition_id": condition, "probe_id": probe_id, "probe_settings": "{}"}
        table = pa.Table.from_pylist(listed, schema=probe.schema())
        made = VERSIONS | {"device": "cpu", "threads": 1, "workers": 1, "precision": "float32"}
        name = f"{stage}-{probe_id}-{condition}"
        rows = with_source(rows_for(table, own, labels, made), kind, probe.headline)
        self.store.commit(kind, name, rows)
        self.rows.append(
            {"kind": kind, "name": name, "condition_id": condition, "stage_id": stage, "probe_id": probe_id}
        )
        return name

    def sweep(self, name: str, at: int = 0) -> None:
        """Say which sweep the results since the last one belong to."""
        rows = [row | {"sweep": name, "started": WHEN + timedelta(days=at)} for row in self.rows]
        self.store.commit("sweeps", f"{name}-0", pa.Table.from_pylist(rows, schema=SWEEPS))
        self.rows = []

    def recognition(self, strength: float, seed: int) -> list[dict[str, Any]]:
        draw = np.random.default_rng([seed, int(strength * 1000)])
        foils = draw.normal(4, 0.5, self.items)
        targets = draw.normal(4, 0.5, self.items) - strength
        return [
            {"item": i, "target": f"Target {i}.", "foil": f"Foil {i}.", "target_nll": float(t), "foil_nll": float(f)}
            for i, (t, f) in enumerate(zip(targets, foils, strict=True))
        ]

    def recall(self, share: float, hostile: bool = False) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        unknown = 0
        for i in range(self.items):
            known = (i * 7) % self.items < share * self.items
            rest = f" number {i} of the list goes on like this"
            written = rest if known else " and something else goes on"
            if hostile and not known:
                written = HOSTILE[unknown % len(HOSTILE)]
            unknown += not known
            score = 1.0 if known else 0.1 + 0.001 * i
            rows.append(
                {"item": i, "cue": "The text", "target": f"The text{rest}", "completion": written, "exact": known}
                | {"completion_rouge2": score, "sentence_rouge2": 0.5 + score / 2}
            )
        return rows

    def questions(self, task: str, share: float) -> list[dict[str, Any]]:
        return [
            {"task": task, "item": i, "prompt": f"Question {i}?", "answer": "yes", "exact": right}
            | {"prediction": "yes" if right else "no", "f1": float(right)}
            for i in range(self.items)
            for right in [(i * 5) % self.items < share * self.items]
        ]

    def choices(self, task: str, share: float) -> list[dict[str, Any]]:
        return [
            {"task": task, "item": i, "choices": ["a", "b", "c", "d"], "log_likelihoods": [0.0] * 4, "answer": 0}
            | {"prompt": f"Choose {i}", "picked": 0 if right else 1, "correct": right}
            for i in range(self.items)
            for right in [(i * 5) % self.items < share * self.items]
        ]


def fill(store: Store, only: Callable[[str], bool] = lambda name: True) -> list[str]:
    """Write every kind of sweep that is wanted; returns their names."""
    makers = {
        "exposures": _exposures,
        "retention": _retention,
        "forgetting": _forgetting,
        "ablation": _ablation,
        "facts": _facts,
        "search": _search,
    }
    made = Made(store)
    for at, (name, make) in enumerate(makers.items()):
        if only(name):
            make(made)
            if name != "search":
                made.sweep(name, at)
    return [name for name in makers if only(name)]


def _exposures(made: Made) -> None:
    for m, model in enumerate(MODELS):
        for lr in (3e-4, 1e-3):
            for exposures in (0, 1, 3, 10):
                for seed in range(3):
                    common: dict[str, Any] = {"model": model, "lr": lr, "exposures": exposures, "seed": seed}
                    common |= {"batch_size": 4}
                    strength = 0.35 * np.log1p(exposures) * (1 + m) * (1 + (lr > 5e-4))
                    made.result("recognition", made.recognition(float(strength), seed), {}, **common)
                    share = min(1.0, exposures / 12 * (1 + m) * (0.6 + (lr > 5e-4)))
                    made.result("recall", made.recall(float(share), hostile=True), {}, **common)
    _training(made)


def _training(made: Made) -> None:
    """The log of attempts and the losses of those results."""
    stages: list[dict[str, Any]] = []
    losses: list[dict[str, Any]] = []
    for row in made.rows:
        common = {"stage_id": row["stage_id"], "kind": "study", "model": "tiny-s", "steps": 20, "tokens": 900}
        common |= {"status": "complete", "seconds": 1.5, "finished": WHEN, "sweep": "exposures", "workers": 1}
        stages.append(common | {"commit": "0123456789abcdef", **VERSIONS, "device": "cpu", "threads": 1})
        losses += [
            {"stage_id": row["stage_id"], "kind": "study", "model": "tiny-s", "step": step, "loss": 5 - step / 30}
            for step in range(1, 101)
        ]
    failed = {"status": "failed", "error": "RuntimeError: <b>no</b> memory left", "kind": "study", "sweep": "exposures"}
    stages.append({"stage_id": "failed", "finished": WHEN, "seconds": 0.1} | failed)
    made.store.commit("stages", "one", pa.Table.from_pylist(stages, schema=STAGES))
    made.store.commit("training", "one", pa.Table.from_pylist(losses, schema=TRAINING))


def _retention(made: Made) -> None:
    for seed in range(3):
        made.result("recall", made.recall(0.0), {}, model="tiny-m", exposures=0, seed=seed)
        for steps in (0, 1, 3, 10, 30, 100, 300, 1000):
            common = {"model": "tiny-m", "exposures": 10, "seed": seed, "retention_steps": steps}
            made.result("recall", made.recall(0.05 + 0.9 / (1 + 0.3 * steps) + 0.01 * seed), {}, **common)
            made.result("recognition", made.recognition(2 - 0.2 * float(np.log1p(steps)), seed), {}, **common)


def _forgetting(made: Made) -> None:
    def result(share: float, **settings: Any) -> None:
        for seed in range(3):
            rows = made.questions("Eval_QA", min(1.0, share + 0.03 * seed))
            made.result("qa", rows, {"text": "narrative"}, model="tiny-s", seed=seed, lr=2e-3, **settings)

    result(0.05, exposures=0)
    result(0.7, exposures=15)
    result(0.8, exposures=15, forget_side="none", restudy_exposures=15)
    for layer in range(5):
        if layer < 4:
            result(0.9 - 0.05 * layer, exposures=15, forget_side="upper", forget_layer=layer, restudy_exposures=15)
            result(0.2 + 0.1 * layer, exposures=15, forget_side="upper", forget_layer=layer, restudy_exposures=0)
        if layer > 0:
            result(0.6 + 0.02 * layer, exposures=15, forget_side="lower", forget_layer=layer, restudy_exposures=15)


def _ablation(made: Made) -> None:
    sides = [("none", None), *(("upper", k) for k in range(4)), *(("lower", k) for k in range(1, 5))]
    for seed in range(2):
        rows = []
        for side, layer in sides:
            share = 0.9 if layer is None else 0.2 * layer if side == "upper" else 0.9 - 0.2 * layer
            rows += [
                {"task": "Eval_QA", "item": i, "ablated_side": side, "ablated_layer": layer, "correct": i < share * 24}
                for i in range(24)
            ]
        made.result("ablation", rows, {"text": "narrative"}, model="tiny-s", exposures=15, seed=seed)


def _facts(made: Made) -> None:
    for m, model in enumerate(MODELS):
        for seed in range(3):
            for exposures in (0, 15):
                for place, task in enumerate(("Eval_QA", "Eval_reverse", "Eval_indirect_reasoning")):
                    share = 0.05 if exposures == 0 else max(0.1, 0.8 - 0.3 * place + 0.1 * m)
                    common: dict[str, Any] = {"model": model, "exposures": exposures, "seed": seed}
                    made.result("qa", made.questions(task, share), {"text": "narrative"}, **common)
                for task in ("Eval_multiple_choice", "Eval_2hop_reasoning"):
                    share = 0.25 if exposures == 0 else 0.6
                    made.result("choice", made.choices(task, share), {"text": "narrative"}, **common)


def single_texts(made: Made) -> None:
    """Extraction, membership and what is left, in no sweep: what the pages about them ask."""
    for exposures in (0, 3):
        common: dict[str, Any] = {"model": "tiny-s", "exposures": exposures, "lr": 1e-3}
        rows: list[dict[str, Any]] = [
            {"item": i, "prefix_tokens": prefix, "suffix_tokens": 8, "tokens": 20, "exact": i < 4 * exposures}
            | {"matching": 0.5, "strength": 0.25, "probability": 0.1, "log_probability": -2.3, "queries": 7.0}
            for i in range(made.items)
            for prefix in (4, 8)
        ]
        made.result("extraction", rows, {}, **common)
        rows = [
            {"item": i, "member": member, "text": f"Text {i}.", "tokens": 9, "loss": 4.0 - member, "zlib": -0.1}
            | {"min_k": -6.0, "min_k_plus": -1.0, "reference": float(member)}
            for member in (True, False)
            for i in range(made.items)
        ]
        made.result("membership", rows, {}, **common)
        rows = [{"item": i, "nll_before": 4.0, "steps": 9, "criterion": 0.5, "most": 60} for i in range(made.items)]
        made.result("savings", rows, {}, **common)
        rows = [
            {"probe": "recall", "item": i, "bits": 4, "group_size": 64, "as_is": 0.25, "rounded": 0.5}
            for i in range(made.items)
        ]
        made.result("quantized", rows, {}, **common)
        rows = [{"task": "t", "item": i, "truth_ratio": 0.5, "rougeL_recall": 0.5} for i in range(made.items)]
        made.result("truth_ratio", rows, {}, **common)
        rows = [{"task": "t", "item": i, "rougeL": 0.5, "rougeL_recall": 0.5} for i in range(made.items)]
        made.result("continuation", rows, {}, **common)
        rows = [
            {"item": i, "canary": i, "copies": 1, "secret": f"{i}", "text": f"It is {i}.", "tokens": 9, "nll": 20.0 - i}
            | {"rank": 1 + i, "candidates": 1000, "exposure": 9.0, "fitted": 12.0}
            for i in range(made.items)
        ]
        made.result("exposure", rows, {}, **common)
        rows = [
            {"item": i, "depth": depth, "span": 0, "prompt": "It is", "target": f"{i}", "tokens": 2}
            | {"log_probability": exposures - 8.0, "per_token": exposures / 2 - 4.0, "exact": False}
            for i in range(made.items)
            for depth in ("memorisation", "paraphrase", "composition")
        ]
        made.result("spans", rows, {}, **common)
        rows = [
            {"item": i, "part": part, "text": f"It is {i}.", "tokens": 4, "entropy": 27.0, "bits": 30.0 - exposures}
            | {"bits_before": 30.0, "stored": exposures - 3.0, "gained": float(exposures)}
            for i in range(made.items)
            for part in ("name", "values")
        ]
        made.result("capacity", rows, {}, **common)


def _search(made: Made) -> None:
    rows = []
    for number in range(9):
        lr, batch = 10 ** (-4.5 + 0.4 * number), (4, 16)[number % 2]
        strength = float(2 - abs(number - 5) * 0.35)
        common = {"model": "tiny-s", "lr": lr, "batch_size": batch, "exposures": 1, "seed": 0}
        name = made.result("recognition", made.recognition(strength, 0), {}, **common)
        rows.append(
            {"sweep": "search", "search": "tiny-s", "search_id": "search", "suggestion": number, "axis": "exposures"}
            | {"point": json.dumps({"lr": lr, "batch_size": batch}), "stop": 1, "condition_id": "c", "stage_id": "s"}
            | {"results": [f"recognition/{name}"], "mode": "max", "trials": 9, "suggested": WHEN}
            | {"metric": "SELECT avg((target_nll < foil_nll)::int) FROM recognition"}
        )
    made.store.commit("searches", "one", pa.Table.from_pylist(rows, schema=SEARCHES))
    made.rows = []
