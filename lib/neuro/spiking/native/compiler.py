"""Compile a C++ source of this folder for this machine, once, and load it."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parent
# Without contraction a * b + c rounds twice, as PyTorch's elementwise operations do; products of
# matrices ask for fused operations by name. No threads: processes that compute may be forked.
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=off", "-fPIC", "-shared")
NATIVE = "-march=native"
# A compiler that asks for a license over a dead network, say, must not stop an experiment for ever.
TIMEOUT_S = 600
COMPLETE = b"complete library of neuro.spiking"


class CompilerMissing(RuntimeError):
    """There is no C++ compiler."""


class CompileFailed(RuntimeError):
    """The compiler refused a source, or its output found no place or cannot be loaded."""


def library(source_name: str, **defines: str) -> ctypes.CDLL:
    """Return a compiled source; the first call on a machine compiles it, which takes seconds.

    Compiled libraries are kept in $TORCH_EXTENSIONS_DIR, else in the user's cache folder, under a
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
    problem = f"{place} is not whole"
    for anew in (False, True):
        if anew:
            _compile(command, place)
        # The loader ends the process by a signal when a file is shorter than it says.
        if _is_whole(place):
            try:
                return ctypes.CDLL(str(place))
            except OSError as error:
                problem = str(error)
    msg = (
        f"what was compiled cannot be loaded: {problem}; set TORCH_EXTENSIONS_DIR to a folder on a "
        "file system that allows execution"
    )
    raise CompileFailed(msg)


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
    target, features = _target(command)
    flags = (*FLAGS, *target, *(f"-D{name}={value}" for name, value in defines))
    key = hashlib.sha256("\0".join([*command, *flags, features]).encode())
    for path in [SOURCES / source_name, *sorted(SOURCES.glob("*.h"))]:
        key.update(path.read_bytes())
    stem = Path(source_name).stem
    place = _cache_folder() / f"{stem}-{key.hexdigest()[:24]}.so"
    return place, (*command, *flags, str(SOURCES / source_name))


def _compile(command: tuple[str, ...], place: Path) -> None:
    """Compile to a name of our own, then rename: others may compile the same at the same time."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=place.parent, prefix=place.stem, suffix=".tmp")
        os.close(handle)
    except OSError as error:
        msg = f"{place.parent} cannot be written ({error}); set TORCH_EXTENSIONS_DIR to a folder"
        raise CompileFailed(msg) from error
    written = Path(name)
    try:
        done = _ran([*command, "-o", name])
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
    given = os.environ.get("TORCH_EXTENSIONS_DIR")
    if given:
        return Path(given) / "neuro"
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neuro"
    except RuntimeError as error:
        msg = f"there is no folder for compiled code ({error}); set TORCH_EXTENSIONS_DIR to one"
        raise CompileFailed(msg) from error


@functools.cache
def _target(command: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """Return flags for this processor, and the macros by which compilers tell its features.

    The macros name the compiler's version too, so together they say when to compile anew.
    """
    for flags in ((NATIVE,), ()):
        asked = [*command, *flags, "-dM", "-E", "-x", "c++", os.devnull]
        done = _ran(asked)
        if done.returncode == 0:
            return flags, done.stdout
    msg = f"{shlex.join(asked)} failed with {done.returncode}:\n{done.stderr.strip()}"
    raise CompileFailed(msg)
