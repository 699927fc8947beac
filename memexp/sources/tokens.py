"""Tokenizers without torch: how many texts are longer than a block, known before anything is trained.

cut(model, texts, block_size=128)       # 3 of its texts have more tokens
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

from memexp.errors import ModelError
from memexp.identity import parsed
from memexp.sources.cache import recall_answer, remember_answer
from memexp.sources.hub import hub_file
from memexp.sources.pinned import ResolvedModel, ResolvedTokenizer, location
from memexp.sources.texts import Texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["END_OF_TEXT", "bytes_per_token", "cut", "end_token", "trained"]

END_OF_TEXT = "<|endoftext|>"
"""The one special token of a trained tokenizer: begins and ends."""
SLACK = 8
"""Tokens that a text may have beyond its bytes: a space in front, and the special ones."""
SAMPLE = 256
"""Texts that tell how long a token is."""
BATCH = 4096
"""Texts that are encoded at a time: their offsets take more memory than they do."""


def cut(model: ResolvedModel, texts: Texts, block_size: int) -> int | None:
    """How many of `texts` have more than `block_size` tokens of `model`'s tokenizer, special ones included.

    Counted with the ``tokenizer.json`` that comes with the tokenizer, and remembered. None where it has none that can
    be read here, and some text has bytes enough.
    """
    long = [text for text in texts.items if len(text.encode()) + SLACK > block_size]
    if not long:
        return 0
    question = ["cut", 1, version("tokenizers"), model.tokenizer_id, texts.id, block_size]
    found = recall_answer(question)
    if not isinstance(found, int):
        tokenizer = _tokenizer(model.tokenizer)
        if tokenizer is None:
            return None
        found = sum(
            len(encoded.ids) > block_size
            for start in range(0, len(long), BATCH)
            for encoded in tokenizer.encode_batch_fast(long[start : start + BATCH])
        )
        remember_answer(question, found)
    return found


def bytes_per_token(model: ResolvedModel, texts: Texts) -> float | None:
    """Of the first texts of a list, by `model`'s tokenizer without special tokens; None where there is none to read."""
    question = ["bytes per token", 1, version("tokenizers"), model.tokenizer_id, texts.id]
    found = recall_answer(question)
    if not isinstance(found, float):
        tokenizer, some = _tokenizer(model.tokenizer), list(texts.items[:SAMPLE])
        if tokenizer is None or not any(some):
            return None
        tokens = sum(len(encoded.ids) for encoded in tokenizer.encode_batch_fast(some, add_special_tokens=False))
        found = sum(len(text.encode()) for text in some) / max(1, tokens)
        remember_answer(question, found)
    return found


@functools.lru_cache(64)
def end_token(pinned: ResolvedTokenizer) -> int | None:
    """The id of a tokenizer's end token; None where it has none, or not in files of a folder.

    Never asked of the hub: identities depend on it, and must not on whether the hub answers.
    """
    if pinned.source is None:
        return 0  # the special token of a trained one is its first
    if pinned.commit is not None:
        return None
    file = hub_file(location(pinned.source), "tokenizer_config.json", None)
    try:
        token = parsed(file.read_text(encoding="utf-8")).get("eos_token") if file is not None else None
    except (OSError, ValueError, AttributeError):  # loading the model says so
        return None
    if isinstance(token, dict):
        token = token.get("content")
    if not isinstance(token, str) or (tokenizer := _tokenizer(pinned)) is None:
        return None
    return tokenizer.token_to_id(token)


@functools.lru_cache(2)
def _tokenizer(pinned: ResolvedTokenizer) -> Tokenizer | None:
    from tokenizers import Tokenizer

    if pinned.source is None:
        return trained(pinned.texts, pinned.vocab_size)
    found = None
    with contextlib.suppress(ModelError):  # the hub does not answer; loading the model says so
        file = hub_file(location(pinned.source), "tokenizer.json", pinned.commit)
        if file is not None:
            with contextlib.suppress(Exception):  # all that the library raises for a broken file; loading says so too
                found = Tokenizer.from_file(str(file))
                found.no_truncation()
                found.no_padding()
    return found


def trained(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of `vocab_size` tokens, `END_OF_TEXT` among them, trained on `texts`."""
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
    return bpe
