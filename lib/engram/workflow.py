"""The whole life of a run, as a tuple of named steps: the first file to read.

A run is one `Run` value that each step of STEPS takes further; resume and rerun make another
`Request` and walk the same steps. Up to and including `take_devices` nothing is created that a
refusal would leave behind; `make_folder` is where a run begins to exist.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram import environment, errors, facts, files, folder, inputs, open_runs, ranks, record
from engram import script as scripts
from engram.config import MAX_SEED, load, load_parameters, resolved
from engram.findings import Finding
from engram.index import Index
from engram.manifest import hash_tree
from engram.packing import Packing
from engram.program import program
from engram.repository import Repository
from engram.request import Request, Run
from engram.spawn import spawn
from engram.spec import child_spec, ignored_folders, import_roots
from engram.supervise import Supervisor

if TYPE_CHECKING:
    from engram.paths import RunPaths
    from engram.recorded import RecordedCode
    from engram.snapshot import Snapshot

__all__ = [
    "LIFE",
    "STEPS",
    "Step",
    "check_inputs",
    "look_at_code",
    "make_folder",
    "plan",
    "publish",
    "read_request",
    "start_child",
    "take_code",
]


def read_request(run: Run) -> None:
    """Read experiment.toml and the parameters, once."""
    request = run.request
    run.config = load(
        request.experiment,
        root=request.root,
        overrides=request.set_config,
        seed=request.seed,
        timeout=request.timeout,
    )
    run.parameters = load_parameters(
        run.config.parameters_file, request.set_parameters, seed=request.seed
    )
    check_log_file(run.config.log_file)
    if request.pdb and run.config.engine.processes > 1:
        msg = "--pdb has one terminal for one process: add --config engine.processes=1"
        raise errors.ConfigError(msg)
    if request.recorded_code is None:
        scripts.check_script(run.config.root / run.config.script)


def check_log_file(path: Path | None) -> None:
    """Refuse a log file that could not be written when the run has ended.

    Raises:
        ConfigError: it is a folder, or lies where nothing can be made.
    """
    if path is None:
        return
    above = next(place for place in path.parents if place.exists())
    if path.is_dir() or not above.is_dir():
        msg = f"log_file {str(path)!r} cannot be a file: it, or what it lies in, is something else"
        raise errors.ConfigError(msg)
    if not os.access(above, os.W_OK):
        reason = errno.EROFS if os.statvfs(above).f_flag & os.ST_RDONLY else errno.EACCES
        raise record.store_error(path, OSError(reason, os.strerror(reason)))


def start_child(run: Run) -> None:
    """Have an interpreter come up while the code is looked at: a warm one, or one started ahead."""
    hash_seed, foreground = run.config.environment.hash_seed, run.request.pdb
    count, ahead = run.config.engine.processes, run.spawned
    if run.warm is not None:
        from engram.warm import WarmEndedError

        try:
            run.supervisor = Supervisor(run.warm.spawn(count))
        except WarmEndedError as error:
            run.why_cold = str(error)
        else:
            return
    wanted = (hash_seed, foreground, count)
    if ahead is not None and (ahead.hash_seed, ahead.foreground, len(ahead.ranks)) != wanted:
        Supervisor(ahead).abandon()
        ahead = None
    run.supervisor = Supervisor(
        ahead or spawn(hash_seed=hash_seed, foreground=foreground, processes=count)
    )


def look_at_code(run: Run) -> None:
    """Find out which commit this is, and refuse what no commit records."""
    config, request = run.config, run.request
    if request.recorded_code is not None:
        run.code = {**request.recorded_code.code, "source_sha256": None}
        run.script_blob = request.recorded_code.script_blob
        run.findings += facts.code_findings(run.code)
        with contextlib.suppress(errors.ConfigError):
            run.repository = Repository(config.root)
        return
    run.repository = Repository(config.root)
    state = run.repository.inspect(script=config.script, allowed=allowed_to_differ(run))
    if not (request.live or request.allow_dirty):
        run.repository.require_clean(state)
    run.code = facts.code_facts(state, live=request.live)
    run.script_blob = state.script_blob
    run.findings += facts.code_findings(run.code, state)
    run.git_state = state


def allowed_to_differ(run: Run) -> list[str]:
    """The relative paths that the clean rule leaves alone: copied into the run, or holding runs."""
    config = run.config
    places = [config.parameters_file, config.output_dir, config.log_file]
    inside = [place for place in places if place is not None and place.is_relative_to(config.root)]
    return ["workspace/", *(place.relative_to(config.root).as_posix() for place in inside)]


def check_inputs(run: Run) -> None:
    """Refuse inputs that are missing, unreadable or badly placed; hash the others."""
    try:
        run.inputs = inputs.check(
            run.config.inputs,
            output_dir=run.root.folder,
            resolve_run=lambda reference: find_run(run, reference),
            cache=run.cache,
            recorded=run.request.recorded_inputs,
        )
    except errors.InputError as error:
        raise errors.InputError(f"{error}{how_to_fetch(run)}") from error


def how_to_fetch(run: Run) -> str:
    """The command that brings a missing input, when a data set of this repository holds it."""
    from engram.dataset import providing

    missing = [spec.path for spec in run.config.inputs if spec.path and not spec.path.exists()]
    for path in missing:
        name = providing(path, root=run.config.root)
        if name is not None:
            return f": get it with `{program()} fetch {name}`"
    return ""


def find_run(run: Run, reference: str) -> RunPaths:
    """Find the earlier run whose outputs are an input."""
    from engram.store import Store

    try:
        return Store.for_root(run.config.root, [run.root.folder]).find(reference)
    except errors.RunNotFoundError as error:
        raise errors.RunNotFoundError(f"{error}{how_to_make(run, reference)}") from error


def how_to_make(run: Run, reference: str) -> str:
    """The command that makes a run of latest:NAME or best:NAME, when NAME lies beside this one."""
    name = reference.partition(":")[2].partition(":")[0]
    folder, root = run.request.experiment.parent, run.config.root
    # An experiment is most often called as its file; only if it is not are others read.
    for beside in (folder / f"{name}.toml", *sorted(folder.glob("*.toml"))):
        if beside.is_file() and (beside.stem == name or _is_called(beside, name)):
            shown = beside.relative_to(root) if beside.is_relative_to(root) else beside
            return f" (make one with `{program()} {shown}`)"
    return ""


def _is_called(path: Path, name: str) -> bool:
    """Whether a file describes an experiment of that name."""
    import tomllib

    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return values.get("name") == name and "script" in values


def take_code(run: Run) -> None:
    """Lay the commit out in its snapshot, or find it there; a live run has none."""
    recorded, state = run.request.recorded_code, run.git_state
    if recorded is not None:
        run.snapshot = recorded_snapshot(run, recorded)
        scripts.check_script(run.snapshot.path / run.config.script)
    elif state is not None and run.repository is not None and not run.request.live:
        if state.dirty:
            commit, run.patch = run.repository.capture(state)
            run.code["snapshot_commit"] = commit
            run.script_blob = run.repository.blob_id(commit, run.config.script)
        if not run.root.source(run.code["snapshot_commit"]).exists():
            run.packing = Packing(run.repository, run.code["snapshot_commit"])
        run.snapshot = run.repository.snapshot(run.code["snapshot_commit"])


def recorded_snapshot(run: Run, recorded: RecordedCode) -> Snapshot:
    """The snapshot of an earlier run's commit: from the repository, else from that run's pack."""
    commit = recorded.code["snapshot_commit"]
    if run.repository is not None and run.repository.has(commit):
        return run.repository.snapshot(commit)
    from engram.snapshot import snapshot_from_pack

    return snapshot_from_pack(recorded.pack, commit, run.cache)


def take_environment(run: Run) -> None:
    """For a rerun in the recorded environment: make that, and start its interpreter instead."""
    if run.request.recreate is None:
        return
    from engram import recreate

    run.supervised.abandon()
    run.recreated = recreate.provide(
        run.request.recreate,
        snapshot=run.code_folder,
        cache=run.cache,
        root=run.config.root,
        variables=run.config.environment.record,
    )
    run.supervisor = Supervisor.start(
        hash_seed=run.config.environment.hash_seed,
        python=str(run.recreated.python),
        processes=run.config.engine.processes,
    )


def take_devices(run: Run) -> None:
    """Take the devices that [engine] asks for; a run that asks for none sees what the shell shows.

    The points of a grid have theirs from their slot.
    """
    engine = run.config.engine
    if run.request.place is not None or (engine.devices, engine.devices_per_run) == (None, None):
        return
    from engram.grid import device_lease, device_slots
    from engram.grid.devices import choose

    choice = choose(engine.devices, os.environ, where="[engine] devices")
    slots = device_slots.slots(
        choice,
        slots_per_device=engine.slots_per_device,
        devices_per_run=engine.devices_per_run,
        cpus=1,
    )

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    slot, run.device_lease = device_lease.take_first(slots, say=say)
    run.request = run.request._replace(devices=slot.to_record())


def describe_environment(run: Run) -> None:
    """Write down what the script will run on."""
    if run.recreated is not None:
        run.environment, found = run.recreated.facts, run.recreated.findings
    else:
        run.environment, found = environment.collect(
            run.cache, run.code_folder, run.config.environment.record
        )
    run.findings.extend(found)
    files.write_json(run.paths.environment, run.environment)


def make_folder(run: Run) -> None:
    """Give the run its folder and its record: from here on it exists, whatever happens."""
    run.config = run.config._replace(seed=seed_of(run))
    folder.make(run)
    folder.keep_code(run)
    folder.keep_inputs(run)
    describe_environment(run)
    run.record = record.create(run.paths, facts.first_record(run))


def seed_of(run: Run) -> int:
    """The run's seed: the configured one, else the parameter `seed`, else one drawn now."""
    if run.config.seed is not None:
        return run.config.seed
    parameter = run.parameters.values.get("seed")
    if type(parameter) is int and 0 <= parameter <= MAX_SEED:
        return parameter
    # What is random now can be repeated then.
    return int.from_bytes(os.urandom(4), "big")


