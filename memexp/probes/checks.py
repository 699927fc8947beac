"""What is checked of any probe, so that a user's own fails in one line that says where to look."""

from __future__ import annotations

import functools
import traceback
from typing import Any

import pyarrow as pa

from memexp.errors import SpecError
from memexp.spec import Headline, Probe, located, written_by_user
from memexp.spec.located import codes
from memexp.store.query import Metric

__all__ = ["check_headline", "checked", "raised_at"]


@functools.cache
def check_headline(probe: type[Probe]) -> None:
    """Try the SQL of a headline that a user wrote on a table without rows. Raises SpecError naming class and field."""
    headline = probe.headline
    if headline is None or not written_by_user(probe):  # memexp's own are tried by its tests
        return
    if not isinstance(headline, Headline):
        raise SpecError(f"{probe.__name__}.headline: must be Headline(...), got {headline!r}")
    items = {"items": probe.schema().empty_table()}
    for name, expression in (("mean", headline.mean), ("chance", headline.chance)):
        if isinstance(expression, str):
            Metric(f"SELECT avg({expression}) FROM items", f"{probe.__name__}.headline.{name}").check(items)


def checked(probe: Probe, items: Any) -> pa.Table:
    """What `probe.measure` returned, with the types of its schema. Raises SpecError that says where the class is."""
    schema, its = probe.schema(), f"{located(type(probe))}: measure()"
    if not isinstance(items, pa.Table):
        raise SpecError(f"{its} must return a pyarrow.Table with the columns of schema(), not {type(items).__name__}")
    for name in schema.names:
        if items.column_names.count(name) != 1:
            found = ", ".join(items.column_names) or "none"
            raise SpecError(f"{its} must return the column {name!r} of schema() once; it returned {found}")
    if strange := [name for name in items.column_names if name not in schema.names]:
        raise SpecError(f"{its} returned {strange[0]!r}, which is no column of schema(): {', '.join(schema.names)}")
    columns = []
    for field in schema:
        try:
            columns.append(items.column(field.name).cast(field.type))
        except pa.ArrowException as error:
            line = str(error).splitlines()[0]
            raise SpecError(f"{its} returned a column {field.name!r} that is no {field.type}: {line}") from error
    return pa.table(columns, schema=schema)


def raised_at(error: BaseException, probe: Probe) -> traceback.FrameSummary:
    """The last line of the user's own on the way to `error`, or else the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = {code.co_filename for cls in type(probe).__mro__ if written_by_user(cls) for code in codes(cls)}
    return next((frame for frame in reversed(frames) if frame.filename in own), frames[-1])
