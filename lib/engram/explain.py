"""Say why two runs differ: what can cause a difference first, then what differs in the results."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from engram import errors, explain_causes, explain_code, explain_results
from engram import record as records
from engram.explain_parts import CAUSE, RESULT, Section, Side
from engram.store import Store
from engram.table import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from engram.explain_parts import Change
    from engram.paths import RunPaths

__all__ = ["Explanation", "diff_command", "explain"]

CAUSES: tuple[Callable[[Side, Side], Section], ...] = (
    explain_causes.parameters,
    explain_causes.inputs,
    explain_causes.seeds,
    explain_causes.environment,
    explain_causes.hardware,
    explain_causes.experiment,
)
RESULTS: tuple[Callable[[Side, Side], Section], ...] = (
    explain_results.ending,
    explain_results.summary,
    explain_results.metrics,
    explain_results.outputs,
)
TITLES = {CAUSE: "what can cause a difference", RESULT: "what came out"}
LABEL = 13
MOST = 12
WIDEST = 70


class Explanation(NamedTuple):
    """How two runs differ.

    Attributes:
        a: the first run.
        b: the second.
        sections: causes in order of their weight, then results.
        code: the difference of the code as git writes it, "" when there is none.
    """

    a: Side
    b: Side
    sections: list[Section]
    code: str

    def differing(self, kind: str) -> list[str]:
        """The parts of one kind in which something that matters differs."""
        return [part.name for part in self.sections if part.kind == kind and part.differs]

    @property
    def same(self) -> bool:
        """Whether nothing that matters differs."""
        return not self.differing(CAUSE) and not self.differing(RESULT)

    @property
    def conclusion(self) -> str:
        """What follows, in one sentence."""
        causes, results = self.differing(CAUSE), self.differing(RESULT)
        if causes and results:
            return f"the results differ; what can have caused it: {', '.join(causes)}"
        if causes:
            return f"the results are the same, although this differs: {', '.join(causes)}"
        if results:
            return (
                "the results differ, and nothing recorded explains it: the script draws on chance "
                "that no seed governs, on time, or on something that is not recorded"
            )
        return "nothing that matters differs"

    def as_json(self, *, full: bool) -> dict[str, Any]:
        """The explanation for programs."""
        found: dict[str, Any] = {
            name: {"run_id": side.record["run_id"], "folder": str(side.paths.folder)}
            for name, side in (("a", self.a), ("b", self.b))
        }
        found |= {"same": self.same, "conclusion": self.conclusion}
        found["sections"] = [
            {
                "name": part.name,
                "kind": part.kind,
                "differs": part.differs,
                "changes": [change._asdict() for change in part.changes],
                "remarks": part.remarks,
            }
            for part in self.sections
        ]
        return {**found, "code": self.code} if full else found

    def lines(self, *, full: bool) -> Iterator[str]:
        """The explanation on one screen, or whole."""
        for name, side in (("a", self.a), ("b", self.b)):
            yield f"{name:<{LABEL}}{side.record['run_id']}  {side.record['state']}"
        for kind, title in TITLES.items():
            parts = [part for part in self.sections if part.kind == kind]
            told = [part for part in parts if part.changes or part.remarks]
            yield from ["", title]
            for part in told:
                yield from _section(part, full=full)
            silent = [part.name for part in parts if part not in told]
            if silent:
                yield f"  {'the same':<{LABEL - 2}}{', '.join(silent)}"
        yield from ["", self.conclusion]
        if full and self.code:
            yield from ["", *self.code.rstrip("\n").split("\n")]


def explain(a: RunPaths, b: RunPaths) -> Explanation:
    """Compare two runs in everything that is recorded of them.

    Args:
        a: the first run, the one to hold on to: its tolerances count.
        b: the second.

    Raises:
        RunNotFoundError: one has no record.
        StoreError: a record cannot be read.
    """
    first, second = Side.of(a), Side.of(b)
    code, text = explain_code.code(first, second)
    parts = [part(first, second) for part in (*CAUSES, *RESULTS)]
    return Explanation(first, second, [code, *parts], text)


def diff_command(
    start: Path, a: str, b: str, *, as_json: bool = False, full: bool = False
) -> tuple[list[str], int]:
    """What `diff` prints, and its exit code.

    Args:
        start: where the person stands.
        a: a reference of the first run, see Store.find.
        b: of the second.
        as_json: whether to write JSON.
        full: whether to leave nothing out, and add the whole difference of the code.

    Returns:
        Lines, and COMPLETED when nothing that matters differs, else DIFFERENT.

    Raises:
        RunNotFoundError: no run answers to a reference, several do, or it has no record.
        StoreError: a record cannot be read.
    """
    store = Store.for_root(start)
    found = explain(store.find(a), store.find(b))
    if as_json:
        shown = records.plain(found.as_json(full=full))
        lines = [json.dumps(shown, indent=2, ensure_ascii=False)]
    else:
        lines = [printable(line) for line in found.lines(full=full)]
    return lines, errors.COMPLETED if found.same else errors.DIFFERENT


def _section(part: Section, *, full: bool) -> Iterator[str]:
    """One part: what matters first, at most a few lines of it, and its remarks."""
    ordered = sorted(part.changes, key=lambda change: not change.matters)
    chosen = ordered if full else ordered[:MOST]
    texts = [text for change in chosen for text in _change(change, full=full)]
    if len(ordered) > len(chosen):
        texts.append(f"and {len(ordered) - len(chosen)} more: --full shows them")
    texts += part.remarks
    for position, text in enumerate(texts):
        yield f"  {part.name if position == 0 else '':<{LABEL - 2}}{text}"


def _change(change: Change, *, full: bool) -> Iterator[str]:
    """One change as a line, and the lines of code that it brings along."""
    values = f"{_clip(change.a, full=full)} -> {_clip(change.b, full=full)}"
    note = f"  ({change.note})" if change.note else ""
    text = (
        f"{change.key}: {values}{note}" if change.a or change.b else f"{change.key}: {change.note}"
    )
    yield text if change.matters else f"no matter: {text}"
    if not full:
        yield from (f"    {_clip(line, full=False)}" for line in change.lines)


def _clip(text: str, *, full: bool) -> str:
    """A value short enough for the screen."""
    return text if full or len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."
