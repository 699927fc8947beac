"""What others' code raises about files and values that are not what they should be, and how it is told in one line.

except REFUSALS as error:
    raise ModelError(f"model {name!r}: {one_line(error)}") from error
"""

from __future__ import annotations

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

__all__ = ["REFUSALS", "one_line"]

REFUSALS = (
    *(OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, ZeroDivisionError),
    *(SafetensorError, StrictDataclassError),
)
"""What transformers and its readers raise about configurations and files."""


def one_line(error: BaseException) -> str:
    """What an error says, at most 300 characters of it; its type where it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__
