"""Findings: what a run's record has to confess, from one table of codes with a severity."""

from __future__ import annotations

from typing import Any

ERROR = "error"
WARNING = "warning"
NOTE = "note"

SEVERITIES = {
    "imported_outside_snapshot": ERROR,
    "wrote_outside_outputs": ERROR,
    "inputs_changed": ERROR,
    "log_incomplete": ERROR,
    "record_damaged": ERROR,
    "read_outside_inputs": WARNING,
    "inputs_differ": WARNING,
    "processes_left": WARNING,
    "summary_ignored": WARNING,
    "audit_incomplete": WARNING,
    "environment_differs_from_lock": WARNING,
    "dirty_code": WARNING,
    "live_code": WARNING,
    "wandb_unavailable": WARNING,
    "unaudited_process": NOTE,
    "resumed_with_overrides": NOTE,
    "alone_on_device": NOTE,
    "uncommitted_workspace": NOTE,
    "unpushed_commit": NOTE,
    "no_remote": NOTE,
    "detached_head": NOTE,
    "wandb_offline": NOTE,
}


class Finding:
    """One fact that limits what the record of a run can vouch for."""

    def __init__(self, code: str, message: str, evidence: Any = None) -> None:  # noqa: ANN401
        """Name a fact.

        Args:
            code: one of SEVERITIES.
            message: one sentence for a person.
            evidence: what proves it: paths, hashes; plain values.

        Raises:
            ValueError: the table does not know the code.
        """
        if code not in SEVERITIES:
            msg = f"unknown finding {code!r}: add it to SEVERITIES in {__file__}"
            raise ValueError(msg)
        self.code = code
        self.message = message
        self.evidence = evidence

    @property
    def severity(self) -> str:
        """How much it matters: error, warning or note."""
        return SEVERITIES[self.code]

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as the record holds it."""
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "evidence": self.evidence,
        }
