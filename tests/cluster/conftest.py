"""One Ray cluster on this machine for all tests of this folder that need no particular one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray

from memexp.cluster.connect import DRIVER


@pytest.fixture(scope="session")
def local_cluster() -> Iterator[None]:
    """A cluster of two CPUs that this process is connected to; sweeps executed in it use it as it is."""
    ray.init(
        "local",
        num_cpus=2,
        resources={DRIVER: 10},
        include_dashboard=True,  # a stopped Train trial needs it
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=200 * 2**20,
    )
    yield
    ray.shutdown()
