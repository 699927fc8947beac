"""The errors memexp raises on purpose: one or two lines that name the field, the file or the command to type."""

from __future__ import annotations

__all__ = ["ClusterError", "DataError", "MemexpError", "ModelError", "SpecError", "StoreError", "one_line"]


class MemexpError(Exception):
    """Base of all errors whose message is meant for the person who typed the command."""


class SpecError(MemexpError, ValueError):
    """A field of a description is missing, unknown or out of range."""


class DataError(MemexpError):
    """A corpus cannot be read, is empty or does not fit its use."""


class ModelError(MemexpError):
    """A model or tokenizer cannot be found, or may not be loaded."""


class StoreError(MemexpError):
    """The results store cannot be read or written, or holds a broken file."""


class ClusterError(MemexpError):
    """The Ray cluster cannot be reached or cannot hold what was asked of it."""


def one_line(error: BaseException | str, limit: int = 300) -> str:
    """What an error says, in one line of at most `limit` characters; its class where it says nothing."""
    return " ".join(str(error).split())[:limit] or type(error).__name__
