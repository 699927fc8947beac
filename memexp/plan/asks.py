"""From a probe to what it asks: its identity, its corpora, and the columns that say so.

ask = ask_for(read, condition, probe.bind(condition), setting_columns(condition, path, read))
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any

from memexp.errors import SpecError
from memexp.identity import canonical, identity, texts_identity
from memexp.plan.forest import Ask
from memexp.plan.reader import Reader
from memexp.plan.setting_columns import Columns
from memexp.probes.checks import check_headline
from memexp.records import check_items, check_labels
from memexp.sources import is_corpus
from memexp.spec import Condition, Corpus, Items, Pair, Probe, field_names, probes_within

__all__ = ["ask_for", "probe_corpora"]


def ask_for(read: Reader, condition: Condition, probe: Probe, settings: Columns) -> Ask:
    """What a bound probe asks of a condition with the columns `settings`.

    Raises:
        SpecError: a label or column of the probe hides another.
        DataError: the probe's corpora cannot be used.
    """
    check_labels(condition.labels, probe.schema())
    known = _known(read, probe)
    mended = probe.numerics(condition, read.sources.model(condition.model), known.texts)
    probe_id = identity(known.key | {"numerics": dict(mended)}) if mended else known.id
    return Ask(
        stage=settings["stage_id"],
        probe=known.probe,
        probe_id=probe_id,
        condition_id=settings["condition_id"],
        settings=settings.beside({"probe_id": probe_id, "probe_settings": known.told}),
        labels=condition.labels,
        corpora=known.corpora,
    )


@dataclass(frozen=True)
class _Known:
    """What a probe is, whatever condition has it."""

    probe: Probe
    texts: Mapping[str, Sequence[str]]
    """Of its corpora, by field."""
    corpora: Mapping[str, str]
    """Their identities."""
    key: dict[str, Any]
    """What its identity is of, without mended numbers."""
    id: str
    """Its identity, where none is mended."""
    told: str
    """Its settings, for people."""


def _known(read: Reader, probe: Probe) -> _Known:
    """Found out once for probes that are written alike; for each that a user's classes are in, who may write two alike
    that are not."""
    if next(_sources(probe), None) is not None:
        return _found_out(read, probe)
    written = type(probe), repr(probe)
    if written not in read.probes:
        read.probes[written] = _found_out(read, probe)
    found: _Known = read.probes[written]
    return found


def _found_out(read: Reader, probe: Probe) -> _Known:
    check_items(type(probe).__name__, probe.schema())
    check_headline(type(probe))
    names = [name for name, _ in probe_corpora(probe)]
    if len(set(names)) < len(names):
        raise SpecError(
            f"{type(probe).__name__}: one Pair and corpora under other names, please; it has {', '.join(names)}"
        )
    corpora = {name: read.texts(corpus) for name, corpus in probe_corpora(probe)}
    texts = {name: one.items for name, one in corpora.items()}
    probe.check(texts, {name: one.name for name, one in corpora.items()})

    def content(value: Any) -> Any | None:
        if isinstance(value, Pair):  # its name is for people only
            return [content(value.targets), content(value.foils)]
        return read.texts(value).id if is_corpus(value) else None

    def named(value: Any) -> Any | None:
        return read.texts(value).name if is_corpus(value) else None

    key = {"probe": canonical(probe.known_by(), content), **_source(probe)}
    told = json.dumps(canonical(probe, named), ensure_ascii=False)
    return _Known(probe, texts, {name: one.id for name, one in corpora.items()}, key, identity(key), told)


def _source(probe: Probe) -> dict[str, str]:
    """The hash of the classes' sources, for probes that do not come with memexp: who edits one wants new numbers.

    The class, what it inherits from, and the same of a probe within. What they call elsewhere is not seen. memexp's own
    probes change their numbers with `NUMERICS` only.
    """
    sources = list(_sources(probe))
    return {"source": texts_identity(sources)} if sources else {}


def _sources(probe: Probe) -> Iterator[str]:
    """The sources of the classes of a probe, and of those within it, as far as somebody else wrote them."""
    for cls in (cls for one in probes_within(probe) for cls in _written_elsewhere(type(one))):
        try:
            yield inspect.getsource(cls)
        except (OSError, TypeError):  # typed into an interpreter that keeps no source
            yield from (_code(value.__code__) for _, value in sorted(vars(cls).items()) if _is_own(value, cls))


@functools.cache
def _written_elsewhere(cls: type[Probe]) -> tuple[type, ...]:
    known = ("memexp", "abc", "builtins", "typing")
    return tuple(one for one in cls.__mro__ if one.__module__.partition(".")[0] not in known)


def _is_own(value: Any, cls: type) -> bool:
    """Whether it is a method that was written in `cls`, and not made by a decorator."""
    return inspect.isfunction(value) and value.__module__ == cls.__module__ and value.__name__ != "__init__"


def _code(code: CodeType) -> str:
    """What a function does, in the words of this Python's compiler: without where it stands."""
    constants = [
        _code(value)
        if isinstance(value, CodeType)
        else sorted(map(repr, value))
        if isinstance(value, frozenset)
        else value
        for value in code.co_consts
    ]
    return repr((code.co_code, code.co_names, code.co_varnames, constants))


def probe_corpora(probe: Probe) -> Iterator[tuple[str, Corpus | Items]]:
    """Name and description of every corpus among a probe's fields.

    A `Pair` gives ``targets`` and ``foils``, a probe within the probe what it has itself.
    """
    for name in field_names(type(probe)):
        value = getattr(probe, name)
        if isinstance(value, Pair):
            yield "targets", value.targets
            yield "foils", value.foils
        elif isinstance(value, Probe):
            yield from probe_corpora(value)
        elif is_corpus(value):
            yield name, value
