"""Tokenizers: loaded from where they lie, or trained on the texts of a description.

tokenizer = load_tokenizer(resolved_model.tokenizer, resolved_model.name)
"""

from __future__ import annotations

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from memexp.core.refusals import REFUSALS
from memexp.errors import ModelError, one_line
from memexp.sources import ResolvedTokenizer, location
from memexp.sources.tokens import END_OF_TEXT, trained

__all__ = ["load_tokenizer"]


def load_tokenizer(tokenizer: ResolvedTokenizer, name: str) -> PreTrainedTokenizerBase:
    """A loaded or trained tokenizer. Raises ModelError where it cannot be loaded."""
    if tokenizer.source is None:
        bpe = trained(tokenizer.texts, tokenizer.vocab_size)
        return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT)
    try:
        loaded = AutoTokenizer.from_pretrained(
            location(tokenizer.source), revision=tokenizer.commit or "main", trust_remote_code=False
        )
    except REFUSALS as error:
        raise ModelError(f"model {name!r}: its tokenizer cannot be loaded: {one_line(error)}") from error
    if not loaded("a", add_special_tokens=False)["input_ids"]:  # what transformers makes where there are no files
        raise ModelError(f"model {name!r}: no tokenizer files beside the model; name one with Model.tokenizer")
    return loaded
