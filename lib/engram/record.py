"""The provenance record: its schema version, its atomic writes, and the states of a run."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.errors import ConfigError, RunNotFoundError, StoreError
from engram.files import write_json
from engram.locks import append_whole, locked
from engram.paths import RootPaths, RunPaths

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from io import FileIO

__all__ = [
    "ENDED",
    "RUN_ID",
    "SCHEMA_VERSION",
    "STATES",
    "annotate",
    "annotated",
    "append_line",
    "change",
    "create",
    "iso_utc",
    "load",
    "new_run_folder",
    "now_utc",
    "plain",
    "record_sha256",
    "store_error",
]

SCHEMA_VERSION = 1
STATES = ("created", "running", "completed", "failed", "interrupted", "killed", "timed_out")
ENDED = frozenset(STATES[2:])
NEXT = {"created": ENDED | {"running"}, "running": ENDED}
# What people and later runs may add to an ended run; everything else is fixed by record_sha256.
MUTABLE = ("reruns", "tags", "notes", "pinned")
# Facts that can only be known once the run has ended: written once, then fixed.
LATE = ("comparison",)
TIMES = ("created", "started", "ended", "run_s", "total_s")
RUN_ID = re.compile(r"\d{8}T\d{6}\.\d{3}Z-[a-z0-9-]{1,40}-[0-9a-f]{6}")
NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def now_utc() -> str:
    """The time now, as ISO 8601 in UTC with microseconds and +00:00."""
    return iso_utc(time.time())


def iso_utc(seconds: float) -> str:
    """Write a time as ISO 8601 in UTC.

    Args:
        seconds: since the epoch.

    Returns:
        Like 2026-11-21T07:00:00.123456+00:00.
    """
    whole, micro = divmod(round(seconds * 1_000_000), 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{micro:06d}+00:00"


def new_run_folder(root: Path, name: str, *, title: str | None = None) -> RunPaths:
    """Make the folder of a new run; mkdir is the lock that makes it this run's alone.

    Args:
        root: the run root; made when it is missing.
        name: the folder between root and run: the experiment's name, or a grid's id.
        title: what the run's id is made of; default: the name.

    Returns:
        The paths of ROOT/NAME/20261121T070000.123Z-slug-3f2a9c, an empty folder.

    Raises:
        ConfigError: the name cannot be a folder's name.
        StoreError: the root cannot be written.
    """
    decodable = name == name.encode(errors="replace").decode()
    if not name or name.startswith(".") or "/" in name or "\0" in name or not decodable:
        msg = f"the experiment's name {name!r} cannot be a folder's name: set another `name`"
        raise ConfigError(msg)
    parent = root / name
    with _store_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
        for _ in range(1000):
            with contextlib.suppress(FileExistsError):
                folder = parent / new_run_id(title or name)
                folder.mkdir()
                return RunPaths(folder)
    msg = f"no unused run id found in {str(parent)!r}: is its file system in order?"
    raise StoreError(msg)


def new_run_id(name: str) -> str:
    """Make an id that sorts by time, can be read, and is not taken: TIME-SLUG-RANDOM."""
    second, milli = divmod(time.time_ns() // 1_000_000, 1000)
    when = time.strftime("%Y%m%dT%H%M%S", time.gmtime(second))
    return f"{when}.{milli:03d}Z-{slug(name)}-{os.urandom(3).hex()}"


def slug(name: str) -> str:
    """Reduce a name to at most 40 of a-z, 0-9 and hyphens; `run` when nothing is left."""
    if not name.isascii():
        import unicodedata

        name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "run"


def create(paths: RunPaths, record: dict[str, Any]) -> dict[str, Any]:
    """Write the first record of a run, in the state `created`.

    Args:
        paths: the run's folder, without a record yet.
        record: all keys of the record but record_sha256.

    Returns:
        The record as written.

    Raises:
        StoreError: the folder cannot be written, or already has a record.
    """
    if record["state"] != "created":
        msg = f"a record is born in the state 'created', not {record['state']!r}"
        raise ValueError(msg)
    if paths.metadata.exists():
        msg = f"{str(paths.metadata)!r} exists already: a run has one life only"
        raise StoreError(msg)
    return _write(paths, dict(record), sync=False)


def change(
    paths: RunPaths,
    *,
    state: str | None = None,
    **fields: Any,  # noqa: ANN401 - whatever JSON can hold
) -> dict[str, Any]:
    """Change the record; the one function through which the state of a run changes.

    Args:
        paths: the run's folder.
        state: the next state, or None to keep it. `running` fills in times.started and an ended
            state times.ended, unless they are given. What ends a run is forced to the disk.
        **fields: keys of the record with their new values; started, ended, run_s and total_s go to
            `times`, and a `times` dict is merged into what is there.

    Returns:
        The record as written.

    Raises:
        ValueError: the step from state to state is not legal, the key is unknown, or the run has
            ended (then only `comparison` may be set, once). A bug of the caller.
        RunNotFoundError: there is no record.
        StoreError: the record cannot be read or written.
    """
    with _record_locked(paths):
        record = load(paths)
        _check_change(record, state, fields)
        times = {**record["times"], **fields.pop("times", {})}
        times.update({key: fields.pop(key) for key in TIMES if key in fields})
        if state == "running":
            times["started"] = times["started"] or now_utc()
        if state in ENDED:
            times["ended"] = times["ended"] or now_utc()
        record.update(fields, state=state or record["state"], times=times)
        return _write(paths, record, sync=record["state"] in ENDED)


def _check_change(record: dict[str, Any], state: str | None, fields: dict[str, Any]) -> None:
    """Refuse steps a run cannot take and keys a record does not have."""
    now = record["state"]
    if state is not None and state not in NEXT.get(now, ()):
        msg = f"a run cannot go from {now!r} to {state!r}"
        raise ValueError(msg)
    unknown = [key for key in fields if key not in record and key not in TIMES]
    fixed = [
        key for key in fields if key in ("schema_version", "run_id", "record_sha256", *MUTABLE)
    ]
    if now in ENDED:
        fixed += [key for key in fields if key not in LATE or record[key] is not None]
    if unknown or fixed:
        msg = f"run {record['run_id']} ({now}): unknown keys {unknown}, fixed keys {fixed}"
        raise ValueError(msg)


def annotate(
    paths: RunPaths,
    *,
    rerun: dict[str, Any] | None = None,
    tags: Sequence[str] = (),
    untag: Sequence[str] = (),
    note: str | None = None,
    pinned: bool | None = None,
) -> dict[str, Any]:
    """Add to what may change after a run has ended; several at once lose nothing.

    Args:
        paths: the run's folder.
        rerun: {"run", "verdict", "when"} of a run that repeated this one.
        tags: tags to add.
        untag: tags to take away.
        note: a sentence to add, with its time.
        pinned: whether garbage collection must leave the run alone.

    Returns:
        The record as written.

    Raises:
        RunNotFoundError: there is no record.
        StoreError: the record cannot be read or written.
    """
    with _record_locked(paths):
        record = load(paths)
        record |= annotated(record, rerun=rerun, tags=tags, untag=untag, note=note, pinned=pinned)
        record = _write(paths, record, sync=True)
    _tell_index(paths)
    return record


def annotated(
    record: dict[str, Any],
    *,
    rerun: dict[str, Any] | None,
    tags: Sequence[str],
    untag: Sequence[str],
    note: str | None,
    pinned: bool | None,
) -> dict[str, Any]:
    """The keys that `annotate` changes in a record, a run's or a grid's, with their new values."""
    notes = [{"when": now_utc(), "text": note}] if note is not None else []
    every = dict.fromkeys([*record.get("tags", ()), *tags])
    return {
        "reruns": [*record.get("reruns", ()), *([rerun] if rerun else ())],
        "tags": [tag for tag in every if tag not in untag],
        "notes": [*record.get("notes", ()), *notes],
        "pinned": bool(record.get("pinned")) if pinned is None else pinned,
    }


def load(paths: RunPaths) -> dict[str, Any]:
    """Read the record of a run.

    Args:
        paths: the run's folder.

    Returns:
        The record; numbers of the summary that JSON has no word for (nan, inf) are floats again.

    Raises:
        RunNotFoundError: there is no folder, or it holds no record.
        StoreError: the record cannot be read, is not a record, or was written by a newer engram.
    """
    try:
        record = json.loads(paths.metadata.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunNotFoundError(_missing(paths)) from error
    except (OSError, ValueError) as error:
        msg = f"the record {str(paths.metadata)!r} cannot be read: {error}"
        raise StoreError(msg) from error
    _check_shape(record, paths)
    if isinstance(record.get("summary"), dict):
        record["summary"] = {key: _number(value) for key, value in record["summary"].items()}
    return record  # type: ignore[no-any-return]


def _missing(paths: RunPaths) -> str:
    """Say why there is no record at this place."""
    if paths.folder.is_dir():
        return (
            f"{str(paths.folder)!r} holds no {paths.metadata.name}: it is not a run, or one that "
            "was killed before its record was born"
        )
    return f"there is no run folder {str(paths.folder)!r}"


def _check_shape(record: Any, paths: RunPaths) -> None:  # noqa: ANN401
    """Refuse what is not a record, or one from the future."""
    needed = ("schema_version", "run_id", "state", "times")
    if not isinstance(record, dict) or any(key not in record for key in needed):
        msg = f"{str(paths.metadata)!r} is not a record: it lacks one of {', '.join(needed)}"
        raise StoreError(msg)
    version = record["schema_version"]
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        msg = (
            f"{str(paths.metadata)!r} has schema_version {version!r}; this engram reads up to "
            f"{SCHEMA_VERSION}: use a newer engram"
        )
        raise StoreError(msg)


def is_intact(paths: RunPaths, record: dict[str, Any]) -> bool:
    """Whether the record on the disk is the one its runner last wrote."""
    try:
        return record_sha256(load(paths)) == str(record["record_sha256"])
    except (RunNotFoundError, StoreError):
        return False


def restore(paths: RunPaths, record: dict[str, Any]) -> None:
    """Write the record again as its runner knows it, whatever lies there.

    Raises:
        StoreError: the folder cannot be written.
    """
    _write(paths, dict(record), sync=False)


def record_sha256(record: dict[str, Any]) -> str:
    """Hash what is fixed in a record.

    Args:
        record: as loaded or about to be written.

    Returns:
        sha256 of canonical JSON (sorted keys, no spaces) of all keys but record_sha256, reruns,
        tags, notes and pinned.
    """
    import hashlib

    fixed = {key: value for key, value in record.items() if key not in ("record_sha256", *MUTABLE)}
    text = json.dumps(plain(fixed), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Append one JSON line to a file that many runs share; lines are always whole.

    Args:
        path: the file; made, with its folder, when it is missing.
        line: what to write.

    Raises:
        StoreError: the file cannot be written, or the disk is full.
    """
    text = json.dumps(plain(line), ensure_ascii=False, allow_nan=False) + "\n"
    with _store_errors(path):
        append_whole(path, text.encode())


