"""How much memory devices have, and how many runs fit on one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engram.grid.device_query import NVML, TOOL, look
from engram.grid.device_slots import MOST_SLOTS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engram.grid.device_query import Memory

__all__ = ["HEADROOM", "OVERHEAD_MIB", "memory_per_device", "pack"]

HEADROOM = 0.1
"""Share of a device that stays free: allocators fragment, and runs are not all alike."""
OVERHEAD_MIB = 512
"""Added to what a run was seen to use: a CUDA context (300-500 MiB) where it was not counted, and
a peak between two looks."""


def memory_per_device(
    keys: Iterable[str], *, tool: str = TOOL, library: str = NVML
) -> dict[str, Memory]:
    """Ask how much memory devices have, in all and free at this moment.

    The memory that one run uses alone on a device is what was free before less the least that is
    free while it runs; that holds in containers too, where nvidia-smi's process ids are not ours.

    Args:
        keys: UUIDs, as `Device.key` has them.
        tool: nvidia-smi, as a path or as a name on PATH.
        library: the NVML library.

    Returns:
        What could be learned, by key; nvidia-smi does not tell it of MIG devices.
    """
    wanted = set(keys)
    found = {}
    for gpu in look(tool, library).gpus:
        pairs = [(gpu.uuid, gpu.memory), *((part.uuid, part.memory) for part in gpu.parts)]
        found.update({uuid: memory for uuid, memory in pairs if memory and uuid in wanted})
    return found


def pack(peak_mib: float | None, total_mib: int | None, headroom: float = HEADROOM) -> int:
    """How many runs fit on a device.

    Args:
        peak_mib: the most that one run was seen to use; None where nothing was seen.
        total_mib: what runs may use: the device's memory, or what others leave of it.
        headroom: share of it that stays free, in [0, 1).

    Returns:
        From 1 to MOST_SLOTS; 1 where either size is not known.
    """
    if not peak_mib or not total_mib:
        return 1
    fitting = int(total_mib * (1 - headroom) // (peak_mib + OVERHEAD_MIB))
    return max(1, min(fitting, MOST_SLOTS))
