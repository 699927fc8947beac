"""Which cluster a run joins, told without importing Ray, so that it can be said before that takes its seconds."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["BOOTSTRAPPED", "address_of", "is_connected", "is_told"]

BOOTSTRAPPED = "~/ray_bootstrap_config.yaml"
"""What ``ray up`` leaves on a head node."""


def address_of(given: str | None) -> str:
    """The address that was given, else RAY_ADDRESS, else ``auto`` on a node made by ``ray up``, else ``local``."""
    found = given or os.environ.get("RAY_ADDRESS")
    return found or ("auto" if Path(BOOTSTRAPPED).expanduser().exists() else "local")


def is_told(given: str | None) -> bool:
    """Whether anybody said which cluster: as `given`, by RAY_ADDRESS, or by being on a node made by ``ray up``."""
    return bool(given or os.environ.get("RAY_ADDRESS")) or address_of(None) != "local"


def is_connected() -> bool:
    """Whether this process is connected to a cluster already."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
