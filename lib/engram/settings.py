"""The tables of experiment.toml as frozen values, and the text that means the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from engram import toml

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engram.inputs import ResolvedInput

__all__ = [
    "AuditConfig",
    "EngineConfig",
    "EnvironmentConfig",
    "ExperimentConfig",
    "GridConfig",
    "InputSpec",
    "OutputsConfig",
    "Parameters",
    "WandbConfig",
    "resolved",
]

HEADER = """\
# As resolved for this run. Paths start at the repository's root, those with ./ at this folder.

"""


class InputSpec(NamedTuple):
    """One [[data.inputs]]: a file or folder, or the outputs of an earlier run."""

    path: Path | None = None  # absolute; None when `run` is given
    run: str | None = None  # a run id, latest:NAME or best:NAME:KEY
    name: str | None = None  # in inputs/; default: the base name, or the earlier run's experiment
    strategy: str = "symlink"  # or "copy"
    sha256: str | None = None  # what the content must be


class WandbConfig(NamedTuple):
    """[wandb]: nothing is sent unless `enabled`."""

    enabled: bool = False
    project: str | None = None
    entity: str | None = None
    tags: tuple[str, ...] = ()
    notes: str | None = None

    def for_script(self) -> dict[str, Any] | None:
        """What main receives: the table without `enabled`, or None when disabled."""
        if not self.enabled:
            return None
        fields = {**self._asdict(), "tags": list(self.tags)}
        return {key: value for key, value in fields.items() if key != "enabled" and value}


class AuditConfig(NamedTuple):
    """[audit]: whether findings of severity error make a run fail."""

    on_finding: str = "record"  # or "fail"


class OutputsConfig(NamedTuple):
    """[outputs]: how a rerun compares."""

    volatile: tuple[str, ...] = ()  # glob patterns of files that may differ
    rtol: float = 0.0  # relative tolerance of numbers
    atol: float = 0.0  # absolute tolerance of numbers


class EnvironmentConfig(NamedTuple):
    """[environment]: what the child gets, and what is recorded beyond the default list."""

    record: tuple[str, ...] = ()  # names of environment variables
    hash_seed: int | str = 0  # PYTHONHASHSEED: a number, or "random"
    threads: int = 1  # of BLAS and OpenMP


class GridConfig(NamedTuple):
    """[grid]: what the points of a grid are, and how they run; a single run knows nothing of it."""

    table: dict[str, Any]  # as written
    product: dict[str, Any]  # lists by key; dotted or nested, as in the three below
    zip: dict[str, Any]  # lists of equal length by key
    points: tuple[dict[str, Any], ...]  # overrides
    random: dict[str, Any]  # distributions by key
    samples: int | None  # how many points are drawn from `random`
    seed: int  # of those draws
    seeds: tuple[int, ...]  # of `seeds` or `repeats`: values of the parameter `seed`
    preload: tuple[str, ...]  # modules
    retries: int
    fail_fast: bool
    memory: str | None  # "auto"
    most: int | None  # points
    search: dict[str, Any] | None  # the keys of a search, as written, where there is one

    @property
    def has_points(self) -> bool:
        """Whether it says what the points are."""
        return bool(self.product or self.zip or self.points or self.random or self.seeds)


class EngineConfig(NamedTuple):
    """[engine]: where runs run; None where nothing is said."""

    kind: str = "local"  # or "slurm", "ray"
    processes: int = 1  # of one run
    devices: tuple[int | str, ...] | None = None  # None: those that are found
    slots_per_device: int | None = None  # runs that share a device
    devices_per_run: int | None = None
    partition: str | None = None  # from here on: slurm
    gres: str | None = None
    time_s: float | None = None  # of a job
    memory: str | None = None  # of a job, as Slurm writes it
    account: str | None = None
    cpus_per_task: int | None = None
    throttle: int | None = None  # jobs of a grid that run at a time
    extra: dict[str, Any] | None = None  # further options of sbatch
    address: str | None = None  # from here on: ray
    num_gpus: float | None = None  # of one run, fractions too
    num_cpus: float | None = None


class ExperimentConfig(NamedTuple):
    """experiment.toml with every default filled in and every path made absolute."""

    source: Path | None
    root: Path
    name: str
    script: str  # relative to root, with slashes
    output_dir: Path
    parameters_file: Path | None
    log_file: Path | None
    description: str
    seed: int | None
    timeout_s: float | None
    inputs: tuple[InputSpec, ...]
    wandb: WandbConfig
    audit: AuditConfig
    outputs: OutputsConfig
    environment: EnvironmentConfig
    project_paths: tuple[str, ...]  # relative to root; empty means IMPORT_ROOTS
    engine: EngineConfig = EngineConfig()
    grid: GridConfig | None = None


class Parameters(NamedTuple):
    """The parameters of one run, as read once."""

    data: bytes  # what the run folder's parameters.toml holds
    values: dict[str, Any]
    sha256: str  # of data
    overridden: tuple[str, ...]  # dotted keys


def resolved(config: ExperimentConfig, inputs: Sequence[ResolvedInput] = ()) -> str:
    """The experiment as it ran, as TOML that runs again from inside the run folder.

    Args:
        config: what `load` returned.
        inputs: the inputs as found, which turn `latest:NAME` or `best:NAME:KEY` into the run that
            it meant.
    """
    values = {
        "name": config.name,
        "description": config.description,
        "script": config.script,
        "parameters_file": "./parameters.toml",
        "output_dir": _written(config.output_dir, config.root),
        "log_file": config.log_file and _written(config.log_file, config.root),
        "seed": config.seed,
        "timeout": config.timeout_s,
        "data": {"inputs": _resolved_inputs(config, inputs)},
        "wandb": config.wandb._asdict(),
        "audit": config.audit._asdict(),
        "outputs": config.outputs._asdict(),
        "environment": config.environment._asdict(),
        "project": {"paths": config.project_paths},
        "engine": _resolved_engine(config.engine),
    }
    return HEADER + toml.dumps(_without_empty(values))


def _resolved_inputs(
    config: ExperimentConfig, inputs: Sequence[ResolvedInput]
) -> list[dict[str, Any]]:
    runs = [item.run for item in inputs] or [spec.run for spec in config.inputs]
    return [
        {
            **spec._asdict(),
            "path": spec.path and _written(spec.path, config.root),
            "run": run,
        }
        for spec, run in zip(config.inputs, runs, strict=True)
    ]


def _resolved_engine(engine: EngineConfig) -> dict[str, Any]:
    """What of [engine] concerns the result: a rerun may use other devices, or another engine."""
    return {"processes": engine.processes} if engine.processes != 1 else {}


def _without_empty(value: Any) -> Any:  # noqa: ANN401
    """The same without None, empty lists and empty tables, which are what an absent key means."""
    if isinstance(value, dict):
        kept = {key: _without_empty(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item not in (None, [], {})}
    return [_without_empty(item) for item in value] if isinstance(value, list | tuple) else value


def _written(path: Path, root: Path) -> str:
    """A path as experiment.toml writes it: relative to the root inside it, else absolute."""
    if not path.is_relative_to(root) or path == root:
        return str(path)
    text = path.relative_to(root).as_posix()
    return str(path) if text.startswith("~/") else text
