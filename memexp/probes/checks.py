"""What is checked of any probe, so that a user's own fails in one line that says where to look."""

from __future__ import annotations

import functools

from memexp.errors import SpecError
from memexp.spec import Headline, Probe
from memexp.store.query import Metric

__all__ = ["check_headline"]


@functools.cache
def check_headline(probe: type[Probe]) -> None:
    """Try the SQL of a probe's headline on a table without rows. Raises SpecError that names class and field."""
    headline = probe.headline
    if headline is None:
        return
    if not isinstance(headline, Headline):
        raise SpecError(f"{probe.__name__}.headline: must be Headline(...), got {headline!r}")
    items = {"items": probe.schema().empty_table()}
    for name, expression in (("mean", headline.mean), ("chance", headline.chance)):
        if isinstance(expression, str):
            Metric(f"SELECT avg({expression}) FROM items", f"{probe.__name__}.headline.{name}").check(items)
