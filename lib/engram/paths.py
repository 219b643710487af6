"""Every file name of a run folder, of a run root and of the repository's cache, in one place."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

METADATA = "metadata.json"
GRID = "grid.json"


class RunPaths(NamedTuple):
    """The files of one run; nothing else in engram joins paths below a run folder."""

    folder: Path

    @property
    def run_id(self) -> str:
        """The folder's own name, unique over all runs."""
        return self.folder.name

    @property
    def metadata(self) -> Path:
        """The provenance record; a folder without it never came to life."""
        return self.folder / METADATA

    @property
    def experiment(self) -> Path:
        """experiment.toml as resolved."""
        return self.folder / "experiment.toml"

    @property
    def parameters(self) -> Path:
        """The parameters the script reads."""
        return self.folder / "parameters.toml"

    @property
    def inputs(self) -> Path:
        """Links to, or copies of, the declared inputs."""
        return self.folder / "inputs"

    @property
    def outputs(self) -> Path:
        """The script's own folder, its current folder too."""
        return self.folder / "outputs"

    @property
    def checkpoints(self) -> Path:
        """Where resumable states lie by convention."""
        return self.outputs / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One JSON line per logged step, without wall times."""
        return self.folder / "metrics.jsonl"

    @property
    def metrics_times(self) -> Path:
        """The wall times that metrics.jsonl leaves out, one JSON line per logged step."""
        return self.provenance / "metrics_times.jsonl"

    @property
    def log_out(self) -> Path:
        """Raw bytes of the script's standard output."""
        return self.folder / "log.out"

    @property
    def log_err(self) -> Path:
        """Raw bytes of the script's standard error."""
        return self.folder / "log.err"

    def logs(self, processes: int = 1) -> list[Path]:
        """Output and error of every rank, rank 0 first."""
        both = (self.log_out, self.log_err)
        return [of_rank(log, rank) for rank in range(processes) for log in both]

    @property
    def readme(self) -> Path:
        """What a person reads first."""
        return self.folder / "README.md"

    @property
    def provenance(self) -> Path:
        """The evidence behind the record."""
        return self.folder / "provenance"

    @property
    def environment(self) -> Path:
        """Python, packages, machine."""
        return self.provenance / "environment.json"

    @property
    def inputs_manifest(self) -> Path:
        """(path, size, sha256) of every input file."""
        return self.provenance / "inputs.json"

    @property
    def outputs_manifest(self) -> Path:
        """(path, size, sha256) of every output file."""
        return self.provenance / "outputs.json"

    @property
    def imports(self) -> Path:
        """The modules the run imported, with hashes."""
        return self.provenance / "imports.json"

    @property
    def files(self) -> Path:
        """The files the run opened."""
        return self.provenance / "files.json"

    @property
    def lock_file(self) -> Path:
        """The repository's uv.lock at the commit, when it has one."""
        return self.provenance / "uv.lock"

    @property
    def patch(self) -> Path:
        """What a dirty run adds to its commit, as one binary git patch."""
        return self.provenance / "code.patch"

    @property
    def source(self) -> Path:
        """A git pack that holds the commit the run was started from."""
        return self.provenance / "source.pack"

    @property
    def audit(self) -> Path:
        """Raw lines from inside the child: imports, opened files, how main ended."""
        return self.provenance / "audit.jsonl"

    @property
    def wandb(self) -> Path:
        """Id, mode and address of the W&B run, written by engram.metrics."""
        return self.provenance / "wandb.json"

    @property
    def reserve(self) -> Path:
        """Disk space set aside while the run goes on."""
        return self.provenance / "reserve"

    @property
    def lease(self) -> Path:
        """Locked for the runner's life."""
        return self.provenance / "lease"


def of_rank(log: Path, rank: int) -> Path:
    """The log that lies beside rank 0's for another rank of the run: log.rank1.out."""
    return log if rank == 0 else log.with_name(f"{log.stem}.rank{rank}{log.suffix}")


class GridPaths(NamedTuple):
    """The files of one grid; its points are runs in the same folder."""

    folder: Path

    @property
    def grid_id(self) -> str:
        """The folder's own name, unique over all grids and runs."""
        return self.folder.name

    @property
    def record(self) -> Path:
        """The grid's record; a folder without it never came to life."""
        return self.folder / GRID

    @property
    def grid_file(self) -> Path:
        """The grid file as it was; absent when a table in experiment.toml said it all."""
        return self.folder / "grid.py"

    @property
    def experiment(self) -> Path:
        """experiment.toml as resolved, but for what each point adds."""
        return self.folder / "experiment.toml"

    @property
    def parameters(self) -> Path:
        """The parameters that every point starts from."""
        return self.folder / "parameters.toml"

    @property
    def points(self) -> Path:
        """The points as drawn, one JSON line each."""
        return self.folder / "points.jsonl"

    @property
    def source(self) -> Path:
        """A git pack that holds the commit of all points."""
        return self.folder / "source.pack"

    @property
    def patch(self) -> Path:
        """What a dirty grid adds to its commit, as one binary git patch."""
        return self.folder / "code.patch"

    @property
    def table(self) -> Path:
        """One line for each point that is over."""
        return self.folder / "points.csv"

    @property
    def parquet(self) -> Path:
        """The same as points.csv, with types."""
        return self.folder / "points.parquet"

    @property
    def readme(self) -> Path:
        """What a person reads first."""
        return self.folder / "README.md"

    @property
    def report(self) -> Path:
        """One page with table and plots."""
        return self.folder / "report.html"

    @property
    def private(self) -> Path:
        """What only the dispatcher uses."""
        return self.folder / ".grid"

    @property
    def lease(self) -> Path:
        """Locked for the dispatcher's life."""
        return self.private / "lease"

    @property
    def search(self) -> Path:
        """The storage of a search, which optuna appends to."""
        return self.private / "search.journal"

    @property
    def sweep(self) -> Path:
        """What a W&B sweep chose: for each point its W&B run, and the file of values for that."""
        return self.private / "sweep"

    def sweep_run(self, index: int) -> Path:
        """The W&B run of a point."""
        return self.sweep / f"{index}.json"

    def sweep_values(self, index: int) -> Path:
        """What W&B's client reads about a point that a sweep chose."""
        return self.sweep / f"{index}.yaml"

    @property
    def slot_log(self) -> Path:
        """What slot processes said themselves; empty unless one broke."""
        return self.private / "slots.log"

    @property
    def reserve(self) -> Path:
        """Disk space set aside, so that the end of a grid that fills the disk can be recorded."""
        return self.private / "reserve"

    @property
    def attempts(self) -> Path:
        """One file for each attempt on another machine; it holds the run's id."""
        return self.private / "attempts"

    @property
    def slurm(self) -> Path:
        """What submitit writes: submissions, and the logs of the jobs themselves."""
        return self.private / "slurm"

    @property
    def slurm_jobs(self) -> Path:
        """The Slurm jobs of this grid, one JSON line for each submission and each end."""
        return self.private / "slurm.jsonl"

    @property
    def ray_log(self) -> Path:
        """What Ray says of its own accord."""
        return self.private / "ray.log"

    def attempt(self, index: int, attempt: int) -> Path:
        """Where an attempt at a point on another machine leaves its run's id."""
        return self.attempts / f"{index}-{attempt}"

    def run(self, run_id: str) -> RunPaths:
        """A run of this grid."""
        return RunPaths(self.folder / run_id)


