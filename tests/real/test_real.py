"""A real pretrained model of 135 million parameters: memexp's numbers are transformers' own, one text at a time."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel

from memexp.core.batches import StudyBatches
from memexp.core.data import encode, order
from memexp.core.generate import complete_greedily
from memexp.core.model import LanguageModel
from memexp.core.optimizer import fresh_optimizer
from memexp.core.scoring import token_nlls
from memexp.core.session import Session
from memexp.core.train import train
from memexp.probes import QA
from memexp.spec import InlineItems, LoRA, ShippedText, Study
from memexp.stimuli import load_list

TARGETS, FOILS = load_list("sentences-targets")[:12], load_list("sentences-foils")[:12]
STUDY = Study(ShippedText("sentences-targets", first=12), exposures=2, lr=1e-4, batch_size=6)
STEPS = 4
NEAR, TOKEN_NEAR = 1e-5, 1e-4
"""Nats within which the negative log-likelihood of a text, and of a token, agrees."""

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")


@pytest.fixture(scope="module")
def plain(folder: Path) -> PreTrainedModel:
    """As transformers loads it; nobody trains it."""
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return loaded.eval()


@torch.no_grad()
def one_by_one(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
    found = []
    for row in rows:
        ids = torch.tensor([row])
        found.append(F.cross_entropy(model(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="none").numpy())
    return found


def test_every_token_is_scored_as_by_transformers(lm: LanguageModel, plain: PreTrainedModel) -> None:
    rows = encode(lm.tokenizer, [*TARGETS, *FOILS], 128)
    expected, found = one_by_one(plain, rows), token_nlls(lm, rows)
    pairs = list(zip(expected, found, strict=True))
    texts, tokens = max(abs(a.mean() - b.mean()) for a, b in pairs), max(np.abs(a - b).max() for a, b in pairs)
    print(f"largest difference of {len(rows)} texts: {texts:.1e} nats, of their tokens: {tokens:.1e}")
    assert texts < NEAR and tokens < TOKEN_NEAR
    assert 2 < np.concatenate(found).mean() < 6, "a model that has learned English"


def test_completions_are_transformers_own(lm: LanguageModel, plain: PreTrainedModel) -> None:
    cues = [row[: len(row) // 2] for row in encode(lm.tokenizer, TARGETS, 128)]
    for cue, found in zip(cues, complete_greedily(lm, cues, [12] * len(cues)), strict=True):
        ids = torch.tensor([cue])
        made = plain.generate(  # type: ignore[operator] # of a mixin
            ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=12, max_new_tokens=12
        )
        assert made[0, len(cue) :].tolist() == found


def test_study_is_the_plain_loop(fresh: LanguageModel, folder: Path) -> None:
    """Loss over all tokens of a batch, AdamW, the order that keys give; and what was studied is known better."""
    rows = encode(fresh.tokenizer, TARGETS, 128)
    others = encode(fresh.tokenizer, FOILS, 128)
    before = np.concatenate(token_nlls(fresh, rows)).mean()
    steps = train(fresh, fresh_optimizer(fresh, STUDY), STUDY, StudyBatches(STUDY, rows, 0), 1, STEPS)
    model, losses = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=STUDY.lr, weight_decay=STUDY.weight_decay)
    for exposure in (1, 2):
        shuffled = order(len(rows), 0, "study", exposure)
        for at in range(0, len(rows), STUDY.batch_size):
            chosen = [rows[i] for i in shuffled[at : at + STUDY.batch_size]]
            logits = [(model(input_ids=torch.tensor([row])).logits[0, :-1], torch.tensor(row[1:])) for row in chosen]
            loss = F.cross_entropy(*map(torch.cat, zip(*logits, strict=True)))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    np.testing.assert_allclose([step.loss for step in steps], losses, atol=2e-3)
    expected, found = (np.concatenate(nlls) for nlls in (one_by_one(model, rows), token_nlls(fresh, rows)))
    print(
        f"after study: {before:.3f} to {found.mean():.3f} nats; largest difference {np.abs(expected - found).max():.1e}"
    )
    assert abs(expected.mean() - found.mean()) < 1e-3
    assert found.mean() < before - 0.5 and np.concatenate(token_nlls(fresh, others)).mean() > found.mean()


@pytest.mark.parametrize("fresh", [LoRA(r=8)], indirect=True, ids=["lora"])
def test_an_adapter_learns_and_leaves_the_model_alone(fresh: LanguageModel, plain: PreTrainedModel) -> None:
    rows = encode(fresh.tokenizer, TARGETS, 128)
    untrained = token_nlls(fresh, rows)
    assert max(np.abs(a - b).max() for a, b in zip(untrained, one_by_one(plain, rows), strict=True)) < TOKEN_NEAR
    study = dataclasses.replace(STUDY, lr=1e-3)
    learned = {name: parameter.shape for name, parameter in fresh.learning().items()}
    assert len(learned) == 30 * 7 * 2 and all("lora_" in name for name in learned)
    train(fresh, fresh_optimizer(fresh, study), study, StudyBatches(study, rows, 0), 1, STEPS)
    assert np.concatenate(token_nlls(fresh, rows)).mean() < np.concatenate(untrained).mean() - 0.3
    held = dict(plain.named_parameters())
    for name, parameter in fresh.lm.named_parameters():
        if "lora_" not in name:
            assert torch.equal(parameter, held[name.removeprefix("base_model.model.").replace(".base_layer", "")]), name


QUESTIONS = [
    ("What is the capital of France?", "Paris"),
    ("What is the capital of Italy?", "Rome"),
    ("What is the capital of Japan?", "Tokyo"),
    ("What is the capital of Germany?", "Berlin"),
    ("What is the capital of Spain?", "Madrid"),
    ("What is the capital of Egypt?", "Cairo"),
    ("What is the capital of Greece?", "Athens"),
    ("What is the capital of Russia?", "Moscow"),
]


def test_it_knows_capitals(lm: LanguageModel) -> None:
    """Asked through lm-evaluation-harness, with shots that say how to answer."""
    items = [json.dumps({"question": question, "answer": answer}) for question, answer in QUESTIONS]
    probe = QA(InlineItems("capitals", [json.loads(item) for item in items]), shots=4)
    answers = probe.measure(Session(lm), {"items": items}).to_pylist()
    print([row["prediction"] for row in answers])
    assert sum(row["exact"] for row in answers) >= 6


TRIAL = """
from memexp import *
pair = Pair(ShippedText("sentences-targets", first=32), ShippedText("sentences-foils", first=32))
model = Model({folder!r})
sweep = Sweep("memory", [
    Condition(model, Study(pair.targets, n, lr=1e-4, batch_size=16), method={method}, probes=[Recognition(pair)])
    for n in (0, 1, 2)
])
"""
MEASURED = """
import resource, subprocess, sys
print("PEAK", subprocess.run(sys.argv[1:]).returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""
"""Executes a command, and says what its process took of the memory at most."""


def said(*command: object) -> str:
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("method", ["Full()", "LoRA(r=8)"])
def test_peak_memory(method: str, folder: Path, tmp_path: Path) -> None:
    script, memexp = tmp_path / "memory.py", ("-m", "memexp.cli")
    script.write_text(TRIAL.format(folder=str(folder), method=method))
    run = (sys.executable, *memexp, "run", "--local", "--store", tmp_path / "store", script)
    status, peak = said("-c", MEASURED, *run).split("PEAK ")[1].split()
    assert status == "0"
    [planned] = json.loads(said(*memexp, "plan", "--json", "--store", tmp_path / "other", script))["models"]
    told = planned["peak_bytes_per_worker"]
    print(f"{method}: peak {int(peak) / 1e9:.2f} GB, planned {told / 1e9:.2f} GB: {planned['peak_parts']}")
    assert abs(told / int(peak) - 1) < 0.15
    assert method != "Full()" or int(peak) < 3.5e9  # 3.3 was seen
