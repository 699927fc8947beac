"""Models: drawn or loaded as described, with an adapter or without, and refused in one line where they cannot be."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from core.small import (
    ARCHITECTURES,
    CONFIGS,
    FOILS,
    NO_DROPOUT,
    PEAKED,
    TARGETS,
    TOKENIZER,
    bos_tokenizer,
    language_model,
    weights,
)
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from memexp.core.data import encode, right_padded
from memexp.core.load import load
from memexp.core.model import LanguageModel, blocks, set_dropout
from memexp.core.optimizer import fresh_optimizer
from memexp.core.processes import World
from memexp.core.session import Session
from memexp.errors import MemexpError, ModelError, SpecError
from memexp.sources import Sources
from memexp.spec import Full, LoRA, Model, RandomInit, ShippedText, Study

pytestmark = pytest.mark.filterwarnings(
    "ignore:fan_in_fan_out",  # peft sets it right by itself
    "ignore:.*is_gradient_checkpointing",  # transformers on itself
)

STUDY = Study(ShippedText("sentences-targets", first=64), exposures=1, lr=1e-2)


def from_folder(folder: Path | str, **options: Any) -> LanguageModel:
    return load(Sources().model(Model(str(folder), **options)), Full(), "float32", World.current())


def differing(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> set[str]:
    assert a.keys() == b.keys()
    return {name for name in a if not torch.equal(a[name], b[name])}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 with its tokenizer as transformers saves them."""
    folder = tmp_path_factory.mktemp("saved") / "gpt2"
    lm = language_model("gpt2", seed=7, initializer_range=PEAKED)
    lm.lm.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """The same, to be spoilt."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


# Tokenizers


def test_a_trained_tokenizer_gives_every_text_back() -> None:
    session = Session(language_model("gpt2"))
    texts = [*TARGETS, *FOILS, "naïve café, 東京 and 🦊", "two  spaces\tand a tab"]
    assert [text.removeprefix(" ") for text in session.decode(session.encode(texts, 512))] == texts
    assert session.tokenizer.eos_token_id == session.tokenizer.bos_token_id == 0
    assert len(session.tokenizer) == TOKENIZER.vocab_size


def test_a_tokenizer_of_its_own_replaces_the_models(tmp_path: Path) -> None:
    lm = language_model("gemma", tokenizer=bos_tokenizer(tmp_path / "bos"))
    row = encode(lm.tokenizer, TARGETS[:1], 128)[0]
    assert row[0] == lm.tokenizer.bos_token_id == lm.lm.config.bos_token_id != lm.tokenizer.eos_token_id
    assert len(row) == len(encode(language_model("gemma").tokenizer, TARGETS[:1], 128)[0]) + 1


# Random weights


def test_random_weights_come_from_their_seed_alone() -> None:
    first = weights(language_model("llama", seed=1))
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert not differing(first, weights(language_model("llama", seed=1)))
    assert torch.equal(torch.get_rng_state(), state)
    matrices = {name for name, weight in first.items() if weight.ndim > 1}
    assert differing(first, weights(language_model("llama", seed=2))) == matrices


def test_random_weights_are_drawn_even_where_weights_lie(saved: Path) -> None:
    """Upstream's scripts took `--use_pretrained_weights False` for true."""
    config = json.loads((saved / "config.json").read_text())
    init = RandomInit(config=str(saved), seed=3)
    drawn = load(Sources().model(Model("scratch", tokenizer=str(saved), init=init)), Full(), "float32", World.current())
    named = weights(drawn)
    assert {name for name, w in named.items() if w.ndim > 1} <= differing(named, weights(from_folder(saved)))
    same = {name: value for name, value in config.items() if name not in ("architectures", "dtype")}
    init = RandomInit(config=same, seed=3)
    again = load(Sources().model(Model("scratch", tokenizer=str(saved), init=init)), Full(), "float32", World.current())
    assert not differing(named, weights(again))


