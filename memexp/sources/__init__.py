"""What descriptions point at: corpora become texts, models become a pinned revision or a content hash."""

from __future__ import annotations

from memexp.sources.models import (
    ResolvedModel,
    ResolvedTokenizer,
    location,
    parameters_from_headers,
    resolve_model,
)
from memexp.sources.texts import Texts, read_texts
from memexp.spec import Model

__all__ = [
    "ResolvedModel",
    "ResolvedTokenizer",
    "Sources",
    "Texts",
    "location",
    "parameters_from_headers",
    "read_texts",
    "resolve_model",
]


class Sources:
    """Reads every corpus and resolves every model once, however many conditions name it."""

    def __init__(self) -> None:
        self._texts: dict[str, Texts] = {}
        self._models: dict[str, ResolvedModel] = {}

    def texts(self, corpus: object) -> Texts:
        """The texts of a corpus description. Raises DataError."""
        key = repr(corpus)
        if key not in self._texts:
            self._texts[key] = read_texts(corpus)
        return self._texts[key]

    def model(self, model: Model) -> ResolvedModel:
        """The pinned model and tokenizer of a model description. Raises ModelError or DataError."""
        key = repr(model)  # a config given as a dictionary cannot be hashed
        if key not in self._models:
            self._models[key] = resolve_model(model, self.texts)
        return self._models[key]
