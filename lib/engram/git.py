"""Running git so that nothing of the shell, of hooks or of helpers changes what it says.

No GIT_* variable is passed on, no hook and no file monitor is started, no lock of the user is taken
or waited for, nothing is ever asked. What a command may need beyond that (an index of its own,
another object folder) is said by the caller in so many words.
"""

from __future__ import annotations

import os
import subprocess
from typing import IO, TYPE_CHECKING, NamedTuple

from engram.errors import ConfigError, EnvironmentMissingError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_SETTINGS = (
    "core.fsmonitor=false",
    "core.askPass=",
    "core.hooksPath=/dev/null",
    "core.trustctime=true",
    "core.checkStat=default",
    "core.ignoreStat=false",
    "core.quotePath=false",
    "core.untrackedCache=false",
    "core.splitIndex=false",
    "core.safecrlf=false",
    "gc.auto=0",
    "i18n.commitEncoding=UTF-8",
    "maintenance.auto=false",
    "submodule.recurse=false",
)
_COMMAND = (
    "git",
    "--no-optional-locks",
    "--literal-pathspecs",
    *(part for setting in _SETTINGS for part in ("-c", setting)),
)
# Replacement objects would let two different trees answer to one commit id.
_FIXED_VARIABLES = {
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "SSH_ASKPASS_REQUIRE": "never",
    "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
    "LC_ALL": "C",
}


def buffer(data: bytes = b"") -> IO[bytes]:
    """Open an anonymous file that holds `data`: feeding a process can never block on a pipe."""
    if hasattr(os, "memfd_create"):
        stream: IO[bytes] = os.fdopen(os.memfd_create("engram"), "w+b")
    else:
        import tempfile

        stream = tempfile.TemporaryFile()  # noqa: SIM115 (the caller closes it)
    if data:
        stream.write(data)
        stream.seek(0)
    return stream


class GitCall:
    """One git process that was started; it must be ended by `finish`, `output` or `abandon`."""

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[bytes], where: Path) -> None:
        """Wrap what `Git.start` started."""
        self.process = process
        self.errors = errors
        self.where = where
        self.result: tuple[int, bytes, str] | None = None

    @property
    def stdout(self) -> IO[bytes]:
        """The process's standard output, for those who read it piece by piece."""
        if self.process.stdout is None:
            msg = "this git process was started without a pipe for its output"
            raise ValueError(msg)
        return self.process.stdout

    def finish(self) -> tuple[int, bytes, str]:
        """Wait for the end; a second call gives the same answer.

        Returns:
            The exit code, the rest of the output, and the text written to standard error.
        """
        if self.result is None:
            with self.process, self.errors:
                out = self.process.stdout.read() if self.process.stdout else b""
                code = self.process.wait()
                self.errors.seek(0)
                said = self.errors.read().decode(errors="replace").strip()
            self.result = code, out, said
        return self.result

    def output(self) -> bytes:
        """Wait for the end and return the output.

        Raises:
            ConfigError: git failed; the message holds the command, the folder and what git said.
        """
        code, out, said = self.finish()
        if code:
            command = " ".join(("git", *map(str, list(self.process.args)[len(_COMMAND) :])))  # type: ignore[arg-type]
            msg = f"`{command}` failed with exit code {code} in {str(self.where)!r}: {said}"
            raise ConfigError(msg)
        return out

    def abandon(self) -> None:
        """End the process; its answer is not wanted any more."""
        self.process.kill()
        self.finish()


class Git(NamedTuple):
    """Where git runs, and with which extra variables.

    Attributes:
        where: the current folder of the process.
        variables: GIT_* variables this use of git needs (GIT_DIR, GIT_INDEX_FILE, ...).
    """

    where: Path
    variables: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of_objects(cls, git_dir: Path) -> Git:
        """Git on a git folder alone, whether or not it has a working tree."""
        # The configuration of a submodule's git folder may name a working tree that is gone.
        return cls(git_dir, (("GIT_DIR", str(git_dir)), ("GIT_WORK_TREE", str(git_dir))))

    def with_variables(self, **variables: str) -> Git:
        """The same git with more variables."""
        return self._replace(variables=(*self.variables, *variables.items()))

    def environment(self) -> Mapping[str, str]:
        """The process's variables: the shell's without GIT_*, the fixed ones, then its own."""
        kept = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}
        # A broken .git must not make git look for a repository further up.
        ceiling = {"GIT_CEILING_DIRECTORIES": str(self.where.parent)}
        return {**kept, **_FIXED_VARIABLES, **ceiling, **dict(self.variables)}

    def start(
        self,
        *arguments: str,
        stdin: IO[bytes] | int = subprocess.DEVNULL,
        stdout: IO[bytes] | int = subprocess.PIPE,
    ) -> GitCall:
        """Start a git process and return at once.

        Args:
            arguments: the command and its options.
            stdin: what it reads.
            stdout: where it writes.

        Raises:
            EnvironmentMissingError: git is not installed.
        """
        errors = buffer()
        try:
            process = subprocess.Popen(
                (*_COMMAND, *arguments),
                cwd=self.where,
                env=self.environment(),
                stdin=stdin,
                stdout=stdout,
                stderr=errors,
            )
        except FileNotFoundError as error:
            errors.close()
            if not self.where.is_dir():
                raise
            msg = "git was not found on PATH; install git and run again"
            raise EnvironmentMissingError(msg) from error
        return GitCall(process, errors, self.where)

    def run(self, *arguments: str, data: bytes | None = None) -> bytes:
        """Run git to its end and return its output.

        Args:
            arguments: the command and its options.
            data: what it reads from standard input; None for nothing.

        Raises:
            ConfigError: git failed.
            EnvironmentMissingError: git is not installed.
        """
        if data is None:
            return self.start(*arguments).output()
        with buffer(data) as stream:
            return self.start(*arguments, stdin=stream).output()

    def succeeds(self, *arguments: str) -> bool:
        """Whether git exits with 0."""
        return self.start(*arguments).finish()[0] == 0
