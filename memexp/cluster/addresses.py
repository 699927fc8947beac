"""Which cluster a run joins, told without importing Ray, so that it can be said before that takes its seconds."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["BOOTSTRAPPED", "address_of"]

BOOTSTRAPPED = "~/ray_bootstrap_config.yaml"
"""What ``ray up`` leaves on a head node."""


def address_of(given: str | None) -> str:
    """The address that was given, else RAY_ADDRESS, else ``auto`` on a node made by ``ray up``, else ``local``."""
    found = given or os.environ.get("RAY_ADDRESS")
    return found or ("auto" if Path(BOOTSTRAPPED).expanduser().exists() else "local")
