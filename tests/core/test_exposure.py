"""Exposure against all secrets of a small space, one text at a time, and a fitted tail against its definition."""

from __future__ import annotations

import itertools
import math
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from core.small import TARGETS, language_model, study_exposures
from scipy.stats import skewnorm

from memexp.core.model import LanguageModel
from memexp.core.optimizer import fresh_optimizer
from memexp.core.session import Session
from memexp.errors import DataError, SpecError
from memexp.probes import Exposure
from memexp.probes.exposure import SCHEMA, fitted_tail, log_share_below, ranked
from memexp.spec import Condition, InlineText, Model, Pair, ShippedText, Study
from memexp.stimuli.canaries import Canaries

WORDS = ("cat", "dog", "owl", "fox")
CANARIES = Canaries("The code of the vault is {secret} today.", alphabet=WORDS, length=3, count=4)
STUDY = Study(CANARIES.corpus(), exposures=12, lr=1e-2, batch_size=4, block_size=40)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    """A model that has studied two of the four canaries."""
    lm = language_model(request.param, initializer_range=0.1, hidden_size=64, n_embd=64)
    rows = Session(lm).encode(CANARIES.corpus().texts[:2], 40)
    study_exposures(lm, fresh_optimizer(lm, STUDY), STUDY, rows, 0, 1, STUDY.exposures)
    return lm


def exposure(lm: LanguageModel, listed: list[str] | None = None, **fields: Any) -> list[dict[str, Any]]:
    settings: dict[str, Any] = {"candidates": "all", "block_size": 40} | fields
    probe = Exposure(CANARIES, **settings)
    table = probe.measure(Session(lm), {"corpus": listed or CANARIES.corpus().texts})
    assert table.schema.equals(SCHEMA)
    found: list[dict[str, Any]] = table.to_pylist()
    return found


@torch.no_grad()
def log_perplexity(lm: LanguageModel, text: str) -> float:
    ids = torch.tensor([lm.tokenizer(text)["input_ids"]])
    logs = lm.lm(ids, use_cache=False).logits[0, :-1].double().log_softmax(-1)
    return -float(logs.gather(-1, ids[0, 1:, None]).sum())


def test_exposure_is_that_of_brute_force_over_all_secrets(lm: LanguageModel) -> None:
    secrets = [" ".join(words) for words in itertools.product(WORDS, repeat=3)]
    texts = {secret: f"The code of the vault is {secret} today." for secret in secrets}
    nlls = {secret: log_perplexity(lm, text) for secret, text in texts.items()}
    others = [nlls[secret] for secret in secrets if secret not in CANARIES.secrets]
    assert len(others) == 64 - 4
    rows = exposure(lm)
    assert [row["secret"] for row in rows] == list(CANARIES.secrets)
    shape, location, scale = skewnorm.fit(others)
    for number, row in enumerate(rows):
        rank = 1 + sum(other < nlls[row["secret"]] for other in others)
        assert (row["rank"], row["candidates"], row["canary"]) == (rank, 60, number)
        assert row["exposure"] == pytest.approx(math.log2(60) - math.log2(rank), abs=1e-6)
        assert row["nll"] == pytest.approx(nlls[row["secret"]], abs=2e-5)
        assert (row["text"], row["tokens"]) == (texts[row["secret"]], len(lm.tokenizer(row["text"])["input_ids"]))
        share = skewnorm.cdf(nlls[row["secret"]], shape, location, scale)
        if share > 1e-9:  # beyond it is no number that a difference gives
            assert row["fitted"] == pytest.approx(-math.log2(share), abs=2e-2)
    assert [row["rank"] for row in rows[:2]] == [1, 1], "those that were studied"
    assert all(row["fitted"] > row["exposure"] for row in rows[:2])
    assert max(row["rank"] for row in rows[2:]) > 1, "and not those that were not"


def test_candidates_are_drawn_by_a_seed(lm: LanguageModel) -> None:
    some, same, more, other = (
        exposure(lm, candidates=count, seed=seed) for count, seed in ((20, 0), (20, 0), (40, 0), (20, 1))
    )
    assert some == same != other
    every = exposure(lm)
    for row, whole in zip(some, every, strict=True):
        assert row["candidates"] == 20 and row["nll"] == pytest.approx(whole["nll"], abs=1e-5)
        assert row["rank"] <= whole["rank"]
    assert all(few["rank"] <= many["rank"] for few, many in zip(some, more, strict=True))
    drawn = CANARIES.candidates(40, 0)
    assert drawn[:20] == CANARIES.candidates(20, 0) != CANARIES.candidates(20, 1)
    assert len(set(drawn)) == 40 and not set(drawn) & set(CANARIES.secrets)


