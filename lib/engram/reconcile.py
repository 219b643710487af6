"""Runs whose runner ended without a word: told from living ones, and given their true state."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram import record as records
from engram.errors import RunnerError, StoreError

if TYPE_CHECKING:
    from engram.paths import RunPaths

__all__ = ["reconcile", "standing", "unborn", "whereabouts"]

SILENT = "the runner ended without a word (kill -9, power cut or reboot)"
REBOOTED = "the machine was restarted, or lost power, while the run was going"
UNBORN = "killed before its record was born: " + SILENT


def reconcile(paths: RunPaths) -> dict[str, Any]:
    """Read a record, and end it as `killed` when its runner is dead.

    Only the host and pid namespace that the run was started in may say so, or the Slurm that ran
    its job; that one also tells cancelled jobs from those that reached their time limit. When the
    folder cannot be written, the state is right in what is returned, and stays as it was on the
    disk.

    Args:
        paths: the run's folder.

    Returns:
        The record.

    Raises:
        RunNotFoundError: there is no record.
        StoreError: the record cannot be read.
    """
    record = records.load(paths)
    if record["state"] in records.ENDED or standing(paths, record) != "dead":
        return record
    _end_orphans(record)
    _release_reserve(paths)
    final = _epitaph(paths, record)
    try:
        record = records.change(paths, **final)
    except ValueError:
        # Another process was faster, or the runner's last act was its own final record.
        return records.load(paths)
    except StoreError:
        times = {**record["times"], "ended": final["ended"]}
        return {**record, "state": final["state"], "exit": final["exit"], "times": times}
    _write_readme(paths, record)
    return record


def _end_orphans(record: dict[str, Any]) -> None:
    """End what is left of a run whose runner and guardian were killed at the same moment."""
    from engram import processes
    from engram.folder import remove_tmp

    held = record.get("lease") or {}
    token = held.get("guard")
    if token:
        processes.end_all(lambda: processes.marked(token, -1))
    if held.get("tmp"):
        remove_tmp(Path(held["tmp"]))


def _release_reserve(paths: RunPaths) -> None:
    """Give back the disk space that the runner had set aside; a read-only folder keeps it."""
    with contextlib.suppress(OSError):
        paths.reserve.unlink(missing_ok=True)


def standing(paths: RunPaths, record: dict[str, Any]) -> str:
    """Say whether the runner of a run that has not ended is `alive`, `dead` or `elsewhere`."""
    from engram import lease

    return lease.standing(paths.lease, record.get("lease"))


def whereabouts(paths: RunPaths, record: dict[str, Any]) -> str | None:
    """Say where a run that has not ended is believed to run.

    Returns:
        "running on HOST, last sign of life 40 s ago" for a run that cannot be judged from here,
        else None.
    """
    if record["state"] in records.ENDED or standing(paths, record) != "elsewhere":
        return None
    from engram import lease
    from engram.table import age

    host = (record.get("lease") or {}).get("host") or record.get("host") or "another host"
    silence = time.time() - lease.last_sign_of_life(paths.folder)
    return f"running on {host}, last sign of life {age(silence)} ago"


def unborn(paths: RunPaths) -> tuple[str, str | None]:
    """The state of a folder without a record: still being made, or killed before it had one.

    Returns:
        State and cause.
    """
    from engram import lease

    if lease.standing(paths.lease, None) == "dead":
        return "killed", UNBORN
    return "created", None


def _epitaph(paths: RunPaths, record: dict[str, Any]) -> dict[str, Any]:
    """What the record of a dead runner says about the end."""
    from engram import lease

    identity, here = record.get("lease") or {}, lease.process_identity()
    then, now = identity.get("boot_id"), here.get("boot_id")
    rebooted = then and now and then != now and identity.get("host") == here["host"]
    state, cause = "killed", REBOOTED if rebooted else SILENT
    if identity.get("slurm_job"):
        from engram import slurm_jobs

        verdict = slurm_jobs.obituary(identity)
        if verdict is not None:
            state, cause = verdict.state, verdict.cause
    return {
        "state": state,
        "exit": {"code": None, "signal": None, "cause": cause, "exception": None},
        "ended": records.iso_utc(lease.last_sign_of_life(paths.folder)),
    }


def _write_readme(paths: RunPaths, record: dict[str, Any]) -> None:
    """Tell people too; a README that cannot be written does not take the record with it."""
    from engram import readme
    from engram.files import write_atomic

    try:
        write_atomic(paths.readme, readme.render(record).encode("utf-8", "replace"))
    except (OSError, RunnerError):
        return
