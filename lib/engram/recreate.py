"""The environment of an earlier run, made again from its recorded uv.lock and kept for the next.

One folder an environment, below CachePaths.environments. It counts as made when it bears a stamp: a
set-up that was killed left none, and is redone. The lock beside the folder goes on to the programs
that fill it: nobody begins anew while one of them, orphaned, is still at work.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engram import errors
from engram.findings import Finding
from engram.locks import locked
from engram.uv import Uv, call, plain_environ, tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engram.paths import CachePaths, RunPaths

__all__ = ["RecordedEnvironment", "Recreated", "provide", "recorded_environment"]

ENGRAM = Path(__file__).resolve().parent
STAMP = "engram.ready"
# What marks the `run` script of this project: nobody else's is ever started.
OURS = (b"ENGRAM_TORCH", b"run_experiment.py", b"uv.lock")
STUB = '"""Does nothing: `run` is here to make the environment."""\n'
PROBE = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from engram import recreate; recreate.answer(*sys.argv[2:])"
)


class RecordedEnvironment(NamedTuple):
    """What the record of a run says of its environment, as far as it can be made again.

    Attributes:
        lock: the bytes of the recorded uv.lock.
        python: the version of Python, such as 3.11.7.
        build: the build of torch that the recipe of this project is asked for: cpu, cuda, or None.
    """

    lock: bytes
    python: str
    build: str | None

    @property
    def key(self) -> str:
        """The name of its folder."""
        parts = (hashlib.sha256(self.lock).hexdigest()[:16], self.python, self.build)
        return "-".join(part for part in parts if part)


class Recreated(NamedTuple):
    """An environment that is there.

    Attributes:
        python: its interpreter.
        library: a folder that holds the running engram and nothing else.
        roots: the folders that count as environment.
        facts: what environment.json says of it.
        findings: where it differs from the lock.
    """

    python: Path
    library: Path
    roots: tuple[str, ...]
    facts: dict[str, Any]
    findings: list[Finding]


def recorded_environment(paths: RunPaths, record: dict[str, Any]) -> RecordedEnvironment:
    """What to make again.

    Raises:
        ResumeError: the run recorded no uv.lock, or the file is not the recorded one.
    """
    without = "rerun it without --recreate-environment"
    sha256 = record["hashes"]["lock_file"]
    if sha256 is None:
        msg = f"run {paths.run_id!r} recorded no uv.lock, its commit has none: {without}"
        raise errors.ResumeError(msg)
    lock = paths.lock_file.read_bytes() if paths.lock_file.is_file() else b""
    if hashlib.sha256(lock).hexdigest() != sha256:
        msg = (
            f"{str(paths.lock_file)!r} is not what run {paths.run_id!r} recorded: "
            f"restore it first (see verify), or {without}"
        )
        raise errors.ResumeError(msg)
    facts = record["environment"]
    return RecordedEnvironment(lock, facts["python"], wanted_build(lock, facts["torch"]))


def wanted_build(lock: bytes, recorded: str | None) -> str | None:
    """The build of torch to make: the one asked for, else the recorded one; None without torch."""
    if b'\nname = "torch"\n' not in lock.replace(b"\r", b""):
        return None
    return os.environ.get("ENGRAM_TORCH") or torch_build(recorded)


def torch_build(version: str | None) -> str | None:
    """The build that torch's version names: 2.9.0+cpu is cpu, 2.9.0+cu130 is cuda."""
    local = (version or "").partition("+")[2]
    if local == "cpu":
        return "cpu"
    return "cuda" if local.startswith("cu") else None


def provide(
    recorded: RecordedEnvironment,
    *,
    snapshot: Path,
    cache: CachePaths,
    root: Path,
    variables: Sequence[str] = (),
) -> Recreated:
    """Make the environment, unless it is there from an earlier time.

    Args:
        recorded: what to make.
        snapshot: the code of the run, with its pyproject.toml.
        cache: where environments are kept.
        root: the repository, which may hold a uv of its own.
        variables: environment variables to record beyond the usual ones.

    Raises:
        ResumeError: the snapshot has no pyproject.toml.
        EnvironmentMissingError: there is no uv, or it did not succeed.
        OSError: the cache cannot be written.
    """
    if not (snapshot / "pyproject.toml").is_file():
        msg = (
            f"no pyproject.toml in the commit of the run ({str(snapshot)!r}), so its uv.lock "
            "cannot be installed: rerun it without --recreate-environment"
        )
        raise errors.ResumeError(msg)
    folder = cache.environments / recorded.key
    if not is_ready(folder):
        tell(f"making the recorded environment in {folder}, or waiting for another that does")
        with locked(folder.with_name(f"{folder.name}.lock"), create=True) as lock:
            if not is_ready(folder):
                set_up(folder, recorded, snapshot, root, lock.fileno())
    library = link_engram(folder)
    return look_into(folder, library, [str(cache.folder), str(snapshot), *variables])


