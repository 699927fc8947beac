"""Devices as their makers describe them, for estimates of time; what was measured (`stages/`) goes first.

DEVICES["h100"].speed("bfloat16")      # operations a second at best
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEVICES", "UTILISATION", "Device"]

UTILISATION = (0.15, 0.35, 0.5)
"""Share of the best speed that training gets: small models, usual (torchtitan has 33 to 39 % of an H100), very good."""


@dataclass(frozen=True)
class Device:
    """One accelerator."""

    memory: float
    """Bytes."""
    float32: float
    """Operations a second: dense, without sparsity."""
    tf32: float
    bfloat16: float

    def speed(self, dtype: str) -> float:
        """Operations a second at best."""
        return float(getattr(self, dtype))


# Data sheets: NVIDIA A100 80GB (2021), H100 SXM5 (2022), H200 SXM (2023), L40S (2023), L4 (2023), RTX 4090 (Ada, 2022).
# The CPU: one core of a server with AVX2, of which 130 GFLOP/s were seen in products of matrices.
DEVICES = {
    "a100": Device(80e9, 19.5e12, 156e12, 312e12),
    "h100": Device(80e9, 67e12, 494e12, 989e12),
    "h200": Device(141e9, 67e12, 494e12, 989e12),
    "l40s": Device(48e9, 91.6e12, 183e12, 362e12),
    "l4": Device(24e9, 30e12, 60e12, 121e12),
    "rtx4090": Device(24e9, 82.6e12, 82.6e12, 165e12),
    "cpu": Device(16e9, 0.15e12, 0.15e12, 0.075e12),
}