def test_the_place_in_the_list_is_told(lm: LanguageModel) -> None:
    a, b, c, d = CANARIES.corpus().texts
    rows = exposure(lm, [TARGETS[0], b, a, b, d, c, b])
    assert [(row["item"], row["copies"]) for row in rows] == [(2, 1), (1, 3), (5, 1), (4, 1)]


def test_foils_of_a_pair_stand_for_all_secrets(lm: LanguageModel) -> None:
    """As candidates they are what all secrets are, whatever else is in the list."""
    every = exposure(lm)
    pair, listed = CANARIES.pair(60), [TARGETS[0], *CANARIES.corpus().texts]
    assert isinstance(pair.foils, InlineText) and isinstance(CANARIES.pair().foils, InlineText)
    assert len(CANARIES.pair().foils.texts) == 4 and set(CANARIES.pair().foils.texts) < set(pair.foils.texts)
    probe = Exposure(CANARIES, pair=Pair(InlineText("mine", listed), pair.foils), block_size=40)
    texts = {"targets": listed, "foils": pair.foils.texts}
    probe.check(texts, {"targets": "mine", "foils": "others"})
    found = probe.measure(Session(lm), texts).to_pylist()
    for row, other in zip(found, every, strict=True):
        assert {**row, "nll": 0, "fitted": 0} == {**other, "item": other["item"] + 1, "nll": 0, "fitted": 0}
        assert row["nll"] == pytest.approx(other["nll"], abs=1e-5)
        assert row["fitted"] == pytest.approx(other["fitted"], abs=1e-2)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        (CANARIES.text(CANARIES.secrets[1]), "has a secret that another has"),
        (CANARIES.candidates(1)[0], "has no secret that a canary could have"),
        (CANARIES.text("cat dog"), "has no secret that a canary could have"),
        (CANARIES.text("cat dog cow"), "has no secret that a canary could have"),
        ("", "has no secret that a canary could have"),
    ],
)
def test_a_foil_that_is_no_other_secret_is_a_line(line: str, wrong: str) -> None:
    probe = Exposure(CANARIES, pair=CANARIES.pair())
    foils = [*map(CANARIES.text, CANARIES.candidates(2)), line]
    with pytest.raises(DataError) as error:
        probe.check({"targets": CANARIES.corpus().texts, "foils": foils}, {"targets": "a", "foils": "b.txt"})
    assert str(error.value) == f"Exposure.pair: text 3 of b.txt, {line!r}, {wrong}; canaries.pair() makes foils"
    with pytest.raises(DataError, match=r"text 3 of b\.txt, .* has a secret that another has"):
        twice = {"targets": CANARIES.corpus().texts, "foils": [*foils[:2], foils[0]]}
        probe.check(twice, {"targets": "a", "foils": "b.txt"})


def test_canaries_that_are_not_in_the_list_are_a_line() -> None:
    probe = Exposure(CANARIES, candidates="all")
    texts = CANARIES.corpus().texts
    probe.check({"corpus": texts}, {"corpus": "list"})
    with pytest.raises(DataError) as error:
        probe.check({"corpus": texts[:3]}, {"corpus": "mine.txt"})
    assert str(error.value) == (
        f"Exposure.canaries: canary 3, {texts[3]!r}, is not in mine.txt; study canaries.corpus() or a list with its "
        "texts, or name one with corpus=... or pair=..."
    )


def test_a_secret_that_is_cut_off_is_a_line(lm: LanguageModel) -> None:
    with pytest.raises(DataError, match=r"^Exposure\.block_size: 'The code .*' has more than 9 tokens; give a larger"):
        exposure(lm, block_size=9)


