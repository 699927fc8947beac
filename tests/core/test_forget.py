"""Forgetting resets exactly the blocks it names, to what they were before study, and changes nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from core.small import ARCHITECTURES, TARGETS, TOKENIZER, language_model, study_exposures, weights
from peft import get_peft_model_state_dict, set_peft_model_state_dict

from memexp.core import fork
from memexp.core.data import encode
from memexp.core.forget import block_of, reset
from memexp.core.load import load
from memexp.core.model import LanguageModel
from memexp.core.optimizer import fresh_optimizer
from memexp.core.processes import World
from memexp.core.scoring import token_nlls
from memexp.errors import SpecError
from memexp.sources import Sources
from memexp.spec import Forget, Full, LoRA, Model, RandomInit, ShippedText, Study

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:.*is_gradient_checkpointing")

STUDY = Study(ShippedText("sentences-targets"), exposures=1, lr=1e-2, batch_size=8)
LORA = LoRA(r=4)
DEPTH = {"num_hidden_layers": 4}


def rows(lm: LanguageModel) -> list[list[int]]:
    return encode(lm.tokenizer, TARGETS[:16], 64)


def studied(architecture: str, method: Full | LoRA, **changes: Any) -> tuple[LanguageModel, fork.Fork]:
    """A model after one exposure, and what it was before."""
    lm = language_model(architecture, method, **changes)
    before = fork.take(lm, None)
    study_exposures(lm, fresh_optimizer(lm, STUDY), STUDY, rows(lm), seed=0, first=1, last=1)
    return lm, before


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_blocks_are_found_in_every_architecture(architecture: str) -> None:
    lm = language_model(architecture)
    found = [block_of(lm, name) for name in lm.learning()]
    assert {block for block in found if block is not None} == {0, 1}
    assert found.count(0) == found.count(1) > 5
    outside = [name for name, block in zip(lm.learning(), found, strict=True) if block is None]
    assert 1 <= len(outside) <= 6 and any("embed" in name or "wte" in name for name in outside)


def test_blocks_that_are_kept_in_several_lists_are_not_reset_by_halves() -> None:
    """XLM has its attention in one list, its norms and the rest of its blocks in three others."""
    config = {
        "model_type": "xlm",
        "emb_dim": 32,
        "n_layers": 3,
        "n_heads": 2,
        "causal": True,
        "n_langs": 1,
        "vocab_size": 640,
        "pad_token_id": 639,
    }
    model = Model("xlm", tokenizer=TOKENIZER, init=RandomInit(config))
    lm = load(Sources().model(model), Full(), "float32", World.current())
    before = fork.take(lm, None)
    with pytest.raises(SpecError, match="XLMWithLMHeadModel keeps its blocks in several lists"):
        reset(lm, Forget(from_layer=0), before, seed=0)


@pytest.mark.parametrize("forget", [Forget(from_layer=0), Forget(from_layer=3), Forget(below_layer=2), Forget()])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_full_reset_is_a_copy_of_the_pretrained_tensors(architecture: str, forget: Forget) -> None:
    depth = {"n_layer": 4} if architecture == "gpt2" else DEPTH
    lm, before = studied(architecture, Full(), **depth)
    learned = weights(lm)
    reset(lm, forget, before, seed=0)
    counts = {"kept": 0, "reset": 0}
    for name, now in lm.named_parameters():
        block = next((int(part) for part in name.split(".") if part.isdigit()), None)
        upper = block is not None and forget.layer is not None and block >= forget.layer
        is_reset = {"upper": upper, "lower": not upper, "none": False}[forget.side]
        assert torch.equal(now, before.weights[name] if is_reset else learned[name]), name
        assert not torch.equal(before.weights[name], learned[name]), f"{name} has learned nothing: no test of it"
        counts["reset" if is_reset else "kept"] += 1
    assert all(counts.values()) or forget.side == "none"


def test_a_lora_reset_is_the_lower_adapters_loaded_by_hand() -> None:
    lm, before = studied("llama", LORA, **DEPTH)
    learned, base = weights(lm), language_model("llama", Full(), **DEPTH)
    adapters = get_peft_model_state_dict(lm.lm)  # type: ignore[no-untyped-call] # peft's own
    lower = {name: tensor.clone() for name, tensor in adapters.items() if ".layers.0." in name or ".layers.1." in name}
    assert 0 < len(lower) < len(adapters)
    reset(lm, Forget(from_layer=2), before, seed=0)

    by_hand = language_model("llama", LORA, **DEPTH)
    set_peft_model_state_dict(by_hand.lm, lower)  # type: ignore[no-untyped-call] # peft's own
    for found, expected in zip(token_nlls(lm, rows(lm)), token_nlls(by_hand, rows(lm)), strict=True):
        assert (found == expected).all()
    for name, now in lm.named_parameters():
        if ".lora_" not in name:
            assert torch.equal(now, learned[name]), name  # the pretrained weights were never touched
        elif name.startswith(("lm.model.layers.0", "lm.model.layers.1")):
            assert torch.equal(now, learned[name]), name
        elif ".lora_B." in name:
            assert not now.any() and learned[name].any(), name
        else:
            fan_in = now.shape[1]
            assert 0.8 / fan_in**0.5 < now.abs().max() <= 1 / fan_in**0.5, name  # as peft draws it
            assert not torch.equal(now, before.weights[name]) and not torch.equal(now, learned[name]), name
    plain = token_nlls(base, rows(base))
    reset(lm, Forget(from_layer=0), before, seed=0)
    for found, expected in zip(token_nlls(lm, rows(lm)), plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_fresh_adapters_depend_on_seed_and_place_alone() -> None:
    drawn = []
    for layer, seed in ((1, 0), (3, 0), (3, 1)):
        lm, before = studied("llama", LORA, **DEPTH)
        reset(lm, Forget(from_layer=layer), before, seed)
        drawn.append({n: p.detach().clone() for n, p in lm.learning().items() if ".layers.3." in n and "lora_A" in n})
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    assert not any(torch.equal(drawn[1][name], drawn[2][name]) for name in drawn[1])
    first, second, *_ = drawn[0].values()
    assert first.shape != second.shape or not torch.equal(first, second)


def test_an_adapter_of_the_embeddings_is_fresh_as_well() -> None:
    method, drawn = LoRA(r=4, targets=["embed_tokens", "q_proj"]), []
    for seed in (0, 0, 1):
        lm, before = studied("llama", method)
        plain = token_nlls(language_model("llama"), rows(lm))
        reset(lm, Forget(below_layer=2), before, seed)
        (zero,) = (p for name, p in lm.learning().items() if "lora_embedding_A" in name)
        ((name, fresh),) = ((name, p) for name, p in lm.learning().items() if "lora_embedding_B" in name)
        assert not zero.any() and not torch.equal(fresh, before.weights[name])
        for found, expected in zip(token_nlls(lm, rows(lm)), plain, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        drawn.append(fresh.detach().clone())
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])
    assert 0.8 < float(drawn[0].std()) < 1.2  # as peft draws it


@pytest.mark.parametrize("forget", [Forget(from_layer=2), Forget(below_layer=3)])
def test_a_block_the_model_does_not_have_is_refused(forget: Forget) -> None:
    lm = language_model("llama")
    learned = weights(lm)
    with pytest.raises(SpecError, match=rf"layer {forget.layer} is outside LlamaForCausalLM, which has 2 blocks"):
        reset(lm, forget, fork.take(lm, None), seed=0)
    assert all(torch.equal(p, learned[n]) for n, p in lm.named_parameters())
