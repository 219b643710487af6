"""Get one public file, from the network or from a mirror: streamed, checked, placed in one step.

What is not as described is never put in place. Files may be larger than the memory.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from typing import TYPE_CHECKING

from engram.errors import EnvironmentMissingError, InputError
from engram.manifest import hash_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from engram.dataset import Source

__all__ = ["git_blob", "is_there", "obtain", "stream_from"]

ATTEMPTS = 3
BLOCK = 1 << 20  # bytes


def git_blob(path: Path) -> str:
    """The name that git gives to the content of a file: `git hash-object --no-filters`.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        while data := stream.read(BLOCK):
            digest.update(data)
    return digest.hexdigest()


HASHES: dict[str, Callable[[Path], str]] = {"sha256": hash_file, "git_blob": git_blob}


def difference(source: Source, path: Path) -> str | None:
    """Say in which hash a file differs from its description; None where it is as described."""
    for kind, expected in source.hashes.items():
        if (found := HASHES[kind](path)) != expected:
            return f"{kind} {found}, not {expected} as described"
    return None


def is_there(source: Source, path: Path) -> bool:
    """Whether a file lies there and is as described."""
    return path.is_file() and difference(source, path) is None


def obtain(source: Source, place: Path, mirror: Path | None) -> None:
    """Put a file in its place, if it is as described.

    Args:
        source: its description.
        place: where it is to lie; what lies there is replaced.
        mirror: folder that is used instead of the network, if any.

    Raises:
        InputError: it is not as described; what was found is thrown away.
        EnvironmentMissingError: it cannot be got, or not be put there.
    """
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            origin = download(source, part) if mirror is None else copy(source, mirror, part)
            wrong = difference(source, part)
            if wrong is not None:
                msg = f"{origin} has {wrong}: it is not the file of {source.origin}"
                raise InputError(msg)
            part.replace(place)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:  # a folder lies there, a file lies where a folder must be, no space
        msg = f"cannot put {str(place)!r} in place: {error}"
        raise EnvironmentMissingError(msg) from error


def copy(source: Source, mirror: Path, part: Path) -> str:
    """Copy a file of a mirror; return what it is called in messages."""
    origin = mirror / source.place
    if not origin.is_file():
        msg = f"the mirror {str(mirror)!r} has no file {source.place!r}"
        raise EnvironmentMissingError(msg)
    shutil.copyfile(origin, part)
    return repr(str(origin))


def download(source: Source, part: Path) -> str:
    """Download a file, in several attempts; return its address."""
    stream = stream_from(source.url)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            stream(part)
        except OSError as error:
            if attempt < ATTEMPTS:
                time.sleep(attempt)
                continue
            msg = (
                f"cannot get {source.url}: {error}. Try again, or give a folder that holds the "
                f"files: --mirror FOLDER with {source.place!r} in it"
            )
            raise EnvironmentMissingError(msg) from error
        break
    return source.url


def stream_from(url: str) -> Callable[[Path], None]:
    """What writes the content of an address into a file, block by block.

    Raises:
        EnvironmentMissingError: pooch is missing.
    """
    try:
        import pooch  # type: ignore[import-untyped]
    except ImportError as error:
        msg = "pooch is not installed, which downloads files; install it, or give a --mirror"
        raise EnvironmentMissingError(msg) from error
    get = pooch.HTTPDownloader(chunk_size=BLOCK)

    def stream(path: Path) -> None:
        get(url, str(path), None)

    return stream