def run_script(run: Run) -> None:
    """Let the child go, pass on its logs and signals, and wait until nothing of it is left."""
    run.record = record.change(run.paths, state="running")
    gc.enable()
    with ranks.environs(run.config.engine.processes, run.paths.run_id) as environs:
        run.outcome = run.supervised.run(
            child_spec(run),
            log_out=run.paths.log_out,
            log_err=run.paths.log_err,
            audit=run.paths.audit,
            environs=environs,
            show=run.request.show and run.request.place is None,
            timeout_s=run.config.timeout_s,
            meanwhile=lambda: use_waiting_time(run),
        )
    run.findings.extend(run.outcome.findings)
    if run.outcome.signal_received is not None and "SLURM_JOB_ID" in os.environ:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Slurm repeats itself until it kills


def use_waiting_time(run: Run) -> bool:
    """While the script runs: import what is needed afterwards, see which runs died, keep the code.

    Returns:
        Whether nothing is left to be done.
    """
    from engram import audit_digest, readme  # noqa: F401

    if run.request.place is None:  # a grid's dispatcher knows what became of its points
        open_runs.reconcile_others(run.root, run.paths)
    return folder.keep_source(run, wait=False)


def collect(run: Run) -> None:
    """Hash what came out, hash the inputs again, and read the audit."""
    from engram import audit_digest

    paths = run.paths
    folder.release_reserve(paths)
    folder.keep_source(run, wait=True)
    run.findings += folder.mend(run)
    folder.remove_tmp(run.tmp)
    run.output_entries = hash_tree(paths.outputs)
    entries = [entry.as_json() for entry in run.output_entries]
    files.write_json(paths.outputs_manifest, entries)
    imported, opened, found = audit_digest.digest(
        paths.audit,
        snapshot=run.code_folder,
        roots=import_roots(run),
        ignored=ignored_folders(run),
        run=paths,
        environment=run.recreated.roots if run.recreated else (),
        inputs=[*(item.source for item in run.inputs), *resumed_folder(run.request)],
    )
    files.write_json(paths.imports, imported)
    files.write_json(paths.files, opened)
    paths.audit.unlink(missing_ok=True)
    run.findings += [*found, *inputs.changed_since(run.inputs)]
    if run.outcome.strays:
        said = "processes outlived the script and were ended"
        run.findings.append(Finding("processes_left", said, run.outcome.strays))


