"""Compile a C++ source of this folder for this machine, once, and load it."""

from __future__ import annotations

import ctypes
import fcntl
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCES = Path(__file__).parent
# Without contraction a * b + c rounds twice, as PyTorch's elementwise operations do; products of
# matrices ask for fused operations by name. No threads: processes that compute may be forked.
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=off", "-fPIC", "-shared")
NATIVE = "-march=native"
# A compiler that asks for a license over a dead network, say, must not stop an experiment for ever.
TIMEOUT_S = 600
# Where libraries are kept, if set: their names tell content, so all commits may share a folder.
CACHE_VARIABLE = "COMPILED_CACHE_DIR"
COMPLETE = b"complete library of neuro.spiking"


class CompilerMissing(RuntimeError):
    """There is no C++ compiler."""


class CompileFailed(RuntimeError):
    """The compiler refused a source, or its output found no place or cannot be loaded."""


def library(source_name: str, **defines: str) -> ctypes.CDLL:
    """Return a compiled source; the first call on a machine compiles it, which takes seconds.

    Compiled libraries are kept in $COMPILED_CACHE_DIR, else in the user's cache folder, under a
    name that depends on the sources, the flags, the compiler and the processor's features.

    Args:
        source_name: of a file in this folder, as "event.cpp".
        defines: preprocessor macros, as REAL="float".

    Raises:
        CompilerMissing: neither $CXX nor c++, g++ or clang++ can be run.
        CompileFailed: the compiler reports an error, or the cache folder cannot be written or holds
            nothing that can be loaded.
    """
    return _loaded(*_planned(source_name, tuple(sorted(defines.items()))))


def compiler() -> tuple[str, ...]:
    """Return the command that starts the C++ compiler.

    Raises:
        CompilerMissing: there is none.
    """
    try:
        asked = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        msg = f"CXX = {os.environ['CXX']!r} is no command ({error}); set it to a compiler's path"
        raise CompilerMissing(msg) from error
    for command in [asked] if asked else [["c++"], ["g++"], ["clang++"]]:
        path = shutil.which(command[0])
        if path is not None:
            return (path, *command[1:])
    what = f"CXX = {os.environ['CXX']!r} is no program" if asked else "there is no C++ compiler"
    msg = f"{what}; install g++ or clang++ (as 'apt install g++'), or set CXX to the path of one"
    raise CompilerMissing(msg)


@functools.cache
def _loaded(place: Path, command: tuple[str, ...]) -> ctypes.CDLL:
    """Load a library; one that is not there, or is damaged, is compiled first."""
    found = _load(place)
    if isinstance(found, str):
        with _alone(place):
            found = _load(place)
            if isinstance(found, str):
                _compile(command, place)
                found = _load(place)
    if not isinstance(found, str):
        return found
    msg = (
        f"what was compiled cannot be loaded: {found}; set {CACHE_VARIABLE} to a folder on a file "
        "system that allows execution"
    )
    raise CompileFailed(msg)


def _load(place: Path) -> ctypes.CDLL | str:
    """Load a library, or say why not."""
    # The loader ends the process by a signal when a file is shorter than it says.
    if not _is_whole(place):
        return f"{place} is not whole"
    try:
        return ctypes.CDLL(str(place))
    except OSError as error:
        return str(error)


def _is_whole(place: Path) -> bool:
    """Return whether a library ends with the mark that is appended when it is complete."""
    try:
        with place.open("rb") as file:
            file.seek(-len(COMPLETE), os.SEEK_END)
            return file.read() == COMPLETE
    except OSError:
        return False


def _planned(
    source_name: str, defines: tuple[tuple[str, str], ...]
) -> tuple[Path, tuple[str, ...]]:
    """Return where the library belongs, and the command that compiles it."""
    command = compiler()
    flags = (*FLAGS, NATIVE, *(f"-D{name}={value}" for name, value in defines))
    key = hashlib.sha256("\0".join([*command, *flags, _version(command[0]), _machine()]).encode())
    for path in [SOURCES / source_name, *sorted(SOURCES.glob("*.h"))]:
        key.update(path.read_bytes())
    stem = Path(source_name).stem
    place = _cache_folder() / f"{stem}-{key.hexdigest()[:24]}.so"
    return place, (*command, *flags, str(SOURCES / source_name))


def _compile(command: tuple[str, ...], place: Path) -> None:
    """Compile to a name of our own, then rename: whoever loads meanwhile sees all or nothing."""
    try:
        handle, name = tempfile.mkstemp(dir=place.parent, prefix=place.stem, suffix=".tmp")
        os.close(handle)
    except OSError as error:
        raise CompileFailed(_no_place(place.parent, error)) from error
    written = Path(name)
    try:
        done = _ran([*command, "-o", name])
        if done.returncode != 0:
            # Not every compiler knows every processor.
            done = _ran([*(part for part in command if part != NATIVE), "-o", name])
        if done.returncode != 0 or not written.stat().st_size:
            msg = f"{shlex.join(command)} failed with {done.returncode}:\n{done.stderr.strip()}"
            raise CompileFailed(msg)
        with written.open("ab") as file:
            file.write(COMPLETE)
            file.flush()
            os.fsync(file.fileno())
        written.chmod(0o755)
        written.replace(place)
    finally:
        written.unlink(missing_ok=True)


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Keep others who need the same library waiting until it is there."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = place.with_suffix(".lock").open("ab")
    except OSError as error:
        raise CompileFailed(_no_place(place.parent, error)) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _no_place(folder: Path, error: OSError) -> str:
    return f"{folder} cannot be written ({error}); set {CACHE_VARIABLE} to a folder that can"


def _ran(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a compiler to its end.

    Raises:
        CompileFailed: it cannot be started, or does not end.
    """
    try:
        return subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        msg = f"{shlex.join(command)} could not be run to its end: {error}"
        raise CompileFailed(msg) from error


def _cache_folder() -> Path:
    """Return where libraries are kept.

    Raises:
        CompileFailed: the user has no home.
    """
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given) / "neuro"
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neuro"
    except RuntimeError as error:
        msg = f"there is no folder for compiled code ({error}); set {CACHE_VARIABLE} to one"
        raise CompileFailed(msg) from error


def _version(path: str) -> str:
    """Return what changes when the compiler is exchanged, without starting it."""
    found = Path(path).resolve().stat()
    return f"{Path(path).resolve()} {found.st_size} {found.st_mtime_ns}"


def _machine() -> str:
    """Return what code that is made for this processor depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = [platform.processor()]
    features = {line for line in lines if line.startswith(("flags", "Features", "model name"))}
    return "\0".join([platform.machine(), *sorted(features)])
