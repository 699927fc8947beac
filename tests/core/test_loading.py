"""Weights are read by their headers, into models without any: the same as transformers loads, or refused in a line."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

import pytest
import torch
from core.small import ARCHITECTURES, CONFIGS, language_model, resolved
from core.test_unusual import CPMANT, MINIMAX
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2PreTrainedModel

import memexp.core.inspect
import memexp.core.likeness
import memexp.core.load
from memexp.core.adapter import add_adapter
from memexp.core.drawing import drawn_parts
from memexp.core.hollow import hollow
from memexp.core.likeness import likeness
from memexp.core.load import load, random_config
from memexp.core.model import LanguageModel
from memexp.core.processes import World
from memexp.core.ranks import evened
from memexp.core.tokenizer import load_tokenizer
from memexp.errors import ModelError
from memexp.sources import Sources, check_weights, stored
from memexp.spec import Full, LoRA, Model

pytestmark = pytest.mark.filterwarnings(
    "ignore:fan_in_fan_out",  # peft sets it right by itself
    "ignore:.*is_gradient_checkpointing",  # transformers on itself
)

OTHERS: dict[str, dict[str, Any]] = {
    "minimax": MINIMAX,
    "cpmant": CPMANT,
    "bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    "mixtral": {**CONFIGS["llama"], "num_local_experts": 2},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    "granite": {**CONFIGS["llama"], "logits_scaling": 2.0},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2},
    "codegen": {"n_layer": 2, "n_embd": 32, "n_head": 4, "rotary_dim": 4, "n_positions": 160},
}
WIDE: dict[str, dict[str, Any]] = {
    "gpt_neo": {"num_layers": 6, "attention_types": [[["global", "local"], 3]], "hidden_size": 64, "num_heads": 8},
    "gemma2": {"num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 4},
    "llama": {"num_hidden_layers": 5, "num_attention_heads": 8, "num_key_value_heads": 4, "hidden_size": 64},
    "opt": {"word_embed_proj_dim": 16},
}
"""Such that a likeness is smaller."""


def saved_as(folder: Path, architecture: str, **options: Any) -> Path:
    lm = language_model(architecture, seed=5)
    lm.lm.save_pretrained(folder, **options)
    lm.tokenizer.save_pretrained(folder)
    return folder


def from_folder(folder: Path, method: Full | LoRA = Full()) -> LanguageModel:  # noqa: B008 - frozen
    return load(Sources().model(Model(str(folder))), method, "float32", World.current())


def tensors(lm: nn.Module) -> dict[str, Tensor]:
    """All there are, buffers that are not saved among them."""
    return dict(lm.named_parameters(remove_duplicate=False)) | dict(lm.named_buffers())


def assert_same(found: nn.Module, expected: nn.Module) -> None:
    ours, theirs = tensors(found), tensors(expected)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name].dtype != theirs[name].dtype] == []
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.fixture
def otherwise(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is loaded as transformers loads it."""
    found: list[str] = []
    plain = memexp.core.load._pretrained

    def pretrained(model: Any, source: str) -> Any:
        found.append(source)
        return plain(model, source)

    monkeypatch.setattr(memexp.core.load, "_pretrained", pretrained)
    return found


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gemma2"])
def test_what_is_read_is_what_transformers_loads(architecture: str, tmp_path: Path, otherwise: list[str]) -> None:
    folder = saved_as(tmp_path / "model", architecture)
    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    lm = from_folder(folder)
    assert_same(lm.lm, expected)
    assert otherwise == []
    assert lm.lm.generation_config.to_dict() == expected.generation_config.to_dict()
    assert all(lm.lm.get_parameter(name) is one for name, one in lm.lm.named_parameters())


