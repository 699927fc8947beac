"""Models and tokenizers: from a description to a pinned, hashed thing that any node can load.

Reads ``config.json`` and safetensors headers only; weights are opened by `memexp.core.load`, in the trial.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memexp.errors import ModelError, one_line
from memexp.identity import identity, parsed
from memexp.sources.cache import file_question, recall_answer, remember_answer
from memexp.sources.hub import hub_file, network_error, resolve_commit
from memexp.sources.near_names import near_name
from memexp.sources.texts import Texts
from memexp.spec import Model, TrainedTokenizer
from memexp.stimuli.tiny import SHIPPED_MODELS, model_folder

__all__ = ["ResolvedModel", "ResolvedTokenizer", "file_digest", "location", "parameters_from_headers", "resolve_model"]

_WEIGHTS = (".safetensors", ".bin")
_CONTENT = (*_WEIGHTS, ".json", ".model", ".txt", ".jinja")
_SHIPPED = "memexp:"
"""Begins the source of what ships with memexp: found in the package, wherever a node has it installed."""


@dataclass(frozen=True)
class ResolvedTokenizer:
    """A tokenizer, pinned."""

    source: str | None
    """Hub id, folder or shipped model; None for one to be trained. See `location`."""
    commit: str | None
    """The commit of a hub id."""
    texts: tuple[str, ...] = ()
    """What to train on."""
    vocab_size: int = 0
    """Tokens wanted of a trained tokenizer."""


@dataclass(frozen=True)
class ResolvedModel:
    """A model, pinned. Travels to the trials."""

    name: str
    """The ``model`` column."""
    key: dict[str, Any]
    """What identifies weights and tokenizer: content hash, hub id with commit, or config with seed."""
    source: str | None
    """Hub id, absolute folder or shipped model of the weights; None for random ones. See `location`."""
    commit: str | None
    """The commit of a hub id."""
    config: dict[str, Any] | None
    """The configuration of a model with random weights."""
    seed: int
    """The seed of random weights."""
    tokenizer: ResolvedTokenizer
    """Its tokenizer."""
    tokenizer_name: str | None
    """The ``tokenizer`` column: NULL for the model's own."""

    @functools.cached_property
    def id(self) -> str:
        """Identity of weights and tokenizer together."""
        return identity(self.key)

    @functools.cached_property
    def tokenizer_id(self) -> str:
        """Identity of the tokenizer alone, as far as it is not the model's own."""
        return identity(self.key.get("tokenizer", self.key))

    @property
    def folder(self) -> Path | None:
        """The folder of a local or shipped model, which every node has to see."""
        return Path(location(self.source)) if self.source is not None and self.commit is None else None

    @property
    def blocks(self) -> int | None:
        """Number of blocks, where the configuration says it under one of the usual names."""
        return self._configured("num_hidden_layers", "n_layer", "num_layers", "n_layers")

    @property
    def context(self) -> int | None:
        """Tokens it can take at once, where the configuration says it under one of the usual names."""
        return self._configured("max_position_embeddings", "n_positions")

    @functools.cached_property
    def model_type(self) -> str | None:
        """Its architecture, as transformers calls it."""
        try:
            found = self._config.get("model_type")
        except ModelError:  # said where it matters
            return None
        return found if isinstance(found, str) else None

    @property
    def _config(self) -> dict[str, Any]:
        return self.config if self.config is not None else read_config(self.source or "", self.commit)

    def _configured(self, *names: str) -> int | None:
        config = self._config
        found = [config[name] for name in names if name in config]
        return found[0] if found and isinstance(found[0], int) else None

    def check_here(self) -> None:
        """Refuse a node, or a time, that has other files than the identity was made of. Raises ModelError."""
        uses = [(self.source, "model", self.key), (self.tokenizer.source, "tokenizer", self.key.get("tokenizer"))]
        for source, of, key in uses:
            if source is None or key is None or "files" not in key:
                continue
            shipped, folder = source.startswith(_SHIPPED), Path(location(source))
            if not shipped and not folder.is_dir():
                raise ModelError(
                    f"model {self.name!r}: {source} does not exist on this node; use a shared folder or a hub id"
                )
            if _digest(_content(folder, of)) != key["files"]:
                what = "this node has another version of memexp, with another"
                if not shipped:
                    what = f"the files in {source} are not those the sweep was planned with, on this node or by now: "
                    what += "start it again for this"
                raise ModelError(f"model {self.name!r}: {what} {of}")


def location(source: str) -> str:
    """What to load `source` from on this node: a hub id, or a folder."""
    return str(model_folder(source.removeprefix(_SHIPPED))) if source.startswith(_SHIPPED) else source


def resolve_model(model: Model, read: Callable[[object], Texts]) -> ResolvedModel:
    """Pin `model`: hub revisions to commits, local folders to the hash of their files.

    Args:
        model: the description.
        read: reads the corpora of a tokenizer that is to be trained.

    Raises:
        ModelError: there is no such model, or it has no configuration.
    """
    tokenizer_key, tokenizer, tokenizer_name = _resolve_tokenizer(model, read)
    if model.init is not None:
        config = _random_config(model.init.config)
        key: dict[str, Any] = {"config": config, "seed": model.init.seed}
        source = commit = None
    else:
        source, commit, key = _locate(model.name, model.revision)
        config = None
        read_config(source, commit)  # refuses a model without one here, before anything is planned
    if tokenizer_key is not None:
        key["tokenizer"] = tokenizer_key
    local = source is not None and commit is None and not source.startswith(_SHIPPED)
    return ResolvedModel(
        name=Path(source).name if local and source else model.name,
        key=key,
        source=source,
        commit=commit,
        config=config,
        seed=model.init.seed if model.init else 0,
        tokenizer=tokenizer or ResolvedTokenizer(source, commit),
        tokenizer_name=tokenizer_name,
    )


