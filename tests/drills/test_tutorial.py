"""The tutorial's own sweep, typed off its page: what is planned, trained, shown and drawn is what the page says.

No drill but half a minute of training, which is too much for `make test`; tests/unit/test_docs.py reads the rest.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import DOCS, blocks, commands

import memexp
from memexp.cli import main

PAGE = DOCS / "tutorial.md"
SCRIPT = "creatures.py"


def test_the_tutorial_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEMEXP_STORE", raising=False)
    [texts] = [block.text for block in blocks(PAGE) if block.language == "csv"]
    [script] = [block.text for block in blocks(PAGE) if block.language == "python" and "sweep = " in block.text]
    Path(SCRIPT.replace(".py", ".csv")).write_text(texts, encoding="utf-8")
    Path(SCRIPT).write_text(script, encoding="utf-8")
    [typed] = [block for block in blocks(PAGE) if block.language == "sh" and SCRIPT in block.text]
    lines = commands(typed.text)
    assert [words[1] for words in lines] == ["plan", "run", "report", "plot"]
    said = []
    for program, *words in lines:
        assert program == "memexp" and main(words) == 0
        said.append(capsys.readouterr().out)
    assert re.search(r"conditions +24 ", said[0])
    assert said[1].count("tiny-s") == 2  # a row in each of two tables
    assert Path("results/report-creatures.html").stat().st_size > 100_000
    assert Path("recognition.pdf").read_bytes().startswith(b"%PDF")
    rows = memexp.open("results").recognition(sweep="creatures").to_pandas()
    right = (rows.target_nll < rows.foil_nll).groupby(rows.exposures).mean()
    assert right[0] == 0.5 and right[1] > 0.7 and right[10] > 0.95
