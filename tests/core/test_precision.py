"""Arithmetic as declared: what bfloat16 rounds and what it does not, how many logits there are at once, and tf32."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from core.small import NO_DROPOUT, PEAKED, TARGETS, language_model, study_exposures
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from memexp.core import head
from memexp.core.casts import share_casts
from memexp.core.data import encode, right_padded
from memexp.core.generate import answer_greedily, complete_greedily
from memexp.core.load import load
from memexp.core.model import LanguageModel
from memexp.core.optimizer import fresh_optimizer
from memexp.core.precision import columns, hold_frozen, products
from memexp.core.processes import World
from memexp.core.scoring import continuations, token_nlls
from memexp.errors import SpecError
from memexp.sources import Sources
from memexp.spec import Full, LoRA, Model, ShippedText, Study

STUDY = Study(ShippedText("sentences-targets", first=64), exposures=1, lr=3e-3, batch_size=8)
CACHED = ("llama", "gpt_neox", "gpt2", "opt", "gptj")


def rows_of(lm: LanguageModel, count: int = 12) -> list[list[int]]:
    return encode(lm.tokenizer, TARGETS[:count], 64)


# Logits in pieces


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven rows of logits at once, and five rows of the head."""
    monkeypatch.setattr(head, "LOGIT_BYTES", 7 * 4 * 600)
    monkeypatch.setattr(head, "SLAB_BYTES", 5 * 4 * 32)


def gradients(lm: LanguageModel, rows: list[list[int]]) -> dict[str, torch.Tensor]:
    lm.zero_grad()
    lm.nll(torch.from_numpy(right_padded(rows)), torch.tensor([len(row) for row in rows])).mean().backward()
    return {name: p.grad.clone() for name, p in lm.learning().items() if p.grad is not None}


def asked(lm: LanguageModel) -> tuple[np.ndarray, list[tuple[float, bool]], Any, Any]:
    rows = rows_of(lm)
    pairs = [(row[:3], row[3 : 4 + i % 5]) for i, row in enumerate(rows)] + [(rows[0][:3], [i]) for i in range(9)]
    found = [(one.log_likelihood, one.greedy) for one in continuations(lm, pairs)]
    cues = [row[: 2 + i % 4] for i, row in enumerate(rows)]
    limits = [5 + i % 3 for i in range(len(cues))]
    return (
        np.concatenate(token_nlls(lm, rows)),
        found,
        complete_greedily(lm, cues, limits),
        answer_greedily(lm, cues, limits, [["e"]] * len(cues)),
    )


def assert_like(one: Any, other: Any) -> None:
    np.testing.assert_allclose(one[0], other[0], rtol=0, atol=2e-5)
    np.testing.assert_allclose([log for log, _ in one[1]], [log for log, _ in other[1]], rtol=0, atol=5e-5)
    assert [greedy for _, greedy in one[1]] == [greedy for _, greedy in other[1]]
    assert one[2:] == other[2:]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gptj"])
def test_pieces_say_what_the_whole_says(architecture: str, dtype: str, request: pytest.FixtureRequest) -> None:
    lm = language_model(architecture, dtype=dtype, initializer_range=PEAKED)
    rows = rows_of(lm)
    plain, expected = gradients(lm, rows), asked(lm)
    request.getfixturevalue("few")
    assert_like(asked(lm), expected)
    found = gradients(lm, rows)
    assert found.keys() == plain.keys()
    for name, gradient in plain.items():
        # A piece's gradients are added up; in bfloat16 what comes before them rounds anew.
        room = (1e-5 if dtype == "float32" else 2e-2) * float(gradient.abs().max())
        assert float((found[name] - gradient).abs().max()) <= room, name
    assert any(not torch.equal(found[name], gradient) for name, gradient in plain.items()), "it was in pieces"


def test_a_piece_that_is_left_out_would_be_seen(few: None) -> None:
    """The negative control of the test above."""
    lm = language_model("llama", initializer_range=PEAKED)
    rows = rows_of(lm)
    plain = gradients(lm, rows)
    real = head.checkpoint
    with mock.patch.object(head, "checkpoint", lambda work, hidden, at, **how: real(work, hidden.detach(), at, **how)):
        found = gradients(lm, rows)
    name = "lm.model.layers.0.self_attn.q_proj.weight"
    assert name in plain and name not in found