class SubmissionPaths(NamedTuple):
    """The files of one run that waits in Slurm or Ray, or runs there."""

    folder: Path

    @property
    def what(self) -> Path:
        """The request, the configuration and the parameters."""
        return self.folder / "run.pickle"

    @property
    def job(self) -> Path:
        """Which job it is, and where its run will lie."""
        return self.folder / "job.json"

    @property
    def source(self) -> Path:
        """The commit as a git pack."""
        return self.folder / "source.pack"

    @property
    def patch(self) -> Path:
        """What a dirty run adds to it."""
        return self.folder / "code.patch"

    @property
    def attempts(self) -> Path:
        """One file for each start of the job; it holds the run's id."""
        return self.folder / "attempts"

    @property
    def slurm(self) -> Path:
        """Submitit's files."""
        return self.folder / "job"

    @property
    def ray_log(self) -> Path:
        """What Ray says of its own accord."""
        return self.folder / "ray.log"


class RootPaths(NamedTuple):
    """The files of one run root (output_dir)."""

    folder: Path

    @property
    def store(self) -> Path:
        """The runner's own folder beside the runs."""
        return self.folder / ".engram"

    @property
    def database(self) -> Path:
        """The SQLite index; it can always be rebuilt from the folders."""
        return self.store / "index.sqlite"

    @property
    def pending(self) -> Path:
        """Runs whose records changed since the index was brought up to date, one path a line."""
        return self.store / "pending"

    @property
    def open_runs(self) -> Path:
        """One empty file for each run, and grid, that has not said that it ended, by its id."""
        return self.store / "open"

    @property
    def sources(self) -> Path:
        """One git pack a commit."""
        return self.store / "sources"

    @property
    def submissions(self) -> Path:
        """Runs that wait or run in Slurm, one folder each, with what they are made of."""
        return self.store / "slurm"

    @property
    def sweeps(self) -> Path:
        """One file for each experiment that runs as a W&B sweep; workers find it there."""
        return self.store / "sweeps"

    @property
    def trash(self) -> Path:
        """Runs on their way out: moved here in one step, then deleted."""
        return self.store / "trash"

    def run(self, place: str, name: str) -> RunPaths:
        """A run in this root: the folder `name` in the folder `place`."""
        return RunPaths(self.folder / place / name)

    def grid(self, place: str) -> GridPaths:
        """A grid in this root."""
        return GridPaths(self.folder / place)

    def source(self, commit: str) -> Path:
        """The git pack of one commit."""
        return self.sources / f"{commit}.pack"


class CachePaths(NamedTuple):
    """engram's folder inside a repository's common git folder."""

    folder: Path

    @property
    def snapshots(self) -> Path:
        """One read-only checkout a commit."""
        return self.folder / "snapshots"

    @property
    def packs(self) -> Path:
        """Source packs on their way to a run root."""
        return self.folder / "packs"

    @property
    def bytecode(self) -> Path:
        """Compiled modules of the snapshots."""
        return self.folder / "bytecode"

    @property
    def hashes(self) -> Path:
        """SQLite cache of file hashes."""
        return self.folder / "hashes.sqlite"

    @property
    def facts(self) -> Path:
        """Slow facts about the machine and the environment, one JSON file each."""
        return self.folder / "facts"

    @property
    def roots(self) -> Path:
        """Every run root this repository has used, one path a line."""
        return self.folder / "roots"

    @property
    def environments(self) -> Path:
        """Environments recreated from recorded lock files."""
        return self.folder / "environments"

    @property
    def matplotlib(self) -> Path:
        """Matplotlib's font cache, which depends on no commit and is slow to make."""
        return self.folder / "matplotlib"

    @property
    def compiled(self) -> Path:
        """What scripts compile and name by the hash of its content: of use to all commits."""
        return self.folder / "compiled"

    def scratch(self, commit: str) -> Path:
        """Caches that a snapshot's children write: numba, torch extensions."""
        return self.folder / "scratch" / commit
