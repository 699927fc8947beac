"""How many tokens a plan's stages and measurements take, about, without a tokenizer at hand.

lengths = Lengths(base.model)
lengths.studied(forest, stage), lengths.measured(forest, ask)
"""

from __future__ import annotations

from memexp.plan.forest import Ask, Corpora, TrainingStage
from memexp.probes import Savings
from memexp.sources import ResolvedModel, Stream, Texts
from memexp.sources.tokens import bytes_per_token
from memexp.spec import Interference, Unlearn

__all__ = ["Lengths"]

BYTES = 4
"""Of text in a token, where no tokenizer is at hand that tells."""


class Lengths:
    """Tokens of lists for a model, about; each list is looked at once."""

    def __init__(self, model: ResolvedModel) -> None:
        self.model = model
        self._known: dict[tuple[str, int | None], float] = {}

    def studied(self, corpora: Corpora, stage: TrainingStage) -> float:
        """Of a text that a stage trains on."""
        return self._mean(corpora, stage.corpus, stage.settings.block_size)

    def remembered(self, corpora: Corpora, stage: TrainingStage) -> float:
        """That a stage of unlearning passes forward alone, by the model as it was: KL what is kept, in every step, and
        NPO what is to be forgotten, once."""
        settings = stage.settings
        if not isinstance(settings, Unlearn):
            return 0.0
        if settings.loss == "kl" and stage.beside is not None:
            return stage.steps * settings.batch_size * self._mean(corpora, stage.beside, settings.block_size)
        texts = corpora.corpus(stage.corpus)
        if settings.loss != "npo" or stage.parent != stage.start or texts.count is None:
            return 0.0
        return texts.count * self._mean(corpora, stage.corpus, settings.block_size)

    def consolidated(self, corpora: Corpora, stage: TrainingStage) -> tuple[int, tuple[int, float]]:
        """Passes forward and back, of a text each, in which EWC finds what mattered; and as a batch what one takes."""
        settings = stage.settings
        protect = settings.protect if isinstance(settings, Interference) else None
        if protect is None or stage.beside is None or stage.parent != stage.start:
            return 0, (1, 0.0)
        count = corpora.corpus(stage.beside).count or 0
        return count * protect.samples, (1, self._mean(corpora, stage.beside, settings.block_size))

    def restudied(self, corpora: Corpora, ask: Ask) -> tuple[int, float]:
        """Texts in a batch of `Savings`, and tokens of a text."""
        probe, name = ask.probe, ask.corpora["corpus"]
        assert isinstance(probe, Savings) and probe.batch_size is not None  # bound
        texts = corpora.corpus(name)
        assert isinstance(texts, Texts)  # no field of a stream
        return probe.batch_size, self._of(name, texts, probe.block_size) / max(1, texts.count)

    def measured(self, corpora: Corpora, ask: Ask) -> float:
        """Of all texts that a measurement reads, as often as it does."""
        lists = ((name, corpora.corpus(name)) for name in ask.corpora.values())
        read = sum(self._of(name, texts, None) for name, texts in lists if isinstance(texts, Texts))
        return read * ask.probe.readings()

    def _mean(self, corpora: Corpora, name: str, block: int) -> float:
        """Of a text in training."""
        corpus = corpora.corpus(name)
        if isinstance(corpus, Stream) or not corpus.items:
            return float(block)
        return self._of(name, corpus, block) / corpus.count

    def _of(self, name: str, texts: Texts, block: int | None) -> float:
        if (name, block) not in self._known:
            size = bytes_per_token(self.model, texts) or BYTES
            lengths = [2 + len(text.encode()) / size for text in texts.items]
            self._known[name, block] = sum(min(block or length, length) for length in lengths)
        return self._known[name, block]