@pytest.mark.parametrize("parts", [1, 2])
def test_pickles_are_read_as_they_lie(parts: int, tmp_path: Path, otherwise: list[str]) -> None:
    """In half precision, and with both names of what is tied, as they mostly are."""
    folder = saved_as(tmp_path / "model", "gpt2")
    held = {name: one.half() for name, one in load_file(folder / "model.safetensors").items()}
    held["lm_head.weight"] = held["transformer.wte.weight"]
    (folder / "model.safetensors").unlink()
    names = sorted(held, key=lambda name: "h.0" in name)
    if parts == 1:
        torch.save(held, folder / "pytorch_model.bin")
    else:
        files = {name: f"pytorch_model-{1 + ('h.0' in name)}.bin" for name in names}
        for file in set(files.values()):
            torch.save({name: held[name] for name in names if files[name] == file}, folder / file)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files, "metadata": {}}))
    assert_same(from_folder(folder).lm, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    assert otherwise == []


def test_experts_that_are_saved_one_by_one_are_left_to_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, otherwise: list[str]
) -> None:
    monkeypatch.setitem(CONFIGS, "mixtral", OTHERS["mixtral"])
    folder = saved_as(tmp_path / "model", "mixtral")
    assert any(".experts.1." in name for name in load_file(folder / "model.safetensors"))
    assert_same(from_folder(folder).lm, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    assert len(otherwise) == 1


def test_a_checkpoint_of_the_base_model_has_other_names(tmp_path: Path, otherwise: list[str]) -> None:
    folder = saved_as(tmp_path / "model", "gpt2")
    file = folder / "model.safetensors"
    save_file({name.removeprefix("transformer."): one for name, one in load_file(file).items()}, file, {"format": "pt"})
    assert_same(from_folder(folder).lm, language_model("gpt2", seed=5).lm)
    assert otherwise == []


def test_what_is_tied_and_yet_saved_twice_is_left_to_transformers(tmp_path: Path, otherwise: list[str]) -> None:
    """Which unties what differs."""
    folder = saved_as(tmp_path / "model", "gpt2")
    file = folder / "model.safetensors"
    held = load_file(file)
    save_file({**held, "lm_head.weight": held["transformer.wte.weight"] + 1}, file, {"format": "pt"})
    lm = from_folder(folder).lm
    assert torch.equal(lm.lm_head.weight, lm.transformer.wte.weight + 1)
    assert len(otherwise) == 1


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_an_adapter_is_drawn_as_on_a_model_with_weights(architecture: str, tmp_path: Path) -> None:
    folder = saved_as(tmp_path / "model", architecture)
    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    add_adapter(expected, LoRA(r=3, seed=4))
    found = from_folder(folder, LoRA(r=3, seed=4)).lm
    assert_same(found, expected)
    frozen = {name: one.requires_grad for name, one in found.named_parameters()}
    assert frozen == {name: one.requires_grad for name, one in expected.named_parameters()}
    assert len(set(frozen.values())) == 2


def test_a_hollow_model_draws_nothing_and_has_its_buffers() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    lm = hollow(language_model("llama").lm.config)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.is_meta for parameter in lm.parameters())
    assert not any(buffer.is_meta for buffer in lm.buffers()) and list(lm.buffers())
    assert nn.Linear(2, 2).weight.device.type == "cpu"  # made afterwards


@pytest.mark.parametrize("architecture", [*CONFIGS, *OTHERS])
def test_parts_that_ranks_draw_are_those_of_the_whole(architecture: str) -> None:
    tokenizer = load_tokenizer(resolved("gpt2").tokenizer, "gpt2")
    given = {"model_type": architecture, **{**CONFIGS, **OTHERS}[architecture]}
    if architecture == "gpt2":
        given["vocab_size"] = 601  # three ranks cannot have a third of it each

    def config() -> Any:  # from_config writes into it
        return random_config(architecture, given, tokenizer)

    torch.manual_seed(4)
    whole = AutoModelForCausalLM.from_config(config(), dtype=torch.float32)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    parts = [drawn_parts(config(), 4, World(rank, 3, torch.device("cpu"))) for rank in range(3)]
    assert torch.equal(torch.get_rng_state(), before)
    if architecture == "bert":  # pads a bias that is tied
        assert parts == [None] * 3
        return
    own = [part for part in parts if part is not None]
    for name, parameter in whole.named_parameters():
        assert torch.equal(torch.cat([part[name] for part in own]), parameter), name
    saved = {name: one for name, one in whole.named_buffers() if name in whole.state_dict()}
    assert all(torch.equal(part[name], one) for part in own for name, one in saved.items())
    assert drawn_parts(config(), 5, World(0, 1, torch.device("cpu"))) is not None


