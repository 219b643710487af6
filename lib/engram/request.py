"""What is asked for, and one run on its way: the two values that workflow.py's steps pass on."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.paths import CachePaths, RootPaths

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from engram.config import ExperimentConfig, Parameters
    from engram.findings import Finding
    from engram.grid.device_lease import DeviceLease
    from engram.inputs import ResolvedInput
    from engram.lease import Lease
    from engram.manifest import Entry
    from engram.packing import Packing
    from engram.paths import RunPaths
    from engram.recorded import RecordedCode, RecordedInputs
    from engram.recreate import RecordedEnvironment, Recreated
    from engram.repository import GitState, Repository
    from engram.snapshot import Snapshot
    from engram.spawn import Spawned
    from engram.supervise import Outcome, Supervisor
    from engram.warm import Warm

__all__ = ["Devices", "GridPlace", "Request", "Run", "SweepRun", "asked"]


class SweepRun(NamedTuple):
    """Which run of which W&B sweep a run is."""

    entity: str
    project: str
    sweep: str
    run: str
    url: str  # of the run
    values: Path  # the file in which W&B's client finds what the sweep chose

    def as_json(self) -> dict[str, Any]:
        """What the record says about it."""
        sweep = "/".join((self.entity, self.project, self.sweep))
        return {"id": sweep, "run": self.run, "url": self.url}

    def environ(self, *, again: bool) -> dict[str, str]:
        """What W&B's client reads, as W&B's own agents set it.

        Args:
            again: whether it is not the first attempt, which may have sent something.
        """
        return {
            "WANDB_ENTITY": self.entity,
            "WANDB_PROJECT": self.project,
            "WANDB_SWEEP_ID": self.sweep,
            "WANDB_RUN_ID": self.run,
            "WANDB_SWEEP_PARAM_PATH": str(self.values),
            **({"WANDB_RESUME": "allow"} if again else {}),
        }


class GridPlace(NamedTuple):
    """Where in a grid a run belongs."""

    grid: str  # the grid's id
    folder: Path  # of the grid; the run's folder lies in it
    point: str  # the point's name
    number: int  # of the point, from 0
    attempt: int  # from 1
    sweep: SweepRun | None = None

    def as_json(self) -> dict[str, Any]:
        """What the record says about it."""
        named = {"id": self.grid, "point": self.point}
        sweep = {"sweep": self.sweep.as_json()} if self.sweep else {}
        return {**named, "index": self.number, "attempt": self.attempt, **sweep}


class Devices(NamedTuple):
    """The devices that a run was given."""

    visible: str  # CUDA_VISIBLE_DEVICES
    labels: tuple[str, ...]  # as people call them
    keys: tuple[str, ...]  # UUIDs, or what stands for them
    environ: dict[str, str]  # what the script's process gets of it

    def as_json(self) -> dict[str, Any]:
        """What the record says about it."""
        return {"visible": self.visible, "labels": list(self.labels), "keys": list(self.keys)}


class Pruned(NamedTuple):
    """A search has no use for the rest of a run."""

    why: str
    when: float  # time.monotonic()


class Request(NamedTuple):
    """What the command line asked for; nothing in it has been checked yet."""

    experiment: Path
    root: Path
    argv: Sequence[str] = ()
    set_parameters: Sequence[str] = ()
    set_config: Sequence[str] = ()
    seed: int | None = None
    timeout: str | None = None
    allow_dirty: bool = False
    live: bool = False
    pdb: bool = False
    run_root: Path | None = None
    recorded_code: RecordedCode | None = None
    recorded_inputs: RecordedInputs | None = None
    recreate: RecordedEnvironment | None = None
    resumed_from: dict[str, Any] | None = None
    rerun_of: dict[str, Any] | None = None
    resume_from: Path | None = None
    metrics_from: tuple[RunPaths, int] | None = None
    original: RunPaths | None = None
    notes: Sequence[Finding] = ()
    place: GridPlace | None = None
    devices: Devices | None = None
    show: bool = True  # the script's output, in the terminal


def asked(
    options: argparse.Namespace, argv: Sequence[str], *, experiment: Path, root: Path
) -> Request:
    """The request that the options of a new or continued run make.

    Args:
        options: as `engram.options.run_parser` makes them.
        argv: the arguments as given, for the record.
        experiment: the experiment.toml to run.
        root: the repository it belongs to.
    """
    return Request(
        experiment=experiment,
        root=root,
        argv=tuple(argv),
        set_parameters=tuple(options.set),
        set_config=tuple(options.config),
        seed=options.seed,
        timeout=options.timeout,
        allow_dirty=options.allow_dirty,
        live=options.live,
        pdb=options.pdb,
    )


class Run:
    """One run on its way through STEPS; what a step has not reached yet is not there."""

    config: ExperimentConfig
    parameters: Parameters
    code: dict[str, Any]
    paths: RunPaths
    environment: dict[str, Any]
    record: dict[str, Any]
    outcome: Outcome

    def __init__(
        self, request: Request, spawned: Spawned | None = None, warm: Warm | None = None
    ) -> None:
        """Begin with a request.

        Args:
            request: what is asked for.
            spawned: an interpreter that was started ahead, if one was.
            warm: what forks a child from an interpreter that has imported already, if there is one.
        """
        self.request = request
        self.spawned = spawned
        self.warm = warm
        self.why_cold: str | None = None  # where the warm interpreter could not be used
        self.supervisor: Supervisor | None = None
        self.began = time.monotonic()
        self.findings: list[Finding] = list(request.notes)
        self.repository: Repository | None = None
        self.git_state: GitState | None = None
        self.script_blob: str | None = None
        self.patch: bytes | None = None
        self.source_sha256: str | None = None
        self.packing: Packing | None = None
        self.snapshot: Snapshot | None = None
        self.recreated: Recreated | None = None
        self.inputs: list[ResolvedInput] = []
        self.tmp: Path | None = None
        self.lease: Lease | None = None
        self.device_lease: DeviceLease | None = None
        self.output_entries: list[Entry] = []
        self.comparison: dict[str, Any] | None = None
        self.pruned: Pruned | None = None

    @property
    def born(self) -> bool:
        """Whether the run has a record already."""
        return hasattr(self, "record")

    @property
    def judged(self) -> bool:
        """Whether the script has ended."""
        return hasattr(self, "outcome")

    def prune(self, why: str) -> None:
        """Have the script end now, the run as completed; from a signal handler, while it runs."""
        if self.supervisor is not None and self.pruned is None:
            self.pruned = Pruned(why, time.monotonic())
            self.supervisor.interrupt(signal.SIGTERM)

    @property
    def ended_early(self) -> bool:
        """Whether that ended the script, rather than the script itself just before."""
        if self.pruned is None or self.outcome.state != "interrupted":
            return False
        returned = self.outcome.returned
        return returned is None or returned > self.pruned.when

    @property
    def supervised(self) -> Supervisor:
        """The child, once it is started."""
        if self.supervisor is None:
            msg = "the child is started by start_child, a step that was not taken"
            raise RuntimeError(msg)
        return self.supervisor

    @property
    def cache(self) -> CachePaths:
        """The caches: in the repository, or beside the runs when the repository is gone."""
        return self.repository.cache if self.repository else CachePaths(self.root.store / "cache")

    @property
    def root(self) -> RootPaths:
        """The run root this run lies in."""
        return RootPaths(self.request.run_root or self.config.output_dir)

    @property
    def code_folder(self) -> Path:
        """Where the code that runs lies: the snapshot, or the working tree of a live run."""
        return self.snapshot.path if self.snapshot else self.config.root
