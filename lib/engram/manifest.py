"""Manifests: which files a folder holds, how large they are, and the sha256 of each."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from engram.hash_cache import HashCache, SeenFiles

__all__ = ["Entry", "Found", "hash_file", "hash_many", "hash_tree", "read_entries", "tree_hash"]

BLOCK = 256 * 1024  # bytes; larger blocks fall out of the processor's cache
WORKERS = min(8, 2 * (os.cpu_count() or 1))
ALONE = 1 << 20  # bytes; below this, starting threads costs more than they gain


class Entry(NamedTuple):
    r"""One file of a manifest.

    Attributes:
        path: relative, with slashes; bytes that are not UTF-8 are written as \\xNN.
        size: in bytes; of a link, the length of its target.
        sha256: of the content, of a link's target text, or "" where there is no content that could
            be read (a socket, a file without read permission).
        link: the target of a symbolic link that was not followed.
    """

    path: str
    size: int
    sha256: str
    link: str | None = None

    def as_json(self) -> dict[str, str | int]:
        """The entry as a manifest file holds it; `link` only where it is one."""
        fields: dict[str, str | int] = {"path": self.path, "size": self.size, "sha256": self.sha256}
        if self.link is not None:
            fields["link"] = self.link
        return fields


class Found(NamedTuple):
    """A regular file that a walk came by: where it is, its name in the manifest, and its stat."""

    path: str
    name: str
    stat: os.stat_result


def read_entries(items: Iterable[dict[str, str | int]]) -> list[Entry]:
    """The entries of a manifest that `Entry.as_json` wrote."""
    return [
        Entry(str(item["path"]), int(item["size"]), str(item["sha256"]), _text(item.get("link")))
        for item in items
    ]


def _text(value: str | int | None) -> str | None:
    return None if value is None else str(value)


def hash_tree(folder: Path, cache: HashCache | None = None) -> list[Entry]:
    """The manifest of a folder as it lies there: links are entries of their own, never followed.

    It never fails because of what a script left behind: a socket, or a file that may not be read,
    is an entry with an empty sha256. Empty folders have no entry.

    Args:
        folder: the folder; the manifest of one that does not exist is empty.
        cache: known hashes; None reads every byte.

    Returns:
        The entries, sorted by the bytes of their paths.
    """
    files: list[Found] = []
    entries: list[Entry] = []
    for path, name, status in _walk(str(folder)):
        if stat.S_ISREG(status.st_mode):
            files.append(Found(path, name, status))
        elif stat.S_ISLNK(status.st_mode):
            entries.append(_link_entry(path, name))
        else:
            entries.append(Entry(name, 0, ""))
    hashes = hash_many(files, cache, lenient=True)
    entries += [Entry(f.name, f.stat.st_size, h) for f, h in zip(files, hashes, strict=True)]
    return in_order(entries)


def _walk(folder: str, prefix: str = "") -> Iterator[tuple[str, str, os.stat_result]]:
    """Everything below a folder that is not a folder, as (path, name in the manifest, stat)."""
    try:
        listing = list(os.scandir(folder))
    except FileNotFoundError:
        return
    except PermissionError:
        yield folder, prefix.rstrip("/") or ".", os.lstat(folder)
        return
    for item in listing:
        name = prefix + printable(item.name)
        if item.is_dir(follow_symlinks=False):
            yield from _walk(item.path, name + "/")
        else:
            yield item.path, name, item.stat(follow_symlinks=False)


def _link_entry(path: str, name: str) -> Entry:
    target = os.fsencode(os.readlink(path))  # noqa: PTH115
    return Entry(
        name, len(target), hashlib.sha256(target).hexdigest(), printable(os.fsdecode(target))
    )


def printable(name: str) -> str:
    r"""A file name that any text file can hold: bytes that are not UTF-8 become \\xNN."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """Entries sorted by the bytes of their paths, which is the same everywhere."""
    return sorted(entries, key=lambda entry: entry.path.encode())


def tree_hash(entries: Iterable[Entry]) -> str:
    """One sha256 for a manifest: that of the lines `sha256sum` prints for it, sorted by path."""
    digest = hashlib.sha256()
    for entry in in_order(entries):
        digest.update(_sum_line(entry).encode())
    return digest.hexdigest()


def _sum_line(entry: Entry) -> str:
    """A line as sha256sum writes it: a backslash first says that the path is escaped."""
    path = entry.path.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{'' if path == entry.path else chr(92)}{entry.sha256}  {path}\n"


def hash_file(path: str | Path) -> str:
    """sha256 of one file's content, in hexadecimal.

    Raises:
        OSError: it is missing or cannot be read.
    """
    digest, buffer = hashlib.sha256(), bytearray(BLOCK)
    view = memoryview(buffer)
    with open(path, "rb", buffering=0) as stream:  # noqa: PTH123
        while size := stream.readinto(buffer):
            digest.update(view[:size])
    return digest.hexdigest()


def hash_many(
    files: Sequence[Found],
    cache: HashCache | SeenFiles | None = None,
    *,
    lenient: bool = False,
) -> list[str]:
    """sha256 of many files, several at a time, the largest first.

    Args:
        files: regular files with the stat that was taken before reading.
        cache: known hashes, looked up and added to; None reads every byte.
        lenient: whether a file that cannot be read gets "" instead of an error.

    Returns:
        The hashes in the order of `files`.

    Raises:
        OSError: a file cannot be read, and not `lenient`.
    """
    began = time.time()
    known = cache.known(files) if cache is not None else {}
    hashes = [known.get(file.path, "") for file in files]
    missing = [i for i, value in enumerate(hashes) if not value]
    missing.sort(key=lambda i: -files[i].stat.st_size)

    def hash_one(i: int) -> None:
        try:
            hashes[i] = hash_file(files[i].path)
        except OSError:
            if not lenient:
                raise

    small = sum(files[i].stat.st_size for i in missing) < ALONE
    _each(hash_one, missing, workers=1 if small else WORKERS)
    if cache is not None and missing:
        cache.add([(files[i], hashes[i]) for i in missing if hashes[i]], began=began)
    return hashes


def _each(work: Callable[[int], None], items: Sequence[int], *, workers: int) -> None:
    """Call `work` for every item in several threads; the first error ends all and is raised."""
    queue, failures = iter(items), list[BaseException]()
    lock = threading.Lock()

    def drain() -> None:
        while not failures:
            with lock:
                item = next(queue, None)
            if item is None:
                return
            try:
                work(item)
            except BaseException as error:  # noqa: BLE001
                failures.append(error)

    threads = [
        threading.Thread(target=drain, daemon=True) for _ in range(min(workers, len(items)) - 1)
    ]
    for thread in threads:
        thread.start()
    drain()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