def test_what_comes_back_to_a_part_is_not_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    kind: Any = GPT2PreTrainedModel
    plain = kind.init_weights

    def init_weights(self: Any) -> None:
        plain(self)
        with torch.no_grad():
            self.get_input_embeddings().weight[3:5].zero_()

    monkeypatch.setattr(kind, "init_weights", init_weights)
    config = language_model("gpt2").lm.config
    assert drawn_parts(config, 4, World(0, 2, torch.device("cpu"))) is None


def test_what_is_given_other_memory_is_not_drawn_in_parts() -> None:
    """CTRL's head has a bias, which transformers pads, to nothing, when it ties the weight."""
    tokenizer = load_tokenizer(resolved("gpt2").tokenizer, "gpt2")
    given = {"model_type": "ctrl", "n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 160, "dff": 64}
    config = random_config("ctrl", given, tokenizer)
    assert drawn_parts(config, 4, World(0, 2, torch.device("cpu"))) is None


# Refusals

INDEX = "model.safetensors.index.json"


def edit_index(folder: Path, change: Callable[[dict[str, str]], Any]) -> None:
    said = json.loads((folder / INDEX).read_text())
    change(said["weight_map"])
    (folder / INDEX).write_text(json.dumps(said))


def missing_file(folder: Path) -> None:
    sorted(folder.glob("model-*"))[1].unlink()


def cut_shard(folder: Path) -> None:
    file = sorted(folder.glob("model-*"))[1]
    file.write_bytes(file.read_bytes()[:-1])


def other_place(folder: Path) -> None:
    files = sorted(path.name for path in folder.glob("model-*"))
    edit_index(folder, lambda listed: listed.update({"transformer.ln_f.bias": files[0]}))


def replaced(folder: Path, name: str, value: Tensor | None) -> None:
    """In the one file that has it, and out of the index where it is None."""
    for file in folder.glob("model-*"):
        held = load_file(file)
        if name in held:
            save_file(
                {**held, name: value} if value is not None else {k: v for k, v in held.items() if k != name}, file
            )
    if value is None:
        edit_index(folder, lambda listed: listed.pop(name))


def quantised(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))


def duplicate(folder: Path) -> None:
    """One tensor in both files, of which the index names the one."""
    first, second, *_ = sorted(folder.glob("model-*"))
    held = load_file(first)
    name = sorted(held)[0]
    save_file({**load_file(second), name: held[name]}, second)


def header_edited(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """What is said of the first tensor in the last file, which has several; the data stay as they are."""
    file = sorted(folder.glob("model-*"))[-1]
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    said = json.loads(data[8:end])
    change(next(entry for entry in said.values() if entry.get("data_offsets", [1])[0] == 0))
    text = json.dumps(said).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])


def shifted(entry: dict[str, Any]) -> None:
    first, last = entry["data_offsets"]
    entry["data_offsets"] = [first + 4, last + 4]


ENTRIES: list[dict[str, Any]] = [
    {"shape": [None]},
    {"shape": [2.0]},
    {"shape": "wide"},
    {"dtype": ["F32"]},
    {"data_offsets": [-8, 0]},
    {"data_offsets": [8, 4]},
    {"data_offsets": [0]},
]
"""What no header says of a tensor."""

LN, MLP = "transformer.ln_f.bias", "transformer.h.0.mlp.c_fc.weight"
BROKEN: list[tuple[Callable[[Path], Any], str]] = [
    (missing_file, "names model-00002-of-.*, which is not there"),
    (cut_shard, "model-00002-of-.* is not a whole safetensors file: [0-9,]+ bytes, its header says"),
    (lambda folder: edit_index(folder, lambda listed: listed.pop(LN)), f"lacks an entry for {LN}, which is in model-"),
    (
        lambda folder: edit_index(folder, lambda listed: listed.update(x=listed[LN])),
        "says that x is in model-.*, which",
    ),
    (other_place, f"says that {LN} is in model-00001-of-.*, which does not have it"),
    (lambda folder: edit_index(folder, lambda listed: listed.update({LN: "../x.safetensors"})), "'../x.safetensors'"),
    (lambda folder: (folder / INDEX).write_text("{}"), "is not an index of weights"),
    (quantised, "its weights are quantised .quantization_config in its config.json"),
    (lambda folder: replaced(folder, MLP, torch.zeros(32, 128, dtype=torch.int8)), f"quantised .{MLP} is I8"),
    (lambda folder: replaced(folder, MLP, torch.zeros(32, 128, dtype=torch.float8_e4m3fn)), f".{MLP} is F8_E4M3"),
    (duplicate, "is in model-00001-of-.* and in model-00002-of-.*, of which only one can count; copy or save"),
    (lambda folder: header_edited(folder, shifted), "does not begin where the tensor before it ends; copy or save"),
    *((partial(header_edited, change=methodcaller("update", one)), "is not a safetensors file") for one in ENTRIES),
]


