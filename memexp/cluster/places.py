"""The places of worker groups (Ray's placement groups) by name, to be given back where all who would do it are dead.

Train's controller gives the place of its group back, and a cleaner where the controller is dead. Ray's memory monitor
kills both, and with them the process that started the group: what is on the head is younger than what was beside it.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from typing import Any

from ray.util.placement_group import (
    PlacementGroup,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

__all__ = ["GROUP", "give_back", "named"]

GROUP = "MEMEXP_GROUP"
"""The variable from which a controller learns under which name the place of its group is to be found again."""


def named(*arguments: Any, **options: Any) -> PlacementGroup:
    """What Train's controller calls for a place, instead of Ray's function."""
    return placement_group(*arguments, **options, name=f"{os.environ[GROUP]} {uuid.uuid4().hex}")


def give_back(prefix: str) -> None:
    """Free what dead groups hold whose names begin so."""
    for one in placement_group_table().values():
        if one["name"].startswith(prefix) and one["state"] != "REMOVED":
            with contextlib.suppress(ValueError):  # given back in the meantime by whoever else does it
                remove_placement_group(get_placement_group(one["name"]))
