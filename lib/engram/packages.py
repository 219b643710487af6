"""The installed packages, by the names of their metadata folders, compared with uv.lock."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["compare", "describe", "differences", "installed", "locked_versions"]

METADATA = re.compile(
    r"(?P<name>.+?)(?:-(?P<version>\d[^-]*|[^-]+))?(?:-py\d.*)?\.(?:dist|egg)-info"
)
LOCKED = re.compile(r'^\[\[package\]\]\nname = "([^"]+)"\nversion = "([^"]+)"', re.MULTILINE)
VERSION = re.compile(r"^Version:(.*)$", re.MULTILINE)
TORCH_FACT = re.compile(
    r"^(__version__|cuda)\b[^=\n]*=\s*(?:'([^']*)'|\"([^\"]*)\"|None)", re.MULTILINE
)
CREDENTIALS = re.compile(r"(://)[^/@\s]+@")


def describe(folders: Sequence[Path]) -> dict[str, Any]:
    """All that the record says about installed packages.

    Args:
        folders: the folders packages are installed in, in the order of the search path.

    Returns:
        `packages` (name to version), `installed_from` (name to URL, of those not from an index),
        and `torch` and `torch_cuda`, as torch names its build, such as 2.9.0+cu130 and 13.0.
    """
    found = dict(sorted(installed(folders)))
    packages = {name: version for name, (version, _) in found.items()}
    origins = {name: _origin(path) for name, (_, path) in found.items()}
    torch = torch_build(folders)
    return {
        "torch": torch.get("__version__") or packages.get("torch"),
        "torch_cuda": torch.get("cuda"),
        "packages": packages,
        "installed_from": {name: url for name, url in origins.items() if url},
    }


def compare(packages: dict[str, str], lock: bytes) -> dict[str, Any]:
    """Compare installed packages with the content of a uv.lock.

    Returns:
        `sha256` of the lock, and the `differences`.
    """
    versions = locked_versions(lock.decode("utf-8", "replace").replace("\r\n", "\n"))
    return {
        "sha256": hashlib.sha256(lock).hexdigest(),
        "differences": differences(packages, versions),
    }


def installed(folders: Sequence[Path]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Every package as (normalized name, (version, metadata folder)); the first folder counts."""
    seen: set[str] = set()
    for folder in folders:
        for item in sorted(os.listdir(folder) if folder.is_dir() else ()):  # noqa: PTH208
            match = METADATA.fullmatch(item)
            if match is None:
                continue
            path = f"{folder}/{item}"
            name = normalized(match["name"])
            if name not in seen:
                seen.add(name)
                yield name, (match["version"] or _written_version(path), path)


def normalized(name: str) -> str:
    """A package name as indexes and lock files write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _written_version(path: str) -> str:
    """The version in a metadata file, for old folders that lack it in their name."""
    for file in (Path(path, "METADATA"), Path(path, "PKG-INFO"), Path(path)):
        with contextlib.suppress(OSError):
            text = file.read_text(encoding="utf-8", errors="replace")
            if match := VERSION.search(text):
                return match[1].strip()
    return "unknown"


def _origin(path: str) -> str | None:
    """The URL of a package that is not from an index, marked if editable, without credentials."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        direct = json.loads(Path(path, "direct_url.json").read_bytes())
        editable = " (editable)" if direct.get("dir_info", {}).get("editable") else ""
        commit = direct.get("vcs_info", {}).get("commit_id")
        return (
            CREDENTIALS.sub(r"\1***@", direct["url"]) + (f"@{commit}" if commit else "") + editable
        )
    return None


def torch_build(folders: Sequence[Path]) -> dict[str, str]:
    """What torch says of itself, without importing it; its metadata may lack the local part."""
    for folder in folders:
        with contextlib.suppress(OSError):
            text = (folder / "torch" / "version.py").read_text(encoding="utf-8", errors="replace")
            return {m[1]: m[2] or m[3] for m in TORCH_FACT.finditer(text) if m[2] or m[3]}
    return {}


def locked_versions(text: str) -> dict[str, list[str]]:
    """The versions that a uv.lock names; a package may have several, for different platforms."""
    found: dict[str, list[str]] = {}
    for name, version in LOCKED.findall(text):
        found.setdefault(normalized(name), []).append(version)
    return found


def differences(packages: dict[str, str], locked: dict[str, list[str]]) -> list[dict[str, str]]:
    """Installed packages that the lock names with another version; local parts do not count."""
    return [
        {"name": name, "installed": version, "locked": ", ".join(locked[name])}
        for name, version in packages.items()
        if name in locked and _public(version) not in map(_public, locked[name])
    ]


def _public(version: str) -> str:
    """A version without its local part and without leading zeros, as PEP 440 compares them."""
    return re.sub(r"(^|\.)0+(?=\d)", r"\1", version.partition("+")[0].lower())
