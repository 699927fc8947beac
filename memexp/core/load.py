"""Getting a model ready to learn: loaded or drawn, with or without an adapter, whole or sharded over the world's ranks.

lm = load(resolved_model, LoRA(r=8), "float32", World.current())
"""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Iterable
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.activations import FastGELUActivation, NewGELUActivation
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from memexp.core.matmul import hasten
from memexp.core.model import LanguageModel, blocks
from memexp.core.world import World
from memexp.errors import ModelError, SpecError
from memexp.sources import ResolvedModel, ResolvedTokenizer, location
from memexp.sources.tokens import END_OF_TEXT, trained
from memexp.spec import Full, LoRA

__all__ = ["REFUSALS", "load", "load_tokenizer", "random_config"]

REFUSALS = (
    *(OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, ZeroDivisionError),
    *(SafetensorError, StrictDataclassError),
)
"""What transformers and its readers raise about configurations and files that are not what they should be."""


@torch.no_grad()
def _refuse_two_way_attention(lm: PreTrainedModel, name: str) -> None:
    """A model that sees later tokens would score them with their own answer at hand."""
    lm.eval()
    first, second = (lm(input_ids=torch.tensor([[0, last]]), use_cache=False).logits[0, 0] for last in (0, 1))
    if not torch.allclose(first, second, rtol=1e-4, atol=1e-5):
        raise ModelError(f"model {name!r} is not causal: its predictions depend on the tokens that come after")


def load(model: ResolvedModel, method: Full | LoRA, dtype: str, world: World) -> LanguageModel:
    """The model in float32 with its tokenizer, ready to learn by `method`, on the world's device.

    Sharded with FSDP2, block by block, where the world has more than one rank. All ranks call.

    Raises:
        ModelError: the files are missing or broken, or would need remote code or unrestricted unpickling.
        SpecError: a LoRA target matches no module.
    """
    model.check_here()
    tokenizer = load_tokenizer(model.tokenizer, model.name)
    lm = _drawn(model, tokenizer) if model.config is not None else _pretrained(model)
    held = getattr(lm.get_input_embeddings(), "num_embeddings", len(tokenizer))
    if model.tokenizer_name is not None and len(tokenizer) > held:
        raise ModelError(f"model {model.name!r}: the tokenizer has {len(tokenizer)} tokens, more than its embeddings")
    lm.config.use_cache = False
    _fuse_activations(lm)
    if isinstance(method, LoRA):
        lm = _with_adapter(lm, method)
    if world.device.type == "cpu":
        hasten(lm)
    _refuse_two_way_attention(lm, model.name)
    if world.size == 1:
        lm.to(device=world.device)  # type: ignore[call-arg] # the decorator around it loses the keyword
    wrapped = LanguageModel(lm, tokenizer, world, dtype)
    if world.size > 1:
        # From the CPU, block by block: no device ever holds more than its shards and one whole block.
        mesh = init_device_mesh(world.device.type, (world.size,))
        for block in blocks(lm):
            fully_shard(block, mesh=mesh)
        # The root too gives its parameters back after each pass: named_parameters() then always shows the shards.
        fully_shard(wrapped, mesh=mesh, reshard_after_forward=True)
    return wrapped


def _pretrained(model: ResolvedModel) -> PreTrainedModel:
    assert model.source is not None  # resolve_model gives a source to every model without a config
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            location(model.source),
            revision=model.commit or "main",
            dtype=torch.float32,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except pickle.UnpicklingError as error:
        raise ModelError(f"model {model.name!r} would need unrestricted unpickling, which executes code") from error
    except REFUSALS as error:
        raise ModelError(f"model {model.name!r} cannot be loaded: {_one_line(error)}") from error
    lm: PreTrainedModel = loaded[0]
    if getattr(lm, "_hf_peft_config_loaded", False):  # on weights from elsewhere, of which the identity knows nothing
        raise ModelError(f"model {model.name!r} is an adapter to another model; merge it into the weights first")
    if missing := sorted(loaded[1]["missing_keys"]):  # transformers would go on with random ones
        raise ModelError(f"model {model.name!r}: its weights lack {len(missing)} parameters, among them {missing[0]}")
    return lm


