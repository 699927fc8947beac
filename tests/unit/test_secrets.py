"""What is secret goes out nowhere: not in errors, rows, logs or tracebacks."""

from __future__ import annotations

import subprocess
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest

from memexp.errors import MASK, MemexpError, StoreError, one_line, redacted, without_secrets
from memexp.plan.attempts import Attempt, row
from memexp.script import guarded

KEY = "wJalr/XUtnFEMI+K7MDENGbPxRfiCYEXAMPLEKEY"


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret among the variables, and others that are none."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    monkeypatch.setenv("SOME_TOKEN", "short")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/etc/credentials.json")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://storage.example:9000")


@pytest.mark.parametrize(
    ("text", "without"),
    [
        (f"signed with {KEY}", f"signed with {MASK}"),
        ("GET /?x=wJalr%2FXUtnFEMI%2BK7MDENGbPxRfiCYEXAMPLEKEY&y=1", f"GET /?x={MASK}&y=1"),
        ("https://anna:hunter2@host/x", f"https://{MASK}@host/x"),
        ("s3://AKID:SEC/RET+1@bucket/x", f"s3://{MASK}@bucket/x"),
        ("https://h/o?X-Amz-Signature=0af3&X-Amz-Date=1", f"https://h/o?X-Amz-Signature={MASK}&X-Amz-Date=1"),
        ("https://h/c?sv=2024&sig=ab%2Fc&se=1", f"https://h/c?sv=2024&sig={MASK}&se=1"),
        ("'Authorization': 'Bearer abcdefgh'", f"'Authorization': 'Bearer {MASK}'"),
        ("aws_secret_access_key = abcd/efgh", f"aws_secret_access_key = {MASK}"),
        ('{"SecretAccessKey": "abcdefgh", "n": 1}', f'{{"SecretAccessKey": "{MASK}", "n": 1}}'),
        ("<AWSAccessKeyId>ABCDEFGH</AWSAccessKeyId>", f"<AWSAccessKeyId>{MASK}</AWSAccessKeyId>"),
        ("the key AKIAIOSFODNN7EXAMPLE is", f"the key {MASK} is"),
        ("token hf_abcdefghijklmnopqrstuvwxyz012345 is", f"token {MASK} is"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----.", f"{MASK}."),
    ],
)
def test_what_is_secret_is_masked(text: str, without: str) -> None:
    assert redacted(text) == without


@pytest.mark.parametrize(
    "text",
    [
        "cannot read /etc/credentials.json at http://storage.example:9000: short",
        "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        "http://host:8080/model@main and https://host/a?b=c",
        "hf_hub_download and hf_datasets of s3://bucket/key=1/x.parquet",
        "target_tokens: 12, token counts: 3; TOKENIZERS_PARALLELISM=false",
        "Sweep.name: 'keyed' is no password",
    ],
)
def test_what_is_not_stays(text: str) -> None:
    assert redacted(text) == text


def test_a_line_that_is_cut_has_no_half_of_a_secret() -> None:
    assert one_line(f"{'x' * 20} {KEY}", limit=40) == f"{'x' * 20} {MASK}"


def test_rows_have_none() -> None:
    stage = SimpleNamespace(id="s", parent=None, kind="base", model=SimpleNamespace(name="m"))
    found = row(stage, Attempt("sweep", "a"), "failed", error=f"refused {KEY}")  # type: ignore[arg-type] # as much as it looks at
    assert found["error"] == f"refused {MASK}"


def test_an_error_goes_on_without_what_led_to_it_if_that_has_one() -> None:
    with pytest.raises(KeyError, match="harmless"), without_secrets():
        raise KeyError("harmless")
    with pytest.raises(MemexpError) as caught, without_secrets():
        try:
            raise OSError(f"signed with {KEY}")
        except OSError as error:
            raise StoreError("cannot write") from error
    assert str(caught.value) == "cannot write"
    text = "".join(traceback.format_exception(caught.value))
    assert "cannot write" in text and KEY not in text


def test_an_error_on_purpose_is_said_without(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise StoreError(f"cannot open s3://key:{KEY}@bucket")

    assert guarded(work, debug=False) == 2
    assert capsys.readouterr().err == f"memexp: cannot open s3://{MASK}@bucket\n"


TRACED = """
import os
from memexp.script import guarded
def work():
    raise {error}(os.environ["AWS_SECRET_ACCESS_KEY"] + " was planted")
guarded(work, debug=True)
"""


@pytest.mark.parametrize("error", ["ValueError", "memexp.MemexpError"])
def test_tracebacks_have_none(error: str, tmp_path: Path) -> None:
    code = "import memexp\n" + TRACED.format(error=error)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert ended.returncode == 1
    assert f"{MASK} was planted" in ended.stderr and "Traceback" in ended.stderr
    assert KEY not in ended.stderr