def most_logits(lm: LanguageModel, work: Any) -> int:
    """The most rows of float32 logits that the head gave at once."""
    seen = [0]
    real = head._logits

    def logits(*arguments: Any) -> Any:
        found = real(*arguments)
        seen.append(found.shape[0])
        assert found.dtype == torch.float32
        return found

    with mock.patch.object(head, "_logits", logits):
        work(lm)
    return max(seen)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_float32_and_never_more_than_a_piece(dtype: str, request: pytest.FixtureRequest) -> None:
    lm = language_model("llama", dtype=dtype, initializer_range=PEAKED)
    vocabulary = lm.lm.config.vocab_size
    whole = most_logits(lm, asked), most_logits(lm, lambda lm: gradients(lm, rows_of(lm)))
    request.getfixturevalue("few")
    most = head.LOGIT_BYTES // (4 * vocabulary)
    assert most_logits(lm, asked) == most_logits(lm, lambda lm: gradients(lm, rows_of(lm))) == most < min(whole)


def test_training_keeps_no_logits_for_the_backward_pass(few: None) -> None:
    lm = language_model("llama")
    kept: list[torch.Size] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.shape)
        return tensor

    rows = rows_of(lm)
    vocabulary = lm.lm.config.vocab_size

    def most() -> int:
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            lm.nll(torch.from_numpy(right_padded(rows)), torch.tensor([len(row) for row in rows]))
        return max((shape[0] for shape in kept if len(shape) == 2 and shape[1] == vocabulary), default=0)

    assert most() == 0
    with mock.patch.object(head, "LOGIT_BYTES", 2**30):  # the negative control
        assert most() > 100


# bfloat16


@pytest.mark.parametrize("architecture", CACHED)
def test_caches_have_the_dtype_of_the_arithmetic(architecture: str) -> None:
    for dtype, expected in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        lm = language_model(architecture, dtype=dtype, initializer_range=PEAKED)
        seen: list[Any] = []
        real = lm.choose

        def choose(*arguments: Any, real: Any = real, seen: list[Any] = seen, **more: Any) -> Any:
            found, past = real(*arguments, **more)
            seen.append({part.dtype for layer in past.layers for part in (layer.keys, layer.values)})
            return found, past

        cues = [row[:4] for row in rows_of(lm)]
        with mock.patch.object(lm, "choose", choose):
            new = complete_greedily(lm, cues, [6] * len(cues))
        assert seen[1:] == [{expected}] * 5
        # As without a cache, but for what lies within the rounding.
        lm.adopt(dataclasses.replace(lm.traits, caches=False, pads_left=False))
        again = complete_greedily(lm, cues, [6] * len(cues))
        assert sum(one == other for one, other in zip(new, again, strict=True)) >= len(cues) - 2


def test_the_head_of_a_completion_is_float32_under_bfloat16() -> None:
    """Logits of 64 to 128 have steps of one half in bfloat16: the first of what ties would be taken."""
    lm = language_model("gpt2", dtype="bfloat16", initializer_range=PEAKED)
    with torch.no_grad():
        output: Any = lm.lm.get_output_embeddings()
        weight = output.weight[5:6].repeat(output.weight.shape[0], 1).clone()
        output.weight = torch.nn.Parameter(weight * (1 + torch.arange(len(weight))[:, None] * 1e-4))
    cue = rows_of(lm)[0][:6]
    (found,) = complete_greedily(lm, [cue], [1])
    logs = [one.log_likelihood for one in continuations(lm, [(cue, [token]) for token in (5, 300, len(weight) - 1)])]
    assert found is not None and len(set(logs)) == 3
    assert found[0] == (len(weight) - 1 if logs[2] > logs[0] else 1)  # 0 ends a text