def resumed_folder(request: Request) -> list[Path]:
    """The checkpoints of another run that this one may read, and keep for itself."""
    return [] if request.resume_from is None else [request.resume_from.parent]


def compare(run: Run) -> None:
    """Hold a rerun's results against the original's; any other run has nothing to compare."""
    original = run.request.original
    if original is None or run.outcome.state != "completed":
        return
    from engram.comparison import compare_results

    run.comparison = compare_results(
        original, run.paths, summary=run.outcome.summary, settings=run.config.outputs
    )


def finish(run: Run) -> None:
    """Write the final record, then what is derived from it: README, log line, index."""
    state, exit_ = judge(run)
    final = facts.final_facts(run, run.output_entries)
    run.record = record.change(
        run.paths, state=state, exit=exit_, comparison=run.comparison, **final
    )
    publish(run)


def judge(run: Run) -> tuple[str, dict[str, Any]]:
    """The final state: as the child ended, unless [audit] on_finding = "fail" says otherwise."""
    outcome = run.outcome
    if run.pruned is not None and outcome.state == "interrupted":
        cause = run.pruned.why if run.ended_early else "main returned"
        outcome = outcome._replace(state="completed", exit={**outcome.exit, "cause": cause})
    bad = [item.code for item in run.findings if item.severity == "error"]
    if outcome.state == "completed" and bad and run.config.audit.on_finding == "fail":
        cause = f"[audit] on_finding = 'fail', and there are errors: {', '.join(bad)}"
        return "failed", {**outcome.exit, "cause": cause}
    ended_from_outside = outcome.state == "interrupted" or outcome.exit["signal"] == "SIGTERM"
    if ended_from_outside and run.pruned is None and "SLURM_JOB_ID" in os.environ:
        from engram import slurm_jobs

        verdict = slurm_jobs.why(slurm_jobs.own())
        if verdict is not None:
            return verdict.state, {**outcome.exit, "cause": verdict.cause}
    return outcome.state, outcome.exit


