"""What can make the results of two runs differ, apart from their code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engram.compare_values import ABSENT
from engram.explain_parts import CAUSE, Change, Section, flat, some, unlike
from engram.files import read_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from engram.explain_parts import Side

__all__ = ["environment", "experiment", "hardware", "inputs", "parameters", "seeds"]

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
            texts = _origin(ours.get(name)), _origin(theirs.get(name))
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


def seeds(a: Side, b: Side) -> Section:
    """Where chance begins: seeds, and the checkpoint a run was continued from."""
    kept = ("seed", "hash_seed")
    ours, theirs = ({key: side.record.get(key) for key in kept} for side in (a, b))
    section = Section("seeds", CAUSE, list(unlike(ours, theirs)))
    old, new = (side.record["parents"].get("resumed_from") or {} for side in (a, b))
    if old.get("sha256") != new.get("sha256"):
        section.changes.append(Change("start", _start(old), _start(new)))
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


def _packages(a: Side, b: Side, left: dict[str, Any], right: dict[str, Any]) -> Iterable[Change]:
    """Packages by version, and by address where they came from no index."""
    used = {_plain(name) for side in (a, b) for name in (side.imports or {}).get("packages") or ()}
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
    left, right = (side.environment or side.record.get("environment") or {} for side in (a, b))
    section.changes += unlike(_machine(left), _machine(right))
    cards = [[gpu.get("uuid") for gpu in side.get("gpus") or ()] for side in (left, right)]
    if cards[0] != cards[1] and not section.changes:
        names = ", ".join(map(str, cards[0])), ", ".join(map(str, cards[1]))
        section.changes.append(Change("gpu", *names, "other cards of one kind", matters=False))
    if a.record.get("host") != b.record.get("host"):
        hosts = (str(a.record.get("host")), str(b.record.get("host")))
        section.changes.append(Change("host", *hosts, matters=False))
    return section


def _machine(facts: dict[str, Any]) -> dict[str, Any]:
    keys = ("cpu", "cpus_usable", "driver", "cuda")
    gpus = [gpu.get("name") for gpu in facts.get("gpus") or ()]
    return {**{key: facts[key] for key in keys if key in facts}, "gpus": gpus}
