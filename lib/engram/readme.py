"""The README.md of a run folder: what a person reads first, with no engram at hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.table import duration, printable, short, size

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["cell", "command", "fence", "one_line", "paragraphs", "render", "unpacking"]

INTRODUCTION = {
    "created": "It has not started yet.",
    "running": "It is running.",
    "completed": "It completed.",
    "failed": "It failed",
    "interrupted": "It was interrupted",
    "killed": "It was killed",
    "timed_out": "It was ended by its timeout",
}


def render(record: dict[str, Any]) -> str:
    """Write the README of a run.

    Args:
        record: as in metadata.json.

    Returns:
        Markdown.
    """
    sections = (_title, _facts, _summary, _again, _source, _not_pinned, _cite, _files)
    return "\n\n".join(text for section in sections if (text := section(record))) + "\n"


def _title(record: dict[str, Any]) -> str:
    """What it was and how it ended."""
    ending = record.get("exit") or {}
    opening = INTRODUCTION.get(record["state"], record["state"])
    cause = ending.get("cause")
    if not opening.endswith("."):
        opening += f": {one_line(cause)}" if cause else "."
    parts = [
        f"# {one_line(record.get('experiment') or 'run')}",
        one_line(record.get("description") or ""),
        opening,
    ]
    trace = (ending.get("exception") or {}).get("traceback")
    return "\n\n".join([part for part in parts if part] + ([fence(trace)] if trace else []))


def _facts(record: dict[str, Any]) -> str:
    """What, when, where, from which code."""
    times, code = record["times"], record.get("code") or {}
    machine, outputs = record.get("environment") or {}, record.get("outputs") or {}
    overrides, place = record.get("overrides") or {}, record.get("grid") or {}
    given = [f"--set {text}" for text in overrides.get("parameters") or []]
    given += [f"--config {text}" for text in overrides.get("experiment") or []]
    rows = {
        "run": record["run_id"],
        "grid": place.get("id"),
        "point": place.get("point"),
        "state": record["state"],
        "started": times.get("started") or "never",
        "ended": times.get("ended"),
        "took": duration(times.get("run_s")),
        "script": (record.get("script") or {}).get("path"),
        "commit": code.get("commit"),
        "branch": code.get("branch"),
        "remotes": " ".join(f"{name}: {url}" for name, url in (code.get("remotes") or {}).items()),
        "overrides": " ".join(given),
        "seed": record.get("seed"),
        "machine": " ".join(
            filter(None, (record.get("host"), machine.get("platform"), machine.get("cpu")))
        ),
        "Python": machine.get("python"),
        "torch": machine.get("torch"),
        "resumed from": _edge(record, "resumed_from"),
        "rerun of": _edge(record, "rerun_of"),
        "verdict": (record.get("comparison") or {}).get("verdict"),
        "outputs": f"{outputs['files']} files, {size(outputs['size'])}" if outputs else None,
    }
    cells = [(key, cell(value)) for key, value in rows.items() if value not in (None, "")]
    inputs = [
        (f"input {item.get('name')}", cell(_origin(item))) for item in record.get("inputs") or []
    ]
    return "\n".join(
        ["| | |", "|---|---|", *(f"| {cell(key)} | {value} |" for key, value in cells + inputs)]
    )


def _edge(record: dict[str, Any], key: str) -> str | None:
    """The run at the other end of an edge."""
    edge = (record.get("parents") or {}).get(key)
    return edge["run"] if edge else None


def _origin(item: dict[str, Any]) -> str:
    """Where an input came from, and its hash."""
    origin = f"run {item['run']}" if item.get("run") else item.get("path")
    return f"{origin} ({item.get('strategy')}, sha256 {item.get('sha256')})"


def _summary(record: dict[str, Any]) -> str:
    """The numbers that came out."""
    values = record.get("summary") or {}
    if not values:
        return ""
    lines = [f"| {cell(key)} | {cell(short(value))} |" for key, value in values.items()]
    return "\n".join(["## Summary", "", "| | |", "|---|---|", *lines])


def _again(record: dict[str, Any]) -> str:
    """The commands that continue, repeat and check this run."""
    call, run = command(record), record["run_id"]
    lines = [
        f"{call} show {run}",
        f"{call} verify {run}     # every recorded hash against this folder",
    ]
    if not (record.get("code") or {}).get("live"):
        lines.append(f"{call} --rerun {run}    # again, then compare the outputs")
        lines.append(
            f"{call} --resume {run}   # a new run from its newest checkpoint, if it saved one"
        )
    note = "The path of this folder works in place of the id, also after it was moved or copied."
    where = "In the repository, or anywhere with engram installed:"
    return paragraphs("## Again", where, fence("\n".join(lines)), note)


def _source(record: dict[str, Any]) -> str:
    """How to get at the code with plain git."""
    code = record.get("code") or {}
    commit = code.get("snapshot_commit")
    if not commit or not code.get("source_sha256"):
        return ""
    dirty = (
        "The working tree differed from its commit. This holds what ran; the difference from "
        f"{code.get('commit')} is in provenance/code.patch."
        if code.get("dirty")
        else ""
    )
    what = "provenance/source.pack holds the commit without its history. With plain git, from here:"
    return paragraphs("## The code", what, unpacking(commit, "provenance/source.pack"), dirty)


def unpacking(commit: str, pack: str) -> str:
    """The commands of plain git that lay out a commit from its pack, as a block of code."""
    return fence(
        "git init code\n"
        f"git -C code unpack-objects < {pack}\n"
        f"git -C code update-ref --no-deref HEAD {commit}\n"
        f"echo {commit} > code/.git/shallow\n"
        "git -C code reset --hard"
    )


def _not_pinned(record: dict[str, Any]) -> str:
    """What this record cannot vouch for."""
    items = [*_loose_ends(record), *(_finding(item) for item in record.get("findings") or [])]
    body = "\n".join(f"- {item}" for item in items) or "Nothing is known to be missing."
    return f"## What was not pinned\n\n{body}"


def _loose_ends(record: dict[str, Any]) -> Iterable[str]:
    """What follows from the record itself, beside the findings."""
    code, hashes = record.get("code") or {}, record.get("hashes") or {}
    if code.get("live"):
        yield "The code: the run used the live working tree, which no commit holds."
    elif not code.get("source_sha256"):
        yield "The code lies in no source pack here: it must come from the repository."
    if not hashes.get("lock_file"):
        yield "The packages: no uv.lock; provenance/environment.json lists what was installed."
    links = [
        one_line(item.get("name"))
        for item in record.get("inputs") or []
        if item.get("strategy") == "symlink"
    ]
    if links:
        yield f"Inputs by link, recorded by hash, their content elsewhere: {', '.join(links)}."
    if not record.get("outputs"):
        yield "The outputs: the run ended before they were hashed."


def _finding(item: dict[str, Any]) -> str:
    """One finding as a list item."""
    text = one_line(item.get("message") or item.get("code"))
    return f"{item.get('severity')}: {text} (`{item.get('code')}`)"


def _cite(record: dict[str, Any]) -> str:
    """One line that names this result for good."""
    code = record.get("code") or {}
    when = (record["times"].get("started") or record["times"].get("created") or "")[:10]
    version = (record.get("engram") or {}).get("version")
    text = (
        f"{record.get('experiment')}, run {record['run_id']} ({when}), "
        f"commit {code.get('commit')}, record sha256 {record.get('record_sha256')}, "
        f"made with engram {version}."
    )
    return f"## Cite\n\n{one_line(text)}"


def _files(record: dict[str, Any]) -> str:
    """What lies where."""
    return """## Files

