"""The doctor's look at the machine: Python, torch, threads, processor, GPUs, locale, clock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram import environment
from engram.doctor import BROKEN, OK, WARN, Check, Place
from engram.table import epoch

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CHECKS"]

OLDEST_PYTHON = (3, 11)
TORCH_TIMEOUT_S = 120.0
# Years before this one mean that the clock was never set.
CLOCK_FLOOR = 1_735_689_600.0
# Results on the processor change with these, and runs get them from the shell.
NUMERIC = (
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "OPENBLAS_CORETYPE",
    "NPY_DISABLE_CPU_FEATURES",
    "ATEN_CPU_CAPABILITY",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "XLA_FLAGS",
    "LD_PRELOAD",
)
TORCH = """\
import json, sys, torch
sys.stdout.write("\\n" + json.dumps({
    "version": torch.__version__,
    "cuda": torch.version.cuda,
    "gpus": torch.cuda.device_count() if torch.cuda.is_available() else 0,
    "deterministic": torch.are_deterministic_algorithms_enabled(),
    "cudnn_deterministic": torch.backends.cudnn.deterministic,
    "cudnn_benchmark": torch.backends.cudnn.benchmark,
    "matmul_precision": torch.get_float32_matmul_precision(),
    "cpu": torch.backends.cpu.get_cpu_capability(),
}))
"""


def python(place: Place) -> Iterator[Check]:
    """Version and build, and whether earlier runs had the same."""
    version = ".".join(map(str, sys.version_info[:3]))
    build = f"Python {version}, {sys.version.partition('[')[2].rstrip(']')}, {sys.executable}"
    if sys.version_info[:2] < OLDEST_PYTHON:
        yield Check("python", BROKEN, build, "use Python 3.11 or newer")
        return
    recorded = recorded_environment(place).get("python")
    if recorded and recorded != version:
        advice = "--rerun RUN --recreate-environment takes the recorded packages"
        yield Check("python", WARN, f"{build}; the newest run had {recorded}", advice)
    else:
        yield Check("python", OK, build)


def recorded_environment(place: Place) -> dict[str, Any]:
    """What the newest run says of its environment; empty without one."""
    found = (place.record or {}).get("environment")
    return found if isinstance(found, dict) else {}


def torch(place: Place) -> Iterator[Check]:
    """The build, and what it does by default; asked in a process of its own."""
    build = environment.package_facts(place.cache)["torch"]
    if build is None:
        yield Check("torch", OK, "not installed for this Python")
        return
    facts = ask_torch()
    if "error" in facts:
        yield Check(
            "torch", BROKEN, f"{build} cannot be imported: {facts['error']}", "reinstall it"
        )
        return
    said = f"{facts['version']}, CUDA {facts['cuda']}, {facts['gpus']} GPUs, {facts['cpu']} kernels"
    recorded = recorded_environment(place).get("torch")
    if recorded and recorded != facts["version"]:
        advice = "another build of torch gives other last digits: install the recorded one"
        yield Check("torch", WARN, f"{said}; the newest run had {recorded}", advice)
    else:
        yield Check("torch", OK, said)
    yield from determinism(facts)


def ask_torch() -> dict[str, Any]:
    """Import torch in a process of its own and report what it says, or the `error`."""
    command = [sys.executable, "-c", TORCH]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TORCH_TIMEOUT_S,
            check=False,
        )
        return dict(json.loads(done.stdout.rpartition("\n")[2]))
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {TORCH_TIMEOUT_S:.0f} s"}
    except ValueError:
        said = done.stderr.strip().splitlines()
        return {"error": said[-1] if said else f"it ended with {done.returncode}"}


def determinism(facts: dict[str, Any]) -> Iterator[Check]:
    """What makes torch's own results vary from call to call."""
    flags = f"deterministic algorithms {'on' if facts['deterministic'] else 'off'}"
    flags += f", cudnn.benchmark {facts['cudnn_benchmark']}, matmul {facts['matmul_precision']}"
    if facts["gpus"] == 0:
        yield Check("torch flags", OK, f"{flags} (by default; only GPU kernels vary)")
        return
    wish = "torch.use_deterministic_algorithms(True) in the script"
    if "CUBLAS_WORKSPACE_CONFIG" not in os.environ:
        wish += ", and CUBLAS_WORKSPACE_CONFIG=:4096:8 in the shell"
    yield Check("torch flags", WARN, f"{flags} (by default)", f"for equal GPU results: {wish}")


