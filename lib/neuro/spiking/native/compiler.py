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


class CompilerMissing(RuntimeError):
    """There is no C++ compiler."""


class CompileFailed(RuntimeError):
    """The compiler refused a source, or its output found no place."""


def library(source_name: str, **defines: str) -> ctypes.CDLL:
    """Return a compiled source; the first call on a machine compiles it, which takes seconds.

    Compiled libraries are kept in $TORCH_EXTENSIONS_DIR, else in the user's cache folder, under a
    name that depends on the sources, the flags, the compiler and the processor's features.

    Args:
        source_name: of a file in this folder, as "event.cpp".
        defines: preprocessor macros, as REAL="float".

    Raises:
        CompilerMissing: neither $CXX nor c++, g++ or clang++ can be run.
        CompileFailed: the compiler reports an error, or the cache folder cannot be written.
    """
    return _loaded(_compiled(source_name, tuple(sorted(defines.items()))))


def compiler() -> tuple[str, ...]:
    """Return the command that starts the C++ compiler.

    Raises:
        CompilerMissing: there is none.
    """
    asked = shlex.split(os.environ.get("CXX", ""))
    for command in [asked] if asked else [["c++"], ["g++"], ["clang++"]]:
        path = shutil.which(command[0])
        if path is not None:
            return (path, *command[1:])
    what = f"CXX = {os.environ['CXX']!r} is no program" if asked else "there is no C++ compiler"
    msg = f"{what}; install g++ or clang++ (as 'apt install g++'), or set CXX to the path of one"
    raise CompilerMissing(msg)


def _compiled(source_name: str, defines: tuple[tuple[str, str], ...]) -> Path:
    """Return the path of the library, compiled before or now."""
    command = compiler()
    target, features = _target(command)
    flags = (*FLAGS, *target, *(f"-D{name}={value}" for name, value in defines))
    key = hashlib.sha256("\0".join([*command, *flags, features]).encode())
    for path in [SOURCES / source_name, *sorted(SOURCES.glob("*.h"))]:
        key.update(path.read_bytes())
    stem = Path(source_name).stem
    place = _cache_folder() / f"{stem}-{key.hexdigest()[:24]}.so"
    if not place.exists():
        _compile([*command, *flags, str(SOURCES / source_name)], place)
    return place


def _compile(command: list[str], place: Path) -> None:
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
        done = subprocess.run([*command, "-o", name], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            msg = f"{shlex.join(command)} failed with {done.returncode}:\n{done.stderr.strip()}"
            raise CompileFailed(msg)
        written.chmod(0o755)
        written.replace(place)
    finally:
        written.unlink(missing_ok=True)


def _cache_folder() -> Path:
    given = os.environ.get("TORCH_EXTENSIONS_DIR")
    if given:
        return Path(given) / "neuro"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neuro"


@functools.cache
def _target(command: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """Return flags for this processor, and the macros by which compilers tell its features.

    The macros name the compiler's version too, so together they say when to compile anew.
    """
    for flags in ((NATIVE,), ()):
        asked = [*command, *flags, "-dM", "-E", "-x", "c++", os.devnull]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return flags, done.stdout
    msg = f"{shlex.join(asked)} failed with {done.returncode}:\n{done.stderr.strip()}"
    raise CompileFailed(msg)


@functools.cache
def _loaded(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path))
