"""A causal LM in memory: loaded or drawn, with or without an adapter, whole or sharded over the world's ranks.

    lm = load(resolved_model, LoRA(r=8), "float32", World.current())

`LanguageModel` is the one module that everything else calls, for three operations only: negative log-likelihoods of
given tokens, logits at the end of given rows, and logits of the next token of rows that grow. Being the root of the
sharding it gathers what a rank needs by itself.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
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
from memexp.core.world import World
from memexp.errors import ModelError, SpecError
from memexp.sources import ResolvedModel, ResolvedTokenizer, location
from memexp.spec import Full, LoRA

__all__ = ["REFUSALS", "LanguageModel", "blocks", "load", "load_tokenizer", "local", "random_config", "set_dropout"]

REFUSALS = (
    *(OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, ZeroDivisionError),
    *(SafetensorError, StrictDataclassError),
)
"""What transformers and its readers raise about configurations and files that are not what they should be."""


UNLIMITED = 1_000_000_000
"""transformers writes 1e30 for a tokenizer that knows no limit."""


class LanguageModel(nn.Module):
    """A causal LM with exactly the operations that training, scoring and completion stand on."""

    def __init__(self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, world: World, dtype: str) -> None:
        super().__init__()
        self.lm = lm
        self.tokenizer = tokenizer
        self.world = world
        self.dtype = dtype
        self._plain_head = _head_is_plain(lm)
        self._takes_positions = "position_ids" in inspect.signature(lm.base_model.forward).parameters
        self.pads_left = _pads_left(lm, self._next)
        """Whether rows of other lengths may be completed together; else each needs company of its own length."""
        self._takes_positions = self._takes_positions and self.pads_left  # otherwise it counts them its own way
        self.eval()  # as transformers hands models over; a new module would be in training mode

    def forward(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        """Dispatch, so that sharding's hooks see one forward pass for each operation."""
        operations: dict[str, Callable[..., Any]] = {"nll": self._nll, "ends": self._ends, "next": self._next}
        enabled = self.dtype == "bfloat16"
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=enabled):
            return operations[operation](*args, **kwargs)

    def nll(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Negative log-likelihood of every token but each row's first, given those before it.

        Args:
            ids: right-padded token ids, (rows, longest).
            lengths: number of real tokens in each row, (rows,), at least 1.

        Returns:
            (sum of lengths - 1,) float32 nats, row after row.
        """
        return self("nll", ids, lengths)  # type: ignore[no-any-return] # a module's call is untyped

    def ends(self, ids: Tensor, lengths: Tensor, counts: Tensor) -> Tensor:
        """Logits after each of the last tokens of every row.

        Args:
            ids: right-padded token ids, (rows, longest).
            lengths: number of real tokens in each row, (rows,).
            counts: after how many of its last tokens logits are wanted, (rows,), at least 1.

        Returns:
            (sum of counts, vocabulary) float32 logits, row after row.
        """
        return self("ends", ids, lengths, counts)  # type: ignore[no-any-return] # as above

    def next(self, ids: Tensor, mask: Tensor | None, positions: Tensor, past: Any = None) -> tuple[Tensor, Any]:
        """Logits of the token after the last of each row.

        Args:
            ids: left-padded token ids, or with `past` the newest token of each row, (rows, new).
            mask: 1 for real tokens, past ones included, (rows, past + new); None where nothing is padded.
            positions: position of each of `ids` in its text, (rows, new).
            past: the key-value cache that the last call returned.

        Returns:
            (rows, vocabulary) float32 logits, and the cache.
        """
        return self("next", ids, mask, positions, past)  # type: ignore[no-any-return] # as above

    def _nll(self, ids: Tensor, lengths: Tensor) -> Tensor:
        at = torch.arange(ids.shape[1], device=ids.device)[None]
        logits = self._logits(ids, at < (lengths - 1)[:, None])
        return F.cross_entropy(logits, ids[:, 1:][at[:, 1:] < lengths[:, None]], reduction="none")

    def _ends(self, ids: Tensor, lengths: Tensor, counts: Tensor) -> Tensor:
        at = torch.arange(ids.shape[1], device=ids.device)[None]
        return self._logits(ids, (at < lengths[:, None]) & (at >= (lengths - counts)[:, None]))

    def _logits(self, ids: Tensor, keep: Tensor) -> Tensor:
        """Logits at the positions where `keep` (rows, longest) is true, row after row."""
        if self._plain_head:
            # The head is the widest layer by far: on the positions that are asked for only.
            hidden = self.lm.base_model(input_ids=ids, use_cache=False).last_hidden_state
            logits: Tensor = self.lm.get_output_embeddings()(hidden[keep])
        else:
            logits = self.lm(input_ids=ids, use_cache=False).logits[keep]
        return logits.float()

    def _next(self, ids: Tensor, mask: Tensor | None, positions: Tensor, past: Any) -> tuple[Tensor, Any]:
        inputs: dict[str, Any] = {"input_ids": ids, "past_key_values": past, "use_cache": True}
        if mask is not None:
            inputs["attention_mask"] = mask
        if self._takes_positions:
            inputs["position_ids"] = positions
        if self._plain_head:
            output = self.lm.base_model(**inputs)
            logits = self.lm.get_output_embeddings()(output.last_hidden_state[:, -1])
        else:
            output = self.lm(**inputs, logits_to_keep=1)
            logits = output.logits[:, -1]
        return logits.float(), output.past_key_values

    @property
    def context(self) -> int | None:
        """Tokens the model can take at once, by its configuration or else its tokenizer; None where nothing says."""
        for name in ("max_position_embeddings", "n_positions", "n_ctx"):
            size = getattr(self.lm.config, name, None)
            if isinstance(size, int):
                return size
        size = self.tokenizer.model_max_length
        return None if size is None or size > UNLIMITED else int(size)

    def learning(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by name: all, or the adapter's. Sharded ones are DTensors."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Without dropout and without gradients."""
        was = self.training
        self.eval()
        try:
            # Inference mode does less beside the work, but would freeze what sharding gathers.
            with torch.inference_mode() if self.world.size == 1 else torch.no_grad():
                yield
        finally:
            self.train(was)


@torch.inference_mode()
def _head_is_plain(lm: PreTrainedModel) -> bool:
    """Whether logits are the output embedding of the last hidden state and nothing more (no cap, no scale).

    Asked of the model itself, on two tokens, rather than of a list of architectures.
    """
    head = lm.get_output_embeddings()
    if head is None:
        return False
    lm.eval()
    ids = torch.tensor([[0, 1]], device=next(lm.parameters()).device)
    try:
        plain = head(lm.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    except (AttributeError, RuntimeError):  # no such output, or of another width than the head takes
        return False
    # To the last bit: a cap hardly shows on the small logits of an untrained model, and would after training.
    return torch.equal(plain, lm(input_ids=ids, use_cache=False).logits)


@torch.no_grad()
def _pads_left(lm: PreTrainedModel, step: Callable[..., tuple[Tensor, Any]]) -> bool:
    """Whether a left-padded row with a mask and positions predicts what the row predicts by itself, cache included.

    Asked of the model, as with the head: some count positions from elsewhere, or take none and see the padding.
    """
    lm.eval()
    device = next(lm.parameters()).device
    long, short = [0, 1, 0, 1], [1, 0, 1]
    ids, mask = torch.tensor([long, [0, *short]], device=device), torch.tensor([[1] * 4, [0, 1, 1, 1]], device=device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    alone = lm(input_ids=torch.tensor([short], device=device), use_cache=False).logits[0].float()
    try:
        first, past = step(ids[:, :3], mask[:, :3], positions[:, :3], None)
        second, _ = step(ids[:, 3:], mask, positions[:, 3:], past)
    except (AttributeError, ValueError, TypeError, RuntimeError, IndexError):  # no cache of the usual kind
        return False
    room = 1e-4 * float(alone.abs().max())
    return bool(((first[1] - alone[1]).abs().max() <= room) and ((second[1] - alone[2]).abs().max() <= room))


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
    model.check_shipped()
    if model.folder is not None and not model.folder.is_dir():
        raise ModelError(
            f"model {model.name!r}: {model.source} does not exist on this node; use a shared folder or a hub id"
        )
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
    return config


def load_tokenizer(tokenizer: ResolvedTokenizer, name: str) -> PreTrainedTokenizerBase:
    """A loaded or trained tokenizer. Raises ModelError where it cannot be loaded."""
    if tokenizer.source is None:
        return _trained_tokenizer(tokenizer.texts, tokenizer.vocab_size)
    try:
        loaded = AutoTokenizer.from_pretrained(
            location(tokenizer.source), revision=tokenizer.commit or "main", trust_remote_code=False
        )
    except REFUSALS as error:
        raise ModelError(f"model {name!r}: its tokenizer cannot be loaded: {_one_line(error)}") from error
    if not loaded("a", add_special_tokens=False)["input_ids"]:  # what transformers makes where there are no files
        raise ModelError(f"model {name!r}: no tokenizer files beside the model; name one with Model.tokenizer")
    return loaded


END_OF_TEXT = "<|endoftext|>"


def _trained_tokenizer(texts: tuple[str, ...], vocab_size: int) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT)


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


def blocks(lm: PreTrainedModel) -> nn.ModuleList:
    """The transformer blocks in order: the module list that is as long as the config says the model is deep.

    Raises ModelError where the architecture has no such list.
    """
    depth = lm.config.num_hidden_layers  # transformers maps n_layer and num_layers to this name
    for module in lm.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ModelError(f"{type(lm).__name__}: found no list of {depth} blocks")


def local(parameter: Tensor) -> Tensor:
    """This rank's part of a parameter: its shard, or all of it where nothing is sharded."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def set_dropout(lm: PreTrainedModel, probability: float | None) -> None:
    """Set every dropout of the model but the adapters' own to `probability`; None brings back what the model came with.

    Architectures keep dropout in `nn.Dropout` modules, in attributes used by functional calls, or read it from their
    configuration at every pass.
    """
    configs = {id(module.config): module.config for module in lm.modules() if hasattr(module, "config")}
    modules = [module for path, module in lm.named_modules() if ".lora_dropout" not in path]
    for holder in (*modules, *configs.values()):
        for name in [name for name in vars(holder) if _is_dropout(holder, name)]:
            kept = vars(holder).setdefault("_memexp_dropout", {})
            kept.setdefault(name, getattr(holder, name))
            setattr(holder, name, kept[name] if probability is None else probability)


def _is_dropout(holder: nn.Module | PreTrainedConfig, name: str) -> bool:
    named = name == "p" if isinstance(holder, nn.Dropout) else ("dropout" in name or "pdrop" in name)
    value = getattr(holder, name)  # an integer where a config says 0
    return named and isinstance(value, int | float) and not isinstance(value, bool)


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.85)
    return f"; did you mean {close[0]!r}?" if close else ""


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
