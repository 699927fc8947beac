"""Getting a model ready to learn: weights loaded or drawn, with or without an adapter, whole or sharded.

lm = load(resolved_model, LoRA(r=8), "float32", World.current(), Resources(cpus=2))
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.activations import FastGELUActivation, NewGELUActivation
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging as hf_logging

from memexp.core.adapter import add_adapter
from memexp.core.batch_sizes import budget_of
from memexp.core.casts import share_casts
from memexp.core.checkpointing import checkpoint_blocks
from memexp.core.drawing import drawn_parts
from memexp.core.hollow import hollow, seemingly_full
from memexp.core.likeness import asked_traits, known_traits
from memexp.core.matmul import use_fast_linear
from memexp.core.model import LanguageModel
from memexp.core.precision import check, hold_frozen
from memexp.core.processes import World
from memexp.core.refusals import REFUSALS
from memexp.core.shard import gather_together, shard
from memexp.core.tokenizer import load_tokenizer
from memexp.core.traits import Traits
from memexp.core.weights import Content, fill, names_of, pickled, places_in, refuse_more_blocks, taken_out
from memexp.errors import MemexpError, ModelError, one_line
from memexp.sources import ResolvedModel, check_weights, location, pickles, stored
from memexp.sources.hub import hub_file
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
        SpecError: a LoRA target matches no module, or the device does not have `dtype`.
    """
    check(dtype, world.device)
    torch.set_num_threads(resources.threads)
    model.check_here()
    check_weights(model)
    tokenizer = load_tokenizer(model.tokenizer, model.name)
    lm, content = _weights(model, tokenizer, world)
    held = getattr(lm.get_input_embeddings(), "num_embeddings", len(tokenizer))
    if model.tokenizer_name is not None and len(tokenizer) > held:
        raise ModelError(f"model {model.name!r}: the tokenizer has {len(tokenizer)} tokens, more than its embeddings")
    lm.config.use_cache = False
    traits = known_traits(model, lm, tokenizer, world)
    names = names_of(lm)
    _prepare(lm, method, dtype, world, resources)
    wrapped = LanguageModel(lm, tokenizer, world, dtype, model.tokenizer_name is None, traits or Traits())
    if content is not None:
        content = content.renamed(names, wrapped)
        _hold_as_stored(wrapped, content)
        if world.size > 1:
            shard(wrapped)
        fill(wrapped, content, world)
        wrapped.stored = content.stored
    wrapped.to(device=world.device)
    if traits is None:
        wrapped.adopt(asked_traits(model, wrapped))
    wrapped.budget = budget_of(wrapped, resources, gathered=gather_together(wrapped, resources))
    wrapped.offload = resources.offload
    _refuse_unfit(model.name, type(lm).__name__, wrapped.traits)
    return wrapped


def _prepare(lm: PreTrainedModel, method: Full | LoRA, dtype: str, world: World, resources: Resources) -> None:
    """Make `lm`, with or without weights, one that learns by `method` and computes as `dtype` and `resources` say."""
    _fuse_activations(lm)
    if isinstance(method, LoRA):
        with seemingly_full(lm):
            add_adapter(lm, method)
    if world.device.type == "cpu":
        use_fast_linear(lm)
    if dtype == "bfloat16":
        share_casts(lm, lm.get_output_embeddings())
    if resources.checkpointing:
        checkpoint_blocks(lm)


def _hold_as_stored(lm: LanguageModel, content: Content) -> None:
    """What is frozen beside an adapter stays bfloat16 where its files and the arithmetic are."""
    if lm.dtype == "bfloat16":
        coarse = {name for name, one in (content.stored or {}).items() if one.dtype == "BF16"}
        hold_frozen(lm, lm.lm.get_output_embeddings(), coarse)