def threads(place: Place) -> Iterator[Check]:
    """How many processors there are, and how many threads a run gets."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    said = f"{usable} of {os.cpu_count()} processors usable"
    environ = "runs set OMP_NUM_THREADS and its like themselves ([environment] threads)"
    yield Check("threads", OK, f"{said}; {environ}")
    there = [f"{name}={os.environ[name]}" for name in NUMERIC if os.environ.get(name)]
    if there:
        advice = "they change numbers; runs record and get them: unset them unless they are meant"
        yield Check("variables", WARN, ", ".join(there), advice)


def processor(place: Place) -> Iterator[Check]:
    """The processor, and whether earlier runs had the same."""
    model = environment.cpu_model()
    recorded = recorded_environment(place).get("cpu")
    if recorded and recorded != model:
        advice = "sums may differ in the last digits: a rerun of it may be equal, not identical"
        yield Check("processor", WARN, f"{model}; the newest run had {recorded}", advice)
    else:
        yield Check("processor", OK, model)


def gpus(place: Place) -> Iterator[Check]:
    """Driver, memory protection, and whether all GPUs are of one kind."""
    facts = environment.gpu_facts(place.cache)
    if facts["gpu_error"]:
        advice = "the driver may need a restart, or the machine one"
        yield Check("gpu", WARN, str(facts["gpu_error"]), advice)
        return
    if not facts["gpus"]:
        lost = environment.DRIVER.exists()
        advice = "install nvidia-smi: without it no record names the GPU" if lost else ""
        said = "an NVIDIA driver, but no nvidia-smi on PATH" if lost else "no NVIDIA GPU"
        yield Check("gpu", WARN if lost else OK, said, advice)
        return
    names = [gpu["name"] for gpu in facts["gpus"]]
    yield Check("gpu", OK, f"driver {facts['driver']}, CUDA {facts['cuda']}: {', '.join(names)}")
    if len(set(names)) > 1:
        advice = "name one in CUDA_VISIBLE_DEVICES: their results differ"
        yield Check("gpu kinds", WARN, f"{len(set(names))} kinds of GPU", advice)
    yield from memory_protection()


def memory_protection() -> Iterator[Check]:
    """Whether the GPUs' memory corrects errors, and whether it had any it could not."""
    query = "ecc.mode.current,ecc.errors.uncorrected.volatile.total"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    modes = {row[0] for row in rows if len(row) == 2}
    failed = [row[1] for row in rows if len(row) == 2 and row[1].isdigit() and int(row[1])]
    if failed:
        said = f"{', '.join(failed)} memory errors since the driver started"
        yield Check("gpu memory", BROKEN, said, "results cannot be trusted: have the GPU looked at")
    elif "Disabled" in modes:
        advice = "nvidia-smi -e 1 as root, then a restart: a flipped bit goes unseen otherwise"
        yield Check("gpu memory", WARN, "error correction (ECC) is off", advice)
    elif modes:
        yield Check("gpu memory", OK, f"error correction (ECC): {', '.join(sorted(modes))}")


def hash_seed(place: Place) -> Iterator[Check]:
    """Where the order of sets comes from."""
    shell = os.environ.get("PYTHONHASHSEED")
    said = "runs get PYTHONHASHSEED=0, or [environment] hash_seed, whatever the shell says"
    yield Check("hash seed", OK, said + (f" (it says {shell})" if shell else ""))


def locale(place: Place) -> Iterator[Check]:
    """How text files are read that name no encoding."""
    import locale as system

    encoding = system.getpreferredencoding(do_setlocale=False)
    shown = os.environ.get("LC_ALL") or os.environ.get("LANG") or "none set"
    if encoding.lower().replace("-", "") == "utf8":
        yield Check("locale", OK, f"{shown}, files are read as {encoding}")
    else:
        advice = "export LC_ALL=C.UTF-8: open() without an encoding depends on it"
        yield Check("locale", WARN, f"{shown}, files are read as {encoding}", advice)


def clock(place: Place) -> Iterator[Check]:
    """Whether the clock is believable: run ids, `latest` and ages hang on it."""
    now = time.time()
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < CLOCK_FLOOR:
        yield Check("clock", BROKEN, f"it says {shown}", "set it: runs are ordered by it")
        return
    ahead = []
    for row in place.store.list_runs(limit=1):
        ahead = [row.run_id] if (epoch(row.at) or 0) > now + 60 else []
    if ahead:
        said = f"it says {shown}, but run {ahead[0]} is later than that"
        yield Check("clock", WARN, said, "a clock was wrong, now or then: `latest` may mislead")
    else:
        yield Check("clock", OK, shown)


def machine(place: Place) -> Iterator[Check]:
    """What kind of machine this is, for the one who is shown this."""
    system = os.uname()
    container = " (in a container)" if Path("/.dockerenv").exists() else ""
    name = f"{environment.distribution()}, {system.sysname} {system.release}{container}"
    if system.sysname == "Linux":
        yield Check("system", OK, name)
    else:
        advice = "only Linux ends every grandchild of a run, and names every cause of death"
        yield Check("system", WARN, name, advice)


CHECKS = (machine, python, torch, threads, processor, gpus, hash_seed, locale, clock)
