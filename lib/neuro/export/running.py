"""Running an exported network with a Python that has PyNN, and reading what it did."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuro.export.backends import Backend, PynnError, PynnMissing, find_backend
from neuro.export.pynn import DESCRIPTION, RESULTS, SCRIPT, PynnExport

# Names a Python that has PyNN, where it is not this one: simulators want packages of their own.
PYTHON_VARIABLE = "ENGRAM_PYNN_PYTHON"


class PynnResult(NamedTuple):
    """What an exported network did, in steps of the network it was made from.

    Attributes:
        trials: that were run, shape (B,).
        spikes: of each population, numbers of spikes, uint8, shape (T, B, N).
        potentials: of each readout, shape (T, B, K).
    """

    trials: NDArray[np.int64]
    spikes: dict[str, NDArray[np.uint8]]
    potentials: dict[str, NDArray[np.float64]]


def find_python(backend: str = "nest") -> str:
    """Return the Python that ENGRAM_PYNN_PYTHON names, else this one, if it has the backend.

    Raises:
        PynnMissing: it has not.
    """
    chosen = find_backend(backend)
    python = os.environ.get(PYTHON_VARIABLE) or sys.executable
    trouble = _trouble(python, chosen.module)
    if trouble:
        packages = " ".join(map(repr, chosen.requirements))
        msg = (
            f"{python} cannot import {chosen.module} ({trouble}). Make an environment of its own "
            f"for it (python -m venv ENV; ENV/bin/pip install {packages}) and set "
            f"{PYTHON_VARIABLE} to ENV/bin/python"
        )
        raise PynnMissing(msg)
    return python


def run_pynn(
    export: PynnExport,
    *,
    python: str | None = None,
    trials: Sequence[int] = (),
    timeout_s: float | None = None,
) -> PynnResult:
    """Run the script of an export and read its results.

    Args:
        export: that was written.
        python: that has PyNN and the backend; None looks for one.
        trials: to be run; empty for all.
        timeout_s: after which it is given up.

    Raises:
        PynnMissing: no Python was found; says what to install and what to run by hand.
        PynnError: the script failed or took too long.
    """
    backend = find_backend(export.backend)
    try:
        python = python or find_python(export.backend)
    except PynnMissing as error:
        raise PynnMissing(f"{error}. {_by_hand(export, backend)}") from error
    command = [python, SCRIPT, *map(str, trials)]
    # What this process imports from is not for another environment.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    try:
        done = subprocess.run(
            command,
            cwd=export.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired as error:
        msg = f"{command!r} in {export.folder} took longer than {timeout_s!r} s"
        raise PynnError(msg) from error
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        msg = f"{command!r} in {export.folder} ended with {done.returncode}:\n{last}"
        raise PynnError(msg)
    return read_result(export.folder)


def read_result(folder: Path) -> PynnResult:
    """Return what the script of an export left in its folder.

    Raises:
        FileNotFoundError: it was not run there.
    """
    if not (folder / RESULTS).exists():
        msg = f"there is no {RESULTS} in {folder}; run `python {SCRIPT}` there first"
        raise FileNotFoundError(msg)
    about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    with np.load(folder / RESULTS) as results:
        trials = results["trials"]
        spikes, potentials = {}, {}
        for name, part in about["parts"].items():
            if part["readout"]:
                values = [
                    _sampled(results[f"{trial}.{name}.potential"], part, about) for trial in trials
                ]
                potentials[name] = np.stack(values, axis=1)
            else:
                rasters = [_raster(results, f"{trial}.{name}", part, about) for trial in trials]
                spikes[name] = np.stack(rasters, axis=1)
    return PynnResult(trials, spikes, potentials)


@cache
def _trouble(python: str, module: str) -> str:
    """Return the last line of why a Python cannot import a module, "" where it can."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    try:
        done = subprocess.run(
            [python, "-c", f"import {module}"],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except OSError as error:
        return str(error)
    return (done.stderr.strip().splitlines() or ["it failed"])[-1] if done.returncode else ""


def _by_hand(export: PynnExport, backend: Backend) -> str:
    where = f"`python {SCRIPT}` in {export.folder}"
    if backend.name == "spinnaker":
        return (
            f"Nothing was run. On a computer that reaches the machine, with sPyNNaker, run {where}"
        )
    return f"Or run {where} by hand"


def _raster(results: Any, key: str, part: dict, about: dict) -> NDArray[np.uint8]:  # noqa: ANN401
    """Return numbers of spikes by step and unit; what is outside of the steps is dropped."""
    elapsed = (results[f"{key}.time"] - part["start_ms"]) / about["dt_ms"]
    step = np.ceil(elapsed - 1e-6).astype(np.int64) - 1
    inside = (step >= 0) & (step < about["steps"])
    raster = np.zeros((about["steps"], part["units"]), dtype=np.uint8)
    np.add.at(raster, (step[inside], results[f"{key}.unit"][inside].astype(np.int64)), 1)
    return raster


def _sampled(potential: NDArray, part: dict, about: dict) -> NDArray[np.float64]:
    """Return potentials at the ends of steps, of those at every time step from 0."""
    late = int(find_backend(about["backend"]).stamps_start)
    ends_ms = part["start_ms"] + (np.arange(about["steps"]) + 1) * about["dt_ms"]
    index = np.round(ends_ms / about["timestep_ms"]).astype(np.int64) + late
    return potential[index].astype(np.float64)
