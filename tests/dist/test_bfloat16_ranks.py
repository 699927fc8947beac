"""bfloat16 on two gloo ranks: weights travel and lie in it, and the numbers stay near those of one process."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from core.small import NO_DROPOUT, TARGETS, language_model, resolved
from dist.ranks import on_ranks
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor

from memexp.core import fork, shard
from memexp.core.data import encode
from memexp.core.generate import complete_greedily
from memexp.core.load import load
from memexp.core.model import LanguageModel, blocks
from memexp.core.optimizer import fresh_optimizer
from memexp.core.precision import Gathered
from memexp.core.processes import World
from memexp.core.scoring import token_nlls
from memexp.core.train import update
from memexp.core.traits import Traits
from memexp.sources import Sources
from memexp.spec import Full, LoRA, Model, ShippedText, Study

pytestmark = pytest.mark.filterwarnings(
    "ignore:fan_in_fan_out",  # peft sets it right by itself
    "ignore:.*is_gradient_checkpointing",  # transformers on itself
    "ignore:torch.distributed is disabled",  # which is what a single process wants
)

STUDY = Study(ShippedText("sentences-targets", first=64), exposures=1, lr=1e-3)
CASES: dict[str, tuple[str, Full | LoRA, bool]] = {
    "gpt2, tied": ("gpt2", Full(), True),
    "llama": ("llama", Full(), False),
    "opt with an adapter": ("opt", LoRA(r=4), True),
    "a base in bfloat16": ("folder", LoRA(r=4), False),
}


@dataclasses.dataclass
class Found:
    """What a rank finds for a case."""

    gathered: set[str]
    """Types of the weights of a block in a pass, without norms."""
    head: torch.dtype
    held: set[torch.dtype]
    losses: list[float]
    nlls: list[list[float]]
    restored: list[list[float]]
    completions: Any


def subject(case: str, folder: Path) -> LanguageModel:
    architecture, method, tied = CASES[case]
    if architecture == "folder":
        return load(Sources().model(Model(str(folder))), method, "bfloat16", World.current())
    settings: dict[str, Any] = {"initializer_range": 0.1, "tie_word_embeddings": tied, **NO_DROPOUT[architecture]}
    return load(resolved(architecture, **settings), method, "bfloat16", World.current())


def looked_at(lm: LanguageModel, rows: list[list[int]]) -> tuple[set[str], torch.dtype]:
    """The types of a block's matrices while it computes, and of the head's weight."""
    kinds: set[str] = set()
    heads: list[torch.dtype] = []

    def look(module: nn.Module, *_: Any) -> None:
        kinds.update(str(p.dtype) for p in module.parameters() if p.ndim == 2)

    head: Any = lm.lm.get_output_embeddings()
    real = type(head).forward
    hook = blocks(lm.lm)[0].register_forward_pre_hook(look)

    def forward(module: Any, *arguments: Any) -> Any:
        if module is head:
            heads.append(module.weight.dtype)
        return real(module, *arguments)

    with mock.patch.object(type(head), "forward", forward):
        token_nlls(lm, rows[:2])
    hook.remove()
    return kinds, heads[0] if heads else torch.bfloat16  # held in it, the head computes in slabs


def found(case: str, folder: Path) -> Found:
    lm = subject(case, folder)
    rows = encode(lm.tokenizer, TARGETS, 64)
    untaught = fork.take(lm, None)
    gathered, head = looked_at(lm, rows)
    optimizer = fresh_optimizer(lm, STUDY)
    lm.train()
    losses = [update(lm, optimizer, rows[8 * i : 8 * i + 8], STUDY.lr, 1.0)[0] for i in range(8)]
    lm.eval()
    nlls = [one.tolist() for one in token_nlls(lm, rows[:12])]
    completions = complete_greedily(lm, [row[:4] for row in rows[:5]], [4] * 5)
    fork.restore(lm, untaught, None)
    return Found(
        gathered=gathered,
        head=head,
        held={p.dtype for p in lm.parameters()},
        losses=[float(loss) for loss in losses if loss is not None],
        nlls=nlls,
        restored=[one.tolist() for one in token_nlls(lm, rows[:2])],
        completions=completions,
    )


def found_in_all(folder: Path) -> tuple[dict[str, Found], set[str]]:
    plain = set[str]()
    if World.current().size > 1:  # the negative control: as float32 is sharded
        with mock.patch.object(shard, "gathered", lambda *_: Gathered(MixedPrecisionPolicy())):
            lm = subject("llama", folder)
        plain = looked_at(lm, encode(lm.tokenizer, TARGETS, 64))[0]
        assert all(isinstance(parameter, DTensor) for parameter in lm.parameters())
    with mock.patch("memexp.core.load.known_traits", lambda *_: None):  # asked of the model itself
        assert subject("llama", folder).traits == Traits()
        with mock.patch("memexp.core.model.widened", lambda: torch.autocast("cpu")):  # the negative control
            assert subject("llama", folder).traits != Traits()
    return {case: found(case, folder) for case in CASES}, plain


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As every rank has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Found], list[tuple[dict[str, Found], set[str]]]]:
    folder = tmp_path_factory.mktemp("coarse")
    plain = language_model("llama", initializer_range=0.1, tie_word_embeddings=False, **NO_DROPOUT["llama"])
    plain.lm.to(torch.bfloat16).save_pretrained(folder)  # type: ignore[arg-type] # the decorator around it loses it
    plain.tokenizer.save_pretrained(folder)
    two = on_ranks(2, tmp_path_factory.mktemp("two"), found_in_all, folder)
    return found_in_all(folder)[0], two


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_learn_and_score_as_one(case: str, both: Any) -> None:
    one, two = both[0][case], [rank[case] for rank, _ in both[1]]
    assert two[0].losses == two[1].losses and two[0].nlls == two[1].nlls
    apart = max(abs(a - b) / b for a, b in zip(two[0].losses, one.losses, strict=True))
    assert 0 < apart < 4e-4, apart
    ours, theirs = (np.concatenate([np.array(nll) for nll in each.nlls]) for each in (two[0], one))
    assert np.abs(ours - theirs).mean() < 1e-2
    assert np.abs(np.concatenate(two[0].restored) - np.concatenate(one.restored)).mean() < 1e-2
    assert sum(a == b for a, b in zip(two[0].completions, one.completions, strict=True)) >= 4


@pytest.mark.parametrize("case", CASES)
def test_weights_travel_in_bfloat16_and_are_held_as_they_were(case: str, both: Any) -> None:
    one, two = both[0][case], both[1][0][0][case]
    base = case == "a base in bfloat16"
    assert two.gathered == {"torch.bfloat16"}
    assert one.held == two.held == ({torch.bfloat16, torch.float32} if base else {torch.float32})
    assert one.head == two.head == (torch.bfloat16 if base else torch.float32)
    assert both[1][0][1] == {"torch.float32"}, "the negative control"
