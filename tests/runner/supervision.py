"""A bench for what lies below a run: folders of code and run, and a runner that can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

LIB = Path(__file__).resolve().parents[2] / "lib"
sys.path.insert(0, str(LIB))  # this file is also run by itself, as the runner that gets killed

from engram.audit_digest import Digest, digest  # noqa: E402
from engram.paths import RunPaths  # noqa: E402
from engram.supervise import Outcome, Supervisor  # noqa: E402

DEADLINE_S = 300.0
MAIN = "def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):\n"


class Bench:
    """One snapshot and one run folder below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.snapshot = folder / "snapshot"
        self.run = RunPaths(folder / "run")
        for path in (self.snapshot, self.run.outputs, self.run.inputs, self.run.provenance):
            path.mkdir(parents=True)
        self.run.parameters.write_text("value = 1\n")
        self.outcome_file = folder / "outcome.json"
        self.runners: list[subprocess.Popen[bytes]] = []

    def script(self, body: str, *, top: str = "", name: str = "work.py") -> Path:
        """Write a script whose main has this body."""
        path = self.snapshot / name
        path.write_text(
            textwrap.dedent(top) + MAIN + textwrap.indent(textwrap.dedent(body), "    ")
        )
        return path

    def spec(self, script: Path, **changes: object) -> dict[str, object]:
        """What the child is told."""
        return {
            "script": str(script),
            "roots": [str(self.snapshot)],
            "fallback": [],
            "output_dir": str(self.run.outputs),
            "input_dir": None,
            "params_file": str(self.run.parameters),
            "snapshot": str(self.snapshot),
            "bytecode": str(self.run.folder / "bytecode"),
            "ignored": [str(self.run.folder)],
            **changes,
        }

    def supervise(
        self, body: str, *, top: str = "", python: str = sys.executable, **changes: object
    ) -> Outcome:
        """Run a main with this body to its end, in this very process."""
        timeout_s = float(str(changes.pop("timeout_s", DEADLINE_S)))
        os.environ["BENCH"] = str(self.run.folder)
        supervisor = Supervisor.start(python=python)
        try:
            return supervisor.run(
                self.spec(self.script(body, top=top), **changes),
                log_out=self.run.log_out,
                log_err=self.run.log_err,
                audit=self.run.audit,
                show=False,
                timeout_s=timeout_s,
                grace_s=2.0,
            )
        finally:
            del os.environ["BENCH"]
            supervisor.abandon()

    def command(self, body: str, **told: object) -> list[str]:
        """Name the command that supervises such a main and writes down how it ended."""
        told = {
            "spec": self.spec(self.script(body), pdb=told.get("foreground", False)),
            "run": str(self.run.folder),
            "outcome": str(self.outcome_file),
            "show": False,
            "grace_s": 5.0,
            **told,
        }
        return [sys.executable, __file__, json.dumps(told)]

    def runner(
        self, body: str, *, show: bool = False, grace_s: float = 5.0, **streams: object
    ) -> subprocess.Popen[bytes]:
        """Start that command in a group of its own."""
        command = self.command(body, show=show, grace_s=grace_s)
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **streams}
        streams["env"] = {**os.environ, "BENCH": str(self.run.folder)}
        runner = subprocess.Popen(command, start_new_session=True, **streams)  # type: ignore[call-overload]
        self.runners.append(runner)
        return runner

    def close(self) -> None:
        """End the runners that a failed test left behind."""
        for runner in self.runners:
            runner.kill()
            runner.wait()

    def outcome(self) -> dict[str, object]:
        """What that runner reported."""
        return json.loads(self.outcome_file.read_text())

    def digest(self, **options: object) -> Digest:
        """Read the audit."""
        options = {"ignored": [str(self.run.folder / "bytecode")], **options}
        return digest(self.run.audit, snapshot=self.snapshot, run=self.run, **options)  # type: ignore[arg-type]

    def log(self) -> str:
        """What the script printed so far."""
        return self.run.log_out.read_text() if self.run.log_out.exists() else ""

    def living(self) -> list[str]:
        """The processes that carry this bench's path in their environment."""
        needle = os.fsencode(self.run.folder.parent)
        found = []
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit() or int(folder.name) == os.getpid():
                continue
            try:
                if needle in (folder / "environ").read_bytes():
                    found.append(f"{folder.name} {(folder / 'comm').read_text().strip()}")
            except OSError:
                continue
        return found


def until(condition, seconds=DEADLINE_S):
    """Poll until the condition holds; return its value, or the last false one."""
    end = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return value


def drive(told: dict[str, object]) -> None:
    """Be a runner: supervise one child and write down how that ended."""
    run = RunPaths(Path(str(told["run"])))
    supervisor = Supervisor.start(foreground=bool(told.get("foreground")))
    outcome = supervisor.run(
        told["spec"],
        log_out=run.log_out,
        log_err=run.log_err,
        audit=run.audit,
        show=bool(told["show"]),
        grace_s=float(str(told["grace_s"])),
    )
    facts = {**outcome._asdict(), "runner_kib": own_peak_kib()}
    temporary = Path(f"{told['outcome']}.part")
    temporary.write_text(json.dumps(facts))
    temporary.replace(str(told["outcome"]))


def own_peak_kib() -> int:
    """This process's peak memory; getrusage would report that of the process it was forked from."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    drive(json.loads(sys.argv[1]))
