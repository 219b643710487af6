"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file under another name, force it to the disk, and give it its name.

    Args:
        path: the file to write or replace.
        write: is given the open file.

    Raises:
        OSError: the disk is full; what stood there before is untouched.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
