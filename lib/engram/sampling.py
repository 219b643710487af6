"""Looking at a running child from outside: open files of C libraries, processes, GPU memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

from engram import guardian, processes

USUAL_S = 0.5
GPU_EVERY_S = 5.0


class Sampler:
    """Notes the open files and the processes of a tree, sparsely and each only once."""

    def __init__(self, root: int, audit: Path) -> None:
        """Watch all processes below `root`, the guardian; lines go to the audit file."""
        self.root = root
        self.audit = audit
        self.interval_s = USUAL_S / 8
        self.seen: set[tuple[str, str]] = set()
        self.pids: set[int] = set()

    def sample(self) -> None:
        """Look once; called by the supervisor's loop."""
        self.interval_s = min(self.interval_s * 2, USUAL_S)
        lines = []
        for entry in processes.family(self.root):
            if entry.name.encode() == guardian.NAME:
                continue  # just forked: what it has open is the runner's
            lines += self._process(entry)
            lines += self._files(entry.pid)
        if lines:
            self._write(lines)

    def _process(self, entry: processes.Process) -> list[str]:
        if entry.pid in self.pids:
            return []
        self.pids.add(entry.pid)
        return [json.dumps({"e": "seen", "pid": entry.pid, "name": entry.name})]

    def _files(self, pid: int) -> list[str]:
        fresh = [
            item
            for item in processes.open_files(pid)
            if item not in self.seen and item[0] != str(self.audit) and Path(item[0]).is_file()
        ]
        self.seen.update(fresh)
        return [json.dumps({"e": "fd", "path": p, "mode": m, "pid": pid}) for p, m in fresh]

    def _write(self, lines: list[str]) -> None:
        """Append in one write: the lines of the child stay whole; a full disk loses these."""
        try:
            fd = os.open(self.audit, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError:
            return
        try:
            os.write(fd, ("\n".join(lines) + "\n").encode())
        except OSError:
            self.seen.clear()
        finally:
            os.close(fd)


class GpuSampler:
    """Asks nvidia-smi now and then, in a thread, how much GPU memory a tree of processes holds."""

    def __init__(self, root: int) -> None:
        """Watch the process `root` and all below it."""
        self.root = root
        self.peak_bytes: int | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gpu-memory", daemon=True)
        self._thread.start()

    def stop(self) -> int | None:
        """End the thread; return the highest sum seen, in bytes, or None when nothing was seen."""
        self._stop.set()
        self._thread.join(timeout=5.0)
        return self.peak_bytes

    def _watch(self) -> None:
        while not self._stop.is_set():
            pids = {self.root, *(entry.pid for entry in processes.descendants(self.root))}
            used = gpu_memory(pids)
            if used is not None:
                self.peak_bytes = max(used, self.peak_bytes or 0)
            self._stop.wait(GPU_EVERY_S)


def has_gpu() -> bool:
    """Tell whether there is an NVIDIA device and the tool that reports on it."""
    return Path("/dev/nvidiactl").exists() and shutil.which("nvidia-smi") is not None


def gpu_memory(pids: set[int]) -> int | None:
    """Sum the GPU memory of some processes, in bytes; None when the tool lists none of them."""
    command = [
        "nvidia-smi",
        "--query-compute-apps=pid,used_memory",
        "--format=csv,noheader,nounits",
    ]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    rows = [line.split(",") for line in done.stdout.splitlines() if line.count(",") == 1]
    used = [int(mib) for pid, mib in rows if int(pid) in pids and mib.strip().isdigit()]
    return sum(used) * 2**20 if used else None
