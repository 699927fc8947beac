"""The errors memexp raises on purpose: one or two lines that name the field, the file or the command to type.

Whatever text goes out, to a terminal, a row or a log, passes `redacted` at the door: errors of others quote addresses,
requests and settings, and with them passwords and keys.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from types import TracebackType
from urllib.parse import quote

__all__ = [
    "ClusterError",
    "DataError",
    "DeviceError",
    "MemexpError",
    "ModelError",
    "SpecError",
    "StoreError",
    "StoreGoneError",
    "near_first",
    "one_line",
    "redacted",
    "show_redacted",
    "visible",
    "without_secrets",
    "writable",
]


class MemexpError(Exception):
    """Base of all errors whose message is meant for the person who typed the command."""

    status = 2
    """Exit status of a command that it ends."""


class SpecError(MemexpError, ValueError):
    """A field of a description is missing, unknown or out of range."""


class DataError(MemexpError):
    """A corpus cannot be read, is empty or does not fit its use."""


class ModelError(MemexpError):
    """A model or tokenizer cannot be found, or may not be loaded."""


class StoreError(MemexpError):
    """The results store cannot be read or written, or holds a broken file."""


class StoreGoneError(StoreError):
    """Object storage had no answer for as long as was waited for one; nothing is wrong with what was asked."""

    status = 1


class ClusterError(MemexpError):
    """The Ray cluster cannot be reached or cannot hold what was asked of it."""


class DeviceError(MemexpError):
    """This process can make no more use of its GPU; what it was at is recorded, and another process does the rest."""

    status = 1
    lines: tuple[str, ...] = ()
    """One for every failure that its trial had recorded."""


def one_line(error: BaseException | str, limit: int = 300) -> str:
    """What an error says, in one line of at most `limit` characters; its class where it says nothing, or a key only.

    Without secrets: half of one, where the line is cut, would be known for one no more.
    """
    said = f"{type(error).__name__}: {error}" if type(error) is KeyError else str(error)
    return " ".join(redacted(said).split())[:limit] or type(error).__name__


def near_first(wanted: str, names: Iterable[str]) -> list[str]:
    """`names`, the ones that somebody may have meant by `wanted` before all others, which stay in their order."""
    names = list(names)
    lower = {name: name.lower() for name in names}
    near = difflib.get_close_matches(wanted.lower(), list(lower.values()), n=5, cutoff=0.6)
    return sorted(names, key=lambda name: near.index(lower[name]) if lower[name] in near else len(near))


def writable(text: str) -> str:
    """`text` as UTF-8 can hold it: a half of a surrogate pair, which Python takes for a character, as an escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def visible(text: str) -> str:
    """`text` with what would control a terminal, or the direction of other text, as its number: ``⟨U+001B⟩``."""
    return text if text.isascii() and text.isprintable() else _UNSEEN.sub(lambda one: f"⟨U+{ord(one[0]):04X}⟩", text)


_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Without the ends of lines and tabs; with halves of pairs, which no file holds."""


# ---------------------------------------------------------------------------------------------------------
# Secrets


MASK = "***"
"""What stands for a secret."""

SHORTEST = 8
"""Characters from which on the value of a variable counts as a secret; shorter ones stand in too many words."""

_SECRET_NAME = re.compile(
    r"SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|CONNECTION_STRING|(^|_)(API)?(KEYS?|TOKEN|PAT|PASS|AUTH|SAS)(_|$)",
    re.IGNORECASE,
)
_PLACE_NAME = re.compile(r"_(FILE|PATH|DIR|SOCK|URI|URL|MODE)$|^GOOGLE_APPLICATION_CREDENTIALS$", re.IGNORECASE)
"""Of variables that say where a secret is, which errors have to name."""

_NAMED = r"""(?:aws_?)?(?:secret_?)?access_?key(?:_?id)?|secret_?key|(?:session|security|refresh|access|auth)_?token
|password|passwd|passphrase|api_?key|account_?key|client_?secret|(?:proxy-)?authorization|x-amz-security-token"""
_PATTERNS = [
    # user:password@host. A secret may have a slash; host:8080/path@revision is none.
    (re.compile(r"(?<=://)[^\s:@/]+:(?!\d+/)[^\s@]+(?=@)"), MASK),
    (re.compile(r"([?&](?:X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|Signature|sig|token"
                rf"|{_NAMED})=)[^&\s\"'<>]+", re.IGNORECASE | re.VERBOSE), rf"\1{MASK}"),
    (re.compile(rf"""((?:{_NAMED})["']?\s*[:=>]\s*["']?(?:(?:bearer|basic)\s+)?)[^\s"'<,;&)}}\]]{{4,}}""",
                re.IGNORECASE | re.VERBOSE), rf"\1{MASK}"),
    (re.compile(r"(\bbearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{12,}\b"), MASK),
    (re.compile(r"\bhf_[A-Za-z0-9]{16,}\b"), MASK),
    (re.compile(r"\b(?:gh[opsu]_|github_pat_|glpat-|sk-|xox[abp]-)[A-Za-z0-9_-]{16,}"), MASK),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), MASK),
]  # fmt: skip


def redacted(text: str) -> str:
    """`text` without what is secret: values of variables named so (AWS_SECRET_ACCESS_KEY, HF_TOKEN), passwords in
    addresses, signatures of requests, and what looks like a key or token of the usual services."""
    for value in _secret_values():
        text = text.replace(value, MASK)
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text


def _secret_values() -> list[str]:
    """Values of the environment's secrets, as they are and as they stand in an address; longest first."""
    values = {value for name, value in os.environ.items() if len(value) >= SHORTEST and _is_secret(name)}
    return sorted(values | {quote(value, safe="") for value in values}, key=len, reverse=True)


@functools.lru_cache(maxsize=1024)
def _is_secret(name: str) -> bool:
    return bool(_SECRET_NAME.search(name)) and not _PLACE_NAME.search(name)


@contextlib.contextmanager
def without_secrets() -> Iterator[None]:
    """Errors go through, but what says something secret is replaced by a line without it: Ray writes errors of its
    workers to logs that others may read, with all that led to them."""
    try:
        yield
        return
    except Exception as error:  # whatever it is, it is raised again or replaced by a line
        text = "".join(traceback.format_exception(error))
        if redacted(text) == text:
            raise
        line = redacted(str(error) if isinstance(error, MemexpError) else f"{type(error).__name__}: {error}")
    raise MemexpError(line) from None  # a context manager raises inside the error it saw


def show_redacted(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    """A ``sys.excepthook``: the traceback as ever, without secrets."""
    print(redacted("".join(traceback.format_exception(kind, error, where))), end="", file=sys.stderr)
