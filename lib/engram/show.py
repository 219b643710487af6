"""One run on one screen, and where it stands among its relatives."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from engram import record as records
from engram.errors import RunnerError, RunNotFoundError
from engram.readme import command
from engram.table import age, duration, epoch, printable, short, size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engram.paths import RunPaths
    from engram.store import Store

__all__ = ["Lines", "as_json", "block", "lay_out", "lineage", "listed", "screen"]

LABEL = 12
MOST = 24
Lines = list[tuple[str, str]]
Relative = tuple[str, str, dict[str, Any] | None]
Edges = Callable[["Store", dict[str, Any]], Iterator[Relative]]


def screen(paths: RunPaths) -> str:
    """One run as text, from what it was to what to do next.

    Args:
        paths: the run's folder.

    Raises:
        StoreError: the record cannot be read.
    """
    from engram.reconcile import reconcile

    try:
        record = reconcile(paths)
    except RunNotFoundError:
        return _without_record(paths)
    lines: Lines = [("run", record["run_id"]), ("", str(paths.folder))]
    for section in (_what, _when, _code, _parameters, _inputs, _results, _findings, _people, _next):
        lines += section(record, paths)
    return lay_out(lines)


def as_json(paths: RunPaths) -> str:
    """The record as it stands, with the run's folder; the brief of a run that has none."""
    from engram import brief
    from engram.reconcile import reconcile

    try:
        record = reconcile(paths)
    except RunNotFoundError:
        record = brief.read(paths) or {}
    shown = {"folder": str(paths.folder), **record}
    return json.dumps(records.plain(shown), indent=2, ensure_ascii=False, default=str)


def lay_out(lines: Lines) -> str:
    """Labels in a column, texts beside them."""
    return "\n".join(f"{label:<{LABEL}}{printable(text)}".rstrip() for label, text in lines)


def _without_record(paths: RunPaths) -> str:
    """What can be said about a folder whose record was never born."""
    from engram.reconcile import unborn

    state, cause = unborn(paths)
    lines = [("run", paths.run_id), ("", str(paths.folder)), ("state", f"{state}{_because(cause)}")]
    lines.append(("", "it has no record, so it cannot be verified or repeated"))
    return lay_out(lines)


def _because(cause: str | None) -> str:
    """A cause as the end of a sentence."""
    return f": {cause}" if cause else ""


def _what(record: dict[str, Any], paths: RunPaths) -> Lines:
    """Experiment and state."""
    from engram.reconcile import whereabouts

    description = record.get("description")
    ending = record.get("exit") or {}
    state = whereabouts(paths, record) or record["state"]
    # A run that completed has nothing to explain.
    cause = None if record["state"] == "completed" else ending.get("cause")
    lines = [("experiment", record.get("experiment", "") + _because(description))]
    lines.append(("state", state + _because(cause)))
    trace = (ending.get("exception") or {}).get("traceback")
    if trace:
        lines += [("", line) for line in trace.rstrip("\n").split("\n")[-6:]]
    verdict = (record.get("comparison") or {}).get("verdict")
    lines += [("verdict", verdict)] if verdict else []
    place = record.get("grid")
    if not place:
        return lines
    lines += [("grid", place["id"]), ("point", f"{place['point']}{_attempt(record, place)}")]
    sweep = place.get("sweep")
    return [*lines, ("sweep", f"{sweep['id']}, run {sweep['run']}")] if sweep else lines


def _attempt(record: dict[str, Any], place: dict[str, Any]) -> str:
    """Which attempt at its point a run was, and on which device."""
    devices = (record.get("devices") or {}).get("labels") or ()
    parts = [f"attempt {place['attempt']}" if place["attempt"] > 1 else None, *devices]
    return f" ({listed(parts)})" if any(parts) else ""