def test_a_token_of_the_text_that_would_never_learn_is_refused() -> None:
    """OPT pads with token 1, which to a tokenizer of one's own is an exclamation mark."""
    with pytest.raises(ModelError, match=r"opt takes token 1 \('!'\) for padding, .*; give pad_token_id in RandomInit"):
        language_model("opt", pad_token_id=1)
    assert language_model("opt", pad_token_id=None).lm.get_input_embeddings().padding_idx is None
    assert language_model("opt", pad_token_id=0).lm.config.pad_token_id == 0  # the token that ends a text


def test_a_config_takes_its_vocabulary_from_the_tokenizer() -> None:
    config = language_model("gpt2").lm.config
    assert (config.vocab_size, config.eos_token_id, config.bos_token_id) == (600, 0, 0)
    assert language_model("gpt2", vocab_size=640).lm.config.vocab_size == 640
    with pytest.raises(ModelError, match="vocab_size 10 is below the tokenizer's 600 tokens"):
        language_model("gpt2", vocab_size=10)


# Pretrained weights


def test_safetensors_in_half_precision_learn_in_single(copy: Path, saved: Path) -> None:
    file = copy / "model.safetensors"
    half = {name: weight.half() for name, weight in load_file(file).items()}
    save_file(half, file, metadata={"format": "pt"})
    edit_config(copy, dtype="float16")
    found, exact = weights(from_folder(copy)), weights(from_folder(saved))
    assert {weight.dtype for weight in found.values()} == {torch.float32}
    assert all(torch.equal(found[name], exact[name].half().float()) for name in exact)


def test_a_bin_file_of_tensors_is_loaded(copy: Path, saved: Path) -> None:
    state = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(state, copy / "pytorch_model.bin")
    assert not differing(weights(from_folder(copy)), weights(from_folder(saved)))


HUB = """
import sys, torch
from memexp.core.load import load
from memexp.core.processes import World
from memexp.sources import Sources
from memexp.spec import Full, Model
model = Sources().model(Model("org/tiny", revision=sys.argv[1]))
lm = load(model, Full(), "float32", World.current())
torch.save([model.commit, dict(lm.lm.state_dict())], sys.argv[2])
"""


