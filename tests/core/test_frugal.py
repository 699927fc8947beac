"""What saves memory changes no number: activation checkpointing, offloaded moments, and batches of other sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from core.meter import Meter
from core.small import TARGETS, resolved, study_exposures, weights

from memexp.core import batch_sizes, checkpoint, fork, head
from memexp.core.batch_sizes import Budget, budget_of, halved, largest
from memexp.core.data import encode
from memexp.core.generate import complete_greedily
from memexp.core.load import load
from memexp.core.model import LanguageModel
from memexp.core.optimizer import OnHost, fresh_optimizer, room
from memexp.core.processes import World
from memexp.core.scoring import token_nlls
from memexp.spec import Full, LoRA, Resources, ShippedText, Study
from memexp.store import Store
from memexp.store.snapshots import Mark

STUDY = Study(ShippedText("sentences-targets", first=64), exposures=1, lr=3e-3, batch_size=8, clip_norm=1.0)
METHODS = [Full(), LoRA(r=4, dropout=0.2)]
pytestmark = pytest.mark.filterwarnings(
    "ignore:fan_in_fan_out",  # peft sets it right by itself
    "ignore:.*is_gradient_checkpointing",  # transformers on itself
)


def loaded(architecture: str, method: Full | LoRA, **resources: bool) -> LanguageModel:
    return load(resolved(architecture), method, "float32", World.current(), Resources(**resources))


def trained(lm: LanguageModel, study: Study = STUDY) -> tuple[list[float | None], dict[str, torch.Tensor]]:
    rows = encode(lm.tokenizer, TARGETS[:32], 64)
    steps = study_exposures(lm, fresh_optimizer(lm, study), study, rows, 0, 1, 1)
    return [step.loss for step in steps], weights(lm)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("method", METHODS, ids=["full", "lora"])
@pytest.mark.parametrize("architecture", ["gpt2", "opt", "llama", "gpt_neox"])
def test_checkpointing_changes_no_number(architecture: str, method: Full | LoRA, dropout: float) -> None:
    study = dataclasses.replace(STUDY, dropout=dropout)
    plain, saving = (loaded(architecture, method, checkpointing=on) for on in (False, True))
    (losses, learned), (found, again) = trained(plain, study), trained(saving, study)
    assert losses == found and same(learned, again)
    assert len(set(losses)) == 4


def test_checkpointing_keeps_what_goes_into_a_block() -> None:
    held = {}
    for on in (False, True):
        lm = load(
            resolved("llama", num_hidden_layers=8), Full(), "float32", World.current(), Resources(checkpointing=on)
        )
        lm.train()
        ids, lengths = torch.ones((8, 64), dtype=torch.long), torch.full((8,), 64)
        with Meter() as meter:
            meter.note(*lm.parameters(), *lm.buffers())
            before = meter.bytes["device"]
            nll = lm.nll(ids, lengths)
            held[on] = meter.bytes["device"] - before
            del nll
    assert held[True] < held[False] / 4


@pytest.mark.parametrize("method", METHODS, ids=["full", "lora"])
def test_moments_on_the_host_change_no_number(method: Full | LoRA, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, lm = loaded("llama", method), loaded("llama", method, offload=True)
    expected = trained(plain)
    assert type(fresh_optimizer(lm, STUDY)).__name__ == "AdamW", "on a CPU they are there anyway"
    monkeypatch.setattr("memexp.core.optimizer.AdamW", OnHost)
    losses, learned = trained(lm)
    assert losses == expected[0] and same(learned, expected[1])
    assert type(fresh_optimizer(lm, STUDY)) is OnHost


def test_moments_on_the_host_are_forked_and_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memexp.core.optimizer.AdamW", OnHost)
    lm, study, store = loaded("llama", Full()), dataclasses.replace(STUDY, exposures=3), Store(tmp_path)
    rows, optimizer = encode(lm.tokenizer, TARGETS[:16], 64), fresh_optimizer(lm, STUDY)
    study_exposures(lm, optimizer, study, rows, 0, 1, 1)
    taken = fork.take(lm, optimizer)
    checkpoint.save_snapshot(store, Mark("one", 1), "base", lm, optimizer, [])
    study_exposures(lm, optimizer, study, rows, 0, 2, 2)
    ends = [weights(lm)]
    again = fork.restore(lm, taken, study)
    assert isinstance(again, OnHost)
    study_exposures(lm, again, study, rows, 0, 2, 2)
    ends.append(weights(lm))
    loaded_ = checkpoint.load_snapshot(store, Mark("one", 1), "base", lm, study)
    assert loaded_ is not None and isinstance(loaded_.optimizer, OnHost)
    study_exposures(lm, loaded_.optimizer, study, rows, 0, 2, 2)
    ends.append(weights(lm))
    assert same(ends[0], ends[1]) and same(ends[0], ends[2])
    parameter = next(iter(lm.learning().values()))
    assert {moment.device.type for moment in room(again, parameter).values()} == {"cpu"}


# Batches


def test_small_models_on_a_cpu_have_the_batches_they_had() -> None:
    lm = loaded("gpt2", Full())
    assert lm.budget == largest("cpu") == Budget(48, 4096, 1024, 6144, 96, 48)


@pytest.fixture(scope="module")
def large() -> Iterator[LanguageModel]:
    """13 million parameters, in more blocks than such models have."""
    config = {"hidden_size": 256, "num_hidden_layers": 20, "intermediate_size": 704, "num_attention_heads": 8}
    yield load(resolved("llama", **config), Full(), "float32", World.current())


def test_batches_of_larger_models_are_cut_by_their_bytes(large: LanguageModel) -> None:
    budget, deep = large.budget, budget_of(large, Resources(checkpointing=True))
    assert budget.group_tokens < largest("cpu").group_tokens and budget.recall_rows == 96
    assert budget.group_tokens < deep.group_tokens
    large.train()
    rows = 4
    with Meter() as meter:
        meter.note(*large.parameters(), *large.buffers())
        before = meter.bytes["device"]
        width = budget.group_tokens // rows
        nll = large.nll(torch.ones((rows, width), dtype=torch.long), torch.full((rows,), width))
        held = meter.bytes["device"] - before
        del nll
    assert 1 << 29 < held < 1 << 30, "within what a batch may have, and no small part of it"


@pytest.mark.parametrize("architecture", ["gemma2", "llama"])
def test_logits_that_are_made_at_once_count(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma 2 caps its logits, and has a large vocabulary; a plain head makes its own in pieces."""
    room = 1 << 26
    monkeypatch.setattr(batch_sizes, "SMALL", 0)
    monkeypatch.setattr(batch_sizes, "CPU_BYTES", room)
    monkeypatch.setattr(head, "LOGIT_BYTES", room >> 4)
    lm = load(resolved(architecture, vocab_size=20_000), Full(), "float32", World.current())
    assert lm.traits.plain_head == (architecture == "llama")
    assert (lm.budget.group_tokens < 200) == (architecture == "gemma2")
    at_once = {"training": min(lm.budget.group_tokens, 512), "scoring": min(lm.budget.scoring_tokens, 512)}
    for what, tokens in at_once.items():
        lm.train(what == "training")
        with Meter() as meter, torch.set_grad_enabled(what == "training"):
            meter.note(*lm.parameters(), *lm.buffers())
            before = meter.bytes["device"]
            with meter.phase() as phase:
                nll = lm.nll(torch.ones((4, tokens // 4), dtype=torch.long), torch.full((4,), tokens // 4))
                if what == "training":
                    nll.sum().backward()
        gradients = sum(one.nbytes for one in lm.parameters()) if what == "training" else 0
        assert phase.peak - before - 2 * gradients < room, (what, phase.peak, before, gradients)


def test_half_the_batch_changes_rounding_only(large: LanguageModel) -> None:
    rows = encode(large.tokenizer, TARGETS[:12], 64)
    cues = [row[: len(row) // 2] for row in rows]
    nlls, tokens = token_nlls(large, rows), complete_greedily(large, cues, [6] * len(cues))
    with halved(large):
        assert large.budget.scoring_tokens * 2 in (largest("cpu").scoring_tokens, large.budget.scoring_tokens * 2)
        again, same_tokens = token_nlls(large, rows), complete_greedily(large, cues, [6] * len(cues))
    assert large.budget == budget_of(large, Resources())
    assert all(abs(one - other).max() < 1e-4 for one, other in zip(nlls, again, strict=True))
    assert tokens == same_tokens
