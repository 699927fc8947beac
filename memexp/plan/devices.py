"""Devices as their makers describe them, for estimates of time; what was measured (`stages/`) goes first.

DEVICES["h100"].speed("bfloat16")      # operations a second at best
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEVICES", "ETHERNET", "HOST", "PCIE", "REACHED", "UTILISATION", "Device", "known_as"]

UTILISATION = (0.15, 0.35, 0.5)
"""Share of the best speed that training gets: small models, usual (torchtitan has 33 to 39 % of an H100), very good."""
REACHED = (0.5, 0.75, 0.9)
"""Share of the best bandwidth that is reached, of memory and between devices: poor, usual, very good; an estimate."""
HOST = (1.5, 1.0, 0.6)
"""Time that the host takes to launch a step, as a multiple of what was measured on one core of a shared server."""
ETHERNET = 3e9
"""Bytes a second from node to node (25 Gbit/s)."""
PCIE = 32e9
"""Bytes a second between a device and its host, one way (PCIe 4.0)."""


@dataclass(frozen=True)
class Device:
    """One accelerator."""

    memory: float
    """Bytes."""
    float32: float
    """Operations a second: dense, without sparsity."""
    tf32: float
    bfloat16: float
    bandwidth: float
    """Bytes a second, of its memory."""
    link: float
    """Bytes a second to the other devices of its node, one way: NVLink, or PCIe 4.0."""
    used: tuple[float, float, float] = UTILISATION
    """Share of the best speed that training gets."""

    def speed(self, dtype: str) -> float:
        """Operations a second at best."""
        return float(getattr(self, dtype))


# Data sheets: NVIDIA A100 80GB (2021), H100 SXM5 (2022), H200 SXM (2023), L40S (2023), L4 (2023), RTX 4090 (Ada, 2022).
# The A100, H100 and H200 are those with NVLink. The CPU: one core of a server; a model of 135M
# parameters got 130 GFLOP/s and more of it, tiny ones less, on cores shared with other programs
# down to about a twentieth of the speed below; its bandwidths are estimates.
DEVICES = {
    "a100": Device(80e9, 19.5e12, 156e12, 312e12, 2.04e12, 300e9),
    "h100": Device(80e9, 67e12, 494e12, 989e12, 3.35e12, 450e9),
    "h200": Device(141e9, 67e12, 494e12, 989e12, 4.8e12, 450e9),
    "l40s": Device(48e9, 91.6e12, 183e12, 362e12, 0.864e12, 32e9),
    "l4": Device(24e9, 30e12, 60e12, 121e12, 0.3e12, 32e9),
    "rtx4090": Device(24e9, 82.6e12, 82.6e12, 165e12, 1.008e12, 32e9),
    "cpu": Device(16e9, 0.2e12, 0.2e12, 0.1e12, 20e9, 2e9, used=(0.05, 0.5, 0.9)),
}


def known_as(name: str) -> str:
    """Which of `DEVICES` it is that calls itself, or is called by Ray, ``NVIDIA A100-SXM4-80GB`` or ``A100-80G``.

    An A100 where it is none of them: what is asked for is how trials compare.
    """
    plain = name.lower().replace(" ", "")
    return next((one for one in sorted(DEVICES, key=len, reverse=True) if one in plain), "a100")
