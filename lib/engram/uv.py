"""The set-up programs that make an environment: uv, and the `run` script of this project."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from engram import errors

__all__ = ["Uv", "call", "plain_environ", "tell"]

# Of the shell; they lead to another environment or project than the one that is meant.
MISLEADING = {"VIRTUAL_ENV", "UV_PROJECT", "UV_PROJECT_ENVIRONMENT", "UV_WORKING_DIRECTORY"}


def tell(line: str) -> None:
    """Say what takes long, on stderr: standard output belongs to the script."""
    from engram.launch import say

    say(line)


def plain_environ() -> dict[str, str]:
    """The shell's variables without those that lead to another environment."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in MISLEADING and not name.startswith("PYTHON")
    }


class Uv:
    """The first uv that can read the lock file in a folder, sought where `run` seeks it."""

    def __init__(self, folder: Path, root: Path) -> None:
        """Look for it."""
        places = (shutil.which("uv"), Path.home() / ".local/bin/uv", root / ".uv/bin/uv")
        self.found: str | None = None
        self.said = ""
        for place in places:
            if place is None or not os.access(place, os.X_OK):
                continue
            path = str(Path(place).absolute())
            done = ask([path, "export", "-q", "--frozen"], folder)
            if done.returncode == 0:
                self.found = path
                return
            self.said += f"\n{place}: {done.stderr.strip()}"

    def required(self) -> str:
        """Its path.

        Raises:
            EnvironmentMissingError: there is none.
        """
        if self.found is not None:
            return self.found
        if self.said:
            msg = f"the recorded uv.lock cannot be read; a newer uv may help:{self.said}"
        else:
            msg = (
                "--recreate-environment needs uv, which is neither on PATH nor in ~/.local/bin nor "
                "in .uv/bin of the repository: install it (python3 -m pip install uv), "
                "or rerun without --recreate-environment"
            )
        raise errors.EnvironmentMissingError(msg)

    def python(self, version: str) -> str:
        """What to ask uv for: that very version if it is at hand, else its minor version."""
        if version == ".".join(map(str, sys.version_info[:3])):
            return sys.executable
        if self.found is not None:
            done = ask([self.found, "python", "find", "--no-project", version], Path.cwd())
            if done.returncode == 0:
                return done.stdout.strip()
        minor = version.rpartition(".")[0]
        tell(f"Python {version} of the recorded run is not at hand: taking any {minor}")
        return minor


def ask(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program that answers at once."""
    return subprocess.run(
        command,
        cwd=folder,
        env=plain_environ(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


def call(command: list[str], folder: Path, environ: dict[str, str], lock: int) -> None:
    """Run what makes the environment, with its words on stderr; what interrupts us ends it all.

    Args:
        command: the program and its arguments.
        folder: where to run it.
        environ: all of its environment.
        lock: a descriptor it inherits, whose lock so lasts as long as it does.

    Raises:
        EnvironmentMissingError: it cannot be started, or did not succeed.
    """
    shown = " ".join(command)
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=2,
            pass_fds=(lock,),
            start_new_session=True,
        )
    except OSError as error:
        msg = f"{shown!r} cannot be started to recreate the environment: {error}"
        raise errors.EnvironmentMissingError(msg) from error
    try:
        code = process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if code != 0:
        msg = (
            f"the recorded environment could not be made: {shown!r} ended with {code} in "
            f"{str(folder)!r}, see what it said above; mend that and start again, "
            "or rerun without --recreate-environment"
        )
        raise errors.EnvironmentMissingError(msg)
