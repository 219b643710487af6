"""The runner's side of warm workers: one interpreter that imports PRELOAD once, and is forked.

dispatcher --fork+exec--> zygote --fork--> guardian --fork--> child

The dispatcher starts it; each slot process, which has inherited the socket, asks it for a guardian
and a child and hands over their ends of the pipes. From there on a run is like any other.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import signal
import socket
import sys
import tempfile
from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

from engram import guardian
from engram.errors import ConfigError
from engram.spawn import (
    Spawned,
    bare_environ,
    claim_standard_descriptors,
    close_theirs,
    interpreter,
    pipes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import NoReturn

    from engram.request import Run

__all__ = ["Warm", "WarmEndedError"]

NO_TOKEN = "0" * 16
"""Keeps the place of a run's token in the zygote's environment."""
MOST_ANSWER = 1 << 16
LAST_BYTES = 2000


class WarmEndedError(Exception):
    """The warm interpreter is gone; an interpreter of the run's own serves as well."""


class _Fork(NamedTuple):
    """What the process that becomes the zygote is left with."""

    argv: list[str]
    environ: dict[str, str]
    channel: int
    early: int  # takes what the interpreter says before it listens
    out: int
    err: int
    parent: int


class Warm:
    """An interpreter that has imported; `why_not` tells when it is not to be used."""

    def __init__(self, hash_seed: int | str, why_not: str | None = None) -> None:
        """Begin without an interpreter."""
        self.why_not = why_not
        self._hash_seed = hash_seed
        self._owner = os.getpid()
        self._pid: int | None = None
        self._channel: socket.socket | None = None
        self._outputs: list[int] = []
        self._early: int | None = None
        self._importing: str | None = None

    @classmethod
    def for_run(cls, run: Run, preload: Sequence[str]) -> Warm:
        """Start one for the code and the settings that runs share.

        Args:
            run: its code is inspected and laid out.
            preload: names of modules to import.

        Raises:
            ConfigError: one of them cannot be imported.
        """
        from engram import spec

        hash_seed = run.config.environment.hash_seed
        if run.snapshot is None:
            return cls(hash_seed, "a live run has no snapshot")
        ground = spec.ground(run)
        return cls.start(
            preload,
            script=ground["script"],
            roots=ground["roots"],
            fallback=ground["fallback"],
            snapshot=run.snapshot.path,
            bytecode=ground["bytecode"],
            environ=spec.common_environ(run),
            hash_seed=hash_seed,
        )

    @classmethod
    def start(
        cls,
        preload: Sequence[str],
        *,
        script: str | Path,
        snapshot: Path,
        roots: Sequence[str],
        bytecode: str | None,
        environ: Mapping[str, str | None],
        hash_seed: int | str = 0,
        fallback: Sequence[str] = (),
        python: str = sys.executable,
    ) -> Warm:
        """Start an interpreter and wait until it has imported.

        Args:
            preload: names of the modules to import, in order.
            script: the script that the children will run, as their specs name it.
            snapshot: the folder of the code.
            roots: where imports start, as in the specs.
            bytecode: where compiled modules of the snapshot lie, as in the specs.
            environ: variables that are the same in every spec; None takes one away.
            hash_seed: PYTHONHASHSEED.
            fallback: where imports end, as in the specs.
            python: the interpreter.

        Raises:
            ConfigError: a module cannot be imported.
        """
        warm = cls(hash_seed, _impossible(hash_seed))
        if warm.why_not is None:
            ground: dict[str, Any] = {"script": str(script), "snapshot": str(snapshot)}
            ground |= {"roots": list(roots), "fallback": list(fallback), "bytecode": bytecode}
            try:
                warm._launch(list(preload), ground, dict(environ), python)
                warm._wait()
            except BaseException:
                warm.close()
                raise
        return warm

    @property
    def descriptors(self) -> list[int]:
        """What a slot process keeps open to be able to ask."""
        channel = [] if self._channel is None else [self._channel.fileno()]
        return [*channel, *self._outputs]

    def spawn(self, processes: int = 1) -> Spawned:
        """Have a guardian forked, with the children of a run; see `engram.spawn.spawn`.

        Args:
            processes: how many ranks the run has.

        Raises:
            WarmEndedError: there is no warm interpreter any more.
            EnvironmentMissingError: no more descriptors.
        """
        if self._channel is None:
            raise WarmEndedError(self.why_not or "the warm interpreter is closed")
        made = pipes(processes)
        control, status, ranks = made.theirs
        fds = array("i", [control, status, *(end for rank in ranks for end in rank)])
        try:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
            self._channel.sendmsg([made.token.encode()], rights)
        except OSError as error:
            control, status, ranks = made.mine
            for end in (control, status, *(end for rank in ranks for end in rank)):
                os.close(end)
            msg = f"the warm interpreter is gone ({error.strerror}){self._last_words()}"
            raise WarmEndedError(msg) from error
        finally:
            close_theirs(made)
        return Spawned(None, made.token, *made.mine, self._hash_seed, foreground=False)

    def close(self) -> None:
        """Let go of it; in the process that started it, end it. Runs that go on are not touched."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._close_early()
        for descriptor in self._outputs:
            os.close(descriptor)
        self._outputs = []
        if self._pid is not None and self._owner == os.getpid():
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = None

    def _launch(
        self,
        preload: list[str],
        ground: dict[str, Any],
        environ: dict[str, str | None],
        python: str,
    ) -> None:
        claim_standard_descriptors()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._outputs = [os.memfd_create(f"engram-warm-{name}") for name in ("out", "err")]
        out, err = self._outputs
        # A pipe, so that the interpreter does not take its streams for files.
        self._early, early = os.pipe()
        bare = bare_environ(self._hash_seed, NO_TOKEN)
        given = {**bare, **environ}
        fork = _Fork(
            argv=[*interpreter(python), str(theirs.fileno()), "zygote"],
            environ={name: value for name, value in given.items() if value is not None},
            channel=theirs.fileno(),
            early=early,
            out=out,
            err=err,
            parent=os.getpid(),
        )
        with theirs:
            pid = os.fork()
            if pid == 0:
                _become_zygote(fork)
        os.close(early)
        self._pid = pid
        told = {**ground, "preload": preload, "environ": environ, "out": out, "err": err}
        told |= {"tmp": tempfile.gettempdir(), "channel": fork.channel}
        told |= {"replaced": {name: bare.get(name) for name in environ}}
        with contextlib.suppress(OSError):  # it has ended: that is noticed next
            self._channel.send(marshal.dumps(told, 2))

    def _wait(self) -> None:
        """Follow what it says until it is ready, or has said why not."""
        while self._channel is not None:
            try:
                data = self._channel.recv(MOST_ANSWER)
            except ConnectionResetError:
                data = b""
            if not data:
                self._ended()
                return
            said = marshal.loads(data)
            self._importing = said.get("importing", self._importing)
            if "failed" in said:
                raise _cannot_import(said["failed"], said["text"])
            if "why_not" in said:
                self.why_not = said["why_not"]
                self.close()
            if "ready" in said:
                self._close_early()
                return

    def _ended(self) -> None:
        """Find out about an interpreter that ended before it was ready.

        Raises:
            ConfigError: a module of PRELOAD ended it.
        """
        _, status = os.waitpid(self._pid or -1, 0)
        self._pid = None
        number = os.waitstatus_to_exitcode(status)
        how = f"exit code {number}" if number >= 0 else signal.Signals(-number).name
        said = self._last_words()
        if self._importing is not None:
            raise _cannot_import(self._importing, f"it ended the interpreter with {how}{said}")
        self.why_not = f"the interpreter for PRELOAD ended with {how}{said}"
        self.close()

    def _close_early(self) -> None:
        if self._early is not None:
            os.close(self._early)
            self._early = None

    def _last_words(self) -> str:
        """What it wrote to its standard error at last."""
        if not self._outputs:
            return ""
        err = self._outputs[1]
        size = os.fstat(err).st_size
        data = os.pread(err, LAST_BYTES, max(0, size - LAST_BYTES))
        if not data and self._early is not None:
            data = os.read(self._early, LAST_BYTES)
        text = data.decode("utf-8", "replace")
        return f":\n{text.rstrip()}" if text.strip() else ""


def _cannot_import(name: str, text: str) -> ConfigError:
    msg = (
        f"PRELOAD names {name!r}, which cannot be imported; "
        f"mend it or take it out (nothing was started):\n{text}"
    )
    return ConfigError(msg)


def _impossible(hash_seed: int | str) -> str | None:
    """Say why no interpreter can be forked for runs, before one is started."""
    if not sys.platform.startswith("linux"):
        return f"forking is not safe on {sys.platform}"
    if hash_seed == "random":
        return "hash_seed is 'random': each run draws its own"
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return "this system cannot watch processes (pidfd_open)"
    return None


def _become_zygote(fork: _Fork) -> NoReturn:
    """Leave all behind that the dispatcher has, and exec; runs in the forked process."""
    try:
        os.setsid()
        for signum in (*guardian.UNHEARD, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        guardian.prctl(guardian.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != fork.parent:  # it died before the line above took effect
            os._exit(127)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, number in ((null, 0), (fork.early, 1), (fork.early, 2)):
            os.dup2(source, number)
        guardian.close_all_but(fork.channel, fork.out, fork.err)
        for descriptor in (fork.channel, fork.out, fork.err):
            os.set_inheritable(descriptor, True)
        os.execve(fork.argv[0], fork.argv, fork.environ)
    except OSError as error:
        os.write(2, f"cannot start {fork.argv[0]!r}: {error.strerror}\n".encode())
    finally:
        os._exit(127)
