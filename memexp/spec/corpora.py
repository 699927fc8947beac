"""What is studied and asked: texts, questions and facts, from a file, a dataset, memexp or Python."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from memexp.spec.fields import Name, PathText, Positive, Text, as_tuple, spec

__all__ = [
    "Corpus",
    "HubItems",
    "HubStream",
    "HubText",
    "InlineItems",
    "InlineText",
    "ItemFile",
    "Items",
    "Pair",
    "PerturbedItems",
    "ShippedText",
    "StreamedCorpus",
    "TextFile",
    "TextStream",
]

# ---------------------------------------------------------------------------------------------------------
# Texts


def _with_field(name: str, field: str | None) -> str:
    """What the rows call a corpus of which a column was chosen: two columns of one file are two corpora."""
    return name if field is None else f"{name}:{field}"


@spec
class TextFile:
    """A local file of texts: ``.jsonl`` or ``.json`` (an object a line, or one list of objects or texts), ``.csv``,
    ``.txt`` (a text a line), or ``.parquet``."""

    path: PathText
    """Where the file is, absolute or relative to the current folder. Recorded, never part of an identity."""
    field: Text | None = None
    """The column that holds the text; by default ``sent``, else ``text``, else the only column of strings."""

    @property
    def name(self) -> str:
        """What the rows call this corpus."""
        return _with_field(self.path, self.field)


@spec
class HubText:
    """A dataset of the Hugging Face hub, or a local folder in its format."""

    dataset: Text
    """Dataset id, such as ``xiaozeroone/Country-city-animals``, or the path of a folder ``load_dataset`` can read."""
    subset: Text | None = None
    """Configuration of the dataset."""
    split: Text = "train"
    """Split of the dataset."""
    revision: Text | None = None
    """Branch, tag or commit; resolved to a commit once, before anything is hashed."""
    field: Text | None = None
    """The column that holds the text; by default ``sent``, else ``text``, else the only column of strings."""

    @property
    def name(self) -> str:
        """What the rows call this corpus."""
        return _with_field("/".join(part for part in (self.dataset, self.subset, self.split) if part), self.field)


@spec
class ShippedText:
    """A study list that ships with memexp (see `memexp.stimuli`)."""

    list_name: Name
    """Name of the list, such as ``sentences-targets``."""
    first: Positive | None = None
    """Take only so many of its texts, from the beginning."""

    @property
    def name(self) -> str:
        """What the rows call this corpus."""
        return self.list_name if self.first is None else f"{self.list_name}[:{self.first}]"


@spec
class InlineText:
    """Texts given in Python, such as those of `memexp.stimuli.random_words` or of code of your own.

    Known by its texts as every corpus is: the same list in a file is the same study.
    """

    name: Text
    """What the rows call this corpus. Recorded, never part of an identity."""
    texts: Annotated[tuple[str, ...], BeforeValidator(as_tuple), Field(min_length=1)]
    """The texts, in order; none may be empty."""

    @functools.cached_property
    def _digest(self) -> str:
        return hashlib.sha256(repr(self.texts).encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        """One short line; no two lists have the same, on which `memexp.sources.Sources` counts."""
        return f"InlineText({self.name!r}, {len(self.texts)} texts, {self._digest})"


def _as_paths(value: Any) -> Any:
    return (value,) if isinstance(value, str | os.PathLike) else as_tuple(value)


def _refuse_whole_dataset(value: Any, wanted: str) -> None:
    """Of `memexp.FactWorld` and `memexp.FactDataset` a subset is meant."""
    if callable(getattr(value, "corpus", None)) and callable(getattr(value, "items", None)):
        raise ValueError(f"is a whole dataset; take a subset: .{wanted}")


@spec
class TextStream:
    """Local files of texts of any size, which are read as they are trained on and never held in memory.

    ``.txt`` (a text a line), ``.jsonl`` or ``.json`` (an object a line), each also as ``.gz``, and ``.parquet``. For
    interference and pretraining only. Each pass shuffles within windows of 4,096 texts, the windows in order: shuffle a
    sorted corpus before. A blank text keeps its place and teaches nothing. Every node needs the files.
    """

    files: Annotated[tuple[PathText, ...], BeforeValidator(_as_paths), Field(min_length=1)]
    """Files in order, or patterns such as ``news/*.parquet`` (the files of a pattern come in the order of their names);
    one needs no list. Recorded, never part of an identity."""
    field: Text | None = None
    """The column that holds the text; by default ``sent``, else ``text``, else the only column of strings."""

    @property
    def name(self) -> str:
        """What the rows call this corpus."""
        more = len(self.files) - 1
        return _with_field(f"{self.files[0]} and {more} more" if more else self.files[0], self.field)


@spec
class HubStream:
    """A dataset of the Hugging Face hub, or a local folder in its format, read as it is trained on: see `TextStream`.

    Nothing is downloaded beforehand, so nobody looks whether its texts are studied or probed as well.
    """

    dataset: Text
    """Dataset id, such as ``abisee/cnn_dailymail``, or the path of a folder ``load_dataset`` can read."""
    subset: Text | None = None
    """Configuration of the dataset."""
    split: Text = "train"
    """Split of the dataset."""
    revision: Text | None = None
    """Branch, tag or commit; resolved to a commit once, before anything is hashed."""
    field: Text | None = None
    """The column that holds the text; by default ``sent``, else ``text``, else the only column of strings."""

    @property
    def name(self) -> str:
        """What the rows call this corpus."""
        return _with_field("/".join(part for part in (self.dataset, self.subset, self.split) if part), self.field)


def _as_corpus(value: Any) -> Any:
    _refuse_whole_dataset(value, 'corpus("Corpus_narrative")')
    return TextFile(os.fspath(value)) if isinstance(value, str | os.PathLike) else value


def _as_list(value: Any) -> Any:
    if isinstance(value, TextStream | HubStream):
        whole = "TextFile" if isinstance(value, TextStream) else "HubText"
        raise ValueError(
            f"a {type(value).__name__} is for interference and pretraining; here the whole list is needed: {whole}(...)"
        )
    return _as_corpus(value)


Corpus = Annotated[TextFile | HubText | ShippedText | InlineText, BeforeValidator(_as_list)]
"""Texts to study or to be probed with; a plain string or path stands for a `TextFile`."""

StreamedCorpus = Annotated[
    TextFile | HubText | ShippedText | InlineText | TextStream | HubStream, BeforeValidator(_as_corpus)
]
"""Texts to train on, in memory or as a stream; a plain string or path stands for a `TextFile`."""


@spec
class Pair:
    """A study list and its foils, matched by index."""

    targets: Corpus
    """The list that is studied."""
    foils: Corpus
    """Unstudied texts; item i is the foil of target i. Surplus foils are not used."""
    name: Name | None = None
    """A name for labels; not part of any identity."""

    @property
    def swapped(self) -> Pair:
        """The same pair with the roles of the two lists exchanged."""
        return Pair(targets=self.foils, foils=self.targets, name=self.name)


# ---------------------------------------------------------------------------------------------------------
# Questions and facts


@spec
class ItemFile:
    """A local file of questions or facts: ``.jsonl`` or ``.json`` (an object a line, or one list of them), ``.csv`` or
    ``.parquet``.

    A question has ``question`` and ``answer``, with ``choices`` (a list of at least two) the index, from 0, of the
    right one; a fact has ``head``, ``relation`` and ``tail``. An optional ``fact`` says which questions are about the
    same. The columns are those of Country-city-animals (Zhang, Li & Wu 2024, arXiv 2409.14057).

    A text with spans (`memexp.Spans`) has ``train_context``, the text, and lists of equal length ``mem_input`` and
    ``mem_target``, ``gen_input`` and ``gen_target``, ``hard_gen_input`` and ``hard_gen_target``, or some of these
    pairs: the columns of kaist-ai/fictional-knowledge (Chang et al. 2024, arXiv 2406.11813). A keyword
    (`memexp.Priming`) has ``keyword`` and a list ``prefixes``; a prompt (`memexp.Continuation`) has ``prompt`` and what
    should come, ``gt``: the columns of MUSE (Shi et al. 2024, arXiv 2407.06460). Other columns are not read.
    """

    path: PathText
    """Where the file is, absolute or relative to the current folder. Its folder is no part of an identity; its name is
    where a probe takes its `task` from it."""
    perturbed: bool = False
    """Whether ``paraphrased_answer`` and ``perturbed_answer`` are read too: see `TruthRatio`, which sets it."""

    @property
    def name(self) -> str:
        """What the rows call these items."""
        return self.path


@spec
class HubItems:
    """Questions or facts (see `ItemFile`) of a dataset of the Hugging Face hub, or of a local folder in its format."""

    dataset: Text
    """Dataset id, such as ``xiaozeroone/Country-city-animals``, or the path of a folder ``load_dataset`` can read."""
    subset: Text | None = None
    """Configuration of the dataset."""
    split: Text = "test"
    """Split of the dataset."""
    revision: Text | None = None
    """Branch, tag or commit; resolved to a commit once, before anything is hashed."""
    perturbed: bool = False
    """As in `ItemFile`."""

    @property
    def name(self) -> str:
        """What the rows call these items."""
        return "/".join(part for part in (self.dataset, self.subset, self.split) if part)


@spec
class InlineItems:
    """Questions or facts (see `ItemFile`) given in Python, such as those of `memexp.stimuli.facts`."""

    name: Text
    """What the rows call these items. Part of an identity where a probe takes its `task` from it."""
    rows: Annotated[tuple[dict[str, Any], ...], BeforeValidator(as_tuple), Field(min_length=1)]
    """A dictionary for each item."""
    perturbed: bool = False
    """As in `ItemFile`."""

    @functools.cached_property
    def _digest(self) -> str:
        return hashlib.sha256(repr(self.rows).encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        """One short line; no two lists have the same, on which `memexp.sources.Sources` counts."""
        also = ", perturbed" if self.perturbed else ""
        return f"InlineItems({self.name!r}, {len(self.rows)} items, {self._digest}{also})"


def _as_items(value: Any) -> Any:
    _refuse_whole_dataset(value, 'items("Eval_QA")')
    if isinstance(value, TextFile | HubText | ShippedText | InlineText):
        raise ValueError('holds texts, not questions or facts; of a dataset take .items("Eval_QA")')
    return ItemFile(os.fspath(value)) if isinstance(value, str | os.PathLike) else value


Items = Annotated[ItemFile | HubItems | InlineItems, BeforeValidator(_as_items)]
"""Questions to be answered or facts to be scored; a plain string or path stands for an `ItemFile`."""


def _with_perturbed(items: ItemFile | HubItems | InlineItems) -> ItemFile | HubItems | InlineItems:
    return dataclasses.replace(items, perturbed=True)


PerturbedItems = Annotated[
    ItemFile | HubItems | InlineItems, BeforeValidator(_as_items), AfterValidator(_with_perturbed)
]
"""Questions with wrong answers beside the right one; a plain string or path stands for an `ItemFile`."""