def _when(record: dict[str, Any], paths: RunPaths) -> Lines:
    """When, how long, where, at what cost."""
    times, usage = record["times"], record.get("usage") or {}
    started = times.get("started") or times.get("created")
    began = epoch(started)
    took = times.get("run_s")
    running = record["state"] == "running" and began is not None
    spent = duration(took) or (f"{age(time.time() - began)} so far" if running and began else "")
    moment = (started or "").replace("T", " ")[:19] + " UTC"
    parts = [moment, f"took {spent}" if took is not None else spent]
    if usage.get("max_rss_bytes"):
        parts.append(f"peak memory {size(usage['max_rss_bytes'])}")
    machine = record.get("environment") or {}
    gpus = [gpu.get("name", "") for gpu in machine.get("gpus") or []]
    python = f"Python {machine['python']}" if machine.get("python") else ""
    torch = f"torch {machine['torch']}" if machine.get("torch") else ""
    where = [
        f"{record.get('user')}@{record.get('host')}",
        python,
        torch,
        machine.get("cpu") or "",
        *gpus,
    ]
    return [("when", listed(parts)), ("where", listed(where))]


def listed(parts: Iterable[Any]) -> str:
    """What there is, with commas."""
    return ", ".join(str(part) for part in parts if part)


def _code(record: dict[str, Any], paths: RunPaths) -> Lines:
    """Script, commit and seeds."""
    code = record.get("code") or {}
    where = {True: "on a remote", False: "not pushed", None: None}[code.get("on_remote")]
    kind = [
        code.get("branch") or "detached",
        where,
        "dirty: see provenance/code.patch" if code.get("dirty") else None,
    ]
    kind.append("LIVE working tree" if code.get("live") else None)
    seed = f"{record.get('seed')}, hash seed {record.get('hash_seed')}"
    return [
        ("script", (record.get("script") or {}).get("path") or ""),
        ("commit", f"{code.get('commit')} ({listed(kind)})"),
        ("seed", seed),
    ]


def _parameters(record: dict[str, Any], paths: RunPaths) -> Lines:
    """The parameters, those given on the command line first and marked."""
    from engram.brief import facts, parameters

    overrides = record.get("overrides") or {}
    given = [
        text.lstrip("+").split("=", 1)[0].strip() for text in overrides.get("parameters") or []
    ]
    flat: dict[str, list[str]] = {}
    for key, _, text in facts({"parameters": parameters(paths)}):
        flat.setdefault(key.removeprefix("param."), []).append(text)
    ordered = [key for key in given if key in flat] + [key for key in flat if key not in given]
    texts = [
        f"{key} = {', '.join(flat[key])}{'  (--set)' if key in given else ''}"
        for key in dict.fromkeys(ordered)
    ]
    texts += [f"--config {text}" for text in overrides.get("experiment") or []]
    return block("parameters", texts, "parameters.toml")


def block(label: str, texts: list[str], rest: str) -> Lines:
    """Lines under one label, at most a screen of them."""
    shown = texts[:MOST] + (
        [f"and {len(texts) - MOST} more: see {rest}"] if len(texts) > MOST else []
    )
    return [(label if i == 0 else "", text) for i, text in enumerate(shown)]


def _inputs(record: dict[str, Any], paths: RunPaths) -> Lines:
    """The declared inputs."""
    texts = []
    for item in record.get("inputs") or []:
        origin = f"run {item['run']}" if item.get("run") else item.get("path")
        hashed = str(item.get("sha256") or "")[:12]
        how = listed((item.get("strategy"), size(item.get("size")), hashed))
        texts.append(f"{item.get('name')}: {origin} ({how})")
    return block("inputs", texts, "provenance/inputs.json")


def _results(record: dict[str, Any], paths: RunPaths) -> Lines:
    """The summary, and how much came out."""
    texts = [f"{key} = {short(value)}" for key, value in (record.get("summary") or {}).items()]
    lines = block("summary", texts, "metadata.json")
    outputs = record.get("outputs")
    if outputs:
        lines.append(("outputs", f"{outputs['files']} files, {size(outputs['size'])}"))
    return lines


