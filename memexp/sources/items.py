"""Questions, facts and spans: from a file, a hub dataset or Python to one JSON object each, of the columns that count.

The columns are those of Country-city-animals (Zhang, Li & Wu 2024, arXiv 2409.14057), of fictional-knowledge (Chang et
al. 2024, arXiv 2406.11813) and of MUSE (Shi et al. 2024, arXiv 2407.06460); see `memexp.spec.ItemFile`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memexp.errors import DataError, near_first
from memexp.identity import parsed
from memexp.sources.formats import check_file, check_text, file_rows, hub_rows
from memexp.spec import HubItems, InlineItems, ItemFile

__all__ = ["read_items"]

_FACT = ("head", "relation", "tail")
_QUESTION = ("question", "answer")
_PROMPT = ("prompt", "gt")
_CONTEXT = "train_context"
_SPANS = ("mem", "gen", "hard_gen")
"""Of verbatim spans, paraphrases and compositions the fields begin so, and end in ``_input`` and ``_target``."""
_NUMBER = re.compile(r"\s*[0-9]{1,2}\s*")
_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


def read_items(items: ItemFile | HubItems | InlineItems) -> tuple[str, list[str]]:
    """What the rows call `items`, and the JSON object of each: the same columns in whatever container are the same.

    Raises:
        DataError: the source cannot be read, a column is missing, a text is empty or an answer is no choice; the
            message names file and line, or the item.
    """
    if isinstance(items, ItemFile):
        path = Path(items.path).expanduser()
        if path.suffix.lower() not in _SUFFIXES:
            raise DataError(f"{path}: questions are in a .jsonl, .json, .csv or .parquet file")
        check_file(path)
        unit, rows = file_rows(path)
        name, where = items.name, f"{path}, {unit} "
    elif isinstance(items, HubItems):
        name, rows = hub_rows(items)
        where = f"{items.name}, row "
    else:
        name, rows = items.name, list(enumerate(items.rows))
        where = f"{items.name}, item "
    read = _perturbed if items.perturbed else _item
    return name, [json.dumps(read(f"{where}{number}", row), sort_keys=True) for number, row in rows]


def _item(where: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of one question, fact or text with spans that count."""
    if _CONTEXT in row and "question" not in row:
        return _with_spans(where, row)
    if "keyword" in row and "question" not in row:
        _check(where, "keyword", row["keyword"])
        return {"keyword": row["keyword"], "prefixes": _texts(where, "prefixes", row.get("prefixes"))}
    if _PROMPT[0] in row and "question" not in row:
        for name in _PROMPT:
            _check(where, name, row.get(name))
        return {name: row[name] for name in _PROMPT}
    wanted = _FACT if "head" in row and "question" not in row else _QUESTION
    for name in wanted:
        if name not in row:
            has = ", ".join(near_first(name, map(str, row))) or "nothing"
            raise DataError(
                f"{where}: no column {name!r} (it has {has}); a question has question and answer, "
                "a fact has head, relation and tail, spans have train_context, mem_input and mem_target, a keyword has "
                "keyword and prefixes, a prompt has prompt and gt"
            )
    item = {name: row[name] for name in wanted}
    texts = dict(item)
    if wanted == _QUESTION and row.get("choices") is not None:
        item["choices"] = _choices(where, row["choices"])
        item["answer"] = _index(where, row["answer"], len(item["choices"]))
        del texts["answer"]
    if row.get("fact") is not None:
        texts["fact"] = item["fact"] = row["fact"]
    for name, text in texts.items():
        _check(where, name, text)
    return item


def _perturbed(where: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A question with wrong answers, and maybe the right one in other words: the columns of TOFU (Maini et al. 2024,
    arXiv 2401.06121)."""
    texts = [*_QUESTION, "perturbed_answer"]
    for name in texts:
        if name not in row:
            has = ", ".join(near_first(name, map(str, row))) or "nothing"
            raise DataError(f"{where}: no column {name!r} (it has {has}); wrong answers are a list perturbed_answer")
    item = {name: row[name] for name in _QUESTION}
    if row.get("paraphrased_answer") is not None:
        item["paraphrased_answer"] = row["paraphrased_answer"]
    if row.get("fact") is not None:
        item["fact"] = row["fact"]
    for name, text in item.items():
        _check(where, name, text)
    return item | {"perturbed_answer": _list(where, "perturbed_answer", row["perturbed_answer"], 1)}


def _with_spans(where: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A text and its spans. Those that are asked for verbatim have to stand in it."""
    _check(where, _CONTEXT, row[_CONTEXT])
    item: dict[str, Any] = {_CONTEXT: row[_CONTEXT]}
    for kind in _SPANS:
        given = {name: row.get(name) for name in (f"{kind}_input", f"{kind}_target")}
        if all(value is None for value in given.values()):
            continue
        (inputs, wanted), lists = given, {name: _texts(where, name, value) for name, value in given.items()}
        if len(lists[inputs]) != len(lists[wanted]):
            raise DataError(f"{where}: {inputs} has {len(lists[inputs])} texts and {wanted} {len(lists[wanted])}")
        if kind == "mem":
            for place, span in enumerate(lists[wanted]):
                if span not in item[_CONTEXT]:
                    raise DataError(f"{where}: {wanted}[{place}], {span!r}, is not in {_CONTEXT}")
        item |= lists
    if len(item) == 1:
        raise DataError(f"{where}: no spans; give mem_input and mem_target, or such of gen or hard_gen")
    return item


def _texts(where: str, name: str, value: Any) -> list[str]:
    value = _as_list(where, name, value)
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise DataError(f"{where}: {name} must be a list of texts")
    for place, text in enumerate(value):
        _check(where, f"{name}[{place}]", text)
    return list(value)


def _as_list(where: str, name: str, value: Any) -> Any:
    """A CSV holds a list as JSON."""
    try:
        return parsed(value) if isinstance(value, str) else value
    except ValueError:
        raise DataError(f'{where}: {name} must be a list such as ["one", "two"], got {value!r}') from None


def _choices(where: str, value: Any) -> list[str]:
    return _list(where, "choices", value, 2)


def _list(where: str, name: str, value: Any, least: int) -> list[str]:
    """At least so many texts, and at most 26."""
    value = _as_list(where, name, value)
    if not isinstance(value, Sequence) or isinstance(value, str) or not least <= len(value) <= 26:
        raise DataError(f"{where}: {name} must be a list of {least} to 26 texts")
    for place, text in enumerate(value):
        _check(where, f"{name}[{place}]", text)
    return list(value)


def _index(where: str, value: Any, count: int) -> int:
    if isinstance(value, str) and _NUMBER.fullmatch(value):  # a CSV holds texts only
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < count:
        raise DataError(f"{where}: answer must be the index of one of {count} choices, 0 to {count - 1}, got {value!r}")
    return value


def _check(where: str, name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise DataError(f"{where}: {name} must be a text, got {type(value).__name__}")
    check_text(f"{where}: {name}", value)
