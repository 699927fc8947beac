"""What a trajectory consists of, in this order: pretraining, study, forgetting with restudy, interference.

Unlearning, which comes before interference, has a file of its own.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from memexp.errors import SpecError
from memexp.spec.corpora import Corpus, StreamedCorpus
from memexp.spec.fields import Count, NonNegative, Positive, Probability, Rate, as_tuple, spec
from memexp.spec.optimizers import SGD, AdamW
from memexp.spec.presentations import Presentation, Spaced
from memexp.spec.protection import EWC
from memexp.spec.unlearning import Unlearn

__all__ = [
    "Forget",
    "Interference",
    "Pretrain",
    "Study",
    "Training",
    "retention_steps",
]


MOST_EXPOSURES = 100_000
"""Each is a stage, with an identity and a place in the plan."""
Exposures = Annotated[int, Field(ge=0, le=MOST_EXPOSURES)]


@spec
class Pretrain:
    """Training on a corpus before study, of a model drawn at random or of one that knows something already.

    Orhan 2023 (arXiv 2303.17557) asks whether pretraining is what makes few-shot memory: the same architecture from
    scratch, on WikiText-103, then studies as the pretrained one does. Each text its own sequence, loss over all tokens
    of the global batch. All later stages take what it leaves for the pretrained weights: study begins with a
    fresh optimizer, `Forget` resets to them, and what an ablation takes away was learned since.
    """

    corpus: StreamedCorpus
    """The texts; none comes twice before all have come once."""
    steps: Count
    """Optimizer steps; 0 studies without. With a constant schedule all numbers of a grid lie on one trajectory."""
    lr: Rate
    """Peak learning rate."""
    batch_size: Positive = 16
    """Texts per optimizer step, over all workers together."""
    block_size: Annotated[int, Field(ge=2)] = 128
    """Texts are truncated to this many tokens."""
    schedule: Literal["constant", "linear"] = "constant"
    """Learning rate after the warm-up: constant, or linear decay to 0 at the last step. A linear schedule knows its
    horizon, so its numbers of steps cannot share training."""
    warmup_steps: Count = 0
    """Steps of linear warm-up from 0."""
    dropout: Probability | None = None
    """As in `Study`."""
    weight_decay: NonNegative = 0.0
    """As in `Study`."""
    clip_norm: Rate | None = None
    """As in `Study`."""
    optimizer: AdamW | SGD = AdamW()
    """As in `Study`."""
    seed: Count = 0
    """Keys the order of every pass over the texts, and dropout. Its own: conditions of all seeds share one
    pretraining."""
    overlap: Literal["report", "refuse"] = "report"
    """As in `Interference`."""

    @property
    def knows_horizon(self) -> bool:
        """Whether the learning rate at a step depends on how many steps will follow."""
        return self.schedule == "linear"


@spec
class Study:
    """Training on target items: each text its own sequence, loss over all tokens of the global batch."""

    corpus: Corpus
    """The study list."""
    exposures: Exposures
    """Passes over the list; 0 measures the untrained model."""
    lr: Rate
    """Peak learning rate."""
    batch_size: Positive = 16
    """Texts per optimizer step, over all workers together."""
    block_size: Annotated[int, Field(ge=2)] = 128
    """Texts are truncated to this many tokens."""
    schedule: Literal["constant", "linear"] = "constant"
    """Learning rate after the warm-up: constant, or linear decay to 0 at the end of the last exposure. A linear
    schedule knows its horizon, so its exposure counts cannot share training."""
    warmup_steps: Count = 0
    """Steps of linear warm-up from 0."""
    warmup_ratio: Probability = 0.0
    """Warm-up as a share of all steps instead; only with the linear schedule."""
    dropout: Probability | None = None
    """Dropout everywhere in the model (adapters have their own); None keeps what the model's config says."""
    weight_decay: NonNegative = 0.0
    """Weight decay of the optimizer's kind, on matrices only (no biases, no norms)."""
    clip_norm: Rate | None = None
    """Clip the gradient's global L2 norm to this; None does not clip."""
    dtype: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Arithmetic of forward and backward passes, in probes too; weights and optimizer stay float32. ``tf32``: products
    of matrices with 10 bits of mantissa instead of 23, on GPUs only. ``bfloat16``: with 7; logits and losses are
    float32, and frozen matrices beside an adapter stay bfloat16 where their files have them so."""
    optimizer: AdamW | SGD = AdamW()
    """What makes steps of gradients: ``AdamW()`` or ``SGD(momentum=...)``, new as study begins and as restudy
    does. Columns ``optimizer`` and ``momentum``, NULL for AdamW."""
    presentation: Presentation | None = None
    """How exposures lie in time: None is massed, one after the other, each in an order of its own."""
    times: Annotated[tuple[Exposures, ...], BeforeValidator(as_tuple)] | None = None
    """Numbers of exposures of single texts: text i is in ``times[i % len(times)]`` of every ``max(times)`` passes, the
    last of them and evenly before it; 0 is never studied. With ``times=(0, 1, 4)`` and ``exposures=8`` texts are met 0,
    2 and 8 times in turn. None: all texts in every pass."""
    variants: Annotated[tuple[Corpus, ...], BeforeValidator(as_tuple)] = ()
    """Other wordings of the list, line by line: the first exposure is of the list itself, the next ones are of these
    lists in turn, then of the list again."""
    further_batches: Count = 0
    """Batches of one exposure more, from its beginning: a stop within the list, of which it does not reach the end."""

    def __post_init__(self) -> None:
        if isinstance(self.presentation, Spaced) and (self.knows_horizon or self.warmup_steps):
            raise SpecError(
                "Study.presentation: filler is trained on at the peak learning rate; give schedule='constant' and no "
                "warm-up, or leave Spaced out"
            )
        if self.times is not None and not any(self.times):
            raise SpecError("Study.times: one of them must be above 0; exposures=0 studies nothing")
        for name in ("variants", "further_batches"):
            if getattr(self, name) and self.knows_horizon:
                raise SpecError(
                    f"Study.{name} needs schedule='constant': a linear one makes one stage of all exposures"
                )
        if self.warmup_ratio and self.schedule != "linear":
            raise SpecError("Study.warmup_ratio needs schedule='linear'; with a constant schedule give warmup_steps")
        if self.warmup_ratio and self.warmup_steps:
            raise SpecError("Study.warmup_ratio and Study.warmup_steps exclude each other")

    @property
    def knows_horizon(self) -> bool:
        """Whether the learning rate at a step depends on how many exposures will follow."""
        return self.schedule == "linear"


@spec
class Forget:
    """Undo study in some of the blocks, then study once more: active forgetting.

    Zhang, Li & Wu 2024 (arXiv 2409.14057) reset the adapters of the upper blocks and train again. Here any method: with
    `Full` the blocks get their pretrained tensors back, with `LoRA` a fresh adapter each. Embeddings, final norm and
    head go with the lower side. The optimizer is dropped. With neither layer nothing is reset: the control that shows
    what the second pass does by itself.
    """

    from_layer: Count | None = None
    """Forgetting layer k: blocks >= k are reset, counting from 0."""
    below_layer: Positive | None = None
    """Reset the blocks < k instead, with embeddings, final norm and head: the opposite control."""
    restudy_exposures: Exposures | None = None
    """Passes over the study list afterwards, with a fresh optimizer and schedule and in the order of the first pass;
    by default as many as before, 0 is the reset alone."""

    def __post_init__(self) -> None:
        if self.from_layer is not None and self.below_layer is not None:
            raise SpecError("Forget.from_layer and Forget.below_layer exclude each other")

    @property
    def side(self) -> Literal["upper", "lower", "none"]:
        """The side that is reset, as the column ``forget_side`` has it."""
        if self.from_layer is not None:
            return "upper"
        return "none" if self.below_layer is None else "lower"

    @property
    def layer(self) -> int | None:
        """k, as the column ``forget_layer`` has it."""
        return self.below_layer if self.from_layer is None else self.from_layer

    def exposures_after(self, study: Study) -> int:
        """Passes over the study list after the reset."""
        return study.exposures if self.restudy_exposures is None else self.restudy_exposures


def _named(optimizer: AdamW | SGD | str) -> Any:
    """One thing has one name, and so one identity."""
    return "fresh" if isinstance(optimizer, AdamW) else optimizer


@spec
class Interference:
    """Training on unrelated text after study, and after forgetting: what is left of a memory then?

    Orhan 2023 (arXiv 2303.17557), section 4: sentences of CNN/DailyMail, lr 1e-5, batch size 16, a fresh AdamW, probes
    after 1 to 100,000 steps. All retention intervals of a condition lie on one trajectory. A pass takes the texts in an
    order of its own, and none comes twice before all have come once.
    """

    corpus: StreamedCorpus
    """The unrelated texts."""
    steps: Count
    """Retention interval: optimizer steps of interference since study; 0 is right after it."""
    lr: Rate
    """Learning rate, constant."""
    batch_size: Positive = 16
    """Texts per optimizer step, over all workers together."""
    block_size: Annotated[int, Field(ge=2)] = 128
    """Texts are truncated to this many tokens."""
    optimizer: Annotated[Literal["fresh", "carried"] | AdamW | SGD, AfterValidator(_named)] = "fresh"
    """``"fresh"``: a new AdamW, as published, whatever study had, and the same as ``AdamW()``; ``SGD()``: a new one;
    ``"carried"``: the one of study with its moments, and where nothing was studied since the model was loaded,
    pretrained or reset, a new one of study's kind with study's weight decay."""
    dropout: Probability | None = None
    """As in `Study`."""
    weight_decay: NonNegative = 0.0
    """As in `Study`; a carried optimizer keeps that of study."""
    clip_norm: Rate | None = None
    """As in `Study`."""
    replay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the texts of all batches that are of the study list instead, pass after pass over it in orders of their
    own (Robins 1995, rehearsal). Where nothing was studied, nothing is replayed."""
    overlap: Literal["report", "refuse"] = "report"
    """What to do about texts that are studied or probed as well: say how many there are, or refuse the sweep."""
    protect: EWC | None = None
    """``EWC(strength=...)`` holds what was studied; None does not. Where nothing was studied, nothing is protected."""

    def __post_init__(self) -> None:
        if self.optimizer == "carried" and self.weight_decay:
            raise SpecError("Interference.weight_decay: a carried optimizer keeps that of study")


