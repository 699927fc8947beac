"""A causal LM in memory, whole or sharded over the world's ranks, however load.py came by it.

`LanguageModel` is the one module that everything else calls, for three operations only: negative log-likelihoods of
given tokens, logits at the end of given rows, and logits of the next token of rows that grow. Being the root of the
sharding it gathers what a rank needs by itself.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from memexp.core.processes import World
from memexp.errors import ModelError

__all__ = ["LanguageModel", "blocks", "local", "set_dropout"]

UNLIMITED = 1_000_000_000
"""transformers writes 1e30 for a tokenizer that knows no limit."""


class LanguageModel(nn.Module):
    """A causal LM with exactly the operations that training, scoring and completion stand on."""

    def __init__(
        self,
        lm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        world: World,
        dtype: str,
        own_tokenizer: bool = True,
    ) -> None:
        """`own_tokenizer`: whether the ids in the model's configuration are of `tokenizer`."""
        super().__init__()
        self.own_tokenizer = own_tokenizer
        self.lm = lm
        self.tokenizer = tokenizer
        self.world = world
        self.dtype = dtype
        self.passes = 0
        """Forward passes made so far: what shows that a worker is at work."""
        self._plain_head = _head_is_plain(lm)
        self._takes_positions = "position_ids" in inspect.signature(lm.base_model.forward).parameters
        self.caches = True
        """Whether completions go on from its key-value cache; else every token takes a pass over its whole row."""
        self.pads_left = _pads_left(lm, self._next)
        """Whether rows of other lengths may be completed together; else each needs company of its own length."""
        self._takes_positions = self._takes_positions and self.pads_left  # otherwise it counts them its own way
        self.caches = not _caches_wrongly(lm, self._next)
        self.pads_left = self.pads_left and self.caches
        self._takes_positions = self._takes_positions and self.caches  # whole rows need none
        self.eval()  # as transformers hands models over; a new module would be in training mode

    def forward(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        """Dispatch, so that sharding's hooks see one forward pass for each operation."""
        operations: dict[str, Callable[..., Any]] = {"nll": self._nll, "ends": self._ends, "next": self._next}
        enabled = self.dtype == "bfloat16"
        self.passes += 1
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
            past: what the last call returned beside the logits.

        Returns:
            (rows, vocabulary) float32 logits, and the cache; the ids so far where `caches` is false.
        """
        return self("next", ids, mask, positions, past)  # type: ignore[no-any-return] # as above

    def _nll(self, ids: Tensor, lengths: Tensor) -> Tensor:
        at = torch.arange(ids.shape[1], device=ids.device)[None]
        logits = self._logits(ids, at < (lengths - 1)[:, None])
        return F.cross_entropy(logits, ids[:, 1:][at[:, 1:] < lengths[:, None]], reduction="none")

    def _ends(self, ids: Tensor, lengths: Tensor, counts: Tensor) -> Tensor:
        at = torch.arange(ids.shape[1], device=ids.device)[None]
        with self._head_in_float32():
            return self._logits(ids, (at < lengths[:, None]) & (at >= (lengths - counts)[:, None]))

    @contextlib.contextmanager
    def _head_in_float32(self) -> Iterator[None]:
        """The output embedding outside of autocast: at logits of 64 to 128 bfloat16 has steps of one half, and ties."""
        head = self.lm.get_output_embeddings()
        if head is None or not torch.is_autocast_enabled(self.world.device.type):
            yield
            return
        plain = head.forward

        def forward(hidden: Tensor) -> Any:
            with torch.autocast(self.world.device.type, enabled=False):
                return plain(hidden.float())

        head.forward = forward
        try:
            yield
        finally:
            del head.forward  # what hides the class's own

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
        if not self.caches:
            ids = ids if past is None else torch.cat([past, ids], dim=1)
        inputs: dict[str, Any] = {"input_ids": ids, "use_cache": self.caches}
        if self.caches:
            inputs["past_key_values"] = past
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
        if not self.caches:
            return logits.float(), ids
        cache = getattr(output, "past_key_values", None)
        if cache is None:
            raise ModelError(
                f"{type(self.lm).__name__} keeps no key-value cache, which recall and open questions are completed with"
            )
        return logits.float(), cache

    @property
    def context(self) -> int | None:
        """Tokens the model can take at once, by its configuration or else its tokenizer; None where nothing says."""
        for name in ("max_position_embeddings", "n_positions", "n_ctx"):
            size = getattr(self.lm.config, name, None)
            if isinstance(size, int):
                return size
        size = self.tokenizer.model_max_length
        return None if size is None or size > UNLIMITED else int(size)

    @property
    def end_tokens(self) -> list[int]:
        """The ids that would end a text: the generation config's, else the model's, else the tokenizer's.

        The tokenizer's alone where it is not the model's own: the others would be ids of another vocabulary.
        """
        own = (self.lm.generation_config, self.lm.config) if self.own_tokenizer else ()
        for source in (*own, self.tokenizer):
            ends = getattr(source, "eos_token_id", None)
            if ends is not None:
                return [int(i) for i in (ends if isinstance(ends, list | tuple) else [ends])]
        return []

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
def _caches_wrongly(lm: PreTrainedModel, step: Callable[..., tuple[Tensor, Any]]) -> bool:
    """Whether going on from its key-value cache, a model predicts otherwise than from the whole row (MiniMax does).

    Asked of the model, as with the head. False where it keeps no cache: completing refuses that.
    """
    lm.eval()
    one, two = [i for i in range(3) if i != getattr(lm.config, "pad_token_id", None)][:2]  # RoBERTa counts none of pads
    ids = torch.tensor([[one, two, one, two, two, one]], device=next(lm.parameters()).device)
    whole = lm(input_ids=ids, use_cache=False).logits[0].float()
    past: Any = None
    try:
        for first, last in ((0, 3), (3, 4), (4, 5), (5, 6)):
            at = torch.arange(first, last, device=ids.device)[None]
            logits, past = step(ids[:, first:last], None, at, past)
            # MiniMax's counts no tokens, of which little shows in the numbers of a model that is not trained.
            miscounts = hasattr(past, "get_seq_length") and past.get_seq_length() != last
            room = (1e-6 if miscounts else 1e-4) * whole.abs().max()
            if bool((logits[0] - whole[last - 1]).abs().max() > room):
                return True
    except (AttributeError, ValueError, TypeError, RuntimeError, IndexError, ModelError):  # no cache of the usual kind
        return False
    return False


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
    except (AttributeError, ValueError, TypeError, RuntimeError, IndexError, ModelError):  # no cache of the usual kind
        return False
    room = 1e-4 * float(alone.abs().max())
    return bool(((first[1] - alone[1]).abs().max() <= room) and ((second[1] - alone[2]).abs().max() <= room))


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
