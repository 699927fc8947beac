"""What a model is like is known, and what cannot be loaded is refused, before anything is trained.

The questions go to a child process that imports torch; here most are answered in this process, which costs that once.
"""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support import inspected_here

from memexp import (
    Condition,
    Forget,
    Full,
    LoRA,
    Model,
    ModelError,
    Pair,
    RandomInit,
    Recall,
    Recognition,
    Resources,
    SpecError,
    Study,
    Sweep,
)
from memexp import TrainedTokenizer as Trained
from memexp.plan import Forest, grow
from memexp.plan.inspection import Inspection, depth, sizes
from memexp.plan.memory import memory_per_worker
from memexp.plan.model_checks import check_forgetting, check_models
from memexp.sources import ResolvedModel, Sources

GPT2 = {"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 128}
LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "hidden_size": 32,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
BLOOM = {"model_type": "bloom", "n_layer": 1, "n_head": 2, "hidden_size": 32}


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Answer what is asked of a child process here; lists the models that were asked about."""
    asked: list[str] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def answered(models: Sequence[ResolvedModel]) -> list[dict[str, Any]]:
        asked.extend(model.name for model in models)
        return inspected_here(models)

    monkeypatch.setattr("memexp.plan.inspection._asked_of_a_child", answered)
    return asked


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, pair: Pair) -> Path:
    """Folders ``gpt2`` and ``llama`` as `save_pretrained` leaves them; copy them to spoil them."""
    from memexp.core.load import load
    from memexp.core.processes import World

    folder = tmp_path_factory.mktemp("models")
    for name, config in (("gpt2", GPT2), ("llama", LLAMA)):
        model = Model(name, tokenizer=Trained([pair.targets], 300), init=RandomInit(config))
        made = load(Sources().model(model), Full(), "float32", World.current())
        made.lm.save_pretrained(folder / name)
        made.tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A GPT-2 to spoil."""
    return Path(shutil.copytree(saved / "gpt2", tmp_path / "mine"))


def forest(pair: Pair, *models: Model, **fields: Any) -> Forest:
    study = {"exposures": 1, "lr": 1e-3, "block_size": fields.pop("block_size", 128)} | {
        name: fields.pop(name) for name in ("exposures",) if name in fields
    }
    known = {"study": Study(pair.targets, **study), "probes": [Recall()]} | fields
    return grow(Condition(model, **known) for model in models)


def inspect(pair: Pair, *models: Model, **fields: Any) -> list[Inspection]:
    grown = forest(pair, *models, **fields)
    resolved = [grown.path(ask.stage)[0].model for ask in grown.asks]
    found = check_models(grown, resolved)
    return [found[model.id] for model in resolved]


def complaint(pair: Pair, model: Model, **fields: Any) -> str:
    with pytest.raises(ModelError) as error:
        inspect(pair, model, **fields)
    text = str(error.value)
    assert "\n" not in text and len(text) < 500, text
    return text


def random(pair: Pair, config: dict[str, Any], name: str = "new") -> Model:
    return Model(name, tokenizer=Trained([pair.targets], 300), init=RandomInit(config))


def configure(folder: Path, **fields: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


class Harmless:
    """What a weights file must not bring with it; here it does nothing."""


def pickled_weights(file: Path, **extra: Any) -> dict[str, Any]:
    """Write weights for the configuration beside `file`; returns them."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(file.parent)
    held = {**AutoModelForCausalLM.from_config(config).state_dict(), **extra}
    torch.save(held, file)
    return held


# The child process


@pytest.mark.child
def test_a_child_process_answers_for_all_models_at_once(
    pair: Pair, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("six", "queue", "safetensors"):  # somebody's own beside a sweep are not imported
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported by mistake')")
    monkeypatch.chdir(tmp_path)
    models = [Model(str(saved / "gpt2")), Model(str(saved / "llama")), random(pair, BLOOM, "bloom")]
    grown = forest(pair, *models)
    found = inspect(pair, *models)
    assert [inspection.context for inspection in found] == [128, 256, None]
    assert all(inspection.parameters > 10_000 and inspection.linear > 500 for inspection in found)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(subprocess, "run", never)
    assert inspect(pair, *models) == found  # remembered
    stages = {ask.settings["model"]: grown.path(ask.stage)[0].model for ask in grown.asks}
    counted = sizes(list(stages.values()))
    assert [counted[stages[name].id].parameters for name in ("gpt2", "llama", "bloom")] == [
        inspection.parameters for inspection in found
    ]


@pytest.mark.child
def test_a_child_that_dies_is_one_line(pair: Pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    dead = subprocess.CompletedProcess([], 1, b"", b"Traceback (most recent call last):\nMemoryError: no more\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: dead)
    assert complaint(pair, random(pair, GPT2)) == "inspecting new failed: MemoryError: no more"


# What is known


def test_headers_count_what_the_model_has(pair: Pair, saved: Path, in_process: list[str]) -> None:
    """GPT-2's output head is its embedding and counts once; this Llama has both."""
    models = [Model(str(saved / name)) for name in ("gpt2", "llama")]
    thorough = inspect(pair, *models)
    assert in_process == ["gpt2", "llama"]
    grown = forest(pair, *models)
    resolved = [grown.path(ask.stage)[0].model for ask in grown.asks]
    quick = sizes(resolved)
    assert in_process == ["gpt2", "llama"]  # not asked again
    assert [quick[model.id].parameters for model in resolved] == [each.parameters for each in thorough]


def test_linear_extents_leave_out_the_head(pair: Pair, in_process: list[str]) -> None:
    [gpt2, llama] = inspect(pair, random(pair, GPT2, "gpt2"), random(pair, LLAMA, "llama"))
    assert gpt2.linear == 2 * ((32 + 96) + (32 + 32) + (32 + 128) + (128 + 32))
    assert llama.linear == 2 * ((32 + 32) + 2 * (32 + 16) + (32 + 32) + 3 * (32 + 64))


def test_memory_is_shared_among_workers(pair: Pair) -> None:
    inspection = Inspection(parameters=1_000_000, linear=10_000, context=None)
    model = random(pair, GPT2)
    full, lora = (forest(pair, model, method=method) for method in (Full(), LoRA(r=4)))
    stages = [next(iter(grown.stages.values())) for grown in (full, lora)]
    assert memory_per_worker(inspection, stages[0].method, Resources()) == 4 * 4 * 1_000_000
    assert memory_per_worker(inspection, stages[1].method, Resources()) == 4 * (1_000_000 + 4 * 4 * 10_000)
    for stage in stages:
        whole = memory_per_worker(inspection, stage.method, Resources())
        assert memory_per_worker(inspection, stage.method, Resources(workers=2)) == whole // 2
    unknown = Inspection(parameters=1_000_000, linear=0, context=None)
    assert 4_000_000 < memory_per_worker(unknown, stages[1].method, Resources()) < 5_000_000


# What is refused


def test_an_unknown_architecture(pair: Pair, folder: Path, in_process: list[str]) -> None:
    configure(folder, model_type="mammoth")
    expected = "model 'mine': transformers does not know the architecture 'mammoth'"
    assert complaint(pair, Model(str(folder))) == expected
    assert "mammoth" in complaint(pair, random(pair, {"model_type": "mammoth"}))


def test_remote_code(pair: Pair, folder: Path, in_process: list[str]) -> None:
    auto_map = {"AutoConfig": "configuration.Mine", "AutoModelForCausalLM": "modeling.Mine"}
    configure(folder, model_type="mammoth", auto_map=auto_map)
    (folder / "configuration.py").write_text("raise SystemExit('executed')")
    assert complaint(pair, Model(str(folder))).startswith(
        "model 'mine' needs remote code (auto_map in its config.json)"
    )
    configure(folder, model_type="gpt2")  # what transformers knows by itself needs no code, whatever comes along
    assert inspect(pair, Model(str(folder)))[0].context == 128


def test_remote_code_of_a_tokenizer(pair: Pair, folder: Path, in_process: list[str]) -> None:
    (folder / "tokenizer.json").unlink()
    auto_map = {"AutoTokenizer": ["tokenization.Mine", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Mine", "auto_map": auto_map}))
    (folder / "tokenization.py").write_text("raise SystemExit('executed')")
    assert complaint(pair, Model(str(folder))).startswith("model 'mine': its tokenizer cannot be loaded")


def test_a_model_that_is_no_causal_lm(pair: Pair, folder: Path, in_process: list[str]) -> None:
    configure(folder, model_type="vit")
    assert complaint(pair, Model(str(folder))) == "model 'mine': the architecture 'vit' is no causal language model"


def test_unrestricted_unpickling(pair: Pair, folder: Path, in_process: list[str]) -> None:
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    pickled_weights(file, extra=Harmless())
    expected = f"{file} would need unrestricted unpickling, which executes code; convert it to safetensors"
    assert complaint(pair, Model(str(folder))) == expected
    file.write_bytes(pickle.dumps({"a": Harmless()}, protocol=2))  # as before torch 1.6, no archive
    assert complaint(pair, Model(str(folder))) == expected
    pickled_weights(file)
    assert inspect(pair, Model(str(folder)))[0].context == 128


def test_weights_that_were_cut_off(pair: Pair, folder: Path, in_process: list[str]) -> None:
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for size in (4, 1000, len(whole) - 1):
        file.write_bytes(whole[:size])
        assert complaint(pair, Model(str(folder))).startswith(f"model 'mine': {file} is not a whole safetensors file")
    file.unlink()
    file = folder / "pytorch_model.bin"
    pickled_weights(file)
    file.write_bytes(file.read_bytes()[:-100])
    assert not zipfile.is_zipfile(file)
    assert str(file) in complaint(pair, Model(str(folder)))


def test_what_is_wrong_with_pickles(pair: Pair, folder: Path, in_process: list[str]) -> None:
    """Before anything is started, as with safetensors; the message of torch would have one unpickle without limits."""
    import torch

    file = folder / "pytorch_model.bin"
    held = pickled_weights(file)
    (folder / "model.safetensors").unlink()
    whole = file.read_bytes()
    for content in (b"", b"version https://git-lfs.github.com/spec/v1\n", whole[:5000]):
        file.write_bytes(content)
        text = complaint(pair, Model(str(folder)))
        assert text.startswith(f"{file}: no") and "copy or save the model again" in text and "unpickl" not in text
    file.write_bytes(whole)
    held.pop("transformer.ln_f.bias")
    for content, expected in (
        (held, "model 'mine': its weights lack 1 parameters, among them transformer.ln_f.bias"),
        ({"state_dict": held}, f"{file}: no tensors by their names; save the model with save_pretrained"),
        ([1, 2], f"{file}: no tensors by their names; save the model with save_pretrained"),
    ):
        torch.save(content, file)
        assert complaint(pair, Model(str(folder))) == expected
    file.write_bytes(whole)
    configure(folder, n_layer=1)
    assert "a block beyond those of its config.json" in complaint(pair, Model(str(folder)))
    configure(folder, n_layer=2)
    assert inspect(pair, Model(str(folder)))[0].blocks == 2


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_parts_without_an_index(suffix: str, pair: Pair, folder: Path, in_process: list[str]) -> None:
    pickled_weights(folder / "pytorch_model.bin")
    single = "model.safetensors" if suffix == "safetensors" else "pytorch_model.bin"
    part = folder / f"{single.partition('.')[0]}-00001-of-00001.{suffix}"
    shutil.move(folder / single, part)
    for other in {folder / "model.safetensors", folder / "pytorch_model.bin"}:
        other.unlink(missing_ok=True)
    assert complaint(pair, Model(str(folder))) == (
        f"model 'mine': {part} is there, but neither {single} nor {single}.index.json, which names its parts; copy or "
        "save the model again"
    )
    if suffix == "bin":
        listed = {"a": part.name, "b": "pytorch_model-00002-of-00002.bin"}
        (folder / f"{single}.index.json").write_text(json.dumps({"weight_map": listed}))
        assert "names pytorch_model-00002-of-00002.bin, which is not there; copy" in complaint(pair, Model(str(folder)))


def test_no_weights(pair: Pair, folder: Path, in_process: list[str]) -> None:
    (folder / "model.safetensors").unlink()
    assert "holds no weights" in complaint(pair, Model(str(folder)))


def test_no_tokenizer(pair: Pair, folder: Path, in_process: list[str]) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    text = complaint(pair, Model(str(folder)))
    assert text.startswith("model 'mine': ") and "tokenizer" in text


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (GPT2 | {"n_head": 3}, "divisible"),
        (GPT2 | {"n_embd": -32}, ""),
        (GPT2 | {"n_layer": "two"}, ""),
        (GPT2 | {"activation_function": "sharp"}, "sharp"),
        (GPT2 | {"vocab_size": 100}, "vocab_size 100 is below the tokenizer's"),
    ],
)
def test_an_impossible_configuration(pair: Pair, config: dict[str, Any], expected: str, in_process: list[str]) -> None:
    text = complaint(pair, random(pair, config))
    assert text.startswith("model 'new': ") and expected in text


def test_texts_longer_than_the_context(pair: Pair, in_process: list[str]) -> None:
    model = random(pair, GPT2)
    assert complaint(pair, model, block_size=129) == "Study.block_size 129 exceeds the context of 'new' (128)"
    expected = "Recall.block_size 129 exceeds the context of 'new' (128)"
    assert complaint(pair, model, probes=[Recall(block_size=129)]) == expected
    assert complaint(pair, model, block_size=129, exposures=0) == expected
    expected = "Recognition.block_size 4096 exceeds the context of 'new' (128)"
    assert complaint(pair, model, probes=[Recognition(pair, block_size=4096)]) == expected
    inspect(pair, model, block_size=128)
    inspect(pair, random(pair, BLOOM), block_size=4096)


def test_a_plan_refuses_what_a_configuration_says_does_not_fit(
    pair: Pair, saved: Path, tmp_path: Path, in_process: list[str]
) -> None:
    def plan(model: Model, block_size: int, **fields: Any) -> None:
        study = Study(pair.targets, exposures=1, lr=1e-3, block_size=block_size)
        Sweep("long", [Condition(model, study, **{"probes": [Recall()]} | fields)]).plan(tmp_path / "results")

    for model, context in ((Model(str(saved / "gpt2")), 128), (random(pair, LLAMA), 256), (Model("tiny-s"), 256)):
        name = Path(model.name).name
        with pytest.raises(ModelError) as error:
            plan(model, context + 1)
        assert str(error.value) == f"Study.block_size {context + 1} exceeds the context of {name!r} ({context})"
        with pytest.raises(ModelError, match=rf"Recognition.block_size 4096 exceeds the context of {name!r}"):
            plan(model, context, probes=[Recognition(pair, block_size=4096)])
        assert not in_process, "known without torch"
    plan(Model("tiny-s"), 256)
    plan(random(pair, BLOOM), 4096)  # knows no limit


# Forgetting layers

OUTSIDE = [
    (Forget(from_layer=2), "Forget.from_layer: 2 is outside model 'new', which has 2 blocks; at most 1"),
    (Forget(below_layer=3), "Forget.below_layer: 3 is outside model 'new', which has 2 blocks; at most 2"),
]
INSIDE = [Forget(from_layer=0), Forget(from_layer=1), Forget(below_layer=1), Forget(below_layer=2), Forget()]


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_a_forgetting_layer_outside_the_model_is_refused_from_its_configuration(
    config: dict[str, Any], pair: Pair, in_process: list[str]
) -> None:
    model = random(pair, config)
    for forget, expected in OUTSIDE:
        with pytest.raises(SpecError) as error:
            check_forgetting(forest(pair, model, forget=forget))
        assert str(error.value) == expected
    for forget in INSIDE:
        check_forgetting(forest(pair, model, forget=forget))
    assert not in_process


def test_a_configuration_that_leaves_the_depth_out_is_asked_of_transformers(pair: Pair, in_process: list[str]) -> None:
    model = random(pair, {name: value for name, value in GPT2.items() if name != "n_layer"})  # 12 by default
    check_forgetting(forest(pair, model, forget=Forget(from_layer=11)))
    with pytest.raises(SpecError, match="12 is outside model 'new', which has 12 blocks; at most 11"):
        check_forgetting(forest(pair, model, forget=Forget(from_layer=12)))
    assert in_process == ["new"]


def test_a_sweep_refuses_it_before_anything_else(pair: Pair) -> None:
    study = Study(pair.targets, exposures=1, lr=1e-3)
    conditions = [Condition(Model("tiny-s"), study, probes=[Recall()], forget=Forget(from_layer=4))]
    with pytest.raises(SpecError, match="4 is outside model 'tiny-s', which has 4 blocks; at most 3"):
        Sweep(name="outside", conditions=conditions).plan()


@pytest.mark.parametrize("target", ["q_proj", "self_attn.q_proj", "layers.0.self_attn.q_proj"])
def test_lora_targets_that_a_model_has(pair: Pair, target: str, in_process: list[str]) -> None:
    inspect(pair, random(pair, LLAMA), method=LoRA(targets=[target]))


@pytest.mark.parametrize(
    ("target", "hint"), [("q_prj", "did you mean 'q_proj'?"), ("c_attn", "it has"), ("proj", "did you mean")]
)
def test_a_lora_target_that_matches_nothing(pair: Pair, target: str, hint: str, in_process: list[str]) -> None:
    with pytest.raises(SpecError) as error:
        inspect(pair, random(pair, LLAMA), method=LoRA(targets=["q_proj", target]))
    assert f"LoRA.targets: model 'new' has no module {target!r}; {hint}" in str(error.value)


def test_depth_is_the_number_of_blocks(pair: Pair, saved: Path, in_process: list[str]) -> None:
    assert depth("tiny-s") == 4 and depth("tiny-l") == 6 and depth(str(saved / "gpt2")) == 2
    assert not in_process  # their configurations say so
    assert depth(random(pair, BLOOM)) == 1
