"""Trials that Ray's memory monitor killed: what is said of it, and that each is tried once more, alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError
from ray.tune.experiment import Trial

from memexp import Resources
from memexp.cluster.connect import DRIVER, Cluster
from memexp.cluster.deaths import MEMORY, killed_for_memory

SAID = (
    "2 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.7, ID: ab12) was "
    "4.59GB used / 23.54GB limit (0.194834)\nOOM kill reason: Memory usage 4883402752B exceeded threshold of "
    "4873682944B (19.3% of 25276063744B limit)\nSelected to kill: (Actor(8e): task name=a.__init__, pid=18, actual "
    "memory used=3.55GB, worker ID=7c)\nSelected to kill: (Actor(8f): task name=a.__init__, pid=19, actual memory "
    "used=0.40GB, worker ID=7d)\nRefer to the documentation on how to address the out of memory issue"
)
"""What Ray 2.60 says, shortened."""
LINE = f"{MEMORY}: 4.59GB of 23.54GB were in use on node 192.0.2.7, 19.3% may be, 3.55GB and 0.40GB by those killed"


def test_what_ray_says_on_a_page_is_a_line() -> None:
    assert killed_for_memory(OutOfMemoryError(SAID)) == LINE
    assert killed_for_memory(RuntimeError(f"a group failed\n{SAID}")) == LINE
    assert killed_for_memory(OutOfMemoryError("in other\nwords")) == f"{MEMORY}: in other words"
    assert killed_for_memory(SAID) == killed_for_memory(LINE) == LINE
    assert killed_for_memory(ActorDiedError()) is None


@pytest.mark.parametrize(
    ("error", "said"),
    [(OutOfMemoryError(SAID), LINE), (RayActorError(error_msg="died"), "died")],
    ids=["memory", "not"],
)
def test_tune_takes_it_for_the_death_of_an_actor(error: Exception, said: str) -> None:
    """As Ray has it, it raises RuntimeError here and ends the experiment."""
    heard: list[Exception] = []

    class Task:
        class _tracked_actor:
            actor_id, _on_error = 1, None

        @staticmethod
        def _on_error(actor: Any, error: Exception) -> None:
            heard.append(error)

    manager = RayActorManager.__new__(RayActorManager)
    manager._failed_actor_ids, manager._cleanup_actor = set(), lambda tracked_actor: None
    manager._actor_task_failed(tracked_actor_task=Task, exception=error)
    assert [str(one) for one in heard] == [said] and isinstance(heard[0], RayActorError)


@pytest.mark.parametrize(
    ("error", "again", "said"),
    [(OutOfMemoryError(SAID), False, LINE), (RayActorError(error_msg="died"), True, "died")],
    ids=["memory", "not"],
)
def test_tune_does_not_start_it_again(error: Exception, again: bool, said: str, tmp_path: Path) -> None:
    """Also where it died while it was being started: the error comes by another way then."""
    trial = Trial("memexp", stub=True, max_failures=1)
    trial.storage = SimpleNamespace(trial_driver_staging_path=str(tmp_path))
    trial.handle_error(error)
    assert said in Path(trial.error_file).read_text(encoding="utf-8")
    assert trial.should_recover() is again


def test_alone_is_as_many_cpus_as_its_nodes_have() -> None:
    one = Cluster(nodes=({"CPU": 4.0, DRIVER: 10.0},))
    three = Cluster(nodes=({"CPU": 0.0, DRIVER: 10.0}, {"CPU": 2.0}, {"CPU": 2.0}))
    mixed = Cluster(nodes=({"CPU": 16.0}, {"CPU": 4.0, "GPU": 1.0}))
    assert one.all_cpus(Resources()) == 4 and one.all_cpus(Resources(workers=2)) == 2
    assert three.all_cpus(Resources()) == 2 and three.all_cpus(Resources(workers=2)) == 1
    assert three.all_cpus(Resources(workers=2, spread=True)) == 2
    assert three.all_cpus(Resources(workers=3, spread=True)) == 1
    assert mixed.all_cpus(Resources()) == 16 and mixed.all_cpus(Resources(gpus=1)) == 4
    assert one.all_cpus(Resources(cpus=4)) == 4
