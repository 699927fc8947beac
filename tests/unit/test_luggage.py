"""What of a folder travels with a submitted sweep, and what is refused before anything leaves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from memexp import Condition, Model, Pair, Recognition, ShippedText, Study, TextFile
from memexp.errors import SpecError
from memexp.spec import Interference, ItemFile, TextStream
from memexp.store import Store
from memexp.submission import luggage as module
from memexp.submission.commands import print_probes, submit
from memexp.submission.luggage import Luggage, packed

STAYS = (".git/config", ".env", "sweeps/__pycache__/mine.pyc", "venv/lib/six.py", "venv/pyvenv.cfg", "results/stages/1")
TRAVELS = ("data/mine.csv", "helper.py", "sweeps/mine.py")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in (*STAYS, *TRAVELS, "results/sweeps/1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "nowhere").symlink_to("not there")
    return tmp_path


def condition(study: TextFile | ShippedText, **more: object) -> Condition:
    pair = Pair(study, ShippedText("sentences-foils"))
    return Condition(Model("tiny-s"), Study(study, 1, 1e-3), probes=[Recognition(pair)], **more)  # type: ignore[arg-type]


def test_code_and_data_travel_and_what_is_hidden_or_made_stays(project: Path) -> None:
    before = Path.cwd()
    with packed(project, str(project / "sweeps" / "mine.py")) as luggage:
        assert Path.cwd() == luggage.folder != project
        assert luggage.script.read_text() == "sweeps/mine.py"
        found = {str(path.relative_to(luggage.folder)) for path in luggage.folder.rglob("*") if path.is_file()}
        assert found == set(TRAVELS)
    assert Path.cwd() == before and not luggage.folder.exists()


def test_a_script_outside_and_too_much_are_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = str(project / "sweeps" / "mine.py")
    with (
        pytest.raises(SpecError, match=r"is not in .*/data, which travels; --dir names another"),
        packed(project / "data", script),
    ):
        pass
    with pytest.raises(SpecError, match="no such sweep script"), packed(project, script + "c"):
        pass
    (project / "data" / "large.bin").write_bytes(bytes(2000))
    monkeypatch.setattr(module, "MOST", 1000)
    with (
        pytest.raises(SpecError, match=r"at most 0 MB? travel|\(the largest file: data/large.bin\)"),
        packed(project, script),
    ):
        pass


def test_lists_that_would_not_be_there_are_named(project: Path) -> None:
    luggage = Luggage(origin=project, folder=project, script=project / "sweeps" / "mine.py")
    luggage.check([condition(TextFile("data/mine.csv")), condition(ShippedText("sentences-targets"))])
    luggage.check([ItemFile("data/mine.csv"), TextFile(str(project / "helper.py"))])
    with pytest.raises(SpecError, match=r"^data/other.csv: is not in .*; --dir names another folder that travels$"):
        luggage.check([condition(TextFile("data/other.csv"))])
    with pytest.raises(SpecError, match=rf"^{os.devnull}: stays on this machine; what travels is "):
        luggage.check([condition(TextFile(os.devnull))])
    stream = Interference(TextStream(["data/*.txt", "gone/*.txt"]), 3, lr=1e-3)
    with pytest.raises(SpecError, match=r"^gone: is not in"):
        luggage.check([condition(TextFile("data/mine.csv"), interference=stream)])


def test_what_is_left_behind_is_told_apart_from_what_never_was(project: Path) -> None:
    with (
        packed(project, str(project / "sweeps" / "mine.py")) as luggage,
        pytest.raises(SpecError, match=r"^results/stages/1: is in what is left behind \(hidden, or a store\)"),
    ):
        luggage.check([TextFile("results/stages/1")])


def test_results_do_not_stay_on_the_heads_disk(project: Path) -> None:
    with pytest.raises(SpecError, match=r"^--store: results would be a folder of the head that goes with the job"):
        submit(str(project / "sweeps" / "mine.py"), [], lambda _: pytest.fail(""), "results", None, None)
    with pytest.raises(SpecError, match=r"^--dir: nowhere: no such folder"):
        submit(str(project / "sweeps" / "mine.py"), [], lambda _: pytest.fail(""), "s3://a/b", None, "nowhere")


def test_what_probes_printed_is_read_from_the_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path)
    assert print_probes(store, None) == 0
    assert capsys.readouterr().out == f"no probe of any sweep has printed anything into {tmp_path}\n"
    store.put_text(".logs/mine/surprise-0123.txt", "one\nall \x1b[2Jgone\n")
    store.put_text(".logs/yours/surprise-0123.txt", "two\n")
    print_probes(store, "mine")
    assert capsys.readouterr().out == "== .logs/mine/surprise-0123.txt\none\nall ⟨U+001B⟩[2Jgone\n"
    print_probes(store, None)
    assert capsys.readouterr().out.count("== ") == 2
