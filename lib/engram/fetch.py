"""Get a data set that is not part of the repository: download, check, build tables, check again.

What is got and what must come out is described beside the experiment; see engram.dataset. Of a
description without a builder the files themselves are the data.

The builder reads RAW/REPOSITORY_NAME/PATH, writes what it likes into TABLES, and says there in
content_hashes.json, {name: sha256}, what the tables hold. What a content hash is, is its affair.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from engram import progress
from engram.dataset import load_description
from engram.download import is_there, obtain
from engram.errors import EnvironmentMissingError, InputError
from engram.files import read_json, write_atomic
from engram.repository import find_root

if TYPE_CHECKING:
    from engram.dataset import DataSet

__all__ = ["fetch", "fetch_command"]

MIRROR_VARIABLE = "ENGRAM_MIRROR"
CONTENT_HASHES = "content_hashes.json"
RAW = "raw"
TABLES = "tables"
NOTICE = "NOTICE.md"


def fetch(name: str, *, root: Path, mirror: Path | None = None) -> DataSet:
    """Get the files of a data set and build its tables below the repository.

    Files that are there and have the right hash are not got again; tables that come out as they are
    there are left alone. What is not as described is never put in place.

    Args:
        name: of the data set, or the path of a description; see engram.dataset.
        root: the repository.
        mirror: folder that holds the files as REPOSITORY_NAME/PATH, used instead of the network;
            default: the environment variable ENGRAM_MIRROR, if set.

    Returns:
        The description, whose files now lie in `target`/raw and whose tables in `target`/tables.

    Raises:
        ConfigError: there is no such description, or it is wrong.
        InputError: a file or a table is not what the description says.
        EnvironmentMissingError: a file cannot be got, pooch is missing, or the builder fails.
    """
    data = load_description(name, root=root)
    if mirror is None and os.environ.get(MIRROR_VARIABLE):
        mirror = Path(os.environ[MIRROR_VARIABLE])
    if mirror is not None and not mirror.is_dir():
        msg = f"the mirror {str(mirror)!r} (--mirror or {MIRROR_VARIABLE}) is no folder"
        raise EnvironmentMissingError(msg)
    for source in progress.track(data.files, f"fetch {data.name}"):
        place = data.target / RAW / source.place
        if not is_there(source, place):
            obtain(source, place, mirror)
    if data.builder is not None:
        _build(data, root)
    write_atomic(data.target / NOTICE, data.licenses().encode())
    return data


def fetch_command(start: Path, name: str, *, mirror: Path | None = None) -> str:
    """Fetch a data set of the repository that holds `start`; return what its user must be told.

    Args:
        start: the current folder.
        name: see `fetch`.
        mirror: see `fetch`.

    Returns:
        The licenses, and where the tables lie, or the files where they are the data.

    Raises:
        RunnerError: see `fetch` and `engram.repository.find_root`.
    """
    data = fetch(name, root=find_root(start), mirror=mirror)
    if data.builder is None:
        said = f"fetched {len(data.files)} files: {data.target / RAW}"
    else:
        said = f"fetched {len(data.tables)} tables: {data.target / TABLES}"
    return f"{data.licenses()}\n{said}"


def _build(data: DataSet, root: Path) -> None:
    """Build the tables aside, and put them in place if they are as described."""
    tables = data.target / TABLES
    staging = data.target / f".{TABLES}.{os.getpid()}.new"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        _run_builder(data, root, staging)
        _check_tables(data, staging)
        if not _same_files(tables, staging):
            _replace(tables, staging)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _run_builder(data: DataSet, root: Path, folder: Path) -> None:
    roots = [str(root / name) for name in ("lib", "src", ".") if (root / name).is_dir()]
    done = subprocess.run(
        [sys.executable, str(data.builder), str(data.target / RAW), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        output = done.stderr.strip()
        msg = f"{str(data.builder)!r} failed with exit code {done.returncode}:\n{output}"
        raise EnvironmentMissingError(msg)


def _check_tables(data: DataSet, folder: Path) -> None:
    try:
        built = read_json(folder / CONTENT_HASHES)
    except (OSError, ValueError) as error:
        msg = f"{str(data.builder)!r} left no {CONTENT_HASHES} of its tables: {error}"
        raise InputError(msg) from error
    wrong = [
        f"{name}: {built.get(name, 'missing')}, described as {data.tables.get(name, 'absent')}"
        for name in sorted({*built, *data.tables})
        if built.get(name) != data.tables.get(name)
    ]
    if wrong:
        msg = (
            f"tables of {data.name} came out other than described, and were not put in place "
            f"(sha256 of their content): {'; '.join(wrong)}. Another version of pandas may read "
            "the files differently; if the change is meant, correct the description"
        )
        raise InputError(msg)


def _same_files(old: Path, new: Path) -> bool:
    names = sorted(path.name for path in new.iterdir())
    if not old.is_dir() or sorted(path.name for path in old.iterdir()) != names:
        return False
    _, different, unreadable = filecmp.cmpfiles(old, new, names, shallow=False)
    return not different and not unreadable


def _replace(old: Path, new: Path) -> None:
    aside = old.with_name(f".{old.name}.{os.getpid()}.old")
    if old.exists():
        old.rename(aside)
    new.rename(old)
    shutil.rmtree(aside, ignore_errors=True)
