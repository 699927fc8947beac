"""What a probe is given: a model between two stages, to be measured and left as it was."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from memexp.core.data import Row, encode
from memexp.core.model import LanguageModel
from memexp.core.scoring import complete_greedily, end_tokens, token_nlls

__all__ = ["Session"]


class Session:
    """The three questions a probe may ask. All ranks ask the same and get the same answers."""

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return self.lm.tokenizer

    @property
    def end_tokens(self) -> list[int]:
        """The ids that end a text, which `complete` never gives."""
        return end_tokens(self.lm)

    def encode(self, texts: Sequence[str], block_size: int) -> list[list[int]]:
        """Token ids of each text, truncated to `block_size`."""
        return encode(self.tokenizer, texts, block_size)

    def decode(self, rows: Sequence[Row]) -> list[str]:
        """The text of each row of token ids, without special tokens."""
        return [str(self.tokenizer.decode(list(row), skip_special_tokens=True)) for row in rows]

    def token_nlls(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """See `memexp.core.scoring.token_nlls`."""
        return token_nlls(self.lm, rows)

    def complete(self, cues: Sequence[Row], counts: Sequence[int]) -> list[list[int]]:
        """See `memexp.core.scoring.complete_greedily`."""
        return complete_greedily(self.lm, cues, counts)