def _write(paths: RunPaths, record: dict[str, Any], *, sync: bool) -> dict[str, Any]:
    """Write the record atomically, its own hash brought up to date."""
    record["record_sha256"] = record_sha256(record)
    with _store_errors(paths.metadata):
        write_json(paths.metadata, plain(record), sync=sync)
    return record


def plain(value: Any) -> Any:  # noqa: ANN401
    """Replace what JSON has no word for: nan and infinities by names, lone bytes by escapes."""
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "backslashreplace").decode()
    return value


def _number(value: Any) -> Any:  # noqa: ANN401
    """The float behind the name of one that JSON cannot write."""
    return NON_FINITE.get(value, value) if isinstance(value, str) else value


def _record_locked(paths: RunPaths) -> FileIO:
    """Take the lock under which a record is read, changed and replaced; see `locked`."""
    try:
        return locked(paths.metadata)
    except FileNotFoundError as error:
        raise RunNotFoundError(_missing(paths)) from error
    except OSError as error:
        raise store_error(paths.metadata, error) from error


def _tell_index(paths: RunPaths) -> None:
    """Let the index of the root, when the run lies in one, read this record again."""
    root = RootPaths(paths.folder.absolute().parent.parent)
    if root.store.is_dir():
        line = json.dumps([paths.folder.absolute().parent.name, paths.folder.name]).encode() + b"\n"
        with _store_errors(root.pending):
            append_whole(root.pending, line)


@contextlib.contextmanager
def _store_errors(path: Path) -> Iterator[None]:
    """Turn what the file system says into one message a user understands."""
    try:
        yield
    except OSError as error:
        raise store_error(path, error) from error


def store_error(path: Path, error: OSError) -> StoreError:
    """Say what could not be written, why, and what to do."""
    advice = {
        errno.ENOSPC: "the disk is full: free space, or set another output_dir",
        errno.EDQUOT: "the quota is used up: free space, or set another output_dir",
        errno.EFBIG: "a file size limit (ulimit -f) is reached",
        errno.EROFS: "the file system is read-only: set another output_dir",
        errno.EACCES: "permission denied: set another output_dir, or ask for access",
        errno.EPERM: "not permitted: set another output_dir, or ask for access",
        errno.EEXIST: "a part of this path is a file: set another output_dir",
        errno.ENOTDIR: "a part of this path is a file: set another output_dir",
    }.get(error.errno or 0, error.strerror or str(error))
    return StoreError(f"cannot write {str(path)!r}: {advice}")
