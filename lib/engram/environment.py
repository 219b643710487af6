"""What a run ran on: Python, packages, lock file, system, processor, GPUs, some variables.

Slow facts are cached, never dropped: packages by the times of the site folders and the lock file's
hash, GPUs by boot. Environment variables are recorded by name only: those of VARIABLES and those
the user lists. The value of a listed variable whose name looks like a secret is withheld, and
credentials inside a URL are cut out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from engram.findings import Finding
    from engram.paths import CachePaths

__all__ = ["VARIABLES", "collect"]

# Names whose values change numbers, devices or formats, and that never hold a secret.
VARIABLES = (
    "OMP_NUM_THREADS",
    "OMP_PROC_BIND",
    "OMP_PLACES",
    "OMP_DYNAMIC",
    "MKL_NUM_THREADS",
    "MKL_DYNAMIC",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "OPENBLAS_NUM_THREADS",
    "OPENBLAS_CORETYPE",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMBA_DISABLE_JIT",
    "NPY_DISABLE_CPU_FEATURES",
    "ATEN_CPU_CAPABILITY",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_MODULE_LOADING",
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_NVFUSER_DISABLE",
    "TORCHDYNAMO_DISABLE",
    "TORCH_COMPILE_DISABLE",
    "XLA_FLAGS",
    "JAX_ENABLE_X64",
    "JAX_PLATFORMS",
    "TF_DETERMINISTIC_OPS",
    "TF_ENABLE_ONEDNN_OPTS",
    "TOKENIZERS_PARALLELISM",
    "PYTHONHASHSEED",
    "LANG",
    "LC_ALL",
    "TZ",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "SLURM_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_JOB_PARTITION",
    "SLURM_CPUS_PER_TASK",
    "CONDA_DEFAULT_ENV",
    "VIRTUAL_ENV",
)
# Compiled on first use: only variables that the user lists are looked at.
SECRET = (
    r"(?:^|_)(?:SECRETS?|PASS|PASSWORD|PASSWD|PASSPHRASE|PWD|TOKENS?|CREDENTIALS?|API_?KEY|KEYS?|AUTH"
    r"|COOKIES?|PAT|PRIVATE|DSN)(?:_|\d|$)"
)
WITHHELD = "(withheld: the name looks like a secret)"
CREDENTIALS = r"(://)[^/@\s]+@"
SETTLED_S = 2.0  # a folder changed later than this may change again within one clock tick
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
DRIVER = Path("/proc/driver/nvidia/version")


def collect(
    cache: CachePaths, root: Path, record_names: Sequence[str] = ()
) -> tuple[dict[str, Any], list[Finding]]:
    """Describe the interpreter that runs us and the machine below it.

    Args:
        cache: where slow facts are kept; one that cannot be written is done without.
        root: the folder of the code that runs, which may hold a uv.lock.
        record_names: environment variables to record beyond VARIABLES.

    Returns:
        The description, plain values only, and a finding where installed packages are not the
        locked ones.
    """
    packages = package_facts(cache)
    lock = lock_facts(cache, root, packages["packages"])
    system = os.uname()
    facts = {
        "python": ".".join(map(str, sys.version_info[:3])),
        "implementation": sys.implementation.name,
        "build": sys.version,
        "executable": sys.executable,
        "prefix": sys.prefix,
        "platform": f"{system.sysname}-{system.release}-{system.machine}",
        "os": distribution(),
        "kernel": system.version,
        "libc": _libc(),
        "cpu": cpu_model(),
        "cpus": os.cpu_count(),
        "cpus_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        **gpu_facts(cache),
        **packages,
        "lock": lock or None,
        "variables": variables(record_names),
    }
    return facts, _findings(lock.get("differences", []))


def _findings(differences: list[dict[str, str]]) -> list[Finding]:
    if not differences:
        return []
    from engram.findings import Finding

    shown = [f"{d['name']} {d['installed']} (locked {d['locked']})" for d in differences[:3]]
    more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
    message = f"installed packages are not the locked ones: {', '.join(shown)}{more}"
    return [Finding("environment_differs_from_lock", message, differences)]


def variables(record_names: Iterable[str] = ()) -> dict[str, str]:
    """The environment variables to record that are set, by name, with nothing secret in them."""
    wanted = dict.fromkeys((*VARIABLES, *record_names))
    return {name: _shown(name, os.environ[name]) for name in wanted if name in os.environ}


def _shown(name: str, value: str) -> str:
    if name not in VARIABLES and re.search(SECRET, name, re.IGNORECASE):
        return WITHHELD
    text = os.fsencode(value).decode("utf-8", "backslashreplace")
    return re.sub(CREDENTIALS, r"\1***@", text) if "://" in text else text


def cpu_model() -> str:
    """The processor's name."""
    for key in ("model name", "Processor", "cpu model", "cpu"):
        for line in _head(Path("/proc/cpuinfo")).splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key and value.strip():
                return value.strip()
    return os.uname().machine


