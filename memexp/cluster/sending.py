"""What travels from the driver to the workers: trials, and probes of a user's own.

    send_probes(ask for trial in trials for ask in trial.asks)
    sent = Sender().send_all(trials)    # small enough to travel with a function or a configuration
    trial = sent.received(number)       # in the worker, which fetches this one

A list of texts is put into Ray's object store once, however many trials have it: 40 copies of 21 MB were seen.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import ray
from ray import cloudpickle

from memexp.plan import Ask, Trial

__all__ = ["Sender", "SentTrial", "SentTrials", "send_probes"]


@dataclass(frozen=True)
class SentTrial:
    """A trial in the object store, its lists beside it."""

    trial: ray.ObjectRef
    texts: Mapping[str, ray.ObjectRef]

    def received(self) -> Trial:
        """The trial, whole."""
        trial: Trial = ray.get(self.trial)
        return dataclasses.replace(trial, texts={text: ray.get(ref) for text, ref in self.texts.items()})


@dataclass(frozen=True)
class SentTrials:
    """Trials in the object store, by their numbers.

    One reference however many they are: Tune takes the function that has it apart some times for every trial.
    """

    trials: ray.ObjectRef
    """Of a list of `SentTrial`, which stay as long as it does."""

    def received(self, number: int) -> Trial:
        """One of them, whole; the others are not fetched."""
        return _fetched(self.trials)[number].received()


@functools.lru_cache(maxsize=1)
def _fetched(trials: ray.ObjectRef) -> list[SentTrial]:
    """What a worker that executes trial after trial of them fetches once."""
    sent: list[SentTrial] = ray.get(trials)
    return sent


class Sender:
    """Sends trials, and each list that they have once; both stay as long as this object or a worker holds them."""

    def __init__(self) -> None:
        self._texts: dict[str, ray.ObjectRef] = {}

    def send(self, trial: Trial) -> SentTrial:
        """Put a trial into the object store, with those of its lists that are not there yet."""
        for name, texts in trial.texts.items():
            if name not in self._texts:
                self._texts[name] = ray.put(texts)
        bare = ray.put(dataclasses.replace(trial, texts={}))
        return SentTrial(bare, {name: self._texts[name] for name in trial.texts})

    def send_all(self, trials: Iterable[Trial]) -> SentTrials:
        """Put trials into the object store, for workers to fetch by their number."""
        return SentTrials(ray.put([self.send(trial) for trial in trials]))


def send_probes(asks: Iterable[Ask]) -> None:
    """Have a user's own probes travel with the trials, with the modules beside them: workers could not import these."""
    names = {type(ask.probe).__module__ for ask in asks}
    own = {name for name in names if name.partition(".")[0] != "memexp"}
    folders = {_folder(sys.modules[name]) for name in own} - {None}
    if folders:  # to look at thousands of modules takes a fifth of a second
        own |= {name for name, module in list(sys.modules.items()) if _folder(module) in folders}
    for name in own:
        cloudpickle.register_pickle_by_value(sys.modules[name])


def _folder(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve().parent if file else None
