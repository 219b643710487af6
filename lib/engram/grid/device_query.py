"""The GPUs of this machine, as NVML shows them, else nvidia-smi; never through CUDA.

Whoever asks CUDA has a CUDA context, and one that has a context can fork no workers. NVML is loaded
in a process of its own, which ends at once: neither the library nor an open device stays behind.
"""

from __future__ import annotations

import marshal
import os
import select
import signal
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["NVML", "TOOL", "Gpu", "Memory", "Part", "Seen", "look"]

NVML = "libnvidia-ml.so.1"
TOOL = "nvidia-smi"
TIMEOUT_S = 20.0
MIB = 2**20
NAME_BYTES = 96  # what NVML asks for, with room


class Memory(NamedTuple):
    """Memory of a device."""

    total_mib: int
    free_mib: int


class Part(NamedTuple):
    """One MIG device of a divided GPU."""

    uuid: str  # MIG-...
    older: str | None  # MIG-GPU-.../1/2, its name in older drivers, which CUDA still takes
    memory: Memory | None


class Gpu(NamedTuple):
    """One GPU."""

    number: int  # as nvidia-smi counts: in the order of the PCI bus
    uuid: str  # GPU-...
    name: str  # the model
    memory: Memory | None
    divided: bool  # MIG is on: CUDA works on the parts alone
    parts: tuple[Part, ...]


class Seen(NamedTuple):
    """What was found."""

    source: str  # "NVML", "nvidia-smi", or "" where there is neither
    gpus: tuple[Gpu, ...]
    problem: str | None = None  # what nvidia-smi said when it failed


def look(tool: str = TOOL, library: str = NVML) -> Seen:
    """Ask what GPUs there are.

    Args:
        tool: nvidia-smi, as a path or as a name on PATH.
        library: the NVML library, as the dynamic loader finds it.
    """
    rows = _apart(lambda: _nvml(library))
    if rows is not None:
        return Seen("NVML", tuple(_gpu(*row) for row in rows))
    return _from_tool(tool)


def _gpu(
    number: int,
    uuid: str,
    name: str,
    memory: tuple[int, int] | None,
    parts: list[tuple[str, str | None, tuple[int, int] | None]] | None,
) -> Gpu:
    """One row of `_nvml` with names to its fields."""
    found = tuple(Part(uuid, older, room and Memory(*room)) for uuid, older, room in parts or ())
    return Gpu(number, uuid, name, memory and Memory(*memory), parts is not None, found)


def _from_tool(name: str) -> Seen:
    """What nvidia-smi shows; it does not tell the memory of parts."""
    import shutil

    from engram import gpus

    tool = shutil.which(name)
    if tool is None:
        return Seen("", ())
    facts = gpus.describe(tool)
    if facts["gpu_error"]:
        return Seen("", (), facts["gpu_error"])
    memory = _tool_memory(tool)
    found = []
    for number, gpu in enumerate(facts["gpus"]):
        parts = tuple(Part(uuid, None, None) for uuid in gpu.get("mig", ()))
        own = memory.get(gpu["uuid"])
        found.append(Gpu(number, gpu["uuid"], gpu["name"], own, bool(parts), parts))
    return Seen("nvidia-smi", tuple(found))


def _tool_memory(tool: str) -> dict[str, Memory]:
    """Total and free memory by UUID; empty where nvidia-smi does not tell."""
    import subprocess

    command = [tool, "--query-gpu=uuid,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.check_output(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    found = {}
    for line in said.decode("utf-8", "replace").splitlines():
        uuid, *sizes = (cell.strip() for cell in line.split(","))
        if len(sizes) == 2 and all(size.isdigit() for size in sizes):  # noqa: PLR2004
            found[uuid] = Memory(*map(int, sizes))
    return found


def _apart(ask: Callable[[], list[Any]]) -> list[Any] | None:
    """Call a function in a process of its own; None where it raised, crashed or hung."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            data = marshal.dumps(ask())
            while data:
                data = data[os.write(writer, data) :]
        finally:
            os._exit(0)
    os.close(writer)
    try:
        return marshal.loads(_all(reader))  # type: ignore[no-any-return]
    except (EOFError, ValueError, TypeError):
        return None
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _all(reader: int) -> bytes:
    """Read a pipe to its end, or to the end of the patience."""
    data, end = b"", time.monotonic() + TIMEOUT_S
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    while poll.poll(max(0.0, end - time.monotonic()) * 1000):
        chunk = os.read(reader, 1 << 16)
        if not chunk:
            return data
        data += chunk
    return b""


def _nvml(library: str) -> list[Any]:
    """Ask NVML; runs in the process of its own.

    Returns:
        One row for each GPU: the arguments of `_gpu`.

    Raises:
        OSError: there is no library, or no driver that it could talk to.
    """
    import ctypes

    nvml = ctypes.CDLL(library)
    if nvml.nvmlInit_v2():
        msg = "NVML finds no driver"
        raise OSError(msg)
    count = ctypes.c_uint()
    if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
        msg = "NVML does not count the GPUs"
        raise OSError(msg)
    rows = []
    for index in range(count.value):
        device = ctypes.c_void_p()
        if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)):
            continue  # lost, or not ours to see: its index stays its own
        uuid = _text(nvml.nvmlDeviceGetUUID, device)
        parts = _parts(nvml, device, uuid)
        rows.append(
            (index, uuid, _text(nvml.nvmlDeviceGetName, device), _memory(nvml, device), parts)
        )
    return rows


def _text(function: Any, device: Any) -> str:  # noqa: ANN401 - foreign functions and handles
    import ctypes

    buffer = ctypes.create_string_buffer(NAME_BYTES)
    if function(device, buffer, NAME_BYTES):
        return ""
    return buffer.value.decode("utf-8", "replace")


def _number(function: Any, *arguments: Any) -> int | None:  # noqa: ANN401
    import ctypes

    value = ctypes.c_uint()
    return None if function(*arguments, ctypes.byref(value)) else value.value


def _memory(nvml: Any, device: Any) -> tuple[int, int] | None:  # noqa: ANN401
    """Total and free memory, in MiB."""
    import ctypes

    sizes = (ctypes.c_ulonglong * 3)()  # total, free, used
    if nvml.nvmlDeviceGetMemoryInfo(device, sizes):
        return None
    return sizes[0] // MIB, sizes[1] // MIB


def _parts(nvml: Any, device: Any, uuid: str) -> list[Any] | None:  # noqa: ANN401
    """The MIG devices of a GPU; None where it is not divided."""
    import ctypes

    if not hasattr(nvml, "nvmlDeviceGetMigMode"):
        return None
    pending = ctypes.c_uint()
    mode = ctypes.c_uint()
    said = nvml.nvmlDeviceGetMigMode(device, ctypes.byref(mode), ctypes.byref(pending))
    if said or not mode.value:
        return None
    found = []
    for place in range(_number(nvml.nvmlDeviceGetMaxMigDeviceCount, device) or 0):
        part = ctypes.c_void_p()
        if nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, place, ctypes.byref(part)):
            continue
        instance = _number(nvml.nvmlDeviceGetGpuInstanceId, part)
        compute = _number(nvml.nvmlDeviceGetComputeInstanceId, part)
        older = None if None in (instance, compute) else f"MIG-{uuid}/{instance}/{compute}"
        found.append((_text(nvml.nvmlDeviceGetUUID, part), older, _memory(nvml, part)))
    return found