def _findings(record: dict[str, Any], paths: RunPaths) -> Lines:
    """What was found, the gravest first."""
    order = {"error": 0, "warning": 1, "note": 2}
    found = sorted(
        record.get("findings") or [], key=lambda item: order.get(item.get("severity"), 3)
    )
    texts = [f"{item.get('severity')}: {item.get('message') or item.get('code')}" for item in found]
    return block("findings", texts, "metadata.json")


def _people(record: dict[str, Any], paths: RunPaths) -> Lines:
    """Edges, tags and notes."""
    parents = record.get("parents") or {}
    lines = [
        (label, parents[key]["run"])
        for label, key in (("resumed from", "resumed_from"), ("rerun of", "rerun_of"))
        if parents.get(key)
    ]
    lines += [
        ("rerun as", f"{item.get('run')}: {item.get('verdict')}")
        for item in record.get("reruns") or []
    ]
    if record.get("tags") or record.get("pinned"):
        lines.append(("tags", listed([*record["tags"], "pinned" if record["pinned"] else None])))
    return lines + block(
        "notes", [item.get("text", "") for item in record.get("notes") or []], "metadata.json"
    )


def _next(record: dict[str, Any], paths: RunPaths) -> Lines:
    """What to type next."""
    call, run = command(record), record["run_id"]
    if record["state"] not in records.ENDED:
        return []
    steps = [] if (record.get("code") or {}).get("live") else [f"{call} --rerun {run}"]
    if record["state"] != "completed" and paths.checkpoints.is_dir():
        steps.insert(0, f"{call} --resume {run}")
    return block("next", [*steps, f"{call} verify {run}"], "")


EDGES = (("resumed_from", "resumed from"), ("rerun_of", "rerun of"))
CHILDREN = (("resumed_from", "continued as"), ("rerun_of", "rerun as"), ("input_run", "input of"))


def lineage(store: Store, paths: RunPaths) -> str:
    """The family of a run: what it came from, and what came of it.

    Args:
        store: where relatives are looked for.
        paths: the run's folder.

    Returns:
        Two trees, below the run's own line.
    """
    from engram.brief import read

    brief = read(paths) or {}
    lines = [f"{brief['run_id']}  {brief['state']}"]
    for title, edges in (("came from", _parents), ("gave rise to", _children)):
        branches = list(_tree(store, brief, edges, {brief["run_id"]}, ""))
        lines += [title, *(branches or ["    nothing recorded"])]
    return "\n".join(printable(line) for line in lines)


def _parents(store: Store, brief: dict[str, Any]) -> Iterator[Relative]:
    """(how, run id, brief or None when it is not here) of what a run came from."""
    from engram.brief import read

    found = [(how, brief[key]) for key, how in EDGES if brief[key]]
    found += [("input from", run) for run in brief["input_runs"]]
    for how, run in found:
        try:
            yield how, run, read(store.find(run))
        except RunnerError:
            yield how, run, None


def _children(store: Store, brief: dict[str, Any]) -> Iterator[Relative]:
    """(how, run id, brief) of what came of a run."""
    from engram.filters import Filter

    for key, how in CHILDREN:
        for row in store.list_runs([Filter(key, "=", brief["run_id"])], sort="created"):
            verdict = (
                f" ({row.brief['verdict']})" if key == "rerun_of" and row.brief["verdict"] else ""
            )
            yield how + verdict, row.run_id, row.brief


def _tree(
    store: Store, brief: dict[str, Any], edges: Edges, seen: set[str], indent: str
) -> Iterator[str]:
    """The lines of one tree; a run that was shown already is not opened again."""
    found = list(edges(store, brief))
    for position, (how, run, other) in enumerate(found):
        last = position == len(found) - 1
        state = other["state"] if other else "not found here"
        again = "  (see above)" if run in seen and other else ""
        yield f"{indent}{'└── ' if last else '├── '}{how} {run}  {state}{again}"
        if other and run not in seen:
            seen.add(run)
            yield from _tree(store, other, edges, seen, indent + ("    " if last else "│   "))
