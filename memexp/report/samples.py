"""A readable sample of items: what was asked, what was right, what the model wrote, with what matches marked.

Everything here was written by models or by whoever made the lists. It is escaped, its control characters are made
visible, and each text is isolated from the direction of the others: it does nothing but show.
"""

from __future__ import annotations

import difflib
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memexp.errors import visible
from memexp.figures.gathered import Gathered, Result
from memexp.figures.varied import text
from memexp.wording import noun

__all__ = ["sample", "shown"]

EACH = 4
"""Items from either end."""
MOST = 20_000
"""Characters of one text; what is cut is said."""
COMPARED = 400
"""Words of a text that are compared."""
NAMED = ("model", "method", "lr", "batch_size", "exposures", "retention_steps", "forget_side", "forget_layer", "seed")


@dataclass(frozen=True)
class _Kind:
    """What is shown of a kind."""

    title: str
    columns: Mapping[str, str]
    """Column of the kind by heading."""
    score: str
    """SQL of an item: how well it is remembered."""
    called: str
    """What the score is."""
    right: str = ""
    """The column that `written` is compared with."""
    written: str = ""


KINDS = {
    "recall": _Kind(
        "Texts most and least remembered",
        {"cue": "cue", "rest of the target": "rest", "completion": "completion"},
        "completion_rouge2",
        "ROUGE-2",
        "rest",
        "completion",
    ),
    "recognition": _Kind(
        "Pairs told apart most and least clearly",
        {"target": "target", "foil": "foil"},
        "foil_nll - target_nll",
        "NLL of the foil less that of the target (nats per token)",
    ),
    "qa": _Kind(
        "Questions, answers, and what the model said",
        {"question": "prompt", "answer": "answer", "prediction": "prediction"},
        "f1",
        "F1",
        "answer",
        "prediction",
    ),
}


def sample(found: Gathered) -> str:
    """HTML of the items of one condition; "" where nothing is there to read."""
    for name, kind in KINDS.items():
        if name in found.kinds:
            chosen = _condition(found, name)
            rows = found.texts(name, chosen, _sql(name, kind), kind.score, EACH) if chosen is not None else []
            if rows and chosen is not None:
                return _html(kind, chosen, rows)
    return ""


def _condition(found: Gathered, kind: str) -> Result | None:
    """The condition after study whose mean is nearest to the middle: there items differ."""
    measure = next(iter(found.measures(kind)), None)
    if measure is None:
        return None
    studied = [one for one in found.results(kind) if one.settings.get("exposures") != 0]
    known = [one for one in studied if one.mean(measure) is not None]
    return min(known, key=lambda one: abs((one.mean(measure) or 0.0) - 0.5), default=None)


def _sql(name: str, kind: _Kind) -> dict[str, str]:
    """The columns by name, as SQL; the rest of a target is what comes after its cue."""
    rest = "CASE WHEN starts_with(target, cue) THEN substr(target, length(cue) + 1) ELSE target END"
    return {column: rest if column == "rest" else column for column in kind.columns.values()}


def _html(kind: _Kind, result: Result, rows: Sequence[dict[str, Any]]) -> str:
    settings = ", ".join(f"{n.replace('_', ' ')} {text(result.settings[n])}" for n in NAMED if n in result.settings)
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in kind.columns)
    body = "".join(_row(kind, row) for row in rows)
    of = f"{result.rows:,} {noun(result.rows, 'item')}"
    return (
        f"<section class='card sample'><h2>{html.escape(kind.title)}</h2>"
        f"<p class='about'>{html.escape(settings)}; {len(rows)} of {of}. On the left: "
        f"{html.escape(kind.called)}{'; what matches is marked' if kind.right else ''}.</p><div class='scroll'>"
        f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div></section>"
    )


def _row(kind: _Kind, row: Mapping[str, Any]) -> str:
    score = row["score"]
    cells = {column: shown(row[column]) for column in kind.columns.values()}
    if kind.right and row[kind.right] and row[kind.written]:
        cells[kind.right], cells[kind.written] = _marked(row[kind.right], row[kind.written])
    parts = "".join(f"<td><bdi dir='auto'>{cell}</bdi></td>" for cell in cells.values())
    return f"<tr><td class='score'>{'' if score is None else f'{score:.2f}'}</td>{parts}</tr>"


def _marked(right: str, written: str) -> tuple[str, str]:
    """Both texts with the words marked that they have in common, in order."""
    one, other = (re.findall(r"\s*\S+|\s+", value.lstrip()[:MOST]) for value in (right, written))
    heads = one[:COMPARED], other[:COMPARED]
    keys: list[list[str]] = [[word.strip().casefold() for word in words] for words in heads]
    blocks = difflib.SequenceMatcher(None, keys[0], keys[1], autojunk=False).get_matching_blocks()
    own = {at for block in blocks for at in range(block.a, block.a + block.size)}
    its = {at for block in blocks for at in range(block.b, block.b + block.size)}
    return _with_marks(one, own, len(right)), _with_marks(other, its, len(written))


def _with_marks(words: Iterable[str], marked: set[int], length: int) -> str:
    parts = []
    for at, word in enumerate(words):
        space = word[: len(word) - len(word.lstrip())]
        parts.append(shown(space) + (f"<mark>{shown(word.lstrip())}</mark>" if at in marked else shown(word.lstrip())))
    return "".join(parts) + _cut(length)


def shown(value: Any) -> str:
    """A text as HTML in which it is nothing but text."""
    if value is None:
        return "<i>none</i>"
    whole = str(value)
    return html.escape(visible(whole[:MOST])) + _cut(len(whole))


def _cut(length: int) -> str:
    return f"<i> (and {length - MOST:,} more characters)</i>" if length > MOST else ""
