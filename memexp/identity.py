"""Names made from content: canonical JSON, hashed with SHA-256.

An identity is the first 16 hexadecimal digits (64 bits) of the hash of what determines a thing. Fields at their
defaults are left out, so that a field added later keeps old identities; tests/unit/test_identity.py holds golden ones.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

__all__ = ["NUMERICS", "NUMERICS_OF", "canonical", "identity", "parsed", "texts_identity"]

NUMERICS = 2
"""Bumped by hand whenever the same description would give other numbers; part of every base stage's identity."""

NUMERICS_OF = {"bfloat16": 2}
"""The same for one dtype alone, off float32: part of its base stages' identity."""

DIGITS = 16


def identity(value: Any) -> str:
    """The identity of JSON-like `value` (as made by `canonical`). Raises ValueError on NaN or infinity."""
    return hashlib.sha256(_JSON.encode(value).encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]


_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def parsed(text: str | bytes) -> Any:
    """JSON that somebody else may have written. Raises ValueError, whatever is wrong with it."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def canonical(value: Any, replace: Callable[[Any], Any] | None = None) -> Any:
    """`value` as JSON-like data: a description becomes ``{"ClassName": {its fields that are not at their default}}``.

    `replace` is asked first about every object but plain texts, numbers, truth values and None; what it returns other
    than None stands in for it (a corpus becomes the hash of its content). Raises TypeError for what has no canonical
    form.
    """
    kind: Any = type(value)
    if kind in _PLAIN:
        return value
    if replace is not None and (stand_in := replace(value)) is not None:
        return stand_in
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        told = {}
        for name, default, factory in _fields(kind):
            held = getattr(value, name)
            if held != (default if factory is None else factory()):
                told[name] = canonical(held, replace)
        return {kind.__name__: told}
    if isinstance(value, Mapping):
        return {str(key): canonical(item, replace) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item, replace) for item in value]
    if isinstance(value, str | int | float):
        return value
    raise TypeError(f"{value!r} has no canonical form")


_PLAIN = frozenset((str, int, float, bool, type(None)))
"""What most values are: told from the others by one look."""


@functools.lru_cache(maxsize=1024)
def _fields(kind: type) -> tuple[tuple[str, Any, Callable[[], Any] | None], ...]:
    """Name, default and the default's factory of every field of a class; the same for each of its many objects."""
    return tuple((field.name, *_default(field)) for field in dataclasses.fields(kind))


def _default(field: dataclasses.Field[Any]) -> tuple[Any, Callable[[], Any] | None]:
    """The default of a dataclass field, or the field itself (equal to nothing else) where there is none; or what makes
    a new one for every object."""
    # pydantic's Field(default_factory=...) arrives here as an object in place of the default
    factory: Any = getattr(field.default, "default_factory", None) or field.default_factory
    if not _is_missing(factory):
        return None, factory
    return (field if _is_missing(field.default) else field.default), None


def _is_missing(value: object) -> bool:
    """By type: a class that has travelled by value, as probes of the user's own do, brings a sentinel of its own."""
    return isinstance(value, type(dataclasses.MISSING))


def texts_identity(texts: Iterable[str]) -> str:
    """Identity of an ordered list of texts: the hash of each length in bytes and the bytes.

    Content and not container: the same list as CSV and as JSONL is the same study.
    """
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:DIGITS]