@pytest.mark.parametrize(("spoil", "reason"), BROKEN)
def test_broken_and_quantised_weights_are_refused(spoil: Callable[[Path], Any], reason: str, tmp_path: Path) -> None:
    folder = saved_as(tmp_path / "model", "gpt2", max_shard_size="40KB")
    check_weights(Sources().model(Model(str(folder))))
    spoil(folder)
    model = Sources().model(Model(str(folder)))
    for look in (check_weights, lambda model: load(model, Full(), "float32", World.current())):
        with pytest.raises(ModelError, match=reason) as error:
            look(model)
        assert "\n" not in str(error.value) and str(error.value).startswith("model 'model': ")


def test_weights_that_lack_a_parameter_are_refused_by_both(tmp_path: Path) -> None:
    folder = saved_as(tmp_path / "model", "gpt2", max_shard_size="40KB")
    replaced(folder, LN, None)
    model = Sources().model(Model(str(folder)))
    for look in (memexp.core.inspect.inspect, lambda model: load(model, Full(), "float32", World.current())):
        with pytest.raises(ModelError, match=f"its weights lack 1 parameters, among them {LN}"):
            look(model)


def test_blocks_that_the_configuration_has_not_are_refused(tmp_path: Path) -> None:
    """transformers would go on with the first one alone; buffers with the number of a block it has are no blocks."""
    folder = saved_as(tmp_path / "model", "gpt2")
    file = folder / "model.safetensors"
    held = load_file(file)
    save_file({**held, "transformer.h.1.attn.masked_bias": torch.ones(1), "other.9.weight": torch.ones(1)}, file)
    assert_same(from_folder(folder).lm, language_model("gpt2", seed=5).lm)
    save_file(held, file, {"format": "pt"})
    edited = json.loads((folder / "config.json").read_text()) | {"n_layer": 1}
    (folder / "config.json").write_text(json.dumps(edited))
    with pytest.raises(ModelError, match=r"have transformer\.h\.1\..*, a block beyond those of its config\.json; use"):
        from_folder(folder)
    save_file({**held, "lm_head.weight": held["transformer.wte.weight"] + 1}, file, {"format": "pt"})  # transformers'
    with pytest.raises(ModelError, match="a block beyond those"):
        from_folder(folder)


def test_weights_that_are_nan_are_told_from_a_model_that_sees_the_future(tmp_path: Path) -> None:
    folder = saved_as(tmp_path / "model", "gpt2")
    file = folder / "model.safetensors"
    held = load_file(file)
    held[LN][3] = torch.nan
    save_file(held, file, {"format": "pt"})
    with pytest.raises(ModelError, match="its weights give logits that are NaN"):
        from_folder(folder)


def test_integers_in_a_pickle_are_quantised_weights(tmp_path: Path) -> None:
    folder = saved_as(tmp_path / "model", "gpt2")
    held = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    held["transformer.h.0.attn.bias"] = torch.ones(1, 1, 4, 4, dtype=torch.uint8)  # a mask
    torch.save(held, folder / "pytorch_model.bin")
    assert_same(from_folder(folder).lm, language_model("gpt2", seed=5).lm)
    for dtype in (torch.int8, torch.float8_e4m3fn):
        torch.save({**held, MLP: held[MLP].to(dtype)}, folder / "pytorch_model.bin")
        with pytest.raises(ModelError, match=f"its weights are quantised .{MLP} is {str(dtype)[6:]}.; use the model"):
            from_folder(folder)