def _resolve_tokenizer(
    model: Model, read: Callable[[object], Texts]
) -> tuple[dict[str, Any] | None, ResolvedTokenizer | None, str | None]:
    """Key, pinned tokenizer and column of a tokenizer that is not the model's own, else three times None."""
    if isinstance(model.tokenizer, TrainedTokenizer):
        corpora = [read(corpus) for corpus in model.tokenizer.corpora]
        size = model.tokenizer.vocab_size
        texts = tuple(text for corpus in corpora for text in corpus.items)
        key = {"trained_on": [corpus.id for corpus in corpora], "vocab_size": size}
        return key, ResolvedTokenizer(None, None, texts, size), f"bpe-{size}"
    if model.tokenizer is None:
        return None, None, None
    source, commit, key = _locate(model.tokenizer, None, of="tokenizer")
    folder = commit is None and not source.startswith(_SHIPPED)
    return key, ResolvedTokenizer(source, commit), Path(source).name if folder else model.tokenizer


def _locate(name: str, revision: str | None, of: str = "model") -> tuple[str, str | None, dict[str, Any]]:
    """Absolute folder, hub id or shipped model, commit (None for the others) and identifying key."""
    if name in SHIPPED_MODELS:
        if revision is not None:
            raise ModelError(f"{of} {name!r} ships with memexp and has no revisions")
        if Path(name, "config.json").is_file():
            raise ModelError(
                f"{of} {name!r} ships with memexp, and here is a folder of that name: for that, say './{name}'"
            )
        return f"{_SHIPPED}{name}", None, {"files": _digest(_content(model_folder(name), of))}
    folder = Path(name).expanduser()
    if folder.is_dir():
        files = _content(folder, of)
        if not (folder / "config.json").is_file() and of == "model":
            raise ModelError(f"model {name!r}: the folder has no config.json")
        return str(folder.resolve()), None, {"files": _digest(files)}
    if folder.is_absolute() or name.startswith(("./", "../", "~")):
        raise ModelError(f"{of} {name!r}: no such folder")
    commit = _commit(name, revision)
    return name, commit, {"hub": name, "commit": commit}


def _commit(name: str, revision: str | None) -> str | None:
    """`resolve_commit` of a model; the error says which one may be meant, or which ship with memexp."""
    try:
        return resolve_commit(name, revision, "model")
    except ModelError as error:
        near = near_name(name)
        if near is not None:
            raise ModelError(f"{error}; did you mean {near!r}?") from error
        if "/" in name:
            raise
        raise ModelError(f"{error} (memexp ships {', '.join(SHIPPED_MODELS)})") from error


def _content(folder: Path, of: str) -> list[Path]:
    """The files that make a model, or a tokenizer, what it is."""
    if not folder.is_dir():
        raise ModelError(f"{folder}: missing from this installation of memexp")
    # A tokenizer may lie beside weights it has nothing to do with.
    wanted = [suffix for suffix in _CONTENT if of == "model" or suffix not in _WEIGHTS]
    return sorted(path for path in folder.iterdir() if path.suffix in wanted and path.is_file())


def _digest(files: Iterable[Path]) -> str:
    """One hash over names and contents."""
    return identity([[file.name, file_digest(file)] for file in files])


def file_digest(file: Path) -> str:
    """The SHA-256 of a file's bytes; remembered by path, size, times and inode."""
    question = file_question("sha256", file)
    digest = recall_answer(question)
    if not isinstance(digest, str):
        with file.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        remember_answer(question, digest)
    return digest


def _random_config(config: dict[str, Any] | str) -> dict[str, Any]:
    """The content of the configuration that random weights are made from."""
    if isinstance(config, dict):
        found: dict[str, Any] = config
        where = "RandomInit.config"
    else:
        where = f"RandomInit.config {config!r}"
        shipped = config in SHIPPED_MODELS
        commit = None if shipped else _commit(config, None)
        found = read_config(f"{_SHIPPED}{config}" if shipped else config, commit)
    if not isinstance(found.get("model_type"), str):
        raise ModelError(f"{where}: no model_type, so the architecture is unknown")
    return found


def read_config(source: str, commit: str | None) -> dict[str, Any]:
    """The ``config.json`` of a model. Raises ModelError where there is none or it is no JSON object."""
    file = hub_file(location(source), "config.json", commit)
    if file is None:
        where = f" at {commit}, or it is not in the cache and the hub does not answer" if commit else ""
        raise ModelError(f"model {source!r} has no config.json{where}")
    try:
        config = parsed(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file}: broken JSON: {error}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{file}: expected a JSON object")
    return config


def parameters_from_headers(model: ResolvedModel) -> int | None:
    """Number of parameters as the safetensors headers list them (tied ones once), None where there are none."""
    if model.source is None:
        return None
    if model.folder is not None:
        files = sorted(model.folder.glob("model*.safetensors"))  # not another format's copy beside them
        return sum(map(_count, files)) if files else None
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import NotASafetensorsRepoError, OfflineModeIsEnabled

    cached = try_to_load_from_cache(model.source, "model.safetensors", revision=model.commit)
    if isinstance(cached, str):
        return _count(Path(cached))
    if constants.HF_HUB_OFFLINE:
        return None
    try:
        counts = HfApi().get_safetensors_metadata(model.source, revision=model.commit).parameter_count
    except (network_error(), NotASafetensorsRepoError, OfflineModeIsEnabled, OSError):
        return None
    return sum(counts.values())


def _count(file: Path) -> int:
    """Parameters in a safetensors file. Raises ModelError where it was cut off or is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as opened:
            return sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118 - no dict
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file}: not a whole safetensors file: {one_line(error)}") from None
