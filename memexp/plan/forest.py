"""What a sweep comes to: stages in a forest, and what is asked of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from memexp.sources import ResolvedModel, Stream, Texts
from memexp.spec import AdamW, Forget, Full, Interference, LoRA, Probe, Resources, Spaced, Study, Training, Unlearn

__all__ = ["Ask", "BaseStage", "Corpora", "Forest", "ForgetStage", "Stage", "TrainingStage"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _AnyStage:
    """What all stages have."""

    id: str
    """Identity: hash of the parent's and of what this stage does."""
    model: ResolvedModel
    """The model it brings about or changes."""
    method: Full | LoRA
    """How that learns."""
    dtype: str
    """Arithmetic of the trajectory."""


class _Untrained:
    """A stage without optimizer steps, for those who ask every stage about them."""

    __slots__ = ()
    settings: ClassVar[None] = None
    corpus: ClassVar[None] = None
    first: ClassVar[int] = 0
    last: ClassVar[int] = 0
    steps: ClassVar[int] = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseStage(_Untrained, _AnyStage):
    """Loads the model."""

    kind: Literal["base"] = "base"
    parent: None = None

    @property
    def trajectory(self) -> str:
        """Itself."""
        return self.id


@dataclass(frozen=True, kw_only=True, slots=True)
class ForgetStage(_Untrained, _AnyStage):
    """Resets some of the blocks."""

    kind: Literal["forget"] = "forget"
    parent: str
    """Identity of the stage before it."""
    forget: Forget
    """What is reset."""
    seed: int
    """Seed of fresh adapters."""

    @property
    def trajectory(self) -> str:
        """Itself."""
        return self.id


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingStage(_AnyStage):
    """One indivisible segment of training."""

    kind: Literal["pretrain", "study", "filler", "restudy", "then", "unlearn", "interference"]
    """Which part of the condition it belongs to; filler lies between two exposures of study or of restudy."""
    parent: str
    """Identity of the stage before it."""
    settings: Training
    """How it trains; those of restudy and of a second study are of a study too."""
    corpus: str
    """Identity of the corpus it trains on."""
    seed: int
    """Seed of its orders and of dropout."""
    first: int
    """The first exposure it makes, counting from 1 in study and in restudy; the first step of pretraining, filler,
    unlearning or interference."""
    last: int
    """The last one: of exposures the same as `first` unless the schedule knows its horizon."""
    steps: int
    """Optimizer steps."""
    last_step: int
    """Number of its last step on its trajectory: of study over all exposures, from 1."""
    origin: str | None = None
    """Identity of the trajectory that a stage of pretraining, filler, unlearning or interference is a stop of; all its
    stops have the same."""
    start: str | None = None
    """Identity of the stage that the trajectory begins after."""
    moments: int = AdamW().moments
    """Numbers that its optimizer keeps of each that learns."""
    beside: str | None = None
    """Identity of the corpus that it needs as well: filler in study, what is kept in unlearning, what was studied where
    interference replays or protects it."""

    @property
    def batch_size(self) -> int:
        """Texts of a step, of both corpora."""
        if isinstance(self.settings, Unlearn):
            return self.settings.batch_size * (1 + (self.beside is not None))
        how = self.settings.presentation if isinstance(self.settings, Study) else None
        return self.settings.batch_size + (how.beside if isinstance(how, Spaced) and self.beside is not None else 0)

    @property
    def pass_size(self) -> int:
        """Texts of a step that are passed together: in unlearning what is kept comes after what is forgotten."""
        return self.settings.batch_size if isinstance(self.settings, Unlearn) else self.batch_size

    @property
    def trajectory(self) -> str:
        """What its steps are numbered along: the line whose stop it is, or else the stage itself."""
        return self.origin or self.id

    @property
    def first_step(self) -> int:
        """Number of its first step on its trajectory."""
        return self.last_step - self.steps + 1

    @property
    def held(self) -> int:
        """Numbers that are kept, while its trajectory lasts, of each that learns: of the model where it began."""
        settings = self.settings
        if isinstance(settings, Interference):
            return 2 * (settings.protect is not None)
        return int(isinstance(settings, Unlearn) and settings.loss == "kl")

    @property
    def aimed(self) -> bool:
        """Whether its steps minimise something else than the mean NLL of their batch."""
        settings = self.settings
        return isinstance(settings, Unlearn) or (isinstance(settings, Interference) and settings.protect is not None)

    @property
    def begins_afresh(self) -> bool:
        """Whether it begins with a new optimizer, whatever came before it."""
        carried = isinstance(self.settings, Interference) and self.settings.optimizer == "carried"
        return self.first == 1 and self.kind != "filler" and not carried


