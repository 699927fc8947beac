"""Hub revisions: a branch or tag becomes the commit it stands for, online through the API, offline from the cache.

Resolved once per sweep, before anything is hashed or loaded, so that all trials of a sweep see the same weights.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from memexp.errors import DataError, MemexpError, ModelError, one_line

__all__ = ["hub_dataset", "hub_file", "network_error", "resolve_commit"]

Kind = Literal["model", "dataset"]


def resolve_commit(repo: str, revision: str | None, kind: Kind) -> str | None:
    """The 40-digit commit of a hub repository, or None where `repo` is a local folder.

    Raises ModelError or DataError where neither the hub nor its local cache knows the repository or revision.
    """
    if Path(repo).expanduser().is_dir():
        return None
    if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    cached = _cached_commit(repo, revision or "main", kind)
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    failure: type[MemexpError] = ModelError if kind == "model" else DataError
    if constants.HF_HUB_OFFLINE:
        if cached is None:
            raise failure(
                _unknown(repo, revision, kind, "the hub is offline (HF_HUB_OFFLINE) and the cache does not hold it")
            )
        return cached
    try:
        info = HfApi().model_info if kind == "model" else HfApi().dataset_info
        commit = info(repo, revision=revision, timeout=10).sha
    except HFValidationError as error:
        raise failure(_unknown(repo, revision, kind, one_line(error, 200))) from error
    except (network_error(), OfflineModeIsEnabled, OSError) as error:
        # No answer from the hub: what the cache calls by this revision is what from_pretrained would take as well.
        status = getattr(getattr(error, "response", None), "status_code", None)
        if cached is None or status in (401, 403, 404):
            raise failure(_unknown(repo, revision, kind, one_line(error, 200))) from error
        return cached
    return str(commit)


def hub_file(repo: str, name: str, commit: str | None) -> Path | None:
    """A small file of a model: in its folder, in the cache, or fetched from the hub; None where the model has none."""
    folder = Path(repo).expanduser()
    if commit is None:
        return folder / name if (folder / name).is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, name, revision=commit))
    except LocalEntryNotFoundError:
        return None
    except EntryNotFoundError:
        return None
    except (network_error(), OSError) as error:
        raise ModelError(f"model {repo!r}: {name} cannot be fetched: {one_line(error, 200)}") from error


def hub_dataset(repo: str, commit: str | None) -> tuple[str, str | None]:
    """What to give ``load_dataset`` as path and revision, so that the commit asked for is the one that is read.

    Offline that is the cache's snapshot folder where there is one, since `datasets` by itself would take whatever it
    prepared last, of any revision.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if commit is None or not constants.HF_HUB_OFFLINE:
        return repo, commit
    try:
        return snapshot_download(repo, repo_type="dataset", revision=commit, local_files_only=True), None
    except LocalEntryNotFoundError:
        return repo, None


def _cached_commit(repo: str, revision: str, kind: Kind) -> str | None:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    try:
        ref = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type=kind) / "refs" / revision
        return ref.read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None


def network_error() -> type[Exception]:
    """What the hub's client raises where the hub does not answer: the base error of its HTTP library."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]


def _unknown(repo: str, revision: str | None, kind: Kind, why: str) -> str:
    at = f" at revision {revision!r}" if revision else ""
    return f"{kind} {repo!r}{at} is neither a local folder nor to be found on the hub: {why}"
