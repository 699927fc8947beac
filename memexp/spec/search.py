"""A search: which point of a space gives the best value of a number asked of the probes?

def condition(lr, batch_size):
    study = Study(pair.targets, exposures=1, lr=lr, batch_size=batch_size)
    return Condition(Model("tiny-m"), study, probes=[Recognition(pair)])

Search("lr-tiny-m", condition, space={"lr": Uniform(1e-5, 1e-2, log=True), "batch_size": Choices([1, 4, 16])},
       metric="SELECT avg((target_nll < foil_nll)::int) FROM recognition", mode="max", trials=16)
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from memexp.errors import SpecError
from memexp.spec.condition import Condition
from memexp.spec.fields import LARGEST, Count, Name, Positive, Text, as_tuple, finite, spec

__all__ = ["ASHA", "Choices", "Integers", "MedianStopping", "Point", "Search", "Uniform"]

Point = Mapping[str, Any]
"""A value for every name of a space."""

Whole = Annotated[int, Field(ge=-LARGEST, le=LARGEST)]
Finite = Annotated[float, AfterValidator(finite)]
MOST_CORNERS = 256


def _check_bounds(kind: str, low: float, high: float, log: bool) -> None:
    if low >= high:
        raise SpecError(f"{kind}.low must be below {kind}.high, got {low:g} and {high:g}")
    if log and low <= 0:
        raise SpecError(f"{kind}.log needs a low above 0, got {low:g}")


@spec
class Uniform:
    """Any number from `low` to `high`."""

    low: Finite
    """The smallest."""
    high: Finite
    """The largest."""
    log: bool = False
    """Every order of magnitude is as likely as every other."""

    def __post_init__(self) -> None:
        _check_bounds("Uniform", self.low, self.high, self.log)

    @property
    def corners(self) -> tuple[Any, ...]:
        """The values at the edge."""
        return self.low, self.high

    def holds(self, value: object) -> bool:
        """Whether a value is one of these."""
        return isinstance(value, float) and self.low <= value <= self.high


@spec
class Integers:
    """Any whole number from `low` to `high`, both included."""

    low: Whole
    """The smallest."""
    high: Whole
    """The largest."""
    log: bool = False
    """Every order of magnitude is as likely as every other."""

    def __post_init__(self) -> None:
        _check_bounds("Integers", self.low, self.high, self.log)

    @property
    def corners(self) -> tuple[Any, ...]:
        """The values at the edge."""
        return self.low, self.high

    def holds(self, value: object) -> bool:
        """Whether a value is one of these."""
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high


@spec
class Choices:
    """One of some values, between which there is no order."""

    options: Annotated[
        tuple[Annotated[float, AfterValidator(finite)] | str | int | bool | None, ...],
        BeforeValidator(as_tuple),
        Field(min_length=1),
    ]
    """The values."""

    def __post_init__(self) -> None:
        for value in self.options:
            if sum(value == other for other in self.options) > 1:  # True and 1 are one to the sampler
                raise SpecError(f"Choices.options: {value!r} is there more than once")

    @property
    def corners(self) -> tuple[Any, ...]:
        """All of them."""
        return self.options

    def holds(self, value: object) -> bool:
        """Whether a value is one of these."""
        return any(type(value) is type(option) and value == option for option in self.options)


@spec
class ASHA:
    """Successive halving without waiting (Li et al. 2018, arXiv 1810.05934): at `grace`, `grace` × `reduction`, ... a
    suggestion goes on only if it is among the best 1 / `reduction` of those that came so far."""

    grace: Positive = 1
    """Exposures, or interference steps, before which nothing is stopped."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """How many times further each time, and how many fewer."""


@spec
class MedianStopping:
    """A suggestion is stopped whose best value so far is worse than the median of the others' means so far (Golovin
    et al. 2017, Google Vizier)."""

    grace: Positive = 1
    """Exposures, or interference steps, before which nothing is stopped."""
    samples: Positive = 3
    """Suggestions that must have come as far before one is stopped."""


@spec
class Search:
    """Suggestions of a sampler, one after another, each a trajectory that is trained and measured.

    The suggestions are stored in order, and a search goes on from those. To `condition` and `space` belongs what is
    found: another model, corpus or probe makes another search, more `trials` continue this one.
    """

    name: Name
    """Names the search in ``searches/`` and in what a sweep says."""
    condition: Callable[..., Any]
    """Called with a value for every name of `space`; returns a `Condition`, or several of one trajectory: equal but for
    their exposures, or for their interference steps, in ascending order."""
    space: Annotated[dict[str, Uniform | Integers | Choices], Field(min_length=1)]
    """What is searched, by the names of the parameters of `condition`."""
    metric: Text
    """One SELECT over the rows of one condition that gives one number; tables are named by kind, as in
    ``memexp query``. The value of a suggestion is that of its last condition."""
    mode: Literal["min", "max"]
    """Whether a small or a large number is good."""
    trials: Positive
    """How many suggestions are tried, counting those in the store."""
    seed: Count = 0
    """Seed of the sampler."""
    sampler: Literal["gp", "tpe", "random"] = "gp"
    """How the next point is chosen, by optuna: from a Gaussian process, from a tree-structured Parzen estimator (for
    spaces with many `Choices`, or hundreds of trials), or at random. The former two begin with evenly spread points."""
    stopping: ASHA | MedianStopping | None = None
    """Rule that ends a suggestion before its last condition."""
    concurrent: Positive | None = None
    """Suggestions tried at a time, so far as the cluster can hold them. By default an eighth of `trials`, and no fewer
    than ``Resources.lanes``, since a sampler learns from those only that are through; random points and the evenly
    spread ones have no need to wait."""

    def __post_init__(self) -> None:
        try:
            inspect.signature(self.condition).bind(**self.space)
        except TypeError as error:
            raise SpecError(f"Search.condition is called with {', '.join(self.space)}: {error}") from None
        if self.stopping is not None and len(self.conditions(next(self.corners))) == 1:
            raise SpecError(
                "Search.stopping needs a condition that returns several, of more and more exposures or steps"
            )

    @property
    def corners(self) -> Iterator[Point]:
        """Points at the edges of the space: what is wrong with a condition, or large, shows there."""
        edges = itertools.product(*(domain.corners for domain in self.space.values()))
        yield from (dict(zip(self.space, edge, strict=True)) for edge in itertools.islice(edges, MOST_CORNERS))

    def conditions(self, point: Point) -> tuple[Condition, ...]:
        """The conditions of `point`, ascending. Raises SpecError for what is none."""
        found = self.condition(**point)
        found = (found,) if isinstance(found, Condition) else found
        if not isinstance(found, Sequence) or not found or not all(isinstance(one, Condition) for one in found):
            raise SpecError(
                f"Search.condition at {point_text(point)} returns no Condition and no list of some: {found!r:.60}"
            )
        return tuple(found)


def point_text(point: Point) -> str:
    """A point for people: ``lr=0.001, batch_size=4``."""
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) and math.isfinite(value) else f"{name}={value}"
        for name, value in point.items()
    )
