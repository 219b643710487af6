"""Decoders of the file formats that a comparison looks inside.

To add a format, write a function that takes a path and an ExitStack (for what must stay open while
values are read) and returns values that compare_values walks: mappings, lists, Arrays, a Table,
plain values. Then name its suffixes in DECODERS, or in FOLDER_DECODERS when it is a folder of files
that hold one thing together. Anything a decoder raises means that the files are
compared by bytes instead.
"""

from __future__ import annotations

import csv
import json
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from engram.compare_values import Array, Table

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

Decoder = Callable[["Path", "ExitStack"], Any]


def _npy(path: Path, stack: ExitStack) -> Array:
    import numpy as np

    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:
        # An empty array cannot be mapped; a pickled one is refused here too.
        values = np.load(path, allow_pickle=False)
    return _array(values)


def _npz(path: Path, stack: ExitStack) -> Mapping[str, Array]:
    import numpy as np

    return _Members(stack.enter_context(np.load(path, allow_pickle=False)))


class _Members(Mapping[str, Array]):
    """The arrays of an .npz, each read when it is compared."""

    def __init__(self, archive: Mapping[str, Any]) -> None:
        self._archive = archive

    def __getitem__(self, name: str) -> Array:
        return _array(self._archive[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._archive)

    def __len__(self) -> int:
        return len(self._archive)


def _array(values: Any) -> Array:  # noqa: ANN401
    """Wrap a numpy array; byte order is a matter of the container."""
    if values.dtype.hasobject:
        msg = "it holds pickled objects"
        raise ValueError(msg)
    return Array(str(values.dtype.newbyteorder("=")), values)


def _pt(path: Path, stack: ExitStack) -> Any:  # noqa: ANN401
    import torch

    return _tensors(torch.load(path, map_location="cpu", weights_only=True), torch)


def _tensors(value: Any, torch: Any) -> Any:  # noqa: ANN401
    if isinstance(value, torch.Tensor):
        return _tensor(value.detach(), torch)
    if isinstance(value, Mapping):
        return {key: _tensors(item, torch) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_tensors(item, torch) for item in value)
    return value


def _tensor(tensor: Any, torch: Any) -> Array:  # noqa: ANN401
    if tensor.layout is not torch.strided or tensor.is_quantized:
        msg = f"tensors of layout {tensor.layout} are not decoded"
        raise ValueError(msg)
    values = tensor.resolve_conj().resolve_neg()
    try:
        return Array(str(tensor.dtype), values.numpy())
    except TypeError:
        # numpy has no bfloat16 and no 8-bit floats; doubles hold their values exactly.
        return Array(str(tensor.dtype), values.to(torch.float64).numpy())


def _delimited(delimiter: str) -> Decoder:
    def decode(path: Path, stack: ExitStack) -> Table:
        # Numbers as text of any length: the limit is the csv module's own and global.
        stack.callback(csv.field_size_limit, csv.field_size_limit(sys.maxsize))
        stream = stack.enter_context(path.open(encoding="utf-8-sig", newline=""))
        return Table(csv.reader(stream, delimiter=delimiter, strict=True))

    return decode


def _json(path: Path, stack: ExitStack) -> Any:  # noqa: ANN401
    return json.loads(path.read_bytes(), object_pairs_hook=_unique)


def _json_lines(path: Path, stack: ExitStack) -> list[Any]:
    return [json.loads(line, object_pairs_hook=_unique) for line in path.read_bytes().splitlines()]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        msg = "an object holds one key twice"
        raise ValueError(msg)
    return found


def _toml(path: Path, stack: ExitStack) -> dict[str, Any]:
    with path.open("rb") as stream:
        return tomllib.load(stream)


def _parquet(path: Path, stack: ExitStack) -> dict[str, Any]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    # The rest of pandas' metadata names versions; an index that is only a range lives here alone.
    pandas = (table.schema.pandas_metadata or {}).get("index_columns")
    columns = [_column(column) for column in table.columns]
    return {
        "schema": [(field.name, str(field.type)) for field in table.schema],
        "pandas index": pandas,
        "rows": table.num_rows,
        **{
            f"{name}[{i}]" if table.column_names.count(name) > 1 else name: column
            for i, (name, column) in enumerate(zip(table.column_names, columns, strict=True))
        },
    }


def _column(column: Any) -> Any:  # noqa: ANN401
    import pyarrow.types as types

    numeric = (
        types.is_floating(column.type)
        or types.is_integer(column.type)
        or types.is_boolean(column.type)
    )
    if numeric and column.null_count == 0:
        return Array(str(column.type), column.to_numpy())
    return column.to_pylist()


def _safetensors(path: Path, stack: ExitStack) -> dict[str, Any]:
    from engram import safetensors_file

    metadata, tensors = safetensors_file.read(path)
    arrays = {name: Array(tensor.dtype, tensor.values) for name, tensor in tensors.items()}
    return {"__metadata__": metadata, **arrays}


def _image(path: Path, stack: ExitStack) -> list[Array]:
    """The pixels of every frame; when it was made, resolution and color profile are left out."""
    import numpy as np
    from PIL import Image, ImageSequence

    image = stack.enter_context(Image.open(path))
    found = []
    for frame in ImageSequence.Iterator(image):
        _require_exact(path, frame)
        shown = "transparency" in frame.info and frame.mode in ("1", "L", "RGB", "P")
        if shown or frame.mode in ("P", "PA"):
            # A palette is a matter of the container; a transparent color is one of the pixels.
            frame = frame.convert("RGBA" if shown or frame.mode == "PA" else "RGB")
        found.append(Array(f"{frame.mode} pixels", np.array(frame)))
    return found


def _require_exact(path: Path, frame: Any) -> None:  # noqa: ANN401
    """Refuse colors of 16 bits: PIL gives back the upper 8 only."""
    bits = frame.tag_v2.get(258, (8,)) if hasattr(frame, "tag_v2") else (8,)
    if frame.format == "PNG":
        with path.open("rb") as stream:
            depth, kind = stream.read(26)[24:]
        bits = (8,) if kind == 0 else (depth,)
    if max(bits) > 8 and frame.mode not in ("I;16", "I;16L", "I;16B", "I", "F"):
        msg = "colors of more than 8 bits are not decoded"
        raise ValueError(msg)


def _zarr(path: Path, stack: ExitStack) -> Any:  # noqa: ANN401
    import zarr

    return _zarr_node(zarr.open(str(path), mode="r"))


def _zarr_node(node: Any) -> dict[str, Any]:  # noqa: ANN401
    """An array or a group, with its attributes; chunks and compression are left out."""
    found: dict[str, Any] = {"attributes": dict(node.attrs)}
    if not hasattr(node, "shape"):
        members = dict(node.members())
        return {**found, **{name: _zarr_node(members[name]) for name in sorted(members)}}
    names = getattr(node.metadata, "dimension_names", None)
    return {**found, "dimensions": list(names or ()), "values": _array(node[...])}


DECODERS: dict[str, Decoder] = {
    ".npy": _npy,
    ".npz": _npz,
    ".pt": _pt,
    ".pth": _pt,
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".json": _json,
    ".jsonl": _json_lines,
    ".toml": _toml,
    ".parquet": _parquet,
    ".safetensors": _safetensors,
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"), _image),
}
FOLDER_DECODERS: dict[str, Decoder] = {".zarr": _zarr}
