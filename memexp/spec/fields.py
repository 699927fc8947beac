"""How a description is made and what its fields may hold.

@spec
class Mine(Probe):
    shots: Count = 0
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import math
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic.fields import FieldInfo

from memexp.errors import SpecError, writable

__all__ = [
    "LARGEST",
    "NAME",
    "Count",
    "Name",
    "NonNegative",
    "PathText",
    "Positive",
    "Probability",
    "Rate",
    "SomeText",
    "Text",
    "as_tuple",
    "finite",
    "spec",
]

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(Field, dataclasses.field))
def spec(cls: type[T]) -> type[T]:
    """Turn an annotated class into a frozen, validated description.

    Types are strict (``"3"`` is no number, ``True`` is no count). A violation raises `SpecError` with
    one line that names the class and field; an unknown field suggests the nearest known one. ``help`` shows the text
    below each field.
    """
    made: Any = pydantic_dataclass(
        frozen=True,
        config=ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True),
    )(cls)
    checked_init = made.__init__

    @functools.wraps(checked_init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            checked_init(self, *args, **kwargs)
        except ValidationError as error:
            raise SpecError(_first_complaint(made, error)) from None

    made.__init__ = __init__
    made.__doc__ = _with_fields(made)
    return made  # type: ignore[no-any-return] # the same class, as pydantic has rebuilt it


def _with_fields(cls: Any) -> str:
    """The docstring of `cls` with its fields: what stands below each in the source, where Python can find that."""
    lines = []
    for name, info in cls.__pydantic_fields__.items():
        default = "" if info.is_required() else f" (default {_shown_default(info)})"
        line = f"{name}: {' '.join(_told(cls, name).split())}".rstrip(": ") + default
        lines.append(textwrap.fill(line, 100, initial_indent="    ", subsequent_indent="        "))
    text = inspect.cleandoc(cls.__doc__ or "")
    return "\n".join([text, "", "Fields:", *lines]) if lines else text


def _told(cls: type, name: str) -> str:
    """What stands below a field in the source, of an inherited one in that of the class it is from."""
    fields = [vars(one).get("__pydantic_fields__", {}).get(name) for one in cls.__mro__]
    return next((field.description for field in fields if field is not None and field.description), "")


def _shown_default(info: FieldInfo) -> str:
    if info.default_factory is None:
        return textwrap.shorten(repr(info.default), 60)
    name = getattr(info.default_factory, "__name__", "")
    return f"{name}()" if name.isidentifier() else "made anew"


def _words(problems: Sequence[Any], field: Any) -> str:
    """The words that a field takes instead of a number, as in ``'auto'``."""
    found = (
        one["ctx"]["expected"] for one in problems if one["loc"][:1] == (field,) and one["type"] == "literal_error"
    )
    return next(found, "")


def _first_complaint(cls: type, error: ValidationError) -> str:
    """One line for the first violation of `cls`: ``Study.lr: Input should be greater than 0, got -1.0``."""
    problems = error.errors(include_url=False)
    names = [field.name for field in dataclasses.fields(cls)]
    # A misspelt field also leaves the right one missing; the misspelling is what helps.
    problem = next((p for p in problems if p["type"] == "unexpected_keyword_argument"), problems[0])
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:  # raised by __post_init__, which names the field itself
        return message
    first = problem["loc"][0]
    if problem["type"] == "unexpected_keyword_argument":
        near = difflib.get_close_matches(str(first), names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names) or 'none'}"
        return f"{cls.__name__} has no field {str(first)!r}; {hint}"
    if problem["type"] == "unexpected_positional_argument":
        return f"{cls.__name__} takes at most {len(names)} values: {', '.join(names)}"
    where = f"{cls.__name__}.{names[first] if isinstance(first, int) else first}"
    if problem["type"] == "missing":
        return f"{where} is required"
    given = problem.get("input")
    shown = repr(given)
    choices = [p["ctx"] for p in problems if p["loc"][:1] == (first,) and "class_name" in p.get("ctx", {})]
    if choices:
        message = "must be " + " or ".join(dict.fromkeys(f"{choice['class_name']}(...)" for choice in choices))
        message += f", or {words}" if (words := _words(problems, first)) else ""
    elif problem["type"] != "literal_error" and (words := _words(problems, first)):
        message += f", or {words}"
    elif problem["type"] == "tuple_type":
        message = "must be a list"
    elif problem["type"] == "too_short":
        message = "must not be empty"
    if problem["type"] in _OF_ONE_VALUE and isinstance(given, list | tuple | set | range):
        grid = f"{cls.__name__}(..., {where.rpartition('.')[2]}=one) for one in {textwrap.shorten(shown, 60)}"
        return f"{where}: takes one value, got {shown}; a grid has one condition each: [... {grid}]"
    if dataclasses.is_dataclass(given) or isinstance(given, Mapping) or len(shown) > 60:
        return f"{where}: {message}"
    return f"{where}: {message}, got {shown}"


_OF_ONE_VALUE = ("int_type", "float_type", "string_type", "bool_type", "literal_error")
"""What pydantic calls it where a field that holds one number, text or choice is given something else."""


def finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


def _path_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _plain_name(value: str) -> str:
    """A name that becomes part of a file name: no separators, no '..', not hidden."""
    if not NAME.fullmatch(value) or ".." in value:
        raise ValueError("use letters, digits, '.', '_' and '-' only, without '/' or '..'")
    return value


def _no_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    if writable(value) != value:
        raise ValueError("holds half of a surrogate pair, which no file can")
    return value


Name = Annotated[str, AfterValidator(_plain_name)]
"""A string that can safely be part of a file name."""
Text = Annotated[str, AfterValidator(_no_blank)]
PathText = Annotated[Text, BeforeValidator(_path_text)]
LARGEST = 2**63 - 1
"""Whole numbers become columns of 64 bits."""
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Positive = Annotated[int, Field(gt=0, le=LARGEST)]
Rate = Annotated[float, Field(gt=0), AfterValidator(finite)]
NonNegative = Annotated[float, Field(ge=0), AfterValidator(finite)]
Probability = Annotated[float, Field(ge=0, lt=1)]
SomeText = Annotated[tuple[Text, ...], BeforeValidator(as_tuple), Field(min_length=1)]
"""At least one text; a list is as good as a tuple."""
