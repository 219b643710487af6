"""Submitting Slurm jobs through submitit, with the settings of [engine]."""

from __future__ import annotations

import functools
import importlib.util
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import engram
from engram import errors, slurm_jobs
from engram.grid import slurm_node

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engram.settings import EngineConfig

__all__ = ["Slurm", "array_size", "check"]

LONG_S, SHORT_PART = (
    90.0,
    0.1,
)  # the signal before a time limit: this early, at most this part of it
ARRAY = 1000  # tasks in one array, where Slurm does not say
OURS = ("array", "output", "error", "open-mode", "requeue", "wait", "wrap", "parsable", "signal")


class Slurm:
    """Submits jobs with the settings of [engine]."""

    def __init__(self, config: EngineConfig, folder: Path, *, name: str) -> None:
        """Make the folder.

        Args:
            config: the table [engine].
            folder: for submitit's files; the nodes see it too.
            name: of the jobs.

        Raises:
            ConfigError: as `check`.
        """
        self.config = config
        self.folder = folder
        self.name = name
        self.early_s = early_s(config.time_s)
        check(config)
        from submitit import SlurmExecutor

        folder.mkdir(parents=True, exist_ok=True)
        self.executor = SlurmExecutor(folder)

    def submit(self, jobs: Sequence[slurm_node.Job], *, parallel: int | None) -> list[str]:
        """Submit one job, or an array of several.

        Args:
            jobs: what to run.
            parallel: how many may run at a time; None for as many as Slurm lets run.

        Returns:
            The jobs as people call them: 12, or 12_0, 12_1 and so on.

        Raises:
            DeviceError: Slurm refuses them.
        """
        import cloudpickle  # type: ignore[import-untyped]
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        self.executor.update_parameters(**self.parameters(parallel or len(jobs)))
        lib = str(Path(engram.__file__).resolve().parents[1])
        calls = [functools.partial(slurm_node.on_node, lib, *job) for job in jobs]
        cloudpickle.register_pickle_by_value(slurm_node)
        try:
            if len(calls) == 1:
                return [self.executor.submit(calls[0]).job_id]
            return [job.job_id for job in self.executor.submit_array(calls)]
        except (FailedJobError, FailedSubmissionError, subprocess.SubprocessError) as error:
            said = str(error).strip().splitlines()
            msg = f"Slurm refuses the job: {said[-1] if said else error!r}: see [engine]"
            raise errors.DeviceError(msg) from error
        finally:
            cloudpickle.unregister_pickle_by_value(slurm_node)

    def parameters(self, parallel: int) -> dict[str, Any]:
        """The settings as submitit calls them."""
        config = self.config
        extra = {key: value for key, value in (config.extra or {}).items() if value is not False}
        if config.memory is not None:
            extra["mem"] = config.memory
        cpus = config.cpus_per_task
        if config.processes > 1:  # all of them are started by one task
            cpus = config.processes * (cpus or 1)
        return {
            "job_name": self.name,
            "partition": config.partition,
            "gres": config.gres,
            "time": None if config.time_s is None else math.ceil(config.time_s / 60),
            "account": config.account,
            "cpus_per_task": cpus,
            "array_parallelism": parallel,
            "signal_delay_s": math.ceil(self.early_s),
            "additional_parameters": {"requeue": True, **extra},
            "srun_args": [f"--cpus-per-task={cpus}"] if cpus else None,  # srun does not inherit it
            "wckey": None,
        }

    def over(self) -> set[str]:
        """The jobs that said, or of which submitit says, that they are over."""
        found = set()
        for path in self.folder.iterdir():
            match = re.fullmatch(r"(\d+(?:_\d+)?)_(?:end\.json|0_result\.pkl)", path.name)
            if match:
                found.add(match[1])
        return found


def check(config: EngineConfig) -> None:
    """See, before anything is made, that there is a Slurm to submit to.

    Raises:
        ConfigError: submitit or Slurm's commands are missing, or `extra` sets what is ours.
    """
    missing = [tool for tool in ("sbatch", "srun", "squeue") if shutil.which(tool) is None]
    if missing:
        msg = f"[engine] kind = 'slurm': no {', '.join(missing)} on PATH: is this a login node?"
        raise errors.ConfigError(msg)
    if importlib.util.find_spec("submitit") is None:
        msg = "[engine] kind = 'slurm' needs submitit: install engram[slurm]"
        raise errors.ConfigError(msg)
    taken = [key for key in config.extra or {} if key.replace("_", "-") in OURS]
    if taken:
        msg = f"[engine] extra may not set {taken[0]!r}: that is up to the engine; remove it"
        raise errors.ConfigError(msg)


def early_s(time_s: float | None) -> float:
    """How long before its time limit a job is told."""
    return LONG_S if time_s is None else min(LONG_S, max(5.0, time_s * SHORT_PART))


def array_size() -> int:
    """How many tasks an array may have here."""
    said = slurm_jobs.call("scontrol", "show", "config") or ""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", said, re.MULTILINE)
    return max(1, min(ARRAY, int(match[1]) if match else ARRAY))