Training = Pretrain | Study | Unlearn | Interference

PUBLISHED_RETENTION = (*range(1, 11), *range(20, 101, 10), *range(1_000, 10_001, 1_000), 100_000)
"""Steps of interference after which Orhan 2023 (arXiv 2303.17557) measured."""


def retention_steps(until: int | Literal["published"], per_decade: int = 3) -> tuple[int, ...]:
    """Retention intervals for a grid: ``retention_steps("published")``, or evenly spaced on a log scale.

    Args:
        until: the last interval, at least 1, or "published" for those of Orhan 2023: 1 to 10, 20 to 100 by 10, 1,000 to
            10,000 by 1,000, and 100,000.
        per_decade: intervals from one power of ten to the next; with 3 they are 1, 2, 5, 10, 22, 46, 100 ...

    Returns:
        0, which is right after study, and the intervals in ascending order, each once.

    Raises:
        SpecError: a number is out of range.
    """
    if until == "published":
        return (0, *PUBLISHED_RETENTION)
    for name, value in (("until", until), ("per_decade", per_decade)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SpecError(f"retention_steps: {name} must be a whole number of at least 1, got {value!r}")
    spaced = (round(10 ** (i / per_decade)) for i in range(math.floor(math.log10(until) * per_decade + 1e-9) + 1))
    return tuple(sorted({0, *(min(step, until) for step in spaced), until}))