def test_outputs_that_are_no_numbers_are_null(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Session.token_nlls

    def broken(self: Session, rows: Any) -> Any:
        found = [each.copy() for each in real(self, rows)]
        found[1][2] = np.nan
        return found

    monkeypatch.setattr(Session, "token_nlls", broken)
    rows = exposure(lm)
    assert [row["rank"] is None for row in rows] == [False, True, False, False]
    assert {name for name, value in rows[1].items() if value is None} == {"nll", "rank", "exposure", "fitted"}


def test_a_bound_probe_knows_its_list() -> None:
    condition = Condition(Model("tiny-s"), STUDY, probes=[Exposure(CANARIES, candidates="all")])
    assert condition.probes[0].bind(condition) == Exposure(CANARIES, STUDY.corpus, "all", block_size=40)
    assert Exposure(CANARIES, pair=CANARIES.pair()).bind(condition).corpus is None
    other = ShippedText("sentences-targets")
    assert Exposure(CANARIES, other, 9, block_size=9).bind(condition) == Exposure(CANARIES, other, 9, block_size=9)


# By hand


def test_the_published_numbers() -> None:
    """By the published formulas on a table."""
    among = np.arange(1.0, 9.0)
    assert [ranked(nll, among, None)["rank"] for nll in (0.5, 1.0, 1.5, 8.5)] == [1, 1, 2, 9]
    assert ranked(1.5, among, None) == {"nll": 1.5, "rank": 2, "exposure": 2.0, "fitted": None}
    assert ranked(8.5, among, None)["exposure"] == pytest.approx(3 - math.log2(9))
    assert ranked(-3.0, among, (0.0, 0.0, 1.0))["fitted"] == pytest.approx(-math.log2(0.0013498980316300946), abs=1e-9)


@pytest.mark.parametrize("shape", [-5.0, 0.0, 0.7, 20.0])
def test_the_tail_is_exact_where_the_cdf_is_no_number(shape: float) -> None:
    for z in (-8.0, -3.0, 0.0, 2.0):
        with mpmath.workdps(40):
            width = mpmath.mpf(1) / (1 + abs(z) * (1 + shape**2))
            cuts = sorted({z - 80 * width * k for k in (0, 0.01, 0.05, 0.2, 0.5, 1, 3, 10)} | {mpmath.mpf(z) - 60})
            share = mpmath.quad(lambda t: 2 * mpmath.npdf(t) * mpmath.ncdf(shape * t), cuts)
            expected = float(mpmath.log(share))
        assert log_share_below(5 + 2 * z, (shape, 5.0, 2.0)) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_a_fit_is_of_greatest_likelihood() -> None:
    among = skewnorm.rvs(4, 30, 5, size=2000, random_state=np.random.default_rng(0))
    fit = fitted_tail(among)
    assert fit is not None and skewnorm.nnlf(fit, among) <= skewnorm.nnlf((4, 30, 5), among)
    for at in range(3):
        for factor in (0.98, 1.02):
            moved = [value * (factor if at == place else 1) for place, value in enumerate(fit)]
            assert skewnorm.nnlf(moved, among) > skewnorm.nnlf(fit, among)
    assert fitted_tail(among[:9]) is None and fitted_tail(np.ones(50)) is None


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"candidates": 0}, "Exposure.candidates: Input should be greater than 0"),
        ({"candidates": "some"}, "Exposure.candidates: "),
        (
            {"candidates": 61},
            "Exposure.candidates: 60 of 64 secrets are no canary's, fewer than 61; give Canaries a larger length or "
            "alphabet, or candidates='all'",
        ),
        (
            {"canaries": Canaries(alphabet="ab", length=4), "candidates": "all"},
            "Exposure.candidates: 0 of 16 secrets are no canary's, fewer than 1; give Canaries a larger length",
        ),
        (
            {"canaries": Canaries(length=7), "candidates": "all"},
            "Exposure.candidates: 'all' are 9999984, at most 1000000 are asked; give a number to draw",
        ),
        (
            {"pair": CANARIES.pair(), "candidates": "all"},
            "Exposure.pair: has the list and what canaries are ranked among; leave corpus, candidates and seed",
        ),
    ],
)
def test_what_cannot_be_is_a_line(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as error:
        Exposure(**({"canaries": CANARIES} | fields))
    assert str(error.value).startswith(says) and "\n" not in str(error.value)


def test_a_list_of_ones_own_may_hold_canaries() -> None:
    """As often as one likes, among other texts."""
    a, b, *rest = CANARIES.corpus().texts
    mixed = InlineText("mixed", [a, a, b, *TARGETS[:3], *rest])
    Exposure(CANARIES, mixed, "all").check({"corpus": mixed.texts}, {"corpus": "mixed"})


@pytest.mark.parametrize("shape", [-1e6, -30.0, 20.0, 1e4, 1e6])
@pytest.mark.parametrize("z", [-8.0, -1e-3, -1e-5, 1e-5])
@pytest.mark.filterwarnings("error")
def test_a_tail_that_ends_like_a_wall_has_a_logarithm_all_the_same(shape: float, z: float) -> None:
    """Few candidates can have such a fit. A logarithm of the cdf of a log-concave density is concave and rises."""
    logs = [log_share_below(each, (shape, 0.0, 1.0)) for each in (z - 1e-6, z, z + 1e-6)]
    assert all(math.isfinite(one) and one <= 0 for one in logs) and logs == sorted(logs)
