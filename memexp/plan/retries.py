"""What is tried again, how often and why: the one policy of a run, which executors and `memexp.driver` ask.

| what happened | what follows in the same run |
|---|---|
| a stage or a measurement failed and was recorded | it is left out, what hangs below it is skipped, the rest goes on |
| its loss was not finite (diverged) | the same; an outcome, repeated only by ``--retry-diverged`` |
| memory of a GPU ran out | once more from the state before, with half the batch; then as a recorded failure |
| the same on one worker of a group | a new group makes all that is left with half the batch |
| an error of the GPU but for want of memory | it is recorded, the process ends; the next does the rest, however often |
| a worker made no progress for ``stall_minutes`` | it records that and ends itself; then as a recorded failure |
| a process or worker group died without a word (kill -9, a lost node) | the rest of its trial once more |
| it died again | every tree of the trial once, in a trial of its own that says where it is |
| Ray's memory monitor killed it | the same at once, with nothing beside it: each holds all CPUs of its node |
| a trial of one tree died twice | recorded as failed |
| a trial that says where it is died | that stage or measurement is recorded as failed, the rest is executed |
| the monitor killed it before it began with anything | `STARTS` times: what was taken may have been another's |
| a worker group found no place | `PLACEMENTS` times, since an autoscaler may be starting nodes |
| its node is about to be taken away, and says so | it saves and goes on elsewhere, however often: no attempt |
| a snapshot could not be written | training goes on; the next one is due in time |
| one does not read, or is of something else | it is recorded; an older one is taken up, or training begins anew |

Whatever is left when a run ends is tried by the next run of the same command, but for what diverged.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from memexp.plan.attempts import Attempt, Failed, Log, Part, failures, row, sentence, skipped, write
from memexp.plan.missing import lacking
from memexp.plan.trials import Trial, apart
from memexp.records import versions
from memexp.store import Store

__all__ = [
    "DEATHS",
    "DEVICE_LOST",
    "PLACEMENTS",
    "Death",
    "Execute",
    "Outcome",
    "concluded",
    "execute_with_retries",
    "leave_out",
    "still_missing",
]

DEATHS = 1
"""How often a trial is started again after a process or worker group that died without a word."""
STARTS = 3
"""How often a trial that is alone is started where the monitor kills it before it begins."""
PLACEMENTS = 12
"""How often a worker group looks for its place, five minutes each."""
DEVICE_LOST = "this process can make no more use of its GPU"
"""What a process says that ends for an error of its GPU, which it has recorded."""
_APART: Mapping[Part, Part] = {"conditions": "apart", "searches": "searches-apart"}
_ALONE: Mapping[Part, Part] = {"conditions": "conditions-alone", "searches": "searches-alone"}


@dataclass(frozen=True)
class Death:
    """How a trial ended that could not record it."""

    why: str
    """A line."""
    of_memory: bool = False
    """Whether it was killed because its node had no memory left, be it for what others took."""

    @property
    def of_device(self) -> bool:
        """Whether it ended itself for an error of its GPU, having recorded what it was at."""
        return DEVICE_LOST in self.why


@dataclass
class Outcome:
    """How trials ended."""

    failures: list[str] = field(default_factory=list)
    """One line for every stage or measurement that a trial recorded as failed."""
    lost: dict[int, Death] = field(default_factory=dict)
    """Trials, by number, that died without recording it."""


Execute = Callable[[Sequence[Trial], Attempt], Outcome]
"""What an executor does: on a cluster, or in this process."""


def leave_out(trial: Trial, failed: Collection[Failed], store: Store, attempt: Attempt) -> Trial:
    """`trial` less what failed and everything below failed stages, which is recorded as skipped."""
    parents = {stage.id: stage.parent for stage in trial.stages}

    def lost(at: str | None) -> bool:
        while at is not None:
            if (at, None) in failed:
                return True
            at = parents.get(at)
        return False

    write(store, attempt, [skipped(stage, attempt) for stage in trial.stages if lost(stage.parent)])
    return dataclasses.replace(
        trial,
        asks=[ask for ask in trial.asks if not lost(ask.stage) and (ask.stage, ask.probe_id) not in failed],
        stages=[stage for stage in trial.stages if not lost(stage.id)],
        leaves=tuple(stage for stage in trial.leaves if not lost(stage)),
    )


def still_missing(trial: Trial, store: Store) -> Trial:
    """What of a trial is not in the store."""
    return dataclasses.replace(
        trial,
        asks=lacking(trial.asks, store),
        leaves=trial.lacking_leaves(store),
    )


def execute_with_retries(trials: Sequence[Trial], execute: Execute, store: Store, attempt: Attempt) -> list[str]:
    """Execute trials, phase by phase: those of a phase begin when those of the one before are over.

    Returns:
        A line for all that failed.
    """
    lines: list[str] = []
    for phase in sorted({trial.phase for trial in trials}):
        now = [trial for trial in trials if trial.phase == phase]
        if phase:
            now = _without_failed(now, store, attempt)
        if now:
            lines += concluded(now, execute(now, attempt), execute, store, attempt)
    return lines


def concluded(trials: Sequence[Trial], outcome: Outcome, execute: Execute, store: Store, attempt: Attempt) -> list[str]:
    """What trials that died have left undone is tried once more, each tree apart; then a line for all that failed.

    Args:
        trials: those that were executed.
        outcome: how they ended.
        execute: executes those that are tried again.
        store: where they are recorded, in ``stages/``, that died before they could.
        attempt: who executed them.
    """
    again: dict[Part, list[Trial]] = {_ALONE[attempt.part]: [], _APART[attempt.part]: []}
    for number, death in list(outcome.lost.items()):
        trial = still_missing(trials[number], store)
        trees = apart(trial)
        if len(trees) > 1 or death.of_memory or death.of_device:
            again[(_ALONE if death.of_memory else _APART)[attempt.part]] += trees
            outcome.failures += _recorded(trial, death, store, attempt, number).values()
            del outcome.lost[number]
        else:
            _record(trial, death, _ends(trial), store, attempt.of_trial(trial.phase, number))
    lines = _lines(outcome)
    for part, trees in again.items():
        left = [
            dataclasses.replace(trial, alone=part == _ALONE[attempt.part])
            for trial in _without_failed(trees, store, attempt)
        ]
        lines += _executed_apart(left, execute, store, dataclasses.replace(attempt, part=part))
    return lines


def _executed_apart(trials: Sequence[Trial], execute: Execute, store: Store, attempt: Attempt) -> list[str]:
    """Trees whose trials died, each once more: where it dies again is recorded, and the rest of it goes on."""
    now, lines = [(dataclasses.replace(trial, cautious=True), 1) for trial in trials], list[str]()
    known: set[str | None] = set()
    while now:
        outcome, again = execute([trial for trial, _ in now], attempt), list[tuple[Trial, int]]()
        lines += outcome.failures
        begun = Log.read(store, attempt).rows(status="begun") if outcome.lost else []
        for number, death in outcome.lost.items():
            trial, starts = still_missing(now[number][0], store), now[number][1]
            own = attempt.of_trial(trial.phase, number)
            here = [one for one in begun if one["trial"] == number and one["start"] not in known]
            last = max(here, key=lambda one: one["finished"], default=None)
            if last is None and death.of_memory and starts < STARTS:
                again.append((trial, starts + 1))
                continue
            recorded = _recorded(trial, death, store, attempt, number)
            at: set[Failed] = set(recorded) or ({(last["stage_id"], last["probe_id"])} if last else _ends(trial))
            said = list(recorded.values()) or _record(trial, death, at, store, own)
            lines += said if last or recorded else _died([death])
            again.append((leave_out(trial, at, store, own), 1))
        known |= {one["start"] for one in begun}
        now = [(trial, starts) for trial, starts in again if trial.asks or trial.leaves]
    return list(dict.fromkeys(lines))


def _recorded(trial: Trial, death: Death, store: Store, attempt: Attempt, number: int) -> dict[Failed, str]:
    """What a trial recorded as failed before it ended itself, and a line for each."""
    own = attempt.of_trial(trial.phase, number)
    return failures(store, own, [trial.base, *trial.stages]) if death.of_device else {}


def _ends(trial: Trial) -> set[Failed]:
    return {(stage, None) for stage in (*(ask.stage for ask in trial.asks), *trial.leaves)}


def _lines(outcome: Outcome) -> list[str]:
    return [*dict.fromkeys(outcome.failures), *_died(outcome.lost.values())]


def _died(deaths: Iterable[Death]) -> list[str]:
    """A line for each way in which trials died."""
    counts = Counter(death.why for death in deaths)
    return [f"{'a trial' if count == 1 else f'{count} trials'} died: {why}" for why, count in counts.items()]


def _record(trial: Trial, death: Death, ends: Collection[Failed], store: Store, attempt: Attempt) -> list[str]:
    """Write down that these stages, or measurements after them, failed with the trial that died; a line for each."""
    stages = {stage.id: stage for stage in (trial.base, *trial.stages)}
    kinds = {ask.probe_id: ask.kind for ask in trial.asks}
    rows = []
    for stage, probe in ends:
        begin = f"{kinds[probe]}: " if probe in kinds else ""
        why = f"{begin}the trial died: {death.why}"
        rows.append(row(stages[stage], attempt, "failed", versions(), why, probe_id=probe))
    write(store, attempt, rows)
    return [sentence(one) for one in rows]


def _without_failed(trials: Sequence[Trial], store: Store, attempt: Attempt) -> list[Trial]:
    """`trials` less what failed just now and all that hangs below it."""
    stages = [stage for trial in trials for stage in (trial.base, *trial.stages)]
    failed = failures(store, attempt, stages, ("failed", "diverged"))
    found = [leave_out(trial, failed, store, attempt) for trial in trials]
    return [trial for trial in found if trial.asks or trial.leaves]