def _head(path: Path, size: int = 4096) -> str:
    """The beginning of a file (cpuinfo is long on large machines); "" where it cannot be read."""
    try:
        with path.open("rb", buffering=0) as stream:
            return stream.read(size).decode("utf-8", "replace")
    except OSError:
        return ""


def distribution() -> str:
    """The name and version of the operating system's distribution."""
    for line in _head(Path("/etc/os-release")).splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip().strip("\"'")
    return os.uname().sysname


def _libc() -> str | None:
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return os.confstr("CS_GNU_LIBC_VERSION")
    return None


def package_facts(cache: CachePaths) -> dict[str, Any]:
    """Installed packages and torch's own words about its build, as `engram.packages` finds them."""
    folders = site_folders()

    def compute() -> dict[str, Any]:
        from engram import packages

        return packages.describe(folders)

    return _cached(cache.facts / f"packages-{_short(sys.prefix)}.json", _seen(folders), compute)


def lock_facts(cache: CachePaths, root: Path, installed: dict[str, str]) -> dict[str, Any]:
    """The lock file's `sha256`, and its `differences` from what is installed; empty without one."""
    lock_file = root / "uv.lock"
    if not lock_file.is_file():
        return {}

    def compute() -> dict[str, Any]:
        from engram import packages

        return packages.compare(installed, lock_file.read_bytes())

    key = _seen([*site_folders(), lock_file])
    return _cached(cache.facts / f"lock-{_short(sys.prefix)}.json", key, compute)


def _seen(paths: Sequence[Path]) -> list[Any] | None:
    """What changes whenever one of the paths does; None while one is too young to tell."""
    seen = [(str(path), path.stat()) for path in paths]
    if any(time.time() - status.st_mtime < SETTLED_S for _, status in seen):
        return None
    return [[path, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns] for path, s in seen]


def site_folders() -> list[Path]:
    """The folders on the search path that packages are installed in."""
    names = ("site-packages", "dist-packages")
    found = dict.fromkeys(map(Path, sys.path))
    return [folder for folder in found if folder.name in names and os.access(folder, os.R_OK)]


def gpu_facts(cache: CachePaths) -> dict[str, Any]:
    """What nvidia-smi shows: `gpus`, `driver`, `cuda` (the driver's newest), `gpu_error`."""
    tool = _find_program("nvidia-smi")
    if tool is None:
        return {"gpus": [], "driver": None, "cuda": None, "gpu_error": None}

    def compute() -> dict[str, Any]:
        from engram import gpus

        return gpus.describe(tool)

    # One boot shows several sets of GPUs: to containers, and to Slurm jobs that get some.
    devices = sorted(path.name for path in Path("/dev").glob("nvidia*"))
    seen = [os.environ.get(name) for name in ("NVIDIA_VISIBLE_DEVICES", "SLURM_JOB_ID")]
    key = [
        _head(BOOT_ID).strip(),
        tool,
        Path(tool).stat().st_mtime_ns,
        _head(DRIVER),
        devices,
        seen,
    ]
    return _cached(cache.facts / f"gpus-{_short(os.uname().nodename)}.json", key, compute)


def _find_program(name: str) -> str | None:
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = f"{folder}/{name}"
        # Not Path.is_file: that one raises where a folder on PATH is closed to us.
        if folder and os.path.isfile(path) and os.access(path, os.X_OK):  # noqa: PTH113
            return path
    return None


def _short(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _cached(
    path: Path, key: list[Any] | None, compute: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """The facts in a file if they belong to the same key, else computed now and kept there."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(path.read_bytes())
        if key is not None and known["key"] == key and isinstance(known["facts"], dict):
            return dict(known["facts"])
    facts = compute()
    if key is not None and not facts.get("gpu_error"):
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(path, {"key": key, "facts": facts})
    return facts
