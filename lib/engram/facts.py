"""What the record says: the sections of metadata.json, composed from a run on its way."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from engram import __version__, lease, manifest, record
from engram.files import read_json
from engram.findings import Finding

if TYPE_CHECKING:
    from engram.manifest import Entry
    from engram.paths import RunPaths
    from engram.repository import GitState
    from engram.request import Run

__all__ = ["final_facts", "first_record", "log_line"]


def first_record(run: Run) -> dict[str, Any]:
    """The record at a run's birth: all that can be known before the script starts."""
    config, request = run.config, run.request
    held = {"guard": run.supervised.token, "tmp": str(run.tmp)}
    identity = {**lease.process_identity(), **held}
    return {
        "schema_version": record.SCHEMA_VERSION,
        "engram": {"version": __version__},
        "run_id": run.paths.run_id,
        "experiment": config.name,
        "description": config.description,
        "state": "created",
        "exit": None,
        "argv": list(request.argv),
        "script": {"path": config.script, "blob": run.script_blob},
        "code": run.code,
        "repository": {"root": str(config.root)},
        "hashes": hashes(run),
        "grid": request.place and request.place.as_json(),
        "devices": request.devices and request.devices.as_json(),
        "processes": config.engine.processes,
        "overrides": {
            "parameters": list(request.set_parameters),
            "experiment": list(request.set_config),
        },
        "inputs": [item.as_json() for item in run.inputs],
        "seed": config.seed,
        "hash_seed": config.environment.hash_seed,
        "timeout_s": config.timeout_s,
        "environment": brief_environment(run.environment),
        "host": identity["host"],
        "user": identity["user"],
        "lease": identity,
        "times": {
            "created": record.now_utc(),
            "started": None,
            "ended": None,
            "run_s": None,
            "total_s": None,
        },
        "usage": None,
        "parents": {"resumed_from": request.resumed_from, "rerun_of": request.rerun_of},
        "comparison": None,
        "pruned": False,
        "summary": None,
        "findings": [item.as_dict() for item in run.findings],
        "wandb": None,
        "outputs": None,
        "logs": None,
        "reruns": [],
        "tags": [],
        "notes": [],
        "pinned": False,
    }


def hashes(run: Run) -> dict[str, str | None]:
    """sha256 of the files that lie in the run folder from the start."""
    paths = run.paths
    return {
        "parameters": manifest.hash_file(paths.parameters),
        "experiment": manifest.hash_file(paths.experiment),
        "environment": manifest.hash_file(paths.environment),
        "inputs": manifest.hash_file(paths.inputs_manifest),
        "lock_file": manifest.hash_file(paths.lock_file) if paths.lock_file.exists() else None,
        "metrics": None,
        "imports": None,
        "files": None,
    }


def brief_environment(environment: dict[str, Any]) -> dict[str, Any]:
    """What the record itself says of the environment; provenance/environment.json says it all."""
    keys = ("python", "executable", "platform", "torch", "cpu")
    return {
        **{key: environment[key] for key in keys},
        "gpus": environment["gpus"],
        "packages": len(environment["packages"]),
    }


def code_facts(state: GitState, *, live: bool) -> dict[str, Any]:
    """The record's `code` table; what the snapshot adds is filled in when it is taken."""
    return {
        "commit": state.commit,
        "branch": state.branch,
        "remotes": state.remotes,
        "on_remote": state.on_remote,
        "dirty": state.dirty,
        "live": live,
        "patch_sha256": None,
        "snapshot_commit": None if live else state.commit,
        "source_sha256": None,
        "submodules": state.submodules,
    }


def code_findings(code: dict[str, Any], state: GitState | None = None) -> list[Finding]:
    """What may make the code hard to find, or to trust, later.

    Args:
        code: the record's `code` table.
        state: the working tree; None for the code of an earlier run.
    """
    changed = [change.path for change in state.changes] if state else []
    found = []
    if code["live"]:
        said = "the working tree ran, not a commit: not repeatable"
        found.append(Finding("live_code", said, changed))
    elif code["dirty"]:
        said = "uncommitted code ran; it is kept in code.patch"
        found.append(Finding("dirty_code", said, changed))
    modules = (
        [change.path for change in state.spared if change.path.endswith(".py")] if state else []
    )
    if modules and not code["live"]:
        said = "changed in a place that may differ; the commit's version ran, if any did"
        found.append(Finding("uncommitted_workspace", f"{', '.join(modules[:3])}: {said}", modules))
    if not code["remotes"]:
        found.append(Finding("no_remote", "the repository has no remote", code["commit"]))
    elif not code["on_remote"]:
        said = "the commit is on no remote yet"
        found.append(Finding("unpushed_commit", said, code["commit"]))
    if code["branch"] is None:
        said = "the commit was checked out without a branch"
        found.append(Finding("detached_head", said, code["commit"]))
    return found


def final_facts(run: Run, entries: list[Entry]) -> dict[str, Any]:
    """What the record gains when the run has ended."""
    paths, outcome = run.paths, run.outcome
    wandb, found = wandb_facts(paths)
    run.findings.extend(found)
    return {
        "run_s": outcome.usage["wall_s"],
        "total_s": time.monotonic() - run.began,
        "usage": outcome.usage,
        "pruned": run.ended_early,
        "summary": outcome.summary,
        "findings": [item.as_dict() for item in run.findings],
        "wandb": wandb,
        "outputs": {
            "files": len(entries),
            "size": sum(entry.size for entry in entries),
            "sha256": manifest.tree_hash(entries),
            "manifest_sha256": manifest.hash_file(paths.outputs_manifest),
        },
        "logs": log_hashes(paths, run.config.engine.processes),
        "hashes": {**run.record["hashes"], **late_hashes(paths)},
    }


def log_hashes(paths: RunPaths, processes: int) -> dict[str, Any]:
    """sha256 of the logs: rank 0's, and of a run of several processes those of the others too."""
    found = [manifest.hash_file(log) for log in paths.logs(processes)]
    each = [
        {"out_sha256": out, "err_sha256": err}
        for out, err in zip(found[::2], found[1::2], strict=True)
    ]
    return {**each[0], **({"ranks": each[1:]} if processes > 1 else {})}


def late_hashes(paths: RunPaths) -> dict[str, str | None]:
    """sha256 of the files that are complete only when the run has ended."""
    late = {"metrics": paths.metrics, "imports": paths.imports, "files": paths.files}
    return {key: manifest.hash_file(path) if path.exists() else None for key, path in late.items()}


def wandb_facts(paths: RunPaths) -> tuple[dict[str, Any] | None, list[Finding]]:
    """What engram.metrics left about W&B, and what that means for the record."""
    if not paths.wandb.exists():
        return None, []
    facts = read_json(paths.wandb)
    if facts["error"]:
        return facts, [Finding("wandb_unavailable", f"W&B: {facts['error']}", facts["id"])]
    if facts["mode"] == "offline":
        return facts, [
            Finding("wandb_offline", "W&B ran offline: `wandb sync` uploads it", facts["id"])
        ]
    return facts, []


def log_line(record_: dict[str, Any]) -> dict[str, Any]:
    """One line of the experiment's log file: what a person greps for."""
    keys = ("run_id", "experiment", "state", "summary", "record_sha256")
    times = {key: record_["times"][key] for key in ("created", "ended", "run_s")}
    return {**{key: record_[key] for key in keys}, **times, "commit": record_["code"]["commit"]}
