"""What a probe is given: a model between two stages, to be measured and left as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from memexp.core.data import Row, encode
from memexp.core.divergence import Divergence, divergences
from memexp.core.forget import ablated
from memexp.core.fork import Fork, weights_aside
from memexp.core.generate import answer_greedily, complete_greedily
from memexp.core.hidden_states import hidden_states
from memexp.core.model import LanguageModel, blocks
from memexp.core.pass_memory import SharedPass
from memexp.core.restudying import restudier
from memexp.core.rounding import rounded
from memexp.core.scoring import Likelihood, continuations, token_nlls
from memexp.core.token_stats import TokenStats, token_stats
from memexp.errors import SpecError
from memexp.spec import Forget, Study, TokenAsk

__all__ = ["Session"]


class Session:
    """The questions a probe may ask. All ranks ask the same and get the same answers."""

    def __init__(
        self,
        lm: LanguageModel,
        pretrained: Fork | None = None,
        aside: Callable[[], AbstractContextManager[None]] | None = None,
        shared: SharedPass | None = None,
    ) -> None:
        """`pretrained`: the weights before study; `aside`: in it the model may be led elsewhere, and comes back;
        `shared`: a pass that others have a part in."""
        self.lm = lm
        self._pretrained = pretrained
        self._aside = aside or partial(weights_aside, lm)
        self._shared = shared

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return self.lm.tokenizer

    @property
    def end_tokens(self) -> list[int]:
        """The ids that end a text, which `complete` never gives."""
        return self.lm.end_tokens

    @property
    def context(self) -> int | None:
        """Tokens the model can take at once; None where nothing says."""
        return self.lm.context

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(blocks(self.lm.lm))

    def encode(self, texts: Sequence[str], block_size: int) -> list[list[int]]:
        """Token ids of each text, truncated to `block_size`."""
        if self._shared is not None:
            return self._shared.encode(self.tokenizer, texts, block_size)
        return encode(self.tokenizer, texts, block_size)

    def without_ends(self, rows: Sequence[list[int]]) -> list[list[int]]:
        """Rows without `end_tokens` at their ends: some tokenizers close a text so, which `complete` never does."""
        ends = self.end_tokens
        kept = [next((at for at in range(len(row), 0, -1) if row[at - 1] not in ends), 0) for row in rows]
        return [row[:at] for row, at in zip(rows, kept, strict=True)]

    def begins(self, row: Row) -> int:
        """How many special tokens a row begins with, as where a tokenizer puts a BOS before every text."""
        special = set(self.tokenizer.all_special_ids)
        return next((at for at, token in enumerate(row) if token not in special), len(row))

    def decode(self, rows: Sequence[Row]) -> list[str]:
        """The text of each row of token ids, without special tokens."""
        return [str(self.tokenizer.decode(list(row), skip_special_tokens=True)) for row in rows]

    def token_nlls(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """See `memexp.core.scoring.token_nlls`."""
        if self._shared is not None:
            return self._shared.token_nlls(self.lm, rows)
        return token_nlls(self.lm, rows)

    def hidden(self, rows: Sequence[Row], layers: Sequence[int]) -> list[list[NDArray[np.float32]]]:
        """See `memexp.core.hidden_states.hidden_states`."""
        return hidden_states(self.lm, rows, layers)

    def token_stats(
        self, rows: Sequence[Row], temperatures: Sequence[float] = (), top: int = 0, within: int = 0
    ) -> list[TokenStats]:
        """See `memexp.core.token_stats.token_stats`."""
        ask = TokenAsk(tuple(map(float, temperatures)), within)
        if self._shared is not None and ask in self._shared.asks and not top:
            return self._shared.token_stats(self.lm, rows, ask)
        return token_stats(self.lm, rows, temperatures, top, within)

    def divergences(self, rows: Sequence[Row]) -> list[Divergence]:
        """See `memexp.core.divergence.divergences`; the other state is the model before study.

        Raises SpecError where the session was made without the weights before study.
        """
        return divergences(self.lm, rows, lambda: self.ablated(Forget(below_layer=self.depth)))

    def complete(self, cues: Sequence[Row], counts: Sequence[int]) -> list[list[int] | None]:
        """See `memexp.core.generate.complete_greedily`."""
        return complete_greedily(self.lm, cues, counts)

    def continuations(self, pairs: Sequence[tuple[Row, Row]]) -> list[Likelihood]:
        """See `memexp.core.scoring.continuations`."""
        return continuations(self.lm, pairs)

    def answer(self, cues: Sequence[Row], limits: Sequence[int], stops: Sequence[Sequence[str]]) -> list[str | None]:
        """See `memexp.core.generate.answer_greedily`."""
        return answer_greedily(self.lm, cues, limits, stops)

    @contextmanager
    def ablated(self, side: Forget) -> Iterator[None]:
        """The model without what the blocks `side` names have learned; see `memexp.core.forget.ablated`.

        Raises SpecError where the session was made without the weights before study.
        """
        if self._pretrained is None:
            raise SpecError("this session does not know the weights before study: Session(lm, pretrained=...)")
        with ablated(self.lm, side, self._pretrained), self._by_itself():
            yield

    @contextmanager
    def rounded(self, bits: int, group: int) -> Iterator[None]:
        """The model with weights of few bits; see `memexp.core.rounding.rounded`."""
        with rounded(self.lm, bits, group), self._by_itself():
            yield

    @contextmanager
    def restudying(self, study: Study, rows: Sequence[Row], seed: int) -> Iterator[Callable[[int], None]]:
        """A function that has the model study `rows` for so many steps more, as `study` says; afterwards the model is
        what it was, bit for bit. See `memexp.core.restudying.restudier`."""
        with self._aside(), self._by_itself():
            yield restudier(self.lm, study, rows, seed)

    @contextmanager
    def _by_itself(self) -> Iterator[None]:
        """The model is another one for a while: what a shared pass told does not hold."""
        shared, self._shared = self._shared, None
        try:
            yield
        finally:
            self._shared = shared
