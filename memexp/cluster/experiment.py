"""The trials of a sweep as one Tune experiment.

Tune places trials, restarts crashed ones and tells of progress; results go from the trial to the store and never
through Tune, and the store alone decides what is done.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import ray
from ray import cloudpickle, tune
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.experiment import Trial as TuneTrial

from memexp.cluster.connect import DRIVER, Cluster
from memexp.plan import Ask, Trial
from memexp.plan.attempts import Attempt, Progress, failures
from memexp.plan.retries import DEATHS, Outcome, leave_out
from memexp.spec import Resources
from memexp.store import Store

__all__ = ["NUMBER", "Listener", "fit", "placement", "run_trials", "send_probes", "tune_trial"]

NUMBER = "number"
"""In the configuration of a Tune trial which of the trials it is."""

REPORT_EVERY = 0.5
"""Seconds between reports of a trial: each one waits for Tune's event loop."""

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# Ctrl-C is to reach the driver, which then ends all trials at once; Tune's own handler would wait for them.
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
# A trial that died is a line of `Outcome`; Tune's own word for it is a traceback through Ray.
logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


def run_trials(
    trials: Sequence[Trial],
    store: Store,
    attempt: Attempt,
    cluster: Cluster,
    on_progress: Callable[[Progress], None],
) -> Outcome:
    """Execute `trials` on the connected cluster and wait for them.

    One-worker trials execute inside reused Tune actors, which keep the base model they loaded last; a trial of several
    workers is a driver that holds no CPU and starts a TorchTrainer. A crashed trial is started once more.
    """
    send_probes(ask for trial in trials for ask in trial.asks)
    payloads = [ray.put(trial) for trial in trials]
    needs = [trial.resources for trial in trials]  # without the trials, which would travel with the function
    listener = Listener(on_progress)
    fit(
        lambda config: tune_trial(ray.get(payloads[config[NUMBER]]), config[NUMBER], store, attempt),
        lambda config: placement(needs[config[NUMBER]], cluster),
        attempt,
        listener,
        tune.TuneConfig(reuse_actors=True),
        {NUMBER: tune.grid_search(list(range(len(trials))))},
    )
    return Outcome(listener.failures, listener.lost)


def fit(
    trainable: Callable[[dict[str, Any]], None],
    resources: Callable[[dict[str, Any]], PlacementGroupFactory],
    attempt: Attempt,
    listener: Listener,
    settings: tune.TuneConfig,
    space: dict[str, Any] | None = None,
) -> None:
    """A Tune experiment that shows nothing, keeps nothing and starts a crashed trial once more.

    The configuration of every trial has its `NUMBER`.
    """
    # Interrupted, Tune may still be writing to it.
    with tempfile.TemporaryDirectory(prefix="memexp-tune-", ignore_cleanup_errors=True) as scratch:
        tune.Tuner(
            tune.with_resources(trainable, resources),
            param_space=space,
            tune_config=settings,
            run_config=tune.RunConfig(
                name=attempt.name,
                storage_path=scratch,  # of Tune's own records nothing is kept
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=DEATHS),
                callbacks=[listener],
                progress_reporter=_Silence(),
            ),
        ).fit()


def send_probes(asks: Iterable[Ask]) -> None:
    """Have a user's own probes travel with the trials, with the modules beside them: workers could not import these."""
    names = {type(ask.probe).__module__ for ask in asks}
    own = {name for name in names if name.partition(".")[0] != "memexp"}
    folders = {_folder(sys.modules[name]) for name in own} - {None}
    own |= {name for name, module in list(sys.modules.items()) if _folder(module) in folders}
    for name in own:
        cloudpickle.register_pickle_by_value(sys.modules[name])


