"""What descriptions point at: corpora become texts, models become a pinned revision or a content hash.

- `texts`, `items`, `tables`: lists, of texts or of questions and facts, from the rows of a file or dataset.
- `streams`, `parts`: text of any size, read where it is trained on.
- `pinned`, `hub`: models and tokenizers, and which commit a name stands for. `weight_files`: where weights lie.
- `tokens`: tokenizers without torch. `cache`: what is slow to find again.

Everything is read in the driver and travels to the trials; imports neither torch nor transformers. The plan imports it,
and whatever takes what it found: core, probes, searches and trials.
"""

from __future__ import annotations

from memexp.sources.parts import WINDOW
from memexp.sources.pinned import (
    ResolvedModel,
    ResolvedTokenizer,
    location,
    parameters_from_headers,
    resolve_model,
)
from memexp.sources.streams import Stream, Windows, resolve_stream, shared_texts
from memexp.sources.texts import Texts, read_texts
from memexp.sources.weight_files import Stored, check_weights, pickles, stored
from memexp.spec import (
    HubItems,
    HubStream,
    HubText,
    InlineItems,
    InlineText,
    ItemFile,
    Model,
    ShippedText,
    TextFile,
    TextStream,
)

__all__ = [
    "WINDOW",
    "ResolvedModel",
    "ResolvedTokenizer",
    "Sources",
    "Stored",
    "Stream",
    "Texts",
    "Windows",
    "check_weights",
    "is_corpus",
    "location",
    "parameters_from_headers",
    "pickles",
    "read_texts",
    "resolve_model",
    "resolve_stream",
    "shared_texts",
    "stored",
]

_LISTS = (TextFile, HubText, ShippedText, InlineText, ItemFile, HubItems, InlineItems)
_STREAMS = (TextStream, HubStream)


def is_corpus(value: object) -> bool:
    """Whether `Sources` can read it: texts, as a list or a stream, questions or facts."""
    return isinstance(value, (*_LISTS, *_STREAMS))


class Sources:
    """Reads every corpus and resolves every model once, however many conditions name it."""

    def __init__(self) -> None:
        self._texts: dict[str, Texts] = {}
        self._streams: dict[str, Stream] = {}
        self._models: dict[str, ResolvedModel] = {}

    def texts(self, corpus: object) -> Texts:
        """The texts of a corpus description. Raises DataError."""
        key = repr(corpus)
        if key not in self._texts:
            self._texts[key] = read_texts(corpus)
        return self._texts[key]

    def corpus(self, corpus: object) -> Texts | Stream:
        """The texts of a corpus description, or the stream it stands for. Raises DataError."""
        if not isinstance(corpus, _STREAMS):
            return self.texts(corpus)
        key = repr(corpus)
        if key not in self._streams:
            self._streams[key] = resolve_stream(corpus)
        return self._streams[key]

    def model(self, model: Model) -> ResolvedModel:
        """The pinned model and tokenizer of a model description. Raises ModelError or DataError."""
        key = repr(model)  # a config given as a dictionary cannot be hashed
        if key not in self._models:
            self._models[key] = resolve_model(model, self.texts)
        return self._models[key]
