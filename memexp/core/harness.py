"""memexp's scorer behind the model contract of lm-evaluation-harness: any of its tasks, on a model in memory.

    samples = evaluate(HarnessModel(session), {"my_task": task})
    lm_eval.simple_evaluate(HarnessModel(Session(lm)), tasks=["arc_easy"])      # without a sweep

The harness makes prompts and metrics; likelihoods and completions are `memexp.core.scoring`'s, so that a sharded model
answers like a whole one. All ranks evaluate the same, share the passes, and get the same results.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import Task
from lm_eval.evaluator import evaluate as harness_evaluate
from lm_eval.utils import env as templates
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from memexp.core.data import Row
from memexp.core.session import Session
from memexp.errors import DataError, SpecError

__all__ = ["HarnessModel", "evaluate", "quiet"]

_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""What tasks call the number of tokens to generate, in the harness's order of precedence."""
_DEFAULT_LIMIT = 256
_HARMLESS = {"until", "do_sample", "temperature", *_LIMITS, "top_p", "top_k"}
"""Without sampling the last two change nothing."""


class HarnessModel(LM):  # type: ignore[misc] # the harness is not typed
    """The harness's three requests, answered by a session.

    A prompt that does not fit the model's context is never cut: its likelihood is NaN, its completion empty, and
    `unanswered` has it; likewise where the model's logits are no finite numbers.
    """

    def __init__(self, session: Session) -> None:
        super().__init__()
        if (row := session.tokenizer("a")["input_ids"])[-1] in session.tokenizer.all_special_ids and len(row) > 1:
            raise SpecError("this tokenizer closes every text with a token; set add_eos_token to false in it")
        self.session = session
        self.prompt_tokens: dict[str, int] = {}
        """Length in tokens of every prompt asked so far."""
        self.unanswered: set[str] = set()
        """The prompts that, with what was asked of them, do not fit the context, or are completed with no numbers."""

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Sum of the log-likelihoods, in nats, of each continuation's tokens, and whether greedy decoding gives it."""
        asked = [(str(context), str(continuation)) for context, continuation in (r.args[:2] for r in requests)]
        pairs = self.pairs(asked)
        room = self.session.context or math.inf
        fits = []
        for i, ((context, _), (before, after)) in enumerate(zip(asked, pairs, strict=True)):
            self.prompt_tokens[context] = len(before)
            if len(before) + len(after) - 1 <= room:
                fits.append(i)
            else:
                self.unanswered.add(context)
        found = dict(zip(fits, self.session.continuations([pairs[i] for i in fits]), strict=True))
        return [
            (found[i].log_likelihood, found[i].greedy) if i in found else (math.nan, False) for i in range(len(pairs))
        ]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood, in nats, of each whole text, in windows of the model's context where it is longer."""
        texts = [str(request.args[0]) for request in requests]
        rows = self._encode(texts)
        windows = [
            (i, make_disjoint_window(window))
            for i, row in enumerate(rows)
            for window in get_rolling_token_windows(row, self._prefix_token, self.session.context or len(row), 1)
        ]
        totals = [0.0] * len(texts)
        found = self.session.continuations([window for _, window in windows])
        for (i, _), likelihood in zip(windows, found, strict=True):
            totals[i] += likelihood.log_likelihood
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy completion of each context up to the first stop string, the end-of-text token or the limit."""
        contexts = [str(request.args[0]) for request in requests]
        rows = self._encode(contexts)
        room = self.session.context or math.inf
        end = self._end_of_text
        fits, limits, stops = [], [], []
        for i, (request, row) in enumerate(zip(requests, rows, strict=True)):
            limit, until = _generation(request)
            self.prompt_tokens[contexts[i]] = len(row)
            if len(row) + 1 > room:
                self.unanswered.add(contexts[i])
                continue
            fits.append(i)
            limits.append(int(min(limit, room - len(row))))
            stops.append([*until, end] if end else until)
        found = dict(zip(fits, self.session.answer([rows[i] for i in fits], limits, stops), strict=True))
        self.unanswered |= {contexts[i] for i, answer in found.items() if answer is None}
        return [found.get(i) or "" for i in range(len(rows))]

    # What follows encodes as the harness's own HFLM does, which tests/core/test_harness.py compares.

    @property
    def _prefix_token(self) -> int:
        tokenizer = self.session.tokenizer
        token = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        if token is None:
            raise SpecError("an empty prompt needs a tokenizer with a token that begins or ends a text; this has none")
        return int(token)

    @property
    def _end_of_text(self) -> str:
        token = self.session.tokenizer.eos_token_id
        return "" if token is None else str(self.session.tokenizer.decode([token]))

    def _encode(self, texts: Sequence[str], special: bool = True) -> list[list[int]]:
        """Token ids of each text; no second token of the kind that begins a text where it is spelt out already.

        Without `special`, only of what is spelt out.
        """
        tokenizer = self.session.tokenizer
        begin = None if tokenizer.bos_token_id is None else str(tokenizer.decode([tokenizer.bos_token_id]))
        rows: list[list[int]] = [[] for _ in texts]
        for begun in (False, True):
            chosen = [i for i, text in enumerate(texts) if (begin is not None and text.startswith(begin)) == begun]
            if not chosen:
                continue
            encoded = tokenizer(
                [texts[i] for i in chosen],
                add_special_tokens=special and not begun,
                return_attention_mask=False,
                verbose=False,
            )
            for i, row in zip(chosen, encoded["input_ids"], strict=True):
                rows[i] = list(row)
        return rows

    def pairs(self, asked: Sequence[tuple[str, str]]) -> list[tuple[Row, Row]]:
        """Token ids of context and continuation. The continuation has what follows the context's own tokens."""
        # Spaces at the end of a context belong to the first word after it.
        moved = [(c.rstrip(), c[len(c.rstrip()) :] + rest) if c else (c, rest) for c, rest in asked]
        contexts = list(
            dict.fromkeys(context for (context, _), (before, _) in zip(moved, asked, strict=True) if before)
        )
        before = dict(zip(contexts, self._encode(contexts), strict=True)) if contexts else {}
        whole = self._encode([context + rest for context, rest in moved])
        pairs: list[tuple[Row, Row]] = []
        for (original, _), (context, rest), row in zip(asked, moved, whole, strict=True):
            if original:
                pair = before[context], row[len(before[context]) :]
            else:
                (tokens,) = self._encode([rest], special=False)
                begins = bool(tokens) and tokens[0] == self._prefix_token
                pair = (tokens[:1], tokens[1:]) if begins else ([self._prefix_token], tokens)
            if not pair[0] or not pair[1]:
                raise DataError(
                    f"nothing to score in {rest[:40]!r} after {original[-40:]!r}: it has no token of its own"
                )
            pairs.append(pair)
        return pairs


