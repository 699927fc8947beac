"""The one number that sums up a probe's rows: what the table at the end of a sweep shows.

headline: ClassVar[Headline] = Headline("share of answers that match exactly", "exact::int")
"""

from __future__ import annotations

from memexp.spec.fields import Text, spec

__all__ = ["Headline"]


@spec
class Headline:
    """What to show of a probe's rows. Its SQL is DuckDB's, over the columns of `Probe.schema`."""

    title: Text
    """What the number is, for the heading of the table."""
    mean: Text
    """The expression of one item's columns whose mean is shown: ``(target_nll < foil_nll)::int``."""
    chance: float | Text | None = None
    """What guessing comes to: a number, or an expression as in `mean` where items differ, such as
    ``1 / len(choices)``."""
    why_null: Text = "they could not be measured"
    """Why `mean` is NULL for an item, to end the sentence "3 of 40 items are NULL: ..."."""