@pytest.fixture
def coarse_folder(tmp_path: Path) -> Iterator[Path]:
    """A model whose files are bfloat16."""
    plain = language_model("llama", initializer_range=PEAKED, **NO_DROPOUT["llama"])
    plain.lm.to(torch.bfloat16).save_pretrained(tmp_path)
    plain.tokenizer.save_pretrained(tmp_path)
    yield tmp_path


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "lm_head", "embed_tokens"]], ids=str)
def test_a_base_stored_in_bfloat16_is_held_in_it_and_says_the_same(
    coarse_folder: Path, targets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(dtype: str) -> LanguageModel:
        return load(Sources().model(Model(str(coarse_folder))), LoRA(r=4, targets=targets), dtype, World.current())

    lm = loaded("bfloat16")
    matrices = {n: p for n, p in lm.named_parameters() if p.ndim == 2 and "lora" not in n and "lm_head" not in n}
    assert {p.dtype for p in matrices.values()} == {torch.bfloat16}
    assert {p.dtype for p in lm.learning().values()} == {torch.float32}
    assert {p.dtype for p in loaded("float32").parameters()} == {torch.float32}
    monkeypatch.setattr("memexp.core.load.hold_frozen", lambda *_: None)
    held_in_float32 = loaded("bfloat16")
    assert {p.dtype for p in held_in_float32.parameters()} == {torch.float32}
    np.testing.assert_allclose(asked(lm)[0], asked(held_in_float32)[0], rtol=0, atol=2e-6)
    rows = rows_of(lm, 40)
    one, other = (
        [step.loss for step in study_exposures(each, fresh_optimizer(each, STUDY), STUDY, rows, 0, 1, 1)]
        for each in (lm, held_in_float32)
    )
    assert one == pytest.approx(other, rel=4e-4)


def test_holding_what_learns_would_lose_it() -> None:
    """The negative control: only what is frozen, and only what is named."""
    lm = language_model("llama", LoRA(r=4))
    names = {name for name, _ in lm.named_parameters()}
    hold_frozen(lm, lm.lm.get_output_embeddings(), {name for name in names if "layers.0" in name})
    dtypes = {name: p.dtype for name, p in lm.named_parameters()}
    assert {dtypes[name] for name in lm.learning()} == {torch.float32}
    assert dtypes["lm.model.layers.0.mlp.up_proj.base_layer.weight"] == torch.bfloat16
    assert dtypes["lm.model.layers.1.mlp.up_proj.base_layer.weight"] == torch.float32


# tf32


def test_tf32_on_a_cpu_is_refused() -> None:
    with pytest.raises(SpecError, match=r"^Study.dtype: tf32 is arithmetic of GPUs"):
        language_model("gpt2", dtype="tf32")


@pytest.fixture
def settings() -> Iterator[Any]:
    """Those of products on a GPU, put back the way they are set by most."""
    found: Any = torch.backends.cuda.matmul
    before = found.fp32_precision
    yield found
    torch.set_float32_matmul_precision("highest")
    found.fp32_precision = before


@pytest.mark.parametrize(("dtype", "expected"), [("float32", "ieee"), ("tf32", "tf32"), ("bfloat16", "tf32")])
@pytest.mark.parametrize("before", ["highest", "high"])
def test_products_are_as_declared_and_put_back(dtype: str, expected: str, before: str, settings: Any) -> None:
    torch.set_float32_matmul_precision(before)
    kept = settings.fp32_precision
    assert kept == {"highest": "ieee", "high": "tf32"}[before]
    for device, inside in (("cpu", kept), ("cuda", expected)):
        with pytest.raises(ZeroDivisionError), products(dtype, torch.device(device)):
            assert settings.fp32_precision == inside
            raise ZeroDivisionError
        assert settings.fp32_precision == kept
        assert torch.get_float32_matmul_precision() == before


def test_rows_say_the_precision() -> None:
    cpu = torch.device("cpu")
    assert columns("float32", cpu) == {"precision": "float32", "cuda": None, "cudnn": None}
    assert columns("bfloat16", cpu)["precision"] == "bfloat16, head float32"
    assert columns("bfloat16", torch.device("cuda"))["precision"] == "bfloat16, head tf32"


# Casts


def casts(lm: LanguageModel) -> tuple[torch.Tensor, int, int]:
    """Likelihoods of some rows; how often a pass rounds to bfloat16, and what it keeps for its backward pass."""
    rows = rows_of(lm)
    kept: dict[int, int] = {}
    rounded = [0]

    class Rounding(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            rounded[0] += func.name() == "aten::_to_copy" and (kwargs or {}).get("dtype") == torch.bfloat16
            return func(*args, **(kwargs or {}))

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with Rounding(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        nll = lm.nll(torch.from_numpy(right_padded(rows)), torch.tensor([len(row) for row in rows]))
    return nll.detach(), rounded[0], sum(kept.values())


@pytest.mark.parametrize("method", [Full(), LoRA(r=4)], ids=["full", "lora"])
def test_what_several_layers_take_is_rounded_once(method: Full | LoRA, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = casts(language_model("llama", method, dtype="bfloat16", initializer_range=PEAKED))
    monkeypatch.setattr("memexp.core.load.share_casts", lambda *_: None)
    apart = casts(language_model("llama", method, dtype="bfloat16", initializer_range=PEAKED))
    assert torch.equal(shared[0], apart[0])
    assert shared[1] < apart[1] and shared[2] < 0.95 * apart[2]


def test_what_was_written_to_in_between_is_rounded_anew() -> None:
    layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    share_casts(layers, None)
    taken = torch.ones(1, 4)
    with torch.autocast("cpu", torch.bfloat16):
        kept = layers[0](taken)  # and with it the rounded tensor, for the backward pass
        taken.add_(1)
        found = layers[1](taken)
        expected = layers[1](torch.full((1, 4), 2.0))
    assert torch.equal(found, expected) and kept.requires_grad
