"""Compare what two runs brought out: outputs, metrics and summary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engram import outputs, record
from engram.compare import DIFFERENT, EQUAL, IDENTICAL, compare_files
from engram.compare_values import Tolerance, differences
from engram.files import read_json
from engram.manifest import hash_file
from engram.outputs import Comparison, FileComparison, overall

if TYPE_CHECKING:
    from engram.config import OutputsConfig
    from engram.paths import RunPaths

__all__ = ["compare_results"]


def compare_results(
    original: RunPaths, new: RunPaths, *, summary: dict[str, Any] | None, settings: OutputsConfig
) -> dict[str, Any]:
    """Hold a rerun's results against the original's.

    Args:
        original: the recorded run; one that did not complete brought out nothing to compare with.
        new: the rerun, its script completed.
        summary: what the rerun's main returned.
        settings: which outputs are volatile, and the tolerances.

    Returns:
        {"with": run id, "verdict", "files": [...]}; the verdict is "identical", "equal",
        "different", or "not compared".
    """
    before = record.load(original)
    result = {"with": original.run_id}
    if before["state"] != "completed":
        return {**result, "verdict": "not compared", "files": []}
    tolerance = Tolerance(rtol=settings.rtol, atol=settings.atol)
    found = outputs.compare(
        original.outputs,
        new.outputs,
        volatile=settings.volatile,
        rtol=settings.rtol,
        atol=settings.atol,
    )
    files = (
        *(beside_the_record(file, original, new) for file in found.files),
        *metrics(original, new, tolerance),
        of_summary(before, summary, tolerance),
    )
    return {**result, **Comparison(overall(files), files).as_json()}


def beside_the_record(file: FileComparison, original: RunPaths, new: RunPaths) -> FileComparison:
    """Judge a file by the recorded hash when the original's own file was altered since."""
    recorded = {entry["path"]: entry["sha256"] for entry in read_json(original.outputs_manifest)}
    sha256 = recorded.get(file.path)
    if file.verdict in (IDENTICAL, outputs.VOLATILE) or sha256 is None:
        return file
    old, fresh = original.outputs / file.path, new.outputs / file.path
    if old.is_file() and hash_file(old) == sha256:
        return file
    altered = "the original's own file was altered or removed since, see verify"
    if fresh.is_file() and hash_file(fresh) == sha256:
        return FileComparison(file.path, IDENTICAL, f"by the recorded hash; {altered}")
    return FileComparison(file.path, DIFFERENT, f"not the recorded content; {altered}")


def metrics(a: RunPaths, b: RunPaths, tolerance: Tolerance) -> list[FileComparison]:
    """Compare the logged metrics; they hold no wall times, so they are a result like any other."""
    name = a.metrics.name
    there = [paths.metrics.exists() for paths in (a, b)]
    if not any(there):
        return []
    if not all(there):
        verdict = outputs.MISSING if there[0] else outputs.EXTRA
        return [FileComparison(name, verdict, "only one of the two runs logged metrics")]
    result = compare_files(a.metrics, b.metrics, tolerance)
    return [FileComparison(name, result.verdict, result.reason, result.first)]


def of_summary(
    before: dict[str, Any], summary: dict[str, Any] | None, tolerance: Tolerance
) -> FileComparison:
    """Compare what the two mains returned."""
    first = None
    for difference in differences(before["summary"], summary, tolerance):
        if not difference.within:
            return FileComparison("summary", DIFFERENT, str(difference), difference)
        first = first or difference
    if first is not None:
        return FileComparison("summary", EQUAL, "equal within the tolerances", first)
    return FileComparison("summary", IDENTICAL, "the same values")
