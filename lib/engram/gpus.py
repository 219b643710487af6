"""The GPUs of this machine, as nvidia-smi shows them."""

from __future__ import annotations

import re
import subprocess
from typing import Any

__all__ = ["describe"]

QUERY = "uuid,name,driver_version,memory.total"
TIMEOUT_S = 20.0
CUDA = re.compile(r"CUDA(?: UMD)? Version\s*:\s*([\d.]+)")
MIG = re.compile(r"MIG .*\(UUID: (MIG-[^)]+)\)")


def describe(tool: str) -> dict[str, Any]:
    """Ask nvidia-smi.

    Args:
        tool: its path.

    Returns:
        `gpus` (uuid, name, driver, cuda, memory_mib, and `mig` where a GPU is divided), `driver`,
        `cuda` (the newest version the driver supports), and `gpu_error`: what it said when it
        failed, else None.
    """
    try:
        rows = _ask(tool, f"--query-gpu={QUERY}", "--format=csv,noheader,nounits")
        cuda = CUDA.search(_ask(tool))
        listing = _ask(tool, "-L")
    except (OSError, subprocess.SubprocessError) as error:
        return {"gpus": [], "driver": None, "cuda": None, "gpu_error": _reason(error)}
    version = cuda[1] if cuda else None
    found = [_gpu(line, version) for line in rows.splitlines() if line.count(",") >= 3]
    _add_mig(found, listing)
    return {
        "gpus": found,
        "driver": found[0]["driver"] if found else None,
        "cuda": version,
        "gpu_error": None,
    }


def _ask(tool: str, *arguments: str) -> str:
    done = subprocess.run(
        [tool, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TIMEOUT_S,
        check=True,
    )
    return done.stdout


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        said = (error.stdout or error.stderr or "").strip().splitlines()
        return f"nvidia-smi ended with {error.returncode}: {said[0] if said else 'no output'}"
    return str(error)


def _gpu(line: str, cuda: str | None) -> dict[str, Any]:
    uuid, name, driver, memory = (part.strip() for part in line.split(",", 3))
    mib = int(memory) if memory.isdigit() else None
    return {"uuid": uuid, "name": name, "driver": driver, "cuda": cuda, "memory_mib": mib}


def _add_mig(found: list[dict[str, Any]], listing: str) -> None:
    """Name the parts of divided GPUs; `nvidia-smi -L` lists them below their GPU."""
    current: dict[str, Any] | None = None
    for line in listing.splitlines():
        if line.startswith("GPU "):
            current = next((gpu for gpu in found if f"UUID: {gpu['uuid']})" in line), None)
        elif current is not None and (match := MIG.search(line)):
            current.setdefault("mig", []).append(match[1])
