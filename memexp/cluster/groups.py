"""One trial on several workers: a driver inside a Tune trial starts a TorchTrainer, whose workers walk it together."""

from __future__ import annotations

import dataclasses
import os
import threading
from concurrent.futures import Future
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE
from ray.train.v2._internal.execution.worker_group import worker_group
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.util.queue import Empty, Queue

from memexp.cluster import environment, nodes, places
from memexp.cluster.deaths import killed_for_memory
from memexp.cluster.draining import LEFT, left, noticed, was_left
from memexp.cluster.rendezvous import AtNode
from memexp.errors import without_secrets
from memexp.plan import Trial
from memexp.plan.attempts import Attempt, Log, Progress, failures
from memexp.plan.retries import DEATHS, PLACEMENTS, leave_out
from memexp.spec import Resources
from memexp.store import Store
from memexp.store.patience import told

__all__ = ["drive", "fit_group", "scaling"]

# Train looks at its workers every two seconds by default, which a short trial waits for several times over.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
# A group may have to wait for nodes that the autoscaler has yet to start: twelve times five minutes, not for ever.
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
# A process that looks every five seconds whether a node is about to go: nobody asks for what it finds.
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
# Train would copy what a probe prints to a log of its own, past `memexp.trial.printed`, which takes secrets out.
os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
LISTEN_S = 0.5
"""How long is listened for a report of a group before it is looked whether the group has ended."""

# Where Tune stops a trial, Train's cleaner learns from the dashboard that the group's place is to be given back. On a
# machine with several Rays it has to be told whose, or it dies and the next group waits for that place for ever.
DASHBOARD = "RAY_API_SERVER_ADDRESS"
ENV_VARS_TO_PROPAGATE.update((DASHBOARD, places.GROUP))


def drive(trial: Trial, held: Resources, store: Store, attempt: Attempt) -> tuple[list[str], str | None]:
    """Execute `trial` on workers that hold so much each; called inside a Tune trial that holds no CPU.

    An error of one worker ends its group, since the others wait for it. What that worker recorded as failed is then
    left out and a new group does the rest; a group that dies without a word (kill -9, a lost node) is started again:
    `memexp.plan.retries` says how often.

    Returns:
        One line for every stage that failed, and why a group died that is not to be started again beside others.

    Raises:
        TrainingFailedError: two groups died without a word.
    """
    os.environ[DASHBOARD] = ray.get_runtime_context().gcs_address
    lines: list[str] = []
    deaths = 0
    while trial.asks or trial.leaves:
        this = attempt.begun()
        os.environ[places.GROUP] = this.name
        store.size(".ray/any")  # waits for object storage, which Train would give up within seconds
        reports = Queue(1, actor_options={"num_cpus": 0})  # a group is never more than one report ahead of Tune
        try:
            return lines + fit_group(_group(trial, held, store, this, reports), reports), None
        except (TrainingFailedError, RayError) as error:
            places.give_back(f"{this.name} ")
            if was_left(error):
                tune.report({"answered": [], "steps": 0, "said": [f"a node of a worker group is about to go: {LEFT}"]})
                continue
            failed = failures(store, this, [trial.base, *trial.stages])
            if not failed and not trial.halved and Log.read(store, this).rows(status="halved"):
                trial = dataclasses.replace(trial, halved=True)
                continue
            killed = killed_for_memory(error)
            if killed and not failed:
                return lines, killed
            deaths += not failed
            if not failed and deaths > DEATHS:
                raise
            lines += failed.values()
            trial = leave_out(trial, failed, store, this)
    return lines, None


class _Trainer(TorchTrainer):  # type: ignore[misc] # untyped
    """Without the process that deals out Ray's datasets, which starts with every group and of which there are none."""

    def _create_default_callbacks(self) -> list[Any]:
        return [one for one in super()._create_default_callbacks() if not isinstance(one, DatasetsCallback)]


class _Reports(UserCallback):  # type: ignore[misc] # untyped
    """Puts what the first worker reports into a queue.

    Ray's own TuneReportCallback has a second thread report to Tune besides the trial's. Where the trial ends while a
    report is still under way, as it does on a busy machine, the two wait for each other and the sweep never ends.
    """

    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        self.queue.put(metrics[0])


# Train's controller takes what its own module names so.
worker_group.placement_group = places.named


def fit_group(group: TorchTrainer, reports: Queue) -> list[str]:
    """What the first worker of `group` returns; its reports go to Tune from this thread, which alone may report."""
    ended: Future[list[str]] = Future()

    def fit() -> None:
        try:
            ended.set_result(group.fit().return_value or [])
        except BaseException as error:  # it is raised where the result is asked for
            ended.set_exception(error)

    threading.Thread(target=fit, daemon=True, name="memexp-group").start()
    while True:
        over = ended.done()  # before the queue: then all that was reported is in it
        try:
            tune.report(reports.get(timeout=LISTEN_S))
        except Empty:
            if over:
                return ended.result()
        except RayError:  # the queue's process is gone, and with it the group sooner or later
            return ended.result()


def scaling(held: Resources) -> ScalingConfig:
    """So many workers with so much each, on one node unless they may be spread: links between nodes are slow."""
    resources = {"CPU": held.cpus}
    if held.gpus:
        resources["GPU"] = held.gpus
    return ScalingConfig(
        num_workers=held.workers,
        use_gpu=held.gpus > 0,
        resources_per_worker=resources,
        placement_strategy="PACK" if held.spread else "STRICT_PACK",
    )


def _group(trial: Trial, held: Resources, store: Store, attempt: Attempt, reports: Queue) -> TorchTrainer:
    return _Trainer(
        _work,
        train_loop_config={"trial": trial, "store": store, "attempt": attempt, "reports": reports},
        scaling_config=scaling(held),
        torch_config=AtNode(),
        run_config=RunConfig(
            # Of the name depends whether Train takes this for the continuation of another attempt: it never is, since
            # the store says what is left to do.
            name=attempt.name,
            storage_path=f"{store.location}/.ray",
            # Also after a preemption it is for `drive` to say what is left to do.
            failure_config=FailureConfig(
                max_failures=0, max_preemption_failures=0, controller_failure_limit=PLACEMENTS
            ),
            callbacks=[_Reports(reports)],
        ),
    )


@without_secrets()
def _work(config: dict[str, Any]) -> list[str]:
    """What every worker does: the trial, over the process group that Train has set up."""
    import ray.train

    environment.take()
    nodes.check_here()
    from memexp.core.processes import World
    from memexp.trial.execute import execute
    from memexp.trial.leaving import Leaving, Notice

    trial: Trial = config["trial"]

    def report(progress: Progress) -> None:
        # Every rank must report equally often; only the first one's figures arrive.
        made = {"answered": list(progress.answered), "steps": progress.steps, "reached": list(progress.reached.items())}
        ray.train.report({**made, "said": list(progress.said), "events": list(progress.events)})

    def tell(line: str) -> None:
        # Not through Train, to which all ranks report together.
        config["reports"].put({"answered": [], "steps": 0, "said": [line]})

    notice = Notice()
    try:
        with told(tell), noticed(notice):
            world = World.current(trial.resources.gpus)
            return execute(trial, config["store"], world, config["attempt"], report, notice=notice)
    except Leaving:
        raise left(notice) from None
