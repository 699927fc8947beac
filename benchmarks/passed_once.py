"""Recognition by itself, beside recognition, membership, extraction and exposure of the same pair in one forward pass.

    python -m benchmarks.passed_once FOLDER OUT.json

FOLDER is what `benchmarks.material.make` wrote, with the model that it trained. The texts are canaries, as long as its
sentences. Everything in turns, in one process.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from benchmarks.equality import Unequal
from benchmarks.material import Material
from memexp.core.load import load
from memexp.core.pass_memory import PassMemory
from memexp.core.processes import World
from memexp.core.session import Session
from memexp.probes import Exposure, Extraction, Membership, Recognition
from memexp.sources import Sources
from memexp.spec import Full, InlineText, Model, Probe
from memexp.stimuli import load_list
from memexp.stimuli.canaries import PLACE, Canaries

__all__ = ["WAYS", "measured"]

WAYS = ("recognition", "apart", "together")
ROUNDS = 5
BLOCK = 128
WORDS = 20
"""Of a secret, beside which a canary has four."""


def measured(folder: Path, count: int, rounds: int = ROUNDS) -> dict[str, Any]:
    """CPU seconds of each round, by way, of so many canaries and as many foils.

    Raises Unequal where a row is not what its probe gives by itself.
    """
    lm = load(Sources().model(Model(str(folder))), Full(), "float32", World.current())
    words = sorted({word for text in load_list("sentences-targets") for word in text.split()})
    canaries = Canaries(f"It is written that {PLACE}", alphabet=words, length=WORDS, count=count)
    pair = canaries.pair()
    assert isinstance(pair.targets, InlineText) and isinstance(pair.foils, InlineText)
    texts = {"targets": list(pair.targets.texts), "foils": list(pair.foils.texts)}
    probes: list[Probe] = [
        Recognition(pair, block_size=BLOCK),
        Membership(pair, reference=False, block_size=BLOCK),
        Extraction(pair, prefixes=(8,), suffix=8, block_size=BLOCK),
        Exposure(canaries, pair=pair, block_size=BLOCK),
    ]
    asked = {"recognition": (probes[:1], False), "apart": (probes, False), "together": (probes, True)}
    spent: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):  # the first imports what is left over
        found = {}
        for way in sorted(WAYS, reverse=number % 2 == 1):
            those, shared = asked[way]
            began = time.process_time()
            found[way] = _rows(lm, those, texts, shared)
            if number:
                spent[way].append(time.process_time() - began)
        for probe, one, other in zip(probes, found["apart"], found["together"], strict=True):
            if not one.equals(other):
                raise Unequal(f"passed once: {probe.kind} is not what it is by itself")
    return {"cpu": spent, "texts": 2 * count}


def _rows(lm: Any, probes: list[Probe], texts: dict[str, list[str]], shared: bool) -> list[pa.Table]:
    memory = PassMemory({probe.kind: probe.passed(texts) for probe in probes} if shared else {})
    return [probe.measure(Session(lm, shared=memory.for_(probe.kind)), texts) for probe in probes]


def main() -> None:
    """Write what was found."""
    folder, out = sys.argv[1:]
    torch.set_num_threads(1)
    material = Material(Path(folder))
    found = measured(material.trained, len(material.texts("targets")))
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
