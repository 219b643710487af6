"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def write_atomic(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Replace `path` by `data` in one step.

    The temporary name does not keep the suffix: whoever globs *.json never meets half a file.

    Args:
        path: the file to create or replace; its folder exists.
        data: the whole new content.
        sync: whether to force the bytes to the disk before the rename.

    Raises:
        OSError: the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            if sync:
                stream.flush()
                os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any, *, sync: bool = False) -> None:  # noqa: ANN401
    """Write `value` as indented JSON, atomically.

    NaN and infinities are written as Python reads them, bytes of file names that are no UTF-8 as
    JSON escapes.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_atomic(path, text.encode("utf-8", "backslashreplace"), sync=sync)


def read_json(path: Path) -> Any:  # noqa: ANN401
    """Read a JSON file."""
    return json.loads(path.read_bytes())


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system does not allow that.

    Args:
        source: a file that is never written to again.
        target: the new name; where it exists already, another process has made it of the same.
    """
    try:
        target.hardlink_to(source)
    except FileExistsError:
        return
    except OSError:
        write_atomic(target, source.read_bytes())
