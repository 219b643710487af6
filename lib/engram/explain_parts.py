"""What two runs are compared by, and the parts that need no git: causes other than the code."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from engram import reconcile, toml
from engram.compare_values import ABSENT, Tolerance, differences, show
from engram.errors import ConfigError
from engram.files import read_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from engram.paths import RunPaths

__all__ = ["CAUSE", "RESULT", "Change", "Section", "Side", "flat", "unlike"]

CAUSE, RESULT = "cause", "result"
# Names a run, a person or a place: no number depends on it.
NAMES_ONLY = ("name", "description", "log_file", "output_dir", "wandb.tags", "wandb.notes")
# How results are judged afterwards.
JUDGING = "outputs."
# Compared in parts of their own.
ELSEWHERE = (
    *("script", "seed", "parameters_file", "data.inputs"),
    *("environment.hash_seed", "environment.threads"),
)
JOB_VARIABLES = ("SLURM_JOB_ID", "SLURM_JOB_PARTITION", "VIRTUAL_ENV", "CONDA_DEFAULT_ENV")


class Change(NamedTuple):
    """One thing that is not the same in both runs.

    Attributes:
        key: what.
        a: its value in the first run, as text; "absent" when it has none.
        b: its value in the second.
        note: what else is known.
        matters: whether it can change a result, or is one.
    """

    key: str
    a: str
    b: str
    note: str = ""
    matters: bool = True

    def as_json(self) -> dict[str, Any]:
        """The change with its field names."""
        return self._asdict()


@dataclass
class Section:
    """One aspect in which two runs are compared.

    Attributes:
        name: such as "parameters".
        kind: CAUSE or RESULT.
        changes: what differs, the most telling first.
        remarks: what could not be compared, and how it was done instead.
    """

    name: str
    kind: str
    changes: list[Change] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def differs(self) -> bool:
        """Whether anything that matters does."""
        return any(change.matters for change in self.changes)


class Side(NamedTuple):
    """One of the two runs, as its folder tells it.

    Attributes:
        paths: the folder.
        record: metadata.json.
        parameters: as the script read them; None when they cannot be read.
        experiment: experiment.toml as resolved; likewise.
        environment: environment.json; likewise.
        imports: imports.json; likewise, as of a run that was killed.
    """

    paths: RunPaths
    record: dict[str, Any]
    parameters: dict[str, Any] | None
    experiment: dict[str, Any] | None
    environment: dict[str, Any] | None
    imports: dict[str, Any] | None

    @classmethod
    def of(cls, paths: RunPaths) -> Side:
        """Read a run.

        Raises:
            RunNotFoundError: it has no record.
            StoreError: the record cannot be read.
        """
        return cls(
            paths,
            reconcile.reconcile(paths),
            read_toml(paths.parameters),
            read_toml(paths.experiment),
            read_table(paths.environment),
            read_table(paths.imports),
        )

    def setting(self, *keys: str) -> Any:  # noqa: ANN401
        """A value of experiment.toml; None where it has none."""
        found: Any = self.experiment
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return found


def read_toml(path: Path) -> dict[str, Any] | None:
    """The values of a TOML file; None when it is missing or damaged."""
    try:
        return toml.read(path)[1]
    except ConfigError:
        return None


def read_table(path: Path) -> dict[str, Any] | None:
    """A JSON object in a file; None when it is missing or damaged."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, by dotted key; lists stay values."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, dict):
            found.update(flat(value, name))
        else:
            found[name] = value
    return found


def unlike(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Change]:
    """The values that differ, in the order of their keys."""
    for found in differences(dict(sorted(a.items())), dict(sorted(b.items())), Tolerance()):
        yield Change(found.key, found.a, found.b, found.note)


def parameters(a: Side, b: Side) -> Section:
    """What the scripts were told."""
    section = Section("parameters", CAUSE)
    if a.parameters is None or b.parameters is None:
        section.changes += _unread(a, b, "parameters")
        return section
    section.changes += unlike(flat(a.parameters), flat(b.parameters))
    return section


def _unread(a: Side, b: Side, name: str) -> Iterator[Change]:
    """A file that cannot be read on one side or both: judged by its recorded hash."""
    hashes = [str(side.record["hashes"].get(name))[:12] for side in (a, b)]
    if hashes[0] != hashes[1]:
        yield Change(f"{name}.toml", hashes[0], hashes[1], "sha256; the file cannot be read")


def inputs(a: Side, b: Side) -> Section:
    """What the scripts were given, by recorded hash."""
    section = Section("inputs", CAUSE)
    ours, theirs = ({item["name"]: item for item in side.record["inputs"]} for side in (a, b))
    entries = [_entries(side) for side in (a, b)]
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in ours or name not in theirs:
            texts = [_origin(side.get(name)) for side in (ours, theirs)]
            section.changes.append(Change(name, *texts))
            continue
        old, new = ours[name], theirs[name]
        if old["sha256"] != new["sha256"]:
            note = _files(entries[0].get(name, {}), entries[1].get(name, {}))
            section.changes.append(Change(name, _hash(old), _hash(new), note))
        elif _origin(old) != _origin(new):
            said = "the same content"
            section.changes.append(Change(name, _origin(old), _origin(new), said, matters=False))
    return section


def _hash(item: dict[str, Any]) -> str:
    return f"sha256 {str(item['sha256'])[:12]}"


def _origin(item: dict[str, Any] | None) -> str:
    """Where an input came from."""
    if item is None:
        return ABSENT
    return f"run {item['run']}" if item.get("run") else str(item["path"])