def _generation(request: Instance) -> tuple[int, list[str]]:
    """How many tokens a request may generate, and the texts that end it."""
    settings: dict[str, Any] = dict(request.args[1])
    sampled = settings.get("do_sample", bool(settings.get("temperature")))
    others = [name for name, value in settings.items() if name not in _HARMLESS and value is not None]
    if sampled or others:
        what = others[0] if others else "sampling (do_sample or temperature)"
        raise SpecError(f"task {request.task_name!r} asks for {what}: memexp completes greedily only")
    limit = next((settings[name] for name in _LIMITS if settings.get(name) is not None), _DEFAULT_LIMIT)
    until = settings.get("until") or []
    return int(limit), [text for text in ([until] if isinstance(until, str) else until) if text]


def evaluate(
    model: HarnessModel, tasks: Mapping[str, Task], limit: int | None = None
) -> dict[str, list[dict[str, Any]]]:
    """What the harness calls samples, for each task: one dictionary an item and filter, in the order of the items.

    No bootstrapped errors of means are computed, and the harness's progress bars and remarks are not shown.
    """
    with quiet(), _compiled_once():
        results = harness_evaluate(
            lm=model, task_dict={"tasks": dict(tasks), "groups": {}}, limit=limit, bootstrap_iters=0, log_samples=True
        )
    return dict(results["samples"])


@contextlib.contextmanager
def _compiled_once() -> Iterator[None]:
    """While it lasts, the harness compiles each template of a task once; by itself it does so anew for every item."""
    templates.from_string = functools.cache(templates.from_string)  # of this one object, and only here
    try:
        yield
    finally:
        del templates.from_string


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the harness's progress bars on stderr and its log."""
    logger = logging.getLogger("lm_eval")
    was = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(was)
