"""The sweeps of probes on one forward pass plan offline, and as published where models and data are local."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from memexp import Sweep, loading
from memexp.stimuli.facts import FactWorld

SWEEPS = Path(__file__).parents[2] / "sweeps"
Load = Callable[..., Sweep]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """A sweep as ``memexp plan sweeps/NAME.py -- ARGS`` gets it."""
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return lambda name, *arguments: loading.load(str(SWEEPS / f"{name}.py"), arguments)


@pytest.mark.parametrize(
    ("name", "kind", "conditions"),
    [
        ("extraction", "extraction", 4 * 3),
        ("membership", "membership", 2 * 3 * 3),
        ("canaries", "exposure", (5 + 1) * 3),
        ("acquisition", "spans", (1 + 4 * 8) * 3),
        ("capacity", "capacity", 2 * 2 * 4 * 3),
    ],
)
def test_each_has_three_seeds_and_the_model_before_study(load: Load, name: str, kind: str, conditions: int) -> None:
    sweep = load(name)
    assert len(sweep.conditions) == conditions
    assert {condition.seed for condition in sweep.conditions} == {0, 1, 2}
    assert 0 in {condition.study.exposures for condition in sweep.conditions}
    assert Counter(ask.kind for ask in sweep.grow().asks) == {kind: conditions}


def test_as_published_each_plans_where_its_texts_are_local(load: Load, tmp_path: Path) -> None:
    world = FactWorld(entities=4)
    texts, others, spans = (tmp_path / f"{name}.jsonl" for name in ("texts", "others", "spans"))
    for file, seed in ((texts, 0), (others, 1)):
        listed = FactWorld(entities=4, seed=seed).passages().texts
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in listed))
    spans.write_text("".join(json.dumps(row) + "\n" for row in world.spans().rows))
    published = ("--published", "--models", "tiny-m")
    members = load("membership", *published, "--members", str(texts), "--others", str(others))
    assert members.grow().asks[0].kind == "membership" and {c.study.exposures for c in members.conditions} == {0}
    canaries = load("canaries", *published)
    assert {ask.kind for ask in canaries.grow().asks} == {"exposure"}
    people = load("capacity", "--published", "--architecture", "tiny-s", "--texts", "30", "--exposures", "1000")
    assert {c.labels["source"] for c in people.conditions} == {"people"} and people.grow().asks
    # A context of 256 tokens is too short for these two: the sweep is made, and its models would have to be larger.
    extraction = load("extraction", *published, "--texts", str(texts))
    assert {c.probes[0].prefixes for c in extraction.conditions} == {(50, 100, 200, 300, 450)}
    acquisition = load("acquisition", *published, "--texts", str(spans), "--other", str(others))
    assert {c.study.presentation.gap for c in acquisition.conditions if c.study.presentation} == {100}


def test_reversal_and_anticipatory_ask_what_the_papers_ask(load: Load) -> None:
    reversal = load("reversal", "--seeds", "0", "--exposures", "0", "4").conditions
    assert Counter(one.labels["direction"] for one in reversal) == {"as studied": 4, "the other way round": 4}
    taught = {text for one in reversal if one.then and one.then.exposures for text in one.then.corpus.texts}
    asked = {text for one in reversal for probe in one.probes for text in probe.pair.targets.texts}
    assert taught and not taught & asked, "asked is about others than are taught the other way round"
    sweep = load("anticipatory", "--seeds", "0", "--documents", "3", "--cycles", "2")
    stages = {(one.study.exposures, one.study.further_batches) for one in sweep.conditions}
    assert stages == {(cycle, document) for cycle in (0, 1) for document in (0, 1, 2)}
    assert {stage.kind for stage in sweep.grow().stages.values()} == {"base", "study"}
