"""What others' code raises about files and values that are not what they should be.

except REFUSALS as error:
    raise ModelError(f"model {name!r}: {one_line(error)}") from error
"""

from __future__ import annotations

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

__all__ = ["REFUSALS"]

REFUSALS = (
    *(OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, ZeroDivisionError),
    *(SafetensorError, StrictDataclassError),
)
"""What transformers and its readers raise about configurations and files."""