def _folder(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve().parent if file else None


def placement(resources: Resources, cluster: Cluster) -> PlacementGroupFactory:
    """What a Tune trial with these resources holds."""
    if resources.workers > 1:
        # The share that keeps no more drivers alive than the cluster can hold worker groups: the rest would wait inside
        # Train, where waiting ends in an error.
        share = cluster.total(DRIVER) / cluster.slots(resources)
        return PlacementGroupFactory([{DRIVER: math.floor(share * 10_000) / 10_000}])  # Ray counts in such parts
    bundle = {"CPU": resources.cpus}
    if resources.gpus:
        bundle["GPU"] = resources.gpus
    return PlacementGroupFactory([bundle])


def tune_trial(trial: Trial, number: int, store: Store, attempt: Attempt) -> None:
    """What a Tune trial does; `number` tells it from the others of the experiment."""
    # What one trial recorded as failed is not another's to leave out: it may be on a better node.
    attempt = attempt.of_trial(trial.phase, number)
    if trial.resources.workers > 1:
        from memexp.cluster.groups import drive

        lines = drive(trial, store, attempt)
        # All of it: the last report of a group that died may have died with it.
        there = {kind: store.names(kind) for kind in {ask.kind for ask in trial.asks}}
        answered = [ask.file for ask in trial.asks if ask.name in there[ask.kind]]
        tune.report({"answered": answered, "steps": 0, "failures": lines})
        return
    from memexp.core.processes import World
    from memexp.trial.execute import execute

    reporter = _Reporter(at_once=trial.stoppable)
    # By a process that died before this one started: what hung costs itself only.
    failed = failures(store, attempt, [trial.base, *trial.stages])
    attempt = attempt.begun()
    trial = leave_out(trial, failed, store, attempt)
    try:
        lines = execute(trial, store, World.current(trial.resources.gpus), attempt, reporter, _warm_base())
    finally:
        _give_back()
    reporter.flush([*failed.values(), *lines])


@functools.cache
def _warm_base() -> Any:
    """The base model of this process, which Tune gives trial after trial; a `memexp.trial.base.WarmBase`."""
    from memexp.trial.base import WarmBase

    return WarmBase()


def _give_back() -> None:
    """Return freed memory to the system. A reused actor has a new thread for every trial, and glibc keeps for each
    thread what it once had: 200 MB a trial of tiny models were seen."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class _Reporter:
    """Adds up progress and reports it every `REPORT_EVERY` seconds, results at once where Tune may stop the trial.

    Tune stops a trial while it waits in such a report, so nothing that comes after it has begun.
    """

    def __init__(self, at_once: bool) -> None:
        self.at_once = at_once
        self.answered: list[str] = []
        self.said: list[str] = []
        self.steps = 0
        self.last = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        self.answered += progress.answered
        self.said += progress.said
        self.steps += progress.steps
        if (self.at_once and self.answered) or time.monotonic() - self.last > REPORT_EVERY:
            self.flush([])

    def flush(self, failures: list[str]) -> None:
        tune.report({"answered": self.answered, "steps": self.steps, "said": self.said, "failures": failures})
        self.answered, self.said, self.steps, self.last = [], [], 0, time.monotonic()


class Listener(tune.Callback):  # type: ignore[misc] # untyped
    """Hands what trials report to the display, and keeps their failures."""

    def __init__(self, on_progress: Callable[[Progress], None]) -> None:
        self.on_progress = on_progress
        self.failures: list[str] = []
        """One line for every stage that a trial recorded as failed."""
        self.lost: dict[int, str] = {}
        """Why trials died, by their number."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks among what a restored experiment would need; a display cannot be and is not."""
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        self.failures += result.get("failures", [])
        answered, said = tuple(result.get("answered", ())), tuple(result.get("said", ()))
        self.on_progress(Progress(answered, result.get("steps", 0), said=said))

    def on_experiment_end(self, trials: list[TuneTrial], **info: Any) -> None:
        for trial in trials:  # in an order of Tune's: one that was started again has gone to the end
            if trial.status == TuneTrial.ERROR:
                self.lost[trial.config[NUMBER]] = _last_words(trial)


def _last_words(trial: TuneTrial) -> str:
    """The last line of what a trial died of."""
    text = ""
    with contextlib.suppress(OSError):  # a full disk
        text = Path(trial.error_file or "").read_text(encoding="utf-8", errors="replace")
    return (text.strip() or "for a reason that could not be written down").splitlines()[-1].strip()


class _Silence(tune.ProgressReporter):  # type: ignore[misc] # untyped
    """Tune's own progress tables, switched off."""

    def should_report(self, trials: list[TuneTrial], done: bool = False) -> bool:
        return False

    def report(self, trials: list[TuneTrial], done: bool, *sys_info: Any) -> None:
        return None
