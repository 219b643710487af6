"""What a W&B sweep belongs to: the code, the parameters, the inputs and the points of a grid.

A sweep hands the points of one configuration to whoever asks. A worker of another configuration
would mix its results in unseen, so each part of a configuration has a hash, and all of them stand
in the sweep itself, where a bare id can be checked.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.grid import values
from engram.grid.sweep_space import configuration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engram.grid.sweep_table import SweepConfig
    from engram.request import Run

__all__ = ["Identity", "identify"]

MARK = "engram-configuration"
DIGITS = 16  # of the hash of one part
MOST_SHOWN = 3  # keys in a message


class Identity(NamedTuple):
    """The hashes of a configuration's parts, and what people should read where they differ."""

    parts: dict[str, str]  # by name: script, commit, parameters, grid, inputs
    details: dict[str, Any]  # of the same names, as far as they are known

    @property
    def sha256(self) -> str:
        """The hash of it all."""
        return _hash(self.parts)

    @property
    def mark(self) -> str:
        """The line by which a sweep on the server is known."""
        told = {"sha256": self.sha256, **self.parts}
        return " ".join([MARK, *(f"{name}={value}" for name, value in told.items())])

    @classmethod
    def marked(cls, text: str) -> Identity | None:
        """Find the line in what the server has of a sweep; None where there is none.

        Args:
            text: the sweep's configuration and description; YAML may have broken the line.
        """
        found = re.search(rf"{MARK}((?:[\s\\]+[a-z0-9]+=[0-9a-f]+)+)", text)
        if found is None:
            return None
        parts = dict(re.findall(r"([a-z0-9]+)=([0-9a-f]+)", found[1]))
        claimed = parts.pop("sha256", None)
        identity = cls(parts, {})
        return identity if identity.sha256 == claimed else None

    def as_json(self) -> dict[str, Any]:
        """What files keep of it."""
        return {"sha256": self.sha256, "parts": self.parts, "details": self.details}

    def differences(self, other: Identity) -> list[str]:
        """What differs in another one, "there", for people; empty where nothing does."""
        found = []
        for name in self.parts:
            if self.parts[name] != other.parts.get(name):
                here, there = self.details.get(name), other.details.get(name)
                found.append(f"its {name} differ{'' if name.endswith('s') else 's'}")
                found[-1] += _how(here, there if there is not None else _known(name, other))
        return found


def identify(run: Run, found: SweepConfig) -> Identity:
    """The identity of what is about to run.

    Args:
        run: the grid's own, up to its snapshot.
        found: what its [grid] table says.
    """
    code = run.code
    points = configuration(found, name="", script="", description="")
    details: dict[str, Any] = {
        "script": run.config.script,
        "commit": code["snapshot_commit"],
        "parameters": _cells(run.parameters.values),
        "grid": _cells(points),
        "inputs": {item.name: item.sha256 for item in run.inputs},
    }
    hashed = {**details, "commit": code["snapshot_commit"] or code["commit"]}
    if run.patch is not None:
        hashed["commit"] = [hashed["commit"], hashlib.sha256(run.patch).hexdigest()]
        details["commit"] = f"{details['commit']} and uncommitted changes"
    commit = hashed.pop("commit")
    parts = {name: _hash(value)[:DIGITS] for name, value in hashed.items()}
    parts["commit"] = commit if isinstance(commit, str) else _hash(commit)
    return Identity(parts, details)


def _hash(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _cells(table: dict[str, Any]) -> dict[str, Any]:
    """The values of a table by their dotted keys, with their types."""
    return {key: list(cell) for key, cell in values.cells(table)}


def _known(name: str, other: Identity) -> str | None:
    """What the hash itself tells: of a commit it is the name."""
    return other.parts.get(name) if name == "commit" else None


def _how(here: Any, there: Any) -> str:  # noqa: ANN401
    """The first few differences of two details: " (epochs is 6 there and 5 here)"."""
    if here is None or there is None:
        return ""
    if not isinstance(here, dict) or not isinstance(there, dict):
        return f" ({there} there, {here} here)"
    keys = [key for key in [*here, *(key for key in there if key not in here)]]
    unlike = [key for key in keys if here.get(key) != there.get(key)]
    more = f", and {len(unlike) - MOST_SHOWN} more" if len(unlike) > MOST_SHOWN else ""
    return f" ({'; '.join(_pairs(here, there, unlike[:MOST_SHOWN]))}{more})"


def _pairs(here: dict[str, Any], there: dict[str, Any], keys: list[str]) -> Iterator[str]:
    for key in keys:
        said = [_shown(side[key]) if key in side else "absent" for side in (there, here)]
        yield f"{key} is {said[0]} there and {said[1]} here"


def _shown(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, list):  # a cell: its type and its value
        return values.shown(value[1])
    return str(value)[:DIGITS]