def publish(run: Run) -> None:
    """Bring what is derived from the final record up to date."""
    from engram import readme

    files.write_atomic(run.paths.readme, readme.render(run.record).encode())
    if run.config.log_file is not None:
        record.append_line(run.config.log_file, facts.log_line(run.record))
    if run.comparison is not None and run.request.original is not None:
        tell_original(run.request.original, run.paths.run_id, run.comparison["verdict"])
    Index(run.root).note(run.paths.folder)
    open_runs.closed(run.root, run.paths)


def tell_original(original: RunPaths, run_id: str, verdict: str) -> None:
    """Add the verdict to the original's record too; an archive may be read-only."""
    try:
        record.annotate(
            original, rerun={"run": run_id, "verdict": verdict, "when": record.now_utc()}
        )
    except errors.StoreError as error:
        print(f"warning: the verdict is in the new record only: {error}", file=sys.stderr)


Step = Callable[[Run], None]
LIFE: tuple[Step, ...] = (make_folder, run_script, collect, compare, finish)
STEPS: tuple[Step, ...] = (
    read_request,
    start_child,
    look_at_code,
    check_inputs,
    take_code,
    take_environment,
    take_devices,
    *LIFE,
)


def plan(request: Request) -> str:
    """The resolved plan of a run, for --dry-run; nothing is created.

    Raises:
        RunnerError: the run would be refused.
    """
    run = Run(request)
    for step in (read_request, look_at_code, check_inputs):
        step(run)
    code = run.code
    lines = [
        f"# code: {'working tree' if code['live'] else code['snapshot_commit']}",
        *(
            f"# not in the commit: {path}"
            for item in run.findings
            for path in item.evidence or ()
            if item.code == "dirty_code"
        ),
        f"# run root: {run.root.folder}",
        *(f"# input {item.name}: {item.source}" for item in run.inputs),
        "",
        "# experiment.toml",
        resolved(run.config, run.inputs),
        "# parameters.toml",
        run.parameters.data.decode(),
    ]
    return "\n".join(lines)
