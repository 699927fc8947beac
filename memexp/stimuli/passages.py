"""Passages on invented countries with spans to be asked for: verbatim, in other words, and put together from two facts.

    fields(country)["mem_input"], fields(country)["mem_target"]

In the fields of the fictional knowledge of Chang et al. 2024 (arXiv 2406.11813), three spans each where they have five;
`memexp.FactWorld` gives them as texts and as items.
"""

from __future__ import annotations

from typing import Any

from memexp.stimuli.world import STATEMENTS, Country

__all__ = ["fields"]

ANSWERS = {"capital": "{capital}", "animal": "{animal}", "person": "{country}"}
"""What each kind of statement ends with, before its full stop."""
TOLD = (0, 1, 2)
"""Statements of each kind that a passage is made of; the first is the one that is asked for verbatim."""
REWORDED = 3
"""A statement that no passage holds."""
COMPOSED = (
    ("The capital of the home country of {person} is", "{capital}"),
    ("The national animal of the home country of {person} is the", "{animal}"),
    ("{person} comes from the country whose capital is {capital}, and it is called", "{country}"),
)
"""What no sentence of a passage says, with what it says in several."""


def fields(country: Country) -> dict[str, Any]:
    """A passage on `country`, ``train_context``, with inputs and targets of its spans."""
    known = vars(country)
    told = [STATEMENTS[kind][number].format(**known) for number in TOLD for kind in ANSWERS]
    found: dict[str, Any] = {"train_context": " ".join(told)}
    for name, number in (("mem", 0), ("gen", REWORDED)):
        asked = [(_before(STATEMENTS[kind][number], answer), answer) for kind, answer in ANSWERS.items()]
        found |= _filled(name, asked, known)
    return found | _filled("hard_gen", COMPOSED, known)


def _before(statement: str, answer: str) -> str:
    """A statement up to the answer that it ends with."""
    return statement.removesuffix(".").removesuffix(answer).rstrip()


def _filled(name: str, asked: Any, known: dict[str, Any]) -> dict[str, list[str]]:
    inputs, targets = ([part.format(**known) for part in parts] for parts in zip(*asked, strict=True))
    return {f"{name}_input": inputs, f"{name}_target": targets}
