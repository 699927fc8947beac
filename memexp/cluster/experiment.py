"""The trials of a sweep as one Tune experiment.

Tune places trials, restarts crashed ones and tells of progress; results go from the trial to the store and never
through Tune, and the store alone decides what is done.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import functools
import logging
import math
import os
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.execution.class_cache import DEFAULT_ENV_VARS, ENV_VARS_TO_PROPAGATE
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.experiment import Trial as TuneTrial

from memexp.cluster import environment, nodes, places
from memexp.cluster.connect import DRIVER, Cluster
from memexp.cluster.deaths import MEMORY, killed_for_memory
from memexp.cluster.draining import LEFT, Farewell, left, noticed
from memexp.cluster.sending import Sender, send_probes
from memexp.errors import ClusterError, one_line, without_secrets
from memexp.events import Event
from memexp.plan import Trial
from memexp.plan.attempts import Attempt, Progress, failures
from memexp.plan.missing import lacking
from memexp.plan.retries import DEATHS, Death, Outcome, leave_out
from memexp.spec import Resources
from memexp.store import Store
from memexp.store.patience import told

__all__ = ["NUMBER", "Listener", "fit", "holds", "placement", "run_trials", "tune_trial"]

NUMBER = "number"
"""In the configuration of a Tune trial which of the trials it is."""

BROKEN_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

REPORT_EVERY = 0.5
"""Seconds between reports of a trial: each one waits for Tune's event loop."""

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# Ctrl-C is to reach the driver, which then ends all trials at once; Tune's own handler would wait for them.
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
# A trial that died is a line of `Outcome`; Tune's own word for it is a traceback through Ray.
logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


