"""Read .safetensors with numpy alone: a length, a JSON header, then the bytes of the tensors."""

from __future__ import annotations

import json
import math
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Tensor", "read"]

# The format's names and numpy's; BF16 is widened, which is exact.
DTYPES = {
    "BOOL": "?",
    "U8": "<u1",
    "I8": "<i1",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "I32": "<i4",
    "U64": "<u8",
    "I64": "<i8",
    "F16": "<f2",
    "BF16": "<u2",
    "F32": "<f4",
    "F64": "<f8",
    "C64": "<c8",
}
LONGEST_HEADER = 100_000_000  # bytes; the format's own limit


class Tensor(NamedTuple):
    """One tensor.

    Attributes:
        dtype: as the file names it, such as "F32" or "BF16".
        values: a numpy array mapped from the file; float32 for BF16.
    """

    dtype: str
    values: Any


def read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read a file.

    Args:
        path: the file.

    Returns:
        The metadata, and the tensors by name.

    Raises:
        ValueError: it is no whole .safetensors file, or holds a type that numpy has not.
        OSError: it cannot be read.
    """
    header, data = _open(path)
    metadata = header.pop("__metadata__", {})
    tensors = {name: _tensor(path, name, entry, data) for name, entry in header.items()}
    if sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in header.values()) != len(
        data
    ):
        msg = f"{str(path)!r} is damaged: its tensors do not fill it"
        raise ValueError(msg)
    return metadata, tensors


def _open(path: Path) -> tuple[dict[str, Any], Any]:
    """The header, and the bytes behind it as a numpy array."""
    import numpy as np

    size = path.stat().st_size
    with path.open("rb") as stream:
        first = stream.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else LONGEST_HEADER + 1
        if length > min(LONGEST_HEADER, size - 8):
            msg = f"{str(path)!r} is no .safetensors file, or was cut short"
            raise ValueError(msg)
        header = json.loads(stream.read(length))
    if size == 8 + length:
        return header, np.empty(0, np.uint8)
    return header, np.memmap(path, np.uint8, "r", offset=8 + length)


def _tensor(path: Path, name: str, entry: dict[str, Any], data: Any) -> Tensor:  # noqa: ANN401
    """One tensor, checked against its place in the file."""
    import numpy as np

    code, shape = entry["dtype"], entry["shape"]
    if code not in DTYPES:
        msg = f"{str(path)!r}: tensor {name!r} is of type {code!r}, which numpy does not have"
        raise ValueError(msg)
    start, end = entry["data_offsets"]
    kind = np.dtype(DTYPES[code])
    if not 0 <= start <= end <= len(data) or end - start != math.prod(shape) * kind.itemsize:
        msg = f"{str(path)!r} is damaged: tensor {name!r} does not fit into it"
        raise ValueError(msg)
    values = data[start:end].view(kind).reshape(shape)
    if code == "BF16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return Tensor(code, values)
