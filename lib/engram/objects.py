"""Reading many git objects at once, and writing them as a pack.

git opens, maps and unmaps every loose object, which costs four times what reading the file does; so
loose objects are read here, with their ids checked, and only the others are asked from one git
process.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from engram.errors import ConfigError
from engram.git import Git, buffer

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

CHUNK = 1 << 20
_PACK_KINDS = {b"commit": 1, b"tree": 2, b"blob": 3, b"tag": 4}


class GitObject(NamedTuple):
    """One object.

    Attributes:
        position: its place in the list of ids that was asked for.
        kind: b"blob", b"tree" or b"commit".
        size: bytes of the whole content.
        data: the content, or the first CHUNK bytes of it.
        stream: where to read the other `size - len(data)` bytes before asking for the next object.
    """

    position: int
    kind: bytes
    size: int
    data: bytes
    stream: IO[bytes] | None


def read_objects(git: Git, store: Path, ids: Sequence[str]) -> Generator[GitObject, None, None]:
    """Read objects in no particular order.

    Args:
        git: knows packs, alternates and missing objects.
        store: the folder `objects` of the repository.
        ids: full ids.

    Raises:
        ConfigError: an object is missing or damaged.
    """
    others = []
    prefix = f"{store}/"
    for position, name in enumerate(ids):
        found = _read_loose(prefix, name)
        if found is None:
            others.append(position)
            continue
        head, _, data = found.partition(b"\0")
        yield GitObject(position, head.partition(b" ")[0], len(data), data, None)
    if others:
        yield from _read_others(git, ids, others)


def _read_loose(prefix: str, name: str) -> bytes | None:
    """Header, NUL and content of a loose object; None when it is packed, too large or damaged."""
    try:
        descriptor = os.open(f"{prefix}{name[:2]}/{name[2:]}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        packed = os.read(descriptor, CHUNK)
    finally:
        os.close(descriptor)
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(packed, CHUNK)
    except zlib.error:
        return None
    whole = inflater.eof and _digest(name, content).hexdigest() == name
    return content if whole else None


def _digest(name: str, content: bytes = b"") -> Any:  # noqa: ANN401 (hashlib's type has no public name)
    """The hash function of a repository, by the length of its ids."""
    kind = hashlib.sha1 if len(name) == 40 else hashlib.sha256
    return kind(content, usedforsecurity=False)


def _read_others(git: Git, ids: Sequence[str], positions: Sequence[int]) -> Iterator[GitObject]:
    """Ask one git process for the objects at `positions`."""
    with buffer("".join(f"{ids[position]}\n" for position in positions).encode()) as wanted:
        call = git.start("cat-file", "--batch", "--buffer", stdin=wanted)
        complete = False
        try:
            for position in positions:
                found = _next_object(call.stdout, position, ids[position])
                yield found
                _skip(call.stdout, found)
            complete = True
        finally:
            if not complete:
                call.abandon()
        call.output()


def _next_object(stream: IO[bytes], position: int, name: str) -> GitObject:
    header = stream.readline().split()
    if len(header) != 3:
        msg = f"git object {name} is missing or damaged; run `git fsck` and fetch what it names"
        raise ConfigError(msg)
    size = int(header[2])
    data = stream.read(min(size, CHUNK))
    return GitObject(position, header[1], size, data, stream if size > CHUNK else None)


def _skip(stream: IO[bytes], found: GitObject) -> None:
    """Read the newline after an object; the caller of `read_objects` has read the object itself."""
    if stream.read(1) != b"\n":
        msg = f"git ended in the middle of an object of {found.size} bytes"
        raise ConfigError(msg)


def write_own_pack(objects: Iterator[GitObject], count: int, target: IO[bytes], name: str) -> bool:
    """Write objects as a git pack of version 2 without deltas.

    Args:
        objects: each id once.
        count: how many they are.
        target: an empty file.
        name: any id of the repository; its length tells the hash function.

    Returns:
        False when an object is too large to be held in memory; `target` is unfinished then.
    """
    digest = _digest(name)
    header = b"PACK" + (2).to_bytes(4, "big") + count.to_bytes(4, "big")
    digest.update(header)
    target.write(header)
    for found in objects:
        if found.stream is not None:
            return False
        entry = _pack_header(_PACK_KINDS[found.kind], found.size) + zlib.compress(found.data, 1)
        digest.update(entry)
        target.write(entry)
    target.write(digest.digest())
    return True


def _pack_header(kind: int, size: int) -> bytes:
    """Kind and size of a pack entry: 4 bits of the size first, then 7 at a time, low ones first."""
    first, size = (kind << 4) | (size & 15), size >> 4
    header = bytearray()
    while size:
        header.append(first | 0x80)
        first, size = size & 0x7F, size >> 7
    header.append(first)
    return bytes(header)
