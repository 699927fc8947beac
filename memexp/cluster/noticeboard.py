"""Values that a driver leaves with the head of the cluster, for the workers of its Ray job to find.

    with left("nodes", value):     # in the driver, while it is connected
    found("nodes")                 # in a worker; None where nothing is left

The head's key-value store is memory that only who has Ray's token can read, and is not logged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import ray
from ray.experimental import internal_kv

__all__ = ["found", "left"]

NAMESPACE = "memexp"


@contextlib.contextmanager
def left(name: str, value: bytes) -> Iterator[None]:
    """While the context lasts, `value` is there under `name`."""
    internal_kv._internal_kv_put(_key(name), value, namespace=NAMESPACE)
    try:
        yield
    finally:
        with contextlib.suppress(Exception):  # of a cluster that is gone; the error that says so is on its way
            internal_kv._internal_kv_del(_key(name), namespace=NAMESPACE)


def found(name: str) -> bytes | None:
    """What the driver of this job has left under `name`."""
    value: bytes | None = internal_kv._internal_kv_get(_key(name), namespace=NAMESPACE)
    return value


def _key(name: str) -> str:
    return f"{name}-{ray.get_runtime_context().get_job_id()}"
