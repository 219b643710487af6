"""Read an output of a run by its suffix; what a notebook gets from `Run.load`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from engram.errors import EnvironmentMissingError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["READERS", "load"]


def load(path: Path) -> Any:  # noqa: ANN401
    """Read a file.

    Args:
        path: a regular file; a folder only when it is a .zarr.

    Returns:
        What READERS says of the suffix. Any other file: its text, or its bytes when they are not
        UTF-8 or hold a NUL.

    Raises:
        EnvironmentMissingError: the format needs a package that is not installed.
        OSError: it cannot be read.
        Exception: whatever the format's reader raises on a damaged file, with a note that names it.
    """
    suffix = path.suffix.lower()
    try:
        return READERS.get(suffix, _text_or_bytes)(path)
    except ImportError as error:
        package = (error.name or "a package").partition(".")[0]
        msg = f"{path.name!r} needs {package}, which is not installed here: {error}"
        raise EnvironmentMissingError(msg) from error
    except Exception as error:
        error.add_note(f"while reading {str(path)!r}")
        raise


def _npy(path: Path) -> Any:  # noqa: ANN401
    import numpy as np

    return np.load(path, allow_pickle=False)


def _npz(path: Path) -> dict[str, Any]:
    import numpy as np

    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def _pt(path: Path) -> Any:  # noqa: ANN401
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def _safetensors(path: Path) -> dict[str, Any]:
    from engram import safetensors_file

    return {name: tensor.values for name, tensor in safetensors_file.read(path)[1].items()}


def _zarr(path: Path) -> Any:  # noqa: ANN401
    import zarr

    return zarr.open(str(path), mode="r")


def _delimited(delimiter: str) -> Callable[[Path], Any]:
    def read(path: Path) -> Any:  # noqa: ANN401
        import pandas as pd

        try:
            return pd.read_csv(path, sep=delimiter)
        except pd.errors.EmptyDataError:
            return pd.DataFrame()

    return read


def _parquet(path: Path) -> Any:  # noqa: ANN401
    import pandas as pd

    return pd.read_parquet(path)


def _json(path: Path) -> Any:  # noqa: ANN401
    return json.loads(path.read_bytes())


def _json_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines() if line.strip()]


def _toml(path: Path) -> dict[str, Any]:
    import tomllib

    with path.open("rb") as stream:
        return tomllib.load(stream)


def _text_or_bytes(path: Path) -> str | bytes:
    data = path.read_bytes()
    if b"\0" in data:
        return data
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


READERS: dict[str, Callable[[Path], Any]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".pt": _pt,
    ".pth": _pt,
    ".safetensors": _safetensors,
    ".zarr": _zarr,
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".parquet": _parquet,
    ".json": _json,
    ".jsonl": _json_lines,
    ".toml": _toml,
}
