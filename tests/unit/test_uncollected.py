"""Garbage is looked for again as before, whatever happens meanwhile."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from memexp.plan.uncollected import uncollected


@pytest.fixture(autouse=True)
def enabled() -> Iterator[None]:
    gc.enable()
    yield
    gc.enable()


@uncollected
def work(fails: bool) -> bool:
    """What a plan does."""
    if fails:
        raise ValueError
    return gc.isenabled()


def test_it_is_as_it_was_afterwards() -> None:
    assert not work(False) and gc.isenabled()
    with pytest.raises(ValueError):
        work(True)
    assert gc.isenabled()
    gc.disable()
    assert not work(False) and not gc.isenabled()
