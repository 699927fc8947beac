"""Tokenizers: loaded from where they lie, or trained on the texts of a description.

tokenizer = load_tokenizer(resolved_model.tokenizer, resolved_model.name)
"""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from memexp.core.refusals import REFUSALS, one_line
from memexp.errors import ModelError
from memexp.sources import ResolvedTokenizer, location

__all__ = ["load_tokenizer"]

END_OF_TEXT = "<|endoftext|>"
"""The one special token of a trained tokenizer."""


def load_tokenizer(tokenizer: ResolvedTokenizer, name: str) -> PreTrainedTokenizerBase:
    """A loaded or trained tokenizer. Raises ModelError where it cannot be loaded."""
    if tokenizer.source is None:
        return _trained_tokenizer(tokenizer.texts, tokenizer.vocab_size)
    try:
        loaded = AutoTokenizer.from_pretrained(
            location(tokenizer.source), revision=tokenizer.commit or "main", trust_remote_code=False
        )
    except REFUSALS as error:
        raise ModelError(f"model {name!r}: its tokenizer cannot be loaded: {one_line(error)}") from error
    if not loaded("a", add_special_tokens=False)["input_ids"]:  # what transformers makes where there are no files
        raise ModelError(f"model {name!r}: no tokenizer files beside the model; name one with Model.tokenizer")
    return loaded


def _trained_tokenizer(texts: tuple[str, ...], vocab_size: int) -> PreTrainedTokenizerFast:
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
