"""A causal LM in memory, whole or sharded over the world's ranks, however load.py came by it.

`LanguageModel` is the one module that everything else calls, for five operations only: negative log-likelihoods of
given tokens, those of continuations at the end of given rows, of rows that grow logits of the next token or the
likeliest one, and hidden states. Being the root of the sharding it gathers what a rank needs by itself.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from memexp.core.batch_sizes import Budget, largest
from memexp.core.company import Company, Ends
from memexp.core.copies import to_device
from memexp.core.data import Row, ends_of, right_padded
from memexp.core.head import OfTargets, Work, float32_logits, likeliest, likelihoods, losses, over
from memexp.core.masks import unwatched
from memexp.core.precision import arithmetic, widened
from memexp.core.processes import World
from memexp.core.traits import Traits, ask, head_is_plain
from memexp.errors import ModelError
from memexp.sources import Stored

__all__ = ["LanguageModel", "blocks", "drops", "local", "own_part", "set_dropout"]

Sorted: TypeAlias = NDArray[np.int64]

UNLIMITED = 1_000_000_000
"""transformers writes 1e30 for a tokenizer that knows no limit."""


class LanguageModel(nn.Module):
    """A causal LM with exactly the operations that training, scoring and completion stand on."""

    drops_rows = True
    """Whether rows that are over may be left out of a batch that is completed."""

    def __init__(
        self,
        lm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        world: World,
        dtype: str,
        own_tokenizer: bool = True,
        traits: Traits | None = None,
    ) -> None:
        """`own_tokenizer`: whether the ids in the model's configuration are of `tokenizer`; `traits`: None asks it."""
        super().__init__()
        self.own_tokenizer = own_tokenizer
        self.lm, self.tokenizer = lm, tokenizer
        self.world, self.dtype = world, dtype
        self.budget: Budget = largest(world.device.type)
        """What batches may have; `load` makes it that of the model and the device."""
        self.offload = False  # whether the optimizer's moments are kept on the host
        self.stored: Mapping[str, Stored] | None = None  # where its tensors lie, if `load` read safetensors
        self.together: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        """Around passes that belong together; sharding keeps weights gathered meanwhile."""
        self.company: Company | None = None
        self.seat: Callable[[Optimizer], None] | None = None
        """Where the model is one lane of several: how it asks for what they do together, and what gives the moments of
        an optimizer their place beside the others'."""
        self.passes = 0
        """Forward passes made so far: what shows that a worker is at work."""
        self.adopt(traits if traits is not None else self._ask())
        self.eval()  # as transformers hands models over; a new module would be in training mode

    def _ask(self) -> Traits:
        """What the model itself says that it does, in several passes; `adopt` it then."""
        self.adopt(Traits(head_is_plain(self.lm)))
        return ask(self.lm, self._plain_head, self._next)

    def adopt(self, traits: Traits) -> None:
        """Compute as `traits` allow."""
        self.traits = traits
        self._plain_head = traits.plain_head
        self.caches = traits.caches
        """Whether completions go on from its key-value cache; else every token takes a pass over its whole row."""
        self.pads_left = traits.pads_left
        """Whether rows of other lengths may be completed together; else each needs company of its own length."""
        takes = "position_ids" in inspect.signature(self.lm.base_model.forward).parameters
        self._takes_positions = takes and traits.pads_left  # otherwise it counts them its own way

    def forward(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        """Dispatch, so that sharding's hooks see one forward pass for each operation."""
        self.passes += 1
        how = widened() if operation == "ask" else arithmetic(self.dtype, self.world.device)
        with how, unwatched(self.world.device):
            return getattr(self, f"_{operation}")(*args, **kwargs)

    def nll(self, ids: Tensor, lengths: Tensor, of: OfTargets = losses) -> Tensor:
        """Negative log-likelihood of every token but each row's first, given those before it.

        Args:
            ids: right-padded token ids, (rows, longest), on the CPU.
            lengths: number of real tokens in each row, (rows,), at least 1, on the CPU.
            of: what else is asked of these tokens; see `memexp.core.token_stats`.

        Returns:
            (sum of lengths - 1,) float32 nats, row after row, or what `of` gives.
        """
        if self.company is not None and not torch.is_grad_enabled():
            return self.company.nll(ids, lengths, of)
        padded, real = ids.numpy(), lengths.numpy()[:, None]
        at = np.arange(padded.shape[1])[None]
        # What is asked for is counted here: to look for it on a GPU is to wait for it.
        keep, targets = np.flatnonzero(at < real - 1), padded[:, 1:][at[:, 1:] < real]
        return self("nll", *to_device(self.world.device, padded, keep, targets), of)  # type: ignore[no-any-return] # untyped

    def ends(self, rows: Sequence[Row], asked: Sequence[tuple[int, Row]], past: Any = None) -> Ends:
        """How likely some continuations are, each at the end of a row.

        Args:
            rows: token ids of a context with all but the last token of a continuation, less what `past` is a cache of.
            asked: which row, and all tokens of the continuation.

        Returns:
            For each of `asked` the log-likelihoods of its tokens, in float64 nats on the CPU, and whether each of its
            tokens is the likeliest.
        """
        if self.company is not None and not torch.is_grad_enabled():
            return self.company.ends(rows, asked)
        places, order = ends_of(rows, asked)
        found = self("ends", *to_device(self.world.device, right_padded(rows), *places), places[1], past).detach().cpu()
        each = torch.empty_like(found).index_copy_(0, order, found).split([len(tokens) for _, tokens in asked])
        return [(one[:, 0].contiguous(), bool((one[:, 1] > 0).all())) for one in each]

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

    def choose(
        self, ids: Tensor, mask: Tensor | None, positions: Tensor, past: Any = None, banned: Collection[int] = ()
    ) -> tuple[tuple[Tensor, Tensor], Any]:
        """The likeliest token after the last of each row, but for those `banned`; all else as in `next`.

        Returns:
            (rows,) token ids with (rows,) whether their logits are finite numbers, and the cache.
        """
        return self("choose", ids, mask, positions, past, banned)  # type: ignore[no-any-return] # as above

    def _nll(self, ids: Tensor, keep: Tensor, targets: Tensor, of: OfTargets = losses) -> Any:
        return self._over(ids, keep, of(targets))

    def _ends(self, ids: Tensor, keep: Tensor, of: Tensor, wanted: Tensor, sorted_of: Sorted, past: Any) -> Any:
        return self._over(ids, keep, likelihoods(of, wanted, sorted_of), past)

    def _hidden(self, ids: Tensor, layers: Sequence[int]) -> list[Tensor]:
        return _between_blocks(self.lm, _after(None, ids, self._takes_positions), layers)

    def _over(self, ids: Tensor, keep: Tensor, work: Work, past: Any = None) -> Any:
        """`work` on the logits at the positions `keep`, which count through (rows, longest)."""
        if self._plain_head:
            # The head is the widest layer by far: on the positions that are asked for only.
            hidden = self.lm.base_model(**_after(past, ids, self._takes_positions)).last_hidden_state
            return over(self.lm, hidden.flatten(0, 1)[keep], work)
        with float32_logits(self.lm):
            logits = self.lm(**_after(past, ids, self._takes_positions)).logits
        return work(logits.flatten(0, 1)[keep].float(), slice(0, len(keep)))

    def _next(self, ids: Tensor, mask: Tensor | None, positions: Tensor | None, past: Any) -> tuple[Tensor, Any]:
        return self._grown(ids, mask, positions, past, lambda logits, _: logits)

    def _choose(
        self, ids: Tensor, mask: Tensor | None, positions: Tensor | None, past: Any, banned: Collection[int]
    ) -> tuple[tuple[Tensor, Tensor], Any]:
        return self._grown(ids, mask, positions, past, likeliest(banned))

    def _grown(
        self, ids: Tensor, mask: Tensor | None, positions: Tensor | None, past: Any, work: Work
    ) -> tuple[Any, Any]:
        """`work` on the logits after the last token of each row, and the cache."""
        if not self.caches:
            ids = ids if past is None else torch.cat([past, ids], dim=1)
        inputs: dict[str, Any] = {"input_ids": ids, "use_cache": self.caches}
        if self.caches:
            inputs["past_key_values"] = past
        if mask is not None:
            inputs["attention_mask"] = mask
        if self._takes_positions and positions is not None:
            inputs["position_ids"] = positions
        if self._plain_head:
            output = self.lm.base_model(**inputs)
            found = over(self.lm, output.last_hidden_state[:, -1], work)
        else:
            with float32_logits(self.lm):
                output = self.lm(**inputs, logits_to_keep=1)
            found = work(output.logits[:, -1].float(), slice(0, len(ids)))
        if not self.caches:
            return found, ids
        cache = getattr(output, "past_key_values", None)
        if cache is None:
            kind = type(self.lm).__name__
            raise ModelError(f"{kind} keeps no key-value cache, which recall and open questions are completed with")
        return found, cache

    @property
    def context(self) -> int | None:
        """Tokens the model can take at once, by its configuration or else its tokenizer; None where nothing says."""
        return _context(self)

    @property
    def end_tokens(self) -> list[int]:
        """The ids that would end a text: the generation config's, else the model's, else the tokenizer's; this alone
        where it is not the model's own: the others would be ids of another vocabulary."""
        return _end_tokens(self)

    def learning(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by name: all, or the adapter's. Sharded ones are DTensors."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Without dropout and without gradients; sharded weights stay gathered meanwhile, where they fit."""
        was = self.training
        self.eval()
        try:
            # Inference mode does less beside the work, but would freeze what sharding gathers.
            with torch.inference_mode() if self.world.size == 1 else torch.no_grad(), self.together():
                yield
        finally:
            self.train(was)


def _after(past: Any, ids: Tensor, takes_positions: bool) -> dict[str, Any]:
    """What a pass over `ids` is given that leaves no cache; they come after what `past` is a cache of."""
    if past is None:
        return {"input_ids": ids, "use_cache": False}
    inputs = {"input_ids": ids, "use_cache": True, "past_key_values": past}
    if takes_positions:
        begin = past.get_seq_length()
        inputs["position_ids"] = torch.arange(begin, begin + ids.shape[1], device=ids.device).expand(ids.shape)
    return inputs


def _between_blocks(lm: PreTrainedModel, inputs: Mapping[str, Any], layers: Sequence[int]) -> list[Tensor]:
    """Hidden states, (rows, longest, width) in float32 for each of `layers`, counted as transformers does."""
    states = getattr(lm.base_model(**inputs, output_hidden_states=True), "hidden_states", None) or ()
    if len(states) != len(blocks(lm)) + 1:
        raise ModelError(f"{type(lm).__name__} gives {len(states)} hidden states, not one for each block")
    return [states[layer].float() for layer in layers]


def _context(lm: LanguageModel) -> int | None:
    for name in ("max_position_embeddings", "n_positions", "n_ctx"):
        size = getattr(lm.lm.config, name, None)
        if isinstance(size, int):
            return size
    size = lm.tokenizer.model_max_length
    return None if size is None or size > UNLIMITED else int(size)


def _end_tokens(lm: LanguageModel) -> list[int]:
    own = (lm.lm.generation_config, lm.lm.config) if lm.own_tokenizer else ()
    for source in (*own, lm.tokenizer):
        ends = getattr(source, "eos_token_id", None)
        if ends is not None:
            return [int(i) for i in (ends if isinstance(ends, list | tuple) else [ends])]
    return []


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


def own_part(parameter: Tensor, whole: Tensor) -> Tensor:
    """This rank's part of `whole`, which `parameter` is to hold. All ranks call."""
    if isinstance(parameter, DTensor):
        return distribute_tensor(whole.to(parameter.device), parameter.device_mesh, parameter.placements).to_local()
    return whole


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


def drops(module: nn.Module) -> bool:
    """Whether training `module` draws dropout now, an adapter's included."""
    holders = [
        holder for part in module.modules() for holder in (part, getattr(part, "config", None)) if holder is not None
    ]
    return any(
        getattr(holder, name) > 0
        for holder in {id(holder): holder for holder in holders}.values()
        for name in vars(holder)
        # Those are of heads that a causal language model has not.
        if not name.startswith(("summary", "classifier")) and _is_dropout(holder, name)
    )


def _is_dropout(holder: nn.Module | PreTrainedConfig, name: str) -> bool:
    named = name == "p" if isinstance(holder, nn.Dropout) else ("dropout" in name or "pdrop" in name)
    value = getattr(holder, name)  # an integer where a config says 0
    return named and isinstance(value, int | float) and not isinstance(value, bool)