| | |
|---|---|
| metadata.json | the record: what ran, on what, and how it ended |
| experiment.toml, parameters.toml | as they were used |
| inputs/, outputs/ | what went in and what came out |
| metrics.jsonl | one line per logged step, when the script logs any |
| log.out, log.err | what the script printed |
| provenance/ | environment, manifests with sha256, imported and opened files, the code |"""


def command(record: dict[str, Any]) -> str:
    """How this run's repository calls engram: ./run where it has that script, else engram."""
    root = Path((record.get("repository") or {}).get("root") or "/nonexistent")
    own = (root / "run").is_file() and (root / "run_experiment.py").is_file()
    return "./run" if own else "engram"


def paragraphs(*texts: str) -> str:
    """Texts with an empty line between them."""
    return "\n\n".join(text for text in texts if text)


def one_line(value: Any) -> str:  # noqa: ANN401
    """A value within one line."""
    return printable(str(value))


def cell(value: Any) -> str:  # noqa: ANN401
    """A value within a cell of a table."""
    return one_line(value).replace("|", "\\|")


def fence(text: str) -> str:
    """A block of code, fenced by more backticks than it holds."""
    mark = "```"
    while mark in text:
        mark += "`"
    body = text.rstrip("\n")
    return f"{mark}\n{body}\n{mark}"