def _entries(side: Side) -> dict[str, dict[str, str]]:
    """Input name -> path -> sha256, from the manifest; nothing when it cannot be read."""
    try:
        listed = read_json(side.paths.inputs_manifest)
        return {
            item["name"]: {entry["path"]: entry["sha256"] for entry in item["entries"]}
            for item in listed
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _files(a: dict[str, str], b: dict[str, str]) -> str:
    """Which files of an input differ."""
    names = sorted(path for path in a.keys() | b.keys() if a.get(path) != b.get(path))
    if len(a) <= 1 and len(b) <= 1:
        return ""
    return some(names, "file")


def some(names: list[str], what: str) -> str:
    """How many, and the first three."""
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)} {what}{'' if len(names) == 1 else 's'}: {', '.join(names[:3])}{more}"


def seeds(a: Side, b: Side) -> Section:
    """Where chance begins: seeds, and the checkpoint a run was continued from."""
    kept = ("seed", "hash_seed")
    ours, theirs = ({key: side.record.get(key) for key in kept} for side in (a, b))
    section = Section("seeds", CAUSE, list(unlike(ours, theirs)))
    starts = [side.record["parents"].get("resumed_from") or {} for side in (a, b)]
    if starts[0].get("sha256") != starts[1].get("sha256"):
        section.changes.append(Change("start", *map(_start, starts)))
    return section


def _start(edge: dict[str, Any]) -> str:
    return f"checkpoint {edge['checkpoint']} of {edge['run']}" if edge else "from the beginning"


def experiment(a: Side, b: Side) -> Section:
    """Settings that no other part covers."""
    section = Section("experiment", CAUSE)
    if a.experiment is None or b.experiment is None:
        section.changes += _unread(a, b, "experiment")
        return section
    cut_short = "timed_out" in (a.record["state"], b.record["state"])
    for change in unlike(_settings(a.experiment), _settings(b.experiment)):
        idle = change.key in NAMES_ONLY or change.key.startswith(JUDGING)
        idle = idle or (change.key == "timeout" and not cut_short)
        section.changes.append(change._replace(matters=not idle))
    return section


def _settings(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flat(values).items() if key not in ELSEWHERE}


def environment(a: Side, b: Side) -> Section:
    """Python, torch, threads, system, variables and packages; those in use first."""
    section = Section("environment", CAUSE)
    left, right = _environment(a, section), _environment(b, section)
    section.changes += unlike(_software(a, left), _software(b, right))
    if left.get("build") != right.get("build") and left.get("python") == right.get("python"):
        builds = (str(left.get("build", ABSENT)), str(right.get("build", ABSENT)))
        section.changes.append(Change("python build", *builds, matters=False))
    if left.get("platform") != right.get("platform"):
        places = (str(left.get("platform")), str(right.get("platform")))
        section.changes.append(Change("platform", *places, matters=False))
    for change in unlike(left.get("variables") or {}, right.get("variables") or {}):
        idle = change.key in JOB_VARIABLES
        section.changes.append(change._replace(key=f"${change.key}", matters=not idle))
    if "packages" in left and "packages" in right:
        section.changes += _packages(a, b, left, right)
    return section


def _environment(side: Side, section: Section) -> dict[str, Any]:
    """environment.json, or the little that the record itself says."""
    if side.environment is not None:
        return side.environment
    name = side.paths.environment.name
    section.remarks.append(f"{name} of {side.paths.run_id} cannot be read: packages not compared")
    known = side.record.get("environment") or {}
    return {key: value for key, value in known.items() if key != "packages"}


def _software(side: Side, facts: dict[str, Any]) -> dict[str, Any]:
    """Versions that numbers depend on, and the threads that share the work."""
    keys = ("python", "implementation", "torch", "torch_cuda", "os", "libc")
    found = {key: facts[key] for key in keys if key in facts}
    return {**found, "threads": side.setting("environment", "threads")}


def _packages(
    a: Side, b: Side, left: dict[str, Any], right: dict[str, Any]
) -> Iterable[Change]:
    """Packages by version, and by address where they came from no index."""
    used = {
        _plain(name) for side in (a, b) for name in (side.imports or {}).get("packages") or ()
    }
    found = []
    for facts, what in (("packages", ""), ("installed_from", " from")):
        ours, theirs = (dict(side.get(facts) or {}) for side in (left, right))
        for name in sorted(ours.keys() | theirs.keys()):
            old, new = ours.get(name, ABSENT), theirs.get(name, ABSENT)
            # torch has a line of its own, with the build.
            if old != new and (name != "torch" or what):
                note = "imported" if _plain(name) in used else ""
                found.append(Change(f"{name}{what}", str(old), str(new), note))
    return sorted(found, key=lambda change: not change.note)


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def hardware(a: Side, b: Side) -> Section:
    """Processor and GPUs."""
    section = Section("hardware", CAUSE)
    left, right = (
        side.environment or side.record.get("environment") or {} for side in (a, b)
    )
    section.changes += unlike(_machine(left), _machine(right))
    cards = [[gpu.get("uuid") for gpu in side.get("gpus") or ()] for side in (left, right)]
    if cards[0] != cards[1] and not section.changes:
        texts = (", ".join(map(str, ids)) for ids in cards)
        section.changes.append(Change("gpu", *texts, "other cards of one kind", matters=False))
    if a.record.get("host") != b.record.get("host"):
        hosts = (str(a.record.get("host")), str(b.record.get("host")))
        section.changes.append(Change("host", *hosts, matters=False))
    return section


def _machine(facts: dict[str, Any]) -> dict[str, Any]:
    keys = ("cpu", "cpus_usable", "driver", "cuda")
    gpus = [gpu.get("name") for gpu in facts.get("gpus") or ()]
    return {**{key: facts[key] for key in keys if key in facts}, "gpus": gpus}


def text(value: Any) -> str:  # noqa: ANN401
    """A value for people."""
    return value if isinstance(value, str) else json.dumps(value, default=show)
