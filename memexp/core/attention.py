"""Attention in float32 beside linear layers in bfloat16, on a CPU.

    with wide_attention(): ...      # forward and backward passes
    with narrow_attention(): ...    # as if there were no such thing, to count what a GPU would keep

In bfloat16 torch's attention is slow on a CPU: over sentences its backward pass takes three to five times as long as in
float32, the pass over one more token more than twice. Only what is between is float32: queries, keys and values are
rounded to bfloat16 before it and what comes out of it after, as on a GPU, which adds up in float32 as well.

A model with an attention of its own, which does not ask transformers for it, keeps that.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

__all__ = ["narrow_attention", "wide_attention"]

_NAME = "sdpa"
"""What transformers calls torch's attention, which it takes by default."""


@contextlib.contextmanager
def wide_attention() -> Iterator[None]:
    """Have models compute their attention in float32 meanwhile."""
    # Backward makes a forward pass once more within its own.
    with _attending(_wide, unless=(_wide, _narrow)):
        yield


@contextlib.contextmanager
def narrow_attention() -> Iterator[None]:
    """Have models compute their attention in what it is given, whatever is said within."""
    with _attending(_narrow, unless=(_narrow,)):
        yield


@contextlib.contextmanager
def _attending(way: Callable[..., Any], unless: tuple[Callable[..., Any], ...]) -> Iterator[None]:
    before = ALL_ATTENTION_FUNCTIONS[_NAME]
    if isinstance(before, functools.partial) and before.func in unless:
        yield
        return
    ALL_ATTENTION_FUNCTIONS[_NAME] = functools.partial(way, before)
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS[_NAME]
        if ALL_ATTENTION_FUNCTIONS[_NAME] is not before:
            ALL_ATTENTION_FUNCTIONS[_NAME] = before


def _narrow(attend: Callable[..., Any], *given: Any, **options: Any) -> Any:
    return attend(*given, **options)


def _wide(
    attend: Callable[..., Any],
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    rounded = [one.to(torch.bfloat16).float() for one in (query, key, value)]
    options = {name: _widened(one) for name, one in options.items()}
    with torch.autocast("cpu", enabled=False):
        found, weights = attend(module, *rounded, _widened(mask), **options)
        return found.to(torch.bfloat16), weights


def _widened(given: Any) -> Any:
    """What is added to scores has to be of their kind."""
    return given.float() if isinstance(given, Tensor) and given.is_floating_point() else given
