"""One forward pass for all probes of a stage that ask about the tokens of the same texts.

memory = PassMemory({"one probe": passed, "another": passed})
memory.for_("one probe")           # what its session asks: None where nobody asks about the same texts

Each is told what it would have been by itself, to the last bit: the pass is over the same rows, in the same batches.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from memexp.core.data import Row, encode
from memexp.core.model import LanguageModel
from memexp.core.token_stats import TokenStats, for_several
from memexp.spec import Passed, TokenAsk

__all__ = ["PassMemory", "SharedPass"]


class SharedPass:
    """What one pass over some rows has told."""

    def __init__(self, asks: Collection[TokenAsk]) -> None:
        """`asks`: of all who ask about the same rows."""
        self.asks = dict.fromkeys(asks)
        self._passed: tuple[object, list[tuple[int, ...]]] | None = None
        self._encoded: tuple[tuple[int, tuple[str, ...]], list[list[int]]] | None = None
        self._told: dict[TokenAsk, list[TokenStats]] = {}

    def encode(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], block_size: int) -> list[list[int]]:
        """As `memexp.core.data.encode`, of the same texts once."""
        asked = block_size, tuple(texts)
        if self._encoded is None or self._encoded[0] != asked:
            self._encoded = asked, encode(tokenizer, texts, block_size)
        return [list(row) for row in self._encoded[1]]

    def token_nlls(self, lm: LanguageModel, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """As `memexp.core.scoring.token_nlls`."""
        return [each.nll for each in self.token_stats(lm, rows, next(iter(self.asks)))]

    def token_stats(self, lm: LanguageModel, rows: Sequence[Row], ask: TokenAsk) -> list[TokenStats]:
        """As `memexp.core.token_stats.token_stats` gives what is asked."""
        asked = lm.budget, [tuple(row) for row in rows]  # in smaller batches after memory ran out
        if asked != self._passed:
            self._told = for_several(lm, rows, self.asks)
            self._passed = asked
        return self._told[ask]


class PassMemory:
    """Of the model as it is after one stage."""

    def __init__(self, passed: Mapping[str, Passed | None]) -> None:
        """`passed`: of each probe that is going to measure, by a name for it."""
        groups: list[tuple[Passed, list[str]]] = []
        for name, its in passed.items():
            if its is None:
                continue
            same = next((names for one, names in groups if _agree(one, its)), None)
            groups.append((its, [name])) if same is None else same.append(name)
        self._shared: dict[str, SharedPass] = {}
        for _, names in groups:
            asks = [ask for name in names if (its := passed[name]) is not None and (ask := its.ask) is not None]
            if len(names) > 1:
                shared = SharedPass(asks or [TokenAsk()])
                self._shared |= dict.fromkeys(names, shared)

    def for_(self, name: str) -> SharedPass | None:
        """The pass that a probe has a part in; None where it has one of its own."""
        return self._shared.get(name)


def _agree(one: Passed, other: Passed) -> bool:
    return one.block_size == other.block_size and list(one.texts) == list(other.texts)