Stage = BaseStage | TrainingStage | ForgetStage
"""What a trajectory consists of: a base, and what comes after it."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One probe of one condition: what one result file answers."""

    stage: str
    """Identity of the stage after which it is measured."""
    probe: Probe
    """The bound probe."""
    probe_id: str
    """Its identity."""
    condition_id: str
    """Identity of the condition that asks."""
    settings: Mapping[str, Any]
    """The setting columns of its rows."""
    labels: Mapping[str, Any]
    """The label columns of its rows."""
    corpora: Mapping[str, str]
    """Field name to corpus identity, for every corpus of the probe."""

    @property
    def kind(self) -> str:
        """Folder in the store."""
        return self.probe.kind

    @property
    def measurement(self) -> tuple[str, str]:
        """Stage and probe: asks that agree here have the same numbers."""
        return self.stage, self.probe_id

    @property
    def prefix(self) -> str:
        """Beginning of the names of all files with these numbers."""
        return f"{self.stage}-{self.probe_id}-"

    @property
    def name(self) -> str:
        """File name, without the suffix: begins with what is measured, ends with who asks."""
        return self.prefix + self.condition_id

    @property
    def file(self) -> str:
        """Where it is answered in the store, as ``kind/name``."""
        return f"{self.kind}/{self.name}"


class Corpora:
    """What holds corpora: a forest those of a sweep, a trial those of its stages and asks."""

    texts: dict[str, Texts]
    streams: dict[str, Stream]

    def corpus(self, corpus: str) -> Texts | Stream:
        """A corpus by identity."""
        return self.texts[corpus] if corpus in self.texts else self.streams[corpus]


@dataclass
class Forest(Corpora):
    """All stages of a sweep, what is asked of them and the texts both need."""

    stages: dict[str, Stage] = field(default_factory=dict)
    """By identity; parents come before their children."""
    asks: list[Ask] = field(default_factory=list)
    """One per condition and probe, without duplicates."""
    texts: dict[str, Texts] = field(default_factory=dict)
    """Every corpus that is held in memory, by identity."""
    streams: dict[str, Stream] = field(default_factory=dict)
    """Every corpus that is not, by identity."""
    resources: dict[str, Resources] = field(default_factory=dict)
    """What a trial holds, by base stage."""
    steps_unshared: int = 0
    """Optimizer steps if every condition were trained by itself."""
    remarks: dict[str, None] = field(default_factory=dict)
    """What a user should know before anything is trained, a line each."""
    _bases: dict[str, BaseStage] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Of stages that were asked about."""

    @property
    def conditions(self) -> int:
        """Number of distinct conditions."""
        return len({ask.condition_id for ask in self.asks})

    @property
    def steps(self) -> int:
        """Optimizer steps with sharing."""
        return sum(stage.steps for stage in self.stages.values())

    def base(self, stage: str) -> BaseStage:
        """The base that `stage` lies above."""
        way: list[str] = []
        at = stage
        while at not in self._bases:
            found = self.stages[at]
            if isinstance(found, BaseStage):
                self._bases[at] = found
            else:
                way.append(at)
                at = found.parent
        self._bases.update(dict.fromkeys(way, self._bases[at]))
        return self._bases[at]

    def path(self, stage: str) -> list[Stage]:
        """The stages from the base to `stage`."""
        found: list[Stage] = []
        at: str | None = stage
        while at is not None:
            found.append(self.stages[at])
            at = found[-1].parent
        return found[::-1]