def test_a_hub_model_is_loaded_from_the_cache_without_the_hub(saved: Path, tmp_path: Path) -> None:
    commits = {"main": "a" * 40, "old": "b" * 40}
    repo = tmp_path / "hub" / "models--org--tiny"
    for name, commit in commits.items():
        shutil.copytree(saved, repo / "snapshots" / commit)
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / name).write_text(commit)
    save_file(  # one revision has other weights
        {name: weight + 1 for name, weight in load_file(saved / "model.safetensors").items()},
        repo / "snapshots" / commits["main"] / "model.safetensors",
        metadata={"format": "pt"},
    )
    subprocess.run(
        [sys.executable, "-c", HUB, "old", tmp_path / "found"],
        env={**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        check=True,
        timeout=120,
    )
    commit, state = torch.load(tmp_path / "found")
    assert commit == commits["old"]
    assert not differing(state, dict(from_folder(saved).lm.state_dict()))


# Refusals


class Malice:
    """Unpickled without restriction it would leave a file behind."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(os.environ["MALICE"]),))


def cut_off(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def half_a_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes((folder / "pytorch_model.bin").read_bytes()[:3000])


def malicious(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"x": Malice()}, folder / "pytorch_model.bin")


def malicious_old_style(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Malice()))


def remote_code(folder: Path) -> None:
    edit_config(folder, model_type="mine", auto_map={"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"})
    (folder / "mine.py").write_text("import os, pathlib\npathlib.Path(os.environ['MALICE']).touch()\n")


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


REFUSED: list[tuple[Callable[[Path], Any], str]] = [
    (cut_off, "is not a whole safetensors file: 5,000 bytes, its header says"),
    (no_weights, "no file named model.safetensors"),
    (half_a_pickle, "cannot be loaded"),
    (malicious, "unrestricted unpickling"),
    (malicious_old_style, "unrestricted unpickling"),
    (remote_code, "cannot be loaded"),
    (no_tokenizer, "no tokenizer files"),
    (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer cannot be loaded"),
    (lambda folder: edit_config(folder, model_type="nonsense"), "does not recognize this architecture"),
    (lambda folder: edit_config(folder, model_type="vit"), "AutoModelForCausalLM"),
    (lambda folder: edit_config(folder, n_embd=64), "cannot be loaded"),
    (lambda folder: edit_config(folder, n_head=5), "divisible by num_heads"),
    (lambda folder: edit_config(folder, n_layer="two"), "n_layer"),
    (lambda folder: edit_config(folder, n_layer=3), "lack 12 parameters, among them transformer.h.2"),
]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(("spoil", "reason"), REFUSED)
def test_what_cannot_be_loaded_is_refused_in_one_line(
    spoil: Callable[[Path], Any], reason: str, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MALICE", str(tmp_path / "executed"))
    spoil(copy)
    with pytest.raises(ModelError, match=reason) as error:
        from_folder(copy)
    assert "\n" not in str(error.value) and "'copy'" in str(error.value)
    assert not (tmp_path / "executed").exists()


def test_a_folder_this_node_does_not_see_is_refused(copy: Path) -> None:
    model = Sources().model(Model(str(copy)))
    shutil.rmtree(copy)
    with pytest.raises(ModelError, match="does not exist on this node"):
        load(model, Full(), "float32", World.current())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"n_embd": 33}, "divisible by num_heads"), ({"n_embd": "wide"}, "expected int"), ({"n_layer": 2.5}, "n_layer")],
)
def test_a_config_that_makes_no_model_is_refused_in_one_line(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason) as error:
        language_model("gpt2", **changes)
    assert "\n" not in str(error.value)


# Adapters


def one_step(lm: LanguageModel) -> None:
    rows = encode(lm.tokenizer, TARGETS[:4], 64)
    optimizer = fresh_optimizer(lm, STUDY)
    lm.nll(torch.from_numpy(right_padded(rows)), torch.tensor([len(row) for row in rows])).mean().backward()
    optimizer.step()


def test_an_adapter_in_place_of_a_model_is_refused(copy: Path, tmp_path: Path) -> None:
    """transformers loads such a folder's base from wherever the adapter says, which no identity knows of."""
    tuned = Path(shutil.copytree(copy, tmp_path / "tuned"))
    base = AutoModelForCausalLM.from_pretrained(copy)
    get_peft_model(base, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")).save_pretrained(tuned)
    with pytest.raises(ModelError, match="model 'tuned' is an adapter to another model; merge it into the weights"):
        from_folder(tuned)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_only_the_adapter_learns(architecture: str) -> None:
    lm = language_model(architecture, LoRA(r=4))
    before = weights(lm)
    one_step(lm)
    changed = differing(before, weights(lm))
    assert changed and all("lora_" in name for name in changed)
    # B is zero at first, so the first step moves B alone; A follows with the second.
    assert changed == {name for name in before if "lora_B" in name}
    one_step(lm)
    assert differing(before, weights(lm)) == set(lm.learning()) == {name for name in before if "lora_" in name}


def test_everything_learns_in_full_finetuning() -> None:
    lm = language_model("llama")
    before = weights(lm)
    one_step(lm)
    assert set(lm.learning()) == set(before)
    assert differing(before, weights(lm)) == set(before)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_fresh_adapter_changes_nothing(architecture: str) -> None:
    plain, adapted = language_model(architecture), language_model(architecture, LoRA(r=4, rslora=True))
    assert adapted._plain_head
    rows = encode(plain.tokenizer, TARGETS[:6], 64)
    for a, b in zip(Session(plain).token_nlls(rows), Session(adapted).token_nlls(rows), strict=True):
        assert a.tolist() == b.tolist()


def test_an_adapters_weights_come_from_its_seed() -> None:
    first, again, other = (weights(language_model("llama", LoRA(seed=seed))) for seed in (1, 1, 2))
    assert not differing(first, again)
    assert differing(first, other) == {name for name in first if "lora_A" in name}


def test_an_adapter_sits_where_it_is_put() -> None:
    everywhere = {name.split(".lora_")[0].rsplit(".", 1)[1] for name in language_model("llama", LoRA()).learning()}
    assert everywhere == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    some = language_model("llama", LoRA(targets=("q_proj", "mlp.up_proj"))).learning()
    assert {name.split(".lora_")[0].rsplit(".", 1)[1] for name in some} == {"q_proj", "up_proj"}


@pytest.mark.parametrize("targets", [("query",), ("q_proj", "query"), ("proj",), ("input_layernorm",)])
def test_a_target_that_takes_no_adapter_is_refused_in_one_line(targets: tuple[str, ...]) -> None:
    with pytest.raises(SpecError, match=r"^LoRA\.targets: ") as error:
        language_model("llama", LoRA(targets=targets))
    assert "\n" not in str(error.value)
    assert isinstance(error.value, MemexpError)


def test_a_model_without_a_cache_is_scored_and_says_why_it_cannot_recall() -> None:
    config = {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
    model = Model("mamba", tokenizer=TOKENIZER, init=RandomInit(config))
    session = Session(load(Sources().model(model), Full(), "float32", World.current()))
    rows = session.encode(TARGETS[:2], 16)
    assert [len(nll) for nll in session.token_nlls(rows)] == [len(row) - 1 for row in rows]
    with pytest.raises(ModelError, match=r"^MambaForCausalLM keeps no key-value cache, which recall"):
        session.complete(rows, [2, 2])


# Blocks and dropout


@pytest.mark.parametrize("method", [Full(), LoRA()], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_blocks_are_found_in_order(architecture: str, method: Full | LoRA) -> None:
    depth = next(name for name in CONFIGS[architecture] if name in ("n_layer", "num_layers", "num_hidden_layers"))
    more = {"attention_types": [[["global", "local", "local"], 1]]} if architecture == "gpt_neo" else {}
    lm = language_model(architecture, method, **{depth: 3}, **more)
    found = blocks(lm.lm)
    assert len(found) == 3
    called: list[int] = []
    for i, block in enumerate(found):
        block.register_forward_hook(lambda *_, i=i: called.append(i))
        # attention and MLP both: two thirds and more of a block's weights
        assert sum(parameter.numel() for parameter in block.parameters()) >= 8 * 32 * 32
    lm.nll(torch.tensor([[1, 2, 3]]), torch.tensor([3]))
    assert called == [0, 1, 2]


class Towers(torch.nn.Module):
    """Module lists of several lengths."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_hidden_layers=depth)
        self.adapters = torch.nn.ModuleList(torch.nn.Identity() for _ in range(5))
        self.layers = torch.nn.ModuleList(torch.nn.Identity() for _ in range(3))


def test_the_blocks_are_as_many_as_the_config_says() -> None:
    model: Any = Towers(3)
    assert blocks(model) is model.layers
    with pytest.raises(ModelError, match=r"^Towers: found no list of 4 blocks$"):
        model.config.num_hidden_layers = 4
        blocks(model)


EVERYWHERE = {
    "gpt2": {"attn_pdrop": 0.5, "embd_pdrop": 0.5, "resid_pdrop": 0.5},
    "gpt_neo": {"attention_dropout": 0.5, "embed_dropout": 0.5, "resid_dropout": 0.5},
    "opt": {"dropout": 0.5, "attention_dropout": 0.5},
    "llama": {"attention_dropout": 0.5},
    "gpt_neox": {"attention_dropout": 0.5, "hidden_dropout": 0.5},
    "bloom": {"attention_dropout": 0.5, "hidden_dropout": 0.5},
}


def training_loss(lm: LanguageModel) -> float:
    return seeded(0, lm)


@torch.no_grad()
def seeded(seed: int, lm: LanguageModel) -> float:
    lm.train()
    torch.manual_seed(seed)
    rows = encode(lm.tokenizer, TARGETS[:4], 64)
    return float(lm.nll(torch.from_numpy(right_padded(rows)), torch.tensor([len(row) for row in rows])).mean())


@pytest.mark.parametrize("architecture", EVERYWHERE)
def test_dropout_can_be_set_everywhere_and_given_back(architecture: str) -> None:
    """A model told to drop equals one whose config drops, with the same draws."""
    spread = {"init_std" if architecture == "opt" else "initializer_range": 0.1}
    configured = language_model(architecture, **spread, **EVERYWHERE[architecture])
    never = {name: 0.0 for name in EVERYWHERE[architecture]}
    told = language_model(architecture, **spread, **never)
    dropped, whole = training_loss(configured), training_loss(told)
    assert dropped != whole
    set_dropout(told.lm, 0.5)
    assert training_loss(told) == dropped
    set_dropout(told.lm, None)
    assert training_loss(told) == whole
    set_dropout(configured.lm, 0.0)
    assert training_loss(configured) == whole
    set_dropout(configured.lm, 0.25)
    assert training_loss(configured) not in (whole, dropped)
    set_dropout(configured.lm, None)
    assert training_loss(configured) == dropped


@pytest.mark.parametrize("architecture", ["gpt2", "opt"])
def test_dropout_can_be_set_where_the_config_has_an_integer(architecture: str) -> None:
    told = language_model(architecture, **dict.fromkeys(EVERYWHERE[architecture], 0))
    set_dropout(told.lm, 0.5)
    assert training_loss(told) == training_loss(language_model(architecture, **EVERYWHERE[architecture]))


def test_an_adapters_dropout_is_its_own() -> None:
    lm = language_model("gpt2", LoRA(dropout=0.5), **NO_DROPOUT["gpt2"])
    with torch.no_grad():
        for name, parameter in lm.learning().items():
            if "lora_B" in name:
                parameter.fill_(0.1)
    dropped = training_loss(lm)
    set_dropout(lm.lm, 0.0)
    assert training_loss(lm) == dropped
    lm.eval()
    adapter = [module for name, module in lm.lm.named_modules() if name.endswith("lora_dropout.default")]
    assert adapter and {module.p for module in adapter} == {0.5}
    for module in adapter:
        module.p = 0.0
    assert training_loss(lm) != dropped


def test_a_model_is_handed_over_in_evaluation_mode() -> None:
    lm = language_model("gpt2")  # whose config drops
    assert not any(module.training for module in lm.modules())


def drawn(**config: Any) -> LanguageModel:
    model = Model("drawn", tokenizer=TOKENIZER, init=RandomInit(config))
    return load(Sources().model(model), Full(), "float32", World.current())


def test_a_setting_that_is_nearly_right_is_refused() -> None:
    with pytest.raises(ModelError, match="gpt2 has no setting 'n_layers'; did you mean 'n_layer'"):
        drawn(model_type="gpt2", n_layers=2, n_embd=32, n_head=2)
    with pytest.raises(ModelError, match="did you mean 'gpt2'"):
        drawn(model_type="gpt22")


def test_a_model_that_sees_later_tokens_is_refused() -> None:
    with pytest.raises(ModelError, match="is not causal"):
        drawn(model_type="bert", hidden_size=32, num_hidden_layers=2, num_attention_heads=2)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(saved: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(saved)
    tokenizer.add_tokens([f"<extra{i}>" for i in range(1000)])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="more than its embeddings"):
        from_folder(saved, tokenizer=str(tmp_path))


def test_dropout_that_is_read_from_the_configuration_is_set_too() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    lm = drawn(model_type="falcon", **sizes, hidden_dropout=0.5, attention_dropout=0.5, parallel_attn=False)
    assert len({training_loss(lm), seeded(1, lm)}) == 2
    set_dropout(lm.lm, 0.0)
    assert len({training_loss(lm), seeded(1, lm)}) == 1
    set_dropout(lm.lm, None)
    assert len({training_loss(lm), seeded(1, lm)}) == 2