def _weights(
    model: ResolvedModel, tokenizer: PreTrainedTokenizerBase, world: World
) -> tuple[PreTrainedModel, Content | None]:
    """The model and, where it is hollow, what belongs into it: of its own files, or drawn from its seed."""
    if model.source is None:
        config = random_config(model.name, model.config or {}, tokenizer)
        if world.size == 1:
            return _drawn(model, config), None
        lm, own = _hollow(model, config), drawn_parts(copy.deepcopy(config), model.seed, world)
        if own is not None:
            return lm, Content(own=own)
        return _handed_over(model, config, world, lambda: _drawn(model, copy.deepcopy(config)))
    _refuse_adapter(model)
    config = _configured(model, model.source)
    if not _loads_otherwise(config):
        lm = _hollow(model, config)
        files = stored(model, fetch=True)
        if files is not None and (places := places_in(lm, files, model.name)) is not None:
            return lm, Content(stored=places)
        if files is None and (known := _unpickled(model, lm, world)):
            return lm, known
    if world.size == 1:
        return _pretrained(model, model.source), None
    return _handed_over(model, config, world, lambda: _pretrained(model, model.source or ""))


def _handed_over(
    model: ResolvedModel, config: PreTrainedConfig, world: World, make: Callable[[], PreTrainedModel]
) -> tuple[PreTrainedModel, Content]:
    """A hollow model on every rank, and its content on rank 0, which `make` gives it whole, in its host's memory."""
    lm, whole, failure = _hollow(model, config), None, None
    if world.leads:
        try:
            whole = taken_out(lm, make(), model.name)
        except MemexpError as error:
            failure = error
    if failure := world.broadcast(failure):
        raise failure
    return lm, Content(whole=whole)


def _unpickled(model: ResolvedModel, lm: PreTrainedModel, world: World) -> Content | None:
    """The content of `lm` in pickled files, if it can be taken from there as it is."""
    whole, failure = None, None
    if world.leads:
        try:
            whole = pickled(lm, pickles(model), model.name)
        except MemexpError as error:
            failure = error
    if failure := world.broadcast(failure):
        raise failure
    return Content(whole=whole) if world.broadcast(whole is not None) else None


def _refuse_adapter(model: ResolvedModel) -> None:
    """An adapter stands on weights from elsewhere, of which the identity knows nothing."""
    if hub_file(location(model.source or ""), "adapter_config.json", model.commit) is not None:
        raise ModelError(f"model {model.name!r} is an adapter to another model; merge it into the weights first")


def _configured(model: ResolvedModel, source: str) -> PreTrainedConfig:
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            location(source), revision=model.commit or "main", trust_remote_code=False
        )
    except REFUSALS as error:
        raise ModelError(f"model {model.name!r} cannot be loaded: {one_line(error)}") from error
    return config


def _loads_otherwise(config: PreTrainedConfig) -> bool:
    """Whether its configuration names other files, or other modules, than a model of its class has."""
    return any(getattr(config, name, None) for name in ("transformers_weights", "extra_files", "fusion_config"))


def _hollow(model: ResolvedModel, config: PreTrainedConfig) -> PreTrainedModel:
    try:
        lm = hollow(config)
    except REFUSALS as error:
        raise ModelError(f"model {model.name!r} cannot be loaded: {one_line(error)}") from error
    if model.source is not None and lm.can_generate():
        with contextlib.suppress(OSError):  # there is none, and what the configuration says holds
            where = location(model.source)
            lm.generation_config = GenerationConfig.from_pretrained(where, revision=model.commit or "main")
    return lm


def _pretrained(model: ResolvedModel, source: str) -> PreTrainedModel:
    """As transformers loads it, on the CPU."""
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
    if missing := sorted(loaded[1]["missing_keys"]):  # transformers would go on with random ones
        raise ModelError(f"model {model.name!r}: its weights lack {len(missing)} parameters, among them {missing[0]}")
    refuse_more_blocks(lm, loaded[1]["unexpected_keys"], lm.state_dict(), model.name)
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


def _drawn(model: ResolvedModel, config: PreTrainedConfig) -> PreTrainedModel:
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


def _refuse_unfit(name: str, kind: str, traits: Traits) -> None:
    """Raises ModelError where scores would be of something else than the text before them."""
    if not traits.causal:
        raise ModelError(f"model {name!r} is not causal: its predictions depend on the tokens that come after")
    if not traits.pads_right:
        raise ModelError(f"model {name!r}: {kind} scores a text otherwise when it is padded on the right")


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.85)
    return f"; did you mean {close[0]!r}?" if close else ""