def _drawn(model: ResolvedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    config = random_config(model, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.seed)
        try:
            lm: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        except REFUSALS as error:
            raise ModelError(f"model {model.name!r}: {_one_line(error)}") from error
    return lm


def random_config(model: ResolvedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    """The configuration of a model with random weights; what the description leaves out comes from the tokenizer.

    Raises ModelError where transformers does not know the architecture or refuses the values.
    """
    assert model.config is not None
    given = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    given |= {
        name: value for name, value in model.config.items() if name not in ("architectures", "dtype", "torch_dtype")
    }
    model_type = given.pop("model_type")
    if model_type not in CONFIG_MAPPING:
        near = _near(model_type, CONFIG_MAPPING)
        raise ModelError(f"model {model.name!r}: transformers does not know model_type {model_type!r}{near}")
    try:
        known = {*CONFIG_MAPPING[model_type]().to_dict(), *CONFIG_MAPPING[model_type].attribute_map}
        config: PreTrainedConfig = AutoConfig.for_model(model_type, **given)
    except REFUSALS as error:
        raise ModelError(f"model {model.name!r}: {_one_line(error)}") from error
    for name in given:
        # transformers keeps any name it is given; one that is nearly right would silently leave a default in place.
        if name not in known and (near := _near(name, known)):
            raise ModelError(f"model {model.name!r}: {model_type} has no setting {name!r}{near}")
    if config.vocab_size < len(tokenizer):
        raise ModelError(
            f"model {model.name!r}: vocab_size {config.vocab_size} is below the tokenizer's {len(tokenizer)} tokens"
        )
    pad = getattr(config, "pad_token_id", None)
    if pad is not None and pad < len(tokenizer) and pad not in tokenizer.all_special_ids:
        token = tokenizer.convert_ids_to_tokens(pad)
        raise ModelError(
            f"model {model.name!r}: {model_type} takes token {pad} ({token!r}) for padding, whose embedding would stay "
            "zero; give pad_token_id in RandomInit.config (None: nothing is padded)"
        )
    return config


def load_tokenizer(tokenizer: ResolvedTokenizer, name: str) -> PreTrainedTokenizerBase:
    """A loaded or trained tokenizer. Raises ModelError where it cannot be loaded."""
    if tokenizer.source is None:
        bpe = trained(tokenizer.texts, tokenizer.vocab_size)
        return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT)
    try:
        loaded = AutoTokenizer.from_pretrained(
            location(tokenizer.source), revision=tokenizer.commit or "main", trust_remote_code=False
        )
    except REFUSALS as error:
        raise ModelError(f"model {name!r}: its tokenizer cannot be loaded: {_one_line(error)}") from error
    if not loaded("a", add_special_tokens=False)["input_ids"]:  # what transformers makes where there are no files
        raise ModelError(f"model {name!r}: no tokenizer files beside the model; name one with Model.tokenizer")
    return loaded


def _fuse_activations(lm: PreTrainedModel) -> None:
    """Compute GPT-2's and GPT-J's GELU in one operation: the same formula, which transformers spells out in eight.

    Equal up to rounding, and a sixth of the training time of a small model on a CPU.
    """
    for module in list(lm.modules()):
        for name, child in module.named_children():
            if type(child) in (NewGELUActivation, FastGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


def _with_adapter(lm: PreTrainedModel, method: LoRA) -> PreTrainedModel:
    """`lm` with a fresh adapter put into it; peft's modules replace the targeted linear ones in place."""
    from peft import LoraConfig, get_peft_model

    names = [name for name, _ in lm.named_modules()]
    for target in () if isinstance(method.targets, str) else method.targets:
        if not any(f".{name}".endswith(f".{target}") for name in names):  # peft is content if any target is there
            raise SpecError(f"LoRA.targets: {type(lm).__name__} has no module {target!r}")
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=method.r,
        lora_alpha=method.alpha,  # type: ignore[arg-type] # a float works and is what rsLoRA's scale often is
        use_rslora=method.rslora,
        lora_dropout=method.dropout,
        target_modules=method.targets if isinstance(method.targets, str) else list(method.targets),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(method.seed)
        try:
            get_peft_model(lm, config)
        except ValueError as error:
            raise SpecError(f"LoRA.targets: {_one_line(error)}") from error
    return lm


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.85)
    return f"; did you mean {close[0]!r}?" if close else ""


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
