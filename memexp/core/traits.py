"""What a model does that its configuration does not tell: asked of the model itself, by passes over a few tokens.

plain = head_is_plain(lm)
traits = ask(lm, plain, step)          # `step` makes one pass of a completion, as LanguageModel does
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedModel

from memexp.core.kv_cache import can_share, fanned_out
from memexp.errors import ModelError

__all__ = ["Step", "Traits", "ask", "head_is_plain"]

Step: TypeAlias = Callable[[Tensor, Tensor | None, Tensor | None, Any], tuple[Tensor, Any]]
"""Token ids, mask, positions and cache to the logits of the next token and the cache."""

_NO_USUAL_CACHE = (AttributeError, ValueError, TypeError, RuntimeError, IndexError, ModelError)


@dataclass(frozen=True)
class Traits:
    """Facts about an architecture as it is configured, which no training changes."""

    plain_head: bool = True
    """Whether logits are the output embedding of the last hidden state and nothing more (no cap, no scale)."""
    caches: bool = True
    """Whether going on from its key-value cache, it predicts what it predicts from the whole row; or keeps none."""
    pads_left: bool = True
    """Whether left-padded rows with a mask and positions predict what each predicts by itself, cache included."""
    causal: bool = True
    """Whether its predictions depend on no token that comes after: others would score with the answer at hand."""
    pads_right: bool = True
    """Whether a text in front of padding scores as by itself. Texts are trained and scored padded on the right."""
    shares: bool = True
    """Whether the cache of one row can stand in front of several, and they predict what each predicts as a whole."""


@torch.no_grad()
def ask(lm: PreTrainedModel, plain_head: bool, step: Step) -> Traits:
    """The traits of `lm`, of which `step` makes a pass, with a cache, and with positions where the model takes any.

    Raises ModelError where its logits are no numbers.
    """
    lm.eval()
    if bool(lm(input_ids=_ids(lm, [0, 1]), use_cache=False).logits.isnan().any()):
        raise ModelError(f"{type(lm).__name__}: its weights give logits that are NaN; use others")
    pads = _pads_left(lm, step)
    caches = not _caches_wrongly(lm, step, positions=pads)  # otherwise it counts them its own way
    shares = caches and _shares(lm, step, positions=pads)
    return Traits(plain_head, caches, pads and caches, _is_causal(lm), _pads_right(lm), shares)


def _ids(lm: PreTrainedModel, *rows: list[int]) -> Tensor:
    return torch.tensor(rows, device=next(lm.parameters()).device)


@torch.no_grad()
def head_is_plain(lm: PreTrainedModel) -> bool:
    """`Traits.plain_head`, asked on two tokens rather than of a list of architectures."""
    lm.eval()
    head = lm.get_output_embeddings()
    if head is None:
        return False
    ids = _ids(lm, [0, 1])
    try:
        plain = head(lm.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    except (AttributeError, RuntimeError):  # no such output, or of another width than the head takes
        return False
    # To the last bit: a cap hardly shows on the small logits of an untrained model, and would after training.
    return torch.equal(plain, lm(input_ids=ids, use_cache=False).logits)


def _caches_wrongly(lm: PreTrainedModel, step: Step, positions: bool) -> bool:
    """As MiniMax does. False where it keeps no cache: completing refuses that."""
    one, two = [i for i in range(3) if i != getattr(lm.config, "pad_token_id", None)][:2]  # RoBERTa counts none of pads
    ids = _ids(lm, [one, two, one, two, two, one])
    whole = lm(input_ids=ids, use_cache=False).logits[0].float()
    past: Any = None
    try:
        for first, last in ((0, 3), (3, 4), (4, 5), (5, 6)):
            at = torch.arange(first, last, device=ids.device)[None]
            logits, past = step(ids[:, first:last], None, at if positions else None, past)
            # MiniMax's counts no tokens, of which little shows in the numbers of a model that is not trained.
            miscounts = hasattr(past, "get_seq_length") and past.get_seq_length() != last
            room = (1e-6 if miscounts else 1e-4) * whole.abs().max()
            if bool((logits[0] - whole[last - 1]).abs().max() > room):
                return True
    except _NO_USUAL_CACHE:
        return False
    return False


def _shares(lm: PreTrainedModel, step: Step, positions: bool) -> bool:
    """Two rows of two tokens each, after three that they share."""
    whole = _ids(lm, [1, 0, 1, 0, 0], [1, 0, 1, 1, 0])
    expected = lm(input_ids=whole, use_cache=False).logits[:, -1].float()
    at = torch.arange(whole.shape[1], device=whole.device)[None]
    try:
        _, past = step(whole[:1, :3], None, at[:, :3] if positions else None, None)
        if not can_share(past):
            return False
        rest = at[:, 3:].expand(2, -1) if positions else None
        found, _ = step(whole[:, 3:], None, rest, fanned_out(past, 2))
    except _NO_USUAL_CACHE:
        return False
    return bool((found.float() - expected).abs().max() <= 1e-4 * expected.abs().max())


def _pads_left(lm: PreTrainedModel, step: Step) -> bool:
    """Some count positions from elsewhere, or take none and see the padding."""
    short = [1, 0, 1]
    ids, mask = _ids(lm, [0, 1, 0, 1], [0, *short]), _ids(lm, [1] * 4, [0, 1, 1, 1])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    alone = lm(input_ids=_ids(lm, short), use_cache=False).logits[0].float()
    try:
        first, past = step(ids[:, :3], mask[:, :3], positions[:, :3], None)
        second, _ = step(ids[:, 3:], mask, positions[:, 3:], past)
    except _NO_USUAL_CACHE:
        return False
    room = 1e-4 * float(alone.abs().max())
    return bool(((first[1] - alone[1]).abs().max() <= room) and ((second[1] - alone[2]).abs().max() <= room))


def _is_causal(lm: PreTrainedModel) -> bool:
    first, second = (lm(input_ids=_ids(lm, [0, last]), use_cache=False).logits[0, 0] for last in (0, 1))
    return torch.allclose(first, second, rtol=1e-4, atol=1e-5)


def _pads_right(lm: PreTrainedModel) -> bool:
    """CPMAnt counts its tokens from the right."""
    ids = _ids(lm, [1, 0, 1], [1, 1, 1])
    alone = lm(input_ids=ids, use_cache=False).logits
    padded = lm(input_ids=torch.nn.functional.pad(ids, (0, 1)), use_cache=False).logits[:, :3]
    return not bool((alone - padded).abs().max() > 1e-4 * alone.abs().max())
