"""The way back to a model as it was loaded: from its files, whatever they hold, or from a copy; never from others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from core.small import NO_DROPOUT, language_model
from torch import Tensor

from memexp.core import original as module
from memexp.core.fork import restore, take
from memexp.core.load import load
from memexp.core.model import LanguageModel
from memexp.core.original import original
from memexp.core.processes import World
from memexp.errors import ModelError
from memexp.sources import Sources
from memexp.spec import Full, LoRA, Model

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")  # transformers on itself


@pytest.fixture
def all_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL", 0)


def saved(folder: Path, architecture: str, dtype: torch.dtype, parts: str = "60KB") -> Path:
    lm = language_model(architecture, seed=5)
    lm.lm.to(dtype).save_pretrained(folder, max_shard_size=parts)
    lm.tokenizer.save_pretrained(folder)
    return folder


def loaded(folder: Path, method: Full | LoRA = Full()) -> LanguageModel:  # noqa: B008 - frozen
    return load(Sources().model(Model(str(folder))), method, "float32", World.current())


def values(lm: LanguageModel) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in lm.learning().items()}


def changed(lm: LanguageModel) -> None:
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.add_(1.0)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.usefixtures("all_are_large")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt"])
def test_files_are_read_again(architecture: str, dtype: torch.dtype, tmp_path: Path) -> None:
    lm = loaded(saved(tmp_path, architecture, dtype))
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    before, way = values(lm), original(lm)
    assert not isinstance(way.weights, dict), "a copy"
    changed(lm)
    assert not same(values(lm), before)
    assert restore(lm, way, None) is None
    assert same(values(lm), before)
    assert set(way.weights) == before.keys() and len(way.weights) == len(before)


@pytest.mark.usefixtures("all_are_large")
def test_what_is_in_no_file_is_copied(tmp_path: Path) -> None:
    """An adapter, what was drawn, and what transformers put together."""
    folder = saved(tmp_path, "llama", torch.float32)
    for lm in (loaded(folder, LoRA(r=4)), language_model("llama", **NO_DROPOUT["llama"])):
        before, way = values(lm), original(lm)
        assert isinstance(way.weights, dict)
        changed(lm)
        restore(lm, way, None)
        assert same(values(lm), before)


def test_small_weights_are_copied_in_16_bits_where_that_is_what_they_were(tmp_path: Path) -> None:
    whole = loaded(saved(tmp_path / "whole", "llama", torch.float32))
    assert {held.dtype for held in original(whole).weights.values()} > {torch.float32}, "norms are ones"
    lm = loaded(saved(tmp_path / "half", "llama", torch.float16))
    before, way = values(lm), original(lm)
    assert isinstance(way.weights, dict)
    assert {held.dtype for held in way.weights.values()} <= {torch.float16, torch.bfloat16}
    changed(lm)
    restore(lm, way, None)
    assert same(values(lm), before)
    assert take(lm, None).weights.keys() == way.weights.keys()


@pytest.mark.usefixtures("all_are_large")
@pytest.mark.parametrize("how", ["touched", "cut", "gone"])
def test_other_files_are_not_taken_for_them(how: str, tmp_path: Path) -> None:
    lm = loaded(saved(tmp_path, "llama", torch.float32, "50GB"))
    way, (file,) = original(lm), tmp_path.glob("*.safetensors")
    if how == "touched":
        os.utime(file, (1, 1))
    elif how == "cut":
        os.truncate(file, file.stat().st_size - 4)
    else:
        file.unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read again: .*; leave a model as it is"):
        restore(lm, way, None)