def test_masks_of_integers_are_no_quantised_weights(tmp_path: Path) -> None:
    folder = saved_as(tmp_path / "model", "gpt2")
    file = folder / "model.safetensors"
    save_file({**load_file(file), "transformer.h.0.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.uint8)}, file)
    assert_same(from_folder(folder).lm, language_model("gpt2", seed=5).lm)


def test_where_a_tensor_lies(tmp_path: Path) -> None:
    folder = saved_as(tmp_path / "model", "gpt2")
    found = stored(Sources().model(Model(str(folder))), fetch=True)
    held = load_file(folder / "model.safetensors")
    assert found is not None and found.keys() == held.keys()
    one = found[LN]
    data = one.file.read_bytes()[one.at : one.at + 4 * 32]
    assert torch.equal(torch.frombuffer(bytearray(data), dtype=torch.float32), held[LN])


# Traits without passes over the whole model


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        *((name, {}) for name in (*CONFIGS, *OTHERS)),
        *((name, settings) for name, settings in WIDE.items()),
    ],
)
def test_a_likeness_has_the_traits_of_the_model(architecture: str, settings: dict[str, Any]) -> None:
    tokenizer = load_tokenizer(resolved("gpt2").tokenizer, "gpt2")
    given = {"model_type": architecture, **{**CONFIGS, **OTHERS}[architecture], **settings}
    torch.manual_seed(3)
    lm = AutoModelForCausalLM.from_config(random_config(architecture, given, tokenizer), dtype=torch.float32)
    small = likeness(lm)
    if architecture in ("mamba", "codegen"):  # has no heads, or as many as its tensors are cut for
        assert small is None or architecture == "codegen"
        return
    assert small is not None
    alone = World(0, 1, torch.device("cpu"))
    found, expected = (LanguageModel(one, tokenizer, alone, "float32").traits for one in (small, lm))
    assert found == expected
    if settings and architecture != "opt":
        assert len(list(small.parameters())) < len(list(lm.parameters()))
        assert small.config.hidden_size < lm.config.hidden_size or architecture == "gpt_neo"


def test_a_likeness_keeps_every_kind_of_block() -> None:
    lm = language_model("gemma2", num_hidden_layers=6, layer_types=["sliding_attention"] * 3 + ["full_attention"] * 3)
    small = likeness(hollow(lm.lm.config))
    assert small is not None
    assert small.config.layer_types == ["sliding_attention"] * 3 + ["full_attention"]


def test_a_large_model_is_not_passed_through_and_not_asked_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert language_model("gpt2", seed=11).passes == 1  # the control: a small one is
    monkeypatch.setattr(memexp.core.likeness, "SMALL", 0)
    made: list[object] = []
    monkeypatch.setattr(memexp.core.likeness, "likeness", lambda lm: made.append(lm) or likeness(lm))
    monkeypatch.setitem(CONFIGS, "minimax", MINIMAX)
    assert language_model("gpt2", seed=11).passes == 0
    assert language_model("gpt2", seed=11).passes == 0
    assert len(made) == 1
    unusual = language_model("minimax")  # is asked itself, once
    assert (unusual.passes, unusual.caches, len(made)) == (1, False, 2)
    again = language_model("minimax")
    assert (again.passes, again.traits, len(made)) == (0, unusual.traits, 2)


def test_a_large_model_that_is_not_causal_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memexp.core.likeness, "SMALL", 0)
    monkeypatch.setitem(CONFIGS, "bert", OTHERS["bert"])
    for _ in range(2):
        with pytest.raises(ModelError, match="is not causal"):
            language_model("bert")


# Work for ranks


@pytest.mark.parametrize(
    ("batches", "size", "expected"),
    [
        ([[0, 1, 2, 3]], 2, [[0, 1], [2, 3]]),
        ([[0], [1], [2, 3, 4]], 2, [[0], [1], [2, 3], [4]]),
        ([[0], [1], [2]], 2, [[0], [1], [2]]),
        ([[0, 1, 2], [3]], 4, [[0], [1], [2], [3]]),
        ([[0, 1, 2], [3, 4]], 1, [[0, 1, 2], [3, 4]]),
        ([], 2, []),
    ],
)
def test_the_last_round_is_cut_so_that_every_rank_works(
    batches: list[list[int]], size: int, expected: list[list[int]]
) -> None:
    assert evened(batches, size) == expected