# Tune would write credentials into a runtime environment, and Ray that to its logs; `environment` has them travel.
ENV_VARS_TO_PROPAGATE.difference_update([name for name in ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")])
# With variables of its own a trial would not begin in a process that Ray has started ahead of it: `joining` sets them.
DEFAULT_ENV_VARS.clear()


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
    sent = Sender().send_all(trials)
    # What the functions below have in them, Tune packs and unpacks for every trial: a few bytes a trial, and no trials.
    needs = [holds(trial, cluster) for trial in trials]
    kinds = {one: i for i, one in enumerate(dict.fromkeys(needs))}
    held, of = [(one, placement(one, cluster)) for one in kinds], array("I", [kinds[one] for one in needs])
    listener = Listener(on_progress, attempt, trials)

    def execute(config: dict[str, Any]) -> None:
        number = config[NUMBER]
        tune_trial(sent.received(number), number, store, attempt, held[of[number]][0])

    fit(
        execute,
        lambda config: held[of[config[NUMBER]]][1],
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

    Raises ClusterError where this node has no room for Tune's records.
    """
    with _scratch() as scratch, listener.farewell.awaited():
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


@contextlib.contextmanager
def _scratch() -> Iterator[str]:
    """A folder of this node for the time of an experiment; that it cannot be written is said in a line."""
    try:
        # Interrupted, Tune may still be writing to it.
        with tempfile.TemporaryDirectory(prefix="memexp-tune-", ignore_cleanup_errors=True) as scratch:
            yield scratch
    except OSError as error:
        if error.errno not in BROKEN_DISK:
            raise
        why, where = one_line(error.strerror or error), tempfile.gettempdir()
        raise ClusterError(
            f"Ray cannot keep its records in {where} on this node: {why}; "
            "make room or set TMPDIR, and the same command goes on"
        ) from error


def holds(trial: Trial, cluster: Cluster) -> Resources:
    """What a trial is to hold, which is not what it computes with where it is to be alone."""
    cpus = cluster.all_cpus(trial.resources) if trial.alone else trial.resources.cpus
    return dataclasses.replace(trial.resources, cpus=cpus)


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


@without_secrets()
def tune_trial(trial: Trial, number: int, store: Store, attempt: Attempt, held: Resources | None = None) -> None:
    """What a Tune trial does; `number` tells it from the others of the experiment.

    `held` is what it holds where that is not what it computes with.
    """
    environment.take()
    # What one trial recorded as failed is not another's to leave out: it may be on a better node.
    attempt = attempt.of_trial(trial.phase, number)
    reporter = _Reporter(at_once=trial.stoppable)
    with told(reporter.tell):
        _execute(trial, store, attempt, held or trial.resources, reporter)


def _execute(trial: Trial, store: Store, attempt: Attempt, held: Resources, reporter: _Reporter) -> None:
    if trial.resources.workers > 1:
        from memexp.cluster.groups import drive

        lines, killed = drive(trial, held, store, attempt)
        # All of it: the last report of a group that died may have died with it.
        open_ = {ask.file for ask in lacking(trial.asks, store)}
        answered = [ask.file for ask in trial.asks if ask.file not in open_]
        tune.report({"answered": answered, "steps": 0, "failures": lines, "killed": killed})
        return
    nodes.check_here()
    from memexp.core.processes import World
    from memexp.trial.execute import execute
    from memexp.trial.leaving import Leaving, Notice

    # By a process that died before this one started: what hung costs itself only.
    failed = failures(store, attempt, [trial.base, *trial.stages])
    attempt = attempt.begun()
    trial = leave_out(trial, failed, store, attempt)
    notice = Notice()
    try:
        with noticed(notice):
            world = World.current(trial.resources.gpus)
            lines = execute(trial, store, world, attempt, reporter, _warm_base(), notice=notice)
    except Leaving:
        gone = left(notice)
        reporter.tell(str(gone))
        raise gone from None
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
        self.events: list[Event] = []
        self.reached: dict[str, int] = {}
        self.steps = 0
        self.last = time.monotonic()
        self.thread = threading.get_ident()

    def tell(self, line: str) -> None:
        """Report a line at once; one of another thread than the trial's, to which alone Tune listens, with the next."""
        self.said.append(line)
        if threading.get_ident() == self.thread:
            self.flush([])

    def __call__(self, progress: Progress) -> None:
        self.answered += progress.answered
        self.said += progress.said
        self.events += progress.events
        self.steps += progress.steps
        self.reached |= progress.reached
        if (self.at_once and self.answered) or time.monotonic() - self.last > REPORT_EVERY:
            self.flush([])

    def flush(self, failures: list[str]) -> None:
        made = {"answered": self.answered, "steps": self.steps, "reached": list(self.reached.items())}
        tune.report({**made, "said": self.said, "events": self.events, "failures": failures})
        self.answered, self.said, self.events, self.reached = [], [], [], {}
        self.steps, self.last = 0, time.monotonic()


class Listener(tune.Callback):  # type: ignore[misc] # untyped
    """Hands what trials report to the display, and keeps their failures."""

    def __init__(self, on_progress: Callable[[Progress], None], attempt: Attempt, trials: Sequence[Trial]) -> None:
        """`attempt` executes `trials`, which may become more."""
        self.on_progress, self.attempt, self.trials = on_progress, attempt, trials
        self.failures: list[str] = []
        """One line for every stage that a trial recorded as failed."""
        self.lost: dict[int, Death] = {}
        """How trials died, by their number."""
        self.farewell = Farewell(lambda line: on_progress(Progress(said=(line,))))

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks among what a restored experiment would need; a display cannot be and is not."""
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        self.failures += result.get("failures", [])
        answered, said, events = (tuple(result.get(name, ())) for name in ("answered", "said", "events"))
        steps, reached = result.get("steps", 0), dict(result.get("reached", ()))
        self.on_progress(Progress(answered, steps, reached, said=said, events=events))
        if result.get("killed"):
            self._lose(trial, result["killed"])
        if any(line.endswith(LEFT) for line in said):
            self.farewell.gone(trial.trial_id)

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        self.farewell.look(lambda: {trial.trial_id for trial in trials if trial.status == TuneTrial.RUNNING})

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._lose(trial, _last_words(trial))

    def _lose(self, trial: TuneTrial, why: str) -> None:
        number = trial.config[NUMBER]
        death = self.lost[number] = Death(why, of_memory=why.startswith(MEMORY))
        if self.trials[number].resources.workers > 1:
            places.give_back(self.attempt.of_trial(self.trials[number].phase, number).prefix)
        if death.of_memory:
            self.on_progress(Progress(said=(f"a trial was {why}",)))

    def on_experiment_end(self, trials: list[TuneTrial], **info: Any) -> None:
        for trial in trials:  # in an order of Tune's: one that was started again has gone to the end
            if trial.status == TuneTrial.ERROR and trial.config[NUMBER] not in self.lost:
                self._lose(trial, _last_words(trial))


def _last_words(trial: TuneTrial) -> str:
    """The last line of what a trial died of."""
    text = ""
    with contextlib.suppress(OSError):  # a full disk
        text = Path(trial.error_file or "").read_text(encoding="utf-8", errors="replace")
    last = (text.strip() or "for a reason that could not be written down").splitlines()[-1].strip()
    return killed_for_memory(text) or last


class _Silence(tune.ProgressReporter):  # type: ignore[misc] # untyped
    """Tune's own progress tables, switched off."""

    def should_report(self, trials: list[TuneTrial], done: bool = False) -> bool:
        return False

    def report(self, trials: list[TuneTrial], done: bool, *sys_info: Any) -> None:
        return None
