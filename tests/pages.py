"""README.md and docs/ as tests read them: fenced blocks, commands in text, headings, links.

    for block in blocks(README):
        print(block.language, block.text)

The command lines of what is called on these pages are read by the programs' own parsers: `complaint`.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import io
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
LANGUAGES = {"sh", "python", "sql", "csv", "text"}
"""What a fence may say it holds; shell, Python, SQL and CSV are tried by tests, text is what a program printed."""
UNTRIED = {"git", "pip", ".", "cd", "chmod", "tensorboard"}
"""Programs whose command lines nobody here reads."""


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: Path
    line: int
    """Of its first line of text."""
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}, line {self.line}"


@functools.cache
def blocks(page: Path) -> list[Block]:
    """All of a page, in order."""
    found = []
    text = page.read_text(encoding="utf-8")
    for fence in re.finditer(r"^```([^\n`]*)\n(.*?)^```$", text, flags=re.M | re.S):
        line = text.count("\n", 0, fence.start(2)) + 1
        found.append(Block(page, line, fence[1].strip(), fence[2]))
    return found


def prose(page: Path) -> str:
    """A page without its blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def spoken(page: Path) -> list[str]:
    """Commands of memexp, make and ray within sentences and tables."""
    spans = (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page)))
    return [span for span in spans if re.match(r"(memexp|make|ray) [\w-]", span)]


def headings(page: Path) -> set[str]:
    """Anchors of a page, as GitHub and MyST make them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), flags=re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: Path) -> list[str]:
    """What a page links to that is no address."""
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)) if not re.match(r"\w+:", link)]


def commands(text: str) -> list[list[str]]:
    """The commands of shell text, each as its words; comments and redirections are left out."""
    found: list[list[str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        found.append([])
        for word in lexer:
            if set(word) <= set(";|&"):
                found.append([])
            else:
                found[-1].append(word)
    return [words[: words.index(">")] if ">" in words else words for words in found if words]


def complaint(words: list[str], page: Path, whole: bool = True) -> str | None:
    """What is wrong with a command, in its program's words; None for nothing.

    Args:
        words: the command.
        page: where it stands; sweeps may be made there.
        whole: whether it is given as one would type it, and not named in a sentence, without what it needs.
    """
    program, *rest = words
    if program in UNTRIED:
        return None
    reader = READERS.get(program)
    if reader is None:
        return f"no test knows {program}"
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            return reader(rest, page)
    except SystemExit as error:
        lines = said.getvalue().strip().splitlines()
        if not error.code or (not whole and "required" in lines[-1]):
            return None
        return lines[-1]


def _memexp(words: list[str], page: Path) -> str | None:
    from memexp.cli import _parser

    cut = words.index("--") if "--" in words else len(words)
    parser = _parser()
    for action in (action for action in parser._actions if isinstance(action.choices, dict)):
        for command in action.choices.values():
            command.allow_abbrev = False  # a text has whole names
    options = parser.parse_args(words[:cut])
    sweep = getattr(options, "sweep", None)
    if sweep is None or words[0] not in ("plan", "run") or sweep == "SWEEP":
        return None
    return _script(sweep, words[cut + 1 :], page)


def _sbatch(words: list[str], page: Path) -> str | None:
    (place,) = [place for place, word in enumerate(words) if word.endswith(".sh")]
    return _there(words[place : place + 1], page) or _memexp(["run", *words[place + 1 :]], page)


def _there(words: list[str], page: Path) -> str | None:
    """Of a program that no test starts: the files that it is given are there."""
    missing = [word for word in words if word.startswith("clusters/") and not (ROOT / word).is_file()]
    return f"no {missing[0]}" if missing else None


def _make(words: list[str], page: Path) -> str | None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [word for word in words if "=" not in word]
    missing = [target for target in targets if not re.search(rf"^{re.escape(target)}:", text, flags=re.M)]
    return f"no target {missing[0]}" if missing else None


def _python(words: list[str], page: Path) -> str | None:
    if words[0] != "-m":
        return _script(words[0], words[1:], page)
    name, options = words[1], [word for word in words[2:] if word.startswith("--")]
    if name == "venv":
        return None
    parts = ROOT.joinpath(*name.split("."))
    file = parts / "__main__.py" if parts.is_dir() else parts.with_suffix(".py")
    if not file.exists():
        return f"no module {name}"
    # Importing it would take seconds; what options it adds is in its text.
    unknown = set(options) - _options_in(file.read_text(encoding="utf-8"))
    return f"{name} has no {min(unknown)}" if unknown else None


def _options_in(source: str) -> set[str]:
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    added = [call for call in calls if getattr(call.func, "attr", "") == "add_argument"]
    return {arg.value for call in added for arg in call.args if isinstance(arg, ast.Constant)}


class _Parsed(Exception):
    """A script has read its options, which is all that it is executed for."""


def _script(path: str, words: list[str], page: Path) -> str | None:
    file = ROOT / path
    if not file.exists():
        made = any(re.search(r"^sweep = ", block.text, re.M) for block in blocks(page) if block.language == "python")
        made |= f"memexp new {Path(path).stem}\n" in page.read_text(encoding="utf-8")
        return None if made and not words else f"there is no {path}"
    if not re.search(r"parse_args\(|parsed\(", file.read_text(encoding="utf-8")):
        return f"{path} takes no arguments" if words else None
    real = argparse.ArgumentParser.parse_args

    def parse(self: Any, *given: Any) -> None:
        self.allow_abbrev = False
        real(self, *given)
        raise _Parsed

    with (
        patch.object(argparse.ArgumentParser, "parse_args", parse),
        patch.object(sys, "argv", [path, *words]),
        patch.object(sys, "path", [str(file.parent), *sys.path]),
        contextlib.suppress(_Parsed),
    ):
        runpy.run_path(str(file), run_name="__main__")
    return None


def _ray(words: list[str], page: Path) -> str | None:
    import click
    from ray.scripts.scripts import cli

    try:
        given = cli.commands[words[0]].make_context(words[0], words[1:]).params
    except (KeyError, click.UsageError) as error:
        return f"ray: {error}"
    inside = commands(given["cmd"]) if "cmd" in given else []
    return next((said for said in (complaint(one, page) for one in inside) if said), None)


def _lm_eval(words: list[str], page: Path) -> str | None:
    from lm_eval._cli import HarnessCLI

    with patch.object(sys, "argv", ["lm_eval", *words]):
        given = HarnessCLI().parse_args()
    return None if (ROOT / given.include_path).is_dir() else f"no folder {given.include_path}"


def pages() -> Iterator[Path]:
    """All pages, and what stands beside README."""
    yield from PAGES
    yield from (ROOT / f"{name}.md" for name in ("ARCHITECTURE", "CONTRIBUTING", "SECURITY"))


READERS = {
    "memexp": _memexp,
    "make": _make,
    "python": _python,
    "ray": _ray,
    "lm_eval": _lm_eval,
    "sbatch": _sbatch,
    "docker": _there,
    "kubectl": _there,
}
"""What reads a program's command, and says what is wrong with it."""
