"""Getting a model ready to learn: weights loaded or drawn, with or without an adapter, whole or sharded.

lm = load(resolved_model, LoRA(r=8), "float32", World.current(), Resources(cpus=2))
"""

from __future__ import annotations

import contextlib
import difflib
import pickle
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.activations import FastGELUActivation, NewGELUActivation
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging as hf_logging

from memexp.core.adapter import add_adapter
from memexp.core.matmul import use_fast_linear
from memexp.core.model import LanguageModel
from memexp.core.processes import World
from memexp.core.refusals import REFUSALS
from memexp.core.shard import shard
from memexp.core.tokenizer import load_tokenizer
from memexp.errors import ModelError, one_line
from memexp.sources import ResolvedModel, location
from memexp.spec import Full, LoRA, Resources

__all__ = ["load", "random_config"]


def load(
    model: ResolvedModel,
    method: Full | LoRA,
    dtype: str,
    world: World,
    resources: Resources = Resources(),  # noqa: B008 - frozen
) -> LanguageModel:
    """The model in float32 with its tokenizer, ready to learn by `method`, on the world's device.

    Sharded where the world has more than one rank. All ranks call. From now on this process computes with as many
    threads as `resources` promise, since their number changes the last digits.

    Raises:
        ModelError: the files are missing or broken, or would need remote code or unrestricted unpickling.
        SpecError: a LoRA target matches no module.
    """
    torch.set_num_threads(resources.threads)
    model.check_here()
    tokenizer = load_tokenizer(model.tokenizer, model.name)
    lm = _weights(model, tokenizer)
    held = getattr(lm.get_input_embeddings(), "num_embeddings", len(tokenizer))
    if model.tokenizer_name is not None and len(tokenizer) > held:
        raise ModelError(f"model {model.name!r}: the tokenizer has {len(tokenizer)} tokens, more than its embeddings")
    lm.config.use_cache = False
    _fuse_activations(lm)
    if isinstance(method, LoRA):
        add_adapter(lm, method)
    if world.device.type == "cpu":
        use_fast_linear(lm)
    _refuse_two_way_attention(lm, model.name)
    _refuse_seen_padding(lm, model.name)
    if world.size == 1:
        lm.to(device=world.device)  # type: ignore[call-arg] # the decorator around it loses the keyword
    wrapped = LanguageModel(lm, tokenizer, world, dtype, own_tokenizer=model.tokenizer_name is None)
    if world.size > 1:
        shard(wrapped)
    return wrapped


def _weights(model: ResolvedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Of the model's own files, or drawn from its configuration and seed."""
    if model.source is not None:
        return _pretrained(model, model.source)
    return _drawn(model, model.config or {}, tokenizer)


def _pretrained(model: ResolvedModel, source: str) -> PreTrainedModel:
    try:
        with _without_bar():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                location(source),
                revision=model.commit or "main",
                dtype=torch.float32,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except pickle.UnpicklingError as error:
        raise ModelError(f"model {model.name!r} would need unrestricted unpickling, which executes code") from error
    except REFUSALS as error:
        raise ModelError(f"model {model.name!r} cannot be loaded: {one_line(error)}") from error
    lm: PreTrainedModel = loaded[0]
    if getattr(lm, "_hf_peft_config_loaded", False):  # on weights from elsewhere, of which the identity knows nothing
        raise ModelError(f"model {model.name!r} is an adapter to another model; merge it into the weights first")
    if missing := sorted(loaded[1]["missing_keys"]):  # transformers would go on with random ones
        raise ModelError(f"model {model.name!r}: its weights lack {len(missing)} parameters, among them {missing[0]}")
    return lm


@contextlib.contextmanager
def _without_bar() -> Iterator[None]:
    """Without the progress bar of transformers, which would stand between the lines of ``--local``."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def _drawn(model: ResolvedModel, given: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    config = random_config(model.name, given, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.seed)
        try:
            lm: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        except REFUSALS as error:
            raise ModelError(f"model {model.name!r}: {one_line(error)}") from error
    return lm


def random_config(name: str, given: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    """The configuration of a model with random weights; what is not `given` comes from the tokenizer.

    Raises ModelError, which calls the model `name`, where transformers does not know the architecture or refuses the
    values.
    """
    values = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    values |= {key: value for key, value in given.items() if key not in ("architectures", "dtype", "torch_dtype")}
    model_type = values.pop("model_type", None)
    if model_type not in CONFIG_MAPPING:
        near = _near(str(model_type), CONFIG_MAPPING)
        raise ModelError(f"model {name!r}: transformers does not know model_type {model_type!r}{near}")
    try:
        known = {*CONFIG_MAPPING[model_type]().to_dict(), *CONFIG_MAPPING[model_type].attribute_map}
        config: PreTrainedConfig = AutoConfig.for_model(model_type, **values)
    except REFUSALS as error:
        raise ModelError(f"model {name!r}: {one_line(error)}") from error
    for key in values:
        # transformers keeps any name it is given; one that is nearly right would silently leave a default in place.
        if key not in known and (near := _near(key, known)):
            raise ModelError(f"model {name!r}: {model_type} has no setting {key!r}{near}")
    if config.vocab_size < len(tokenizer):
        raise ModelError(
            f"model {name!r}: vocab_size {config.vocab_size} is below the tokenizer's {len(tokenizer)} tokens"
        )
    pad = getattr(config, "pad_token_id", None)
    if pad is not None and pad < len(tokenizer) and pad not in tokenizer.all_special_ids:
        token = tokenizer.convert_ids_to_tokens(pad)
        raise ModelError(
            f"model {name!r}: {model_type} takes token {pad} ({token!r}) for padding, whose embedding would stay "
            "zero; give pad_token_id in RandomInit.config (None: nothing is padded)"
        )
    return config


def _fuse_activations(lm: PreTrainedModel) -> None:
    """Compute GPT-2's and GPT-J's GELU in one operation: the same formula, which transformers spells out in eight.

    Equal up to rounding, and a sixth of the training time of a small model on a CPU.
    """
    for module in list(lm.modules()):
        for name, child in module.named_children():
            if type(child) in (NewGELUActivation, FastGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


@torch.no_grad()
def _refuse_two_way_attention(lm: PreTrainedModel, name: str) -> None:
    """A model that sees later tokens would score them with their own answer at hand."""
    lm.eval()
    first, second = (lm(input_ids=torch.tensor([[0, last]]), use_cache=False).logits[0, 0] for last in (0, 1))
    if not torch.allclose(first, second, rtol=1e-4, atol=1e-5):
        raise ModelError(f"model {name!r} is not causal: its predictions depend on the tokens that come after")


@torch.no_grad()
def _refuse_seen_padding(lm: PreTrainedModel, name: str) -> None:
    """Texts are trained and scored padded on the right; CPMAnt counts its tokens from the right, and would be wrong."""
    lm.eval()
    ids = torch.tensor([[1, 0, 1], [1, 1, 1]])
    alone = lm(input_ids=ids, use_cache=False).logits
    padded = lm(input_ids=torch.nn.functional.pad(ids, (0, 1)), use_cache=False).logits[:, :3]
    if bool((alone - padded).abs().max() > 1e-4 * alone.abs().max()):
        raise ModelError(f"model {name!r}: {type(lm).__name__} scores a text otherwise when it is padded on the right")


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.85)
    return f"; did you mean {close[0]!r}?" if close else ""