def interpreter(folder: Path) -> Path:
    """Where the Python of an environment lies."""
    return folder / ".venv" / "bin" / "python"


def is_ready(folder: Path) -> bool:
    """Whether a set-up came to its end here, and the Python below it is still there."""
    return (folder / STAMP).is_file() and os.access(interpreter(folder), os.X_OK)


def set_up(
    folder: Path, recorded: RecordedEnvironment, snapshot: Path, root: Path, lock: int
) -> None:
    """Fill the folder anew; the stamp comes last."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    (folder / "uv.lock").write_bytes(recorded.lock)
    for name in ("pyproject.toml", "uv.toml"):
        if (snapshot / name).is_file():
            (folder / name).write_bytes((snapshot / name).read_bytes())
    uv, script = Uv(folder, root), snapshot / "run"
    command = prepare_script(folder, script, uv) if is_ours(script) else sync(uv)
    environ = {**plain_environ(), "UV_PYTHON": uv.python(recorded.python)}
    if recorded.build:
        environ["ENGRAM_TORCH"] = recorded.build
    call(command, folder, environ, lock)
    if not os.access(interpreter(folder), os.X_OK):
        msg = f"{' '.join(command)!r} made no {str(interpreter(folder))!r}: see what it said above"
        raise errors.EnvironmentMissingError(msg)
    (folder / STAMP).touch()


def sync(uv: Uv) -> list[str]:
    """The command that makes the environment of anybody's project; what is its own is not built."""
    local = ("--no-install-project", "--no-install-workspace")
    return [uv.required(), "sync", "--frozen", *local, "--compile-bytecode"]


def prepare_script(folder: Path, script: Path, uv: Uv) -> list[str]:
    """Lay out this project's `run` with nothing to run behind it, and the uv it will find."""
    (folder / "run").write_bytes(script.read_bytes())
    (folder / "run_experiment.py").write_text(STUB, encoding="utf-8")
    if uv.found is not None:
        (folder / ".uv" / "bin").mkdir(parents=True)
        (folder / ".uv" / "bin" / "uv").symlink_to(uv.found)
    return ["bash", "run"]


def is_ours(script: Path) -> bool:
    """Whether this is the `run` of this project, which knows how to get each build of torch."""
    if not script.is_file():
        return False
    text = script.read_bytes()
    return all(mark in text for mark in OURS)


def link_engram(folder: Path) -> Path:
    """A folder from which the running engram can be imported, and nothing beside it.

    Where engram is an installed package, its neighbors would stand in for what the lock lacks.
    """
    place = hashlib.sha256(str(ENGRAM).encode()).hexdigest()[:8]
    library = folder / ".venv" / f"engram-{place}"
    library.mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (library / "engram").symlink_to(ENGRAM)
    return library


def look_into(folder: Path, library: Path, arguments: list[str]) -> Recreated:
    """Have the environment described by its own interpreter.

    Raises:
        EnvironmentMissingError: the interpreter does not work.
    """
    python = interpreter(folder)
    done = subprocess.run(
        [str(python), "-I", "-c", PROBE, str(library), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        msg = (
            f"the recreated {str(python)!r} does not work, remove {str(folder)!r} to have it made "
            f"again:\n{done.stderr.strip()}"
        )
        raise errors.EnvironmentMissingError(msg)
    said = json.loads(done.stdout.splitlines()[-1])  # a .pth file may have printed before
    findings = [Finding(*item) for item in said["findings"]]
    return Recreated(python, library, tuple(said["roots"]), said["facts"], findings)


def answer(cache: str, root: str, *variables: str) -> None:
    """In the recreated interpreter: describe it, in one line of JSON on standard output."""
    from engram import audit, environment
    from engram.paths import CachePaths

    facts, found = environment.collect(CachePaths(Path(cache)), Path(root), variables)
    findings = [(item.code, item.message, item.evidence) for item in found]
    roots = audit.environment_roots()
    print(json.dumps({"facts": facts, "findings": findings, "roots": roots}))
