"""Run folders made directly, so that the store is tested without running anything."""

from __future__ import annotations

from engram import lease, record
from engram.files import write_json
from engram.index import Index
from engram.manifest import hash_file, hash_tree, tree_hash
from engram.paths import RootPaths


def first_record(paths, name="digits", **changes):
    """The record of a run that was just made."""
    made = {
        "schema_version": 1,
        "engram": {"version": "0.1.0"},
        "run_id": paths.run_id,
        "experiment": name,
        "description": "",
        "state": "created",
        "exit": None,
        "argv": ["experiment.toml"],
        "script": {"path": "work.py", "blob": "b" * 40},
        "code": {
            "commit": "c" * 40,
            "branch": "main",
            "remotes": {},
            "on_remote": None,
            "dirty": False,
            "live": False,
            "patch_sha256": None,
            "snapshot_commit": "c" * 40,
            "source_sha256": None,
            "submodules": [],
        },
        "repository": {"root": "/nowhere"},
        "hashes": {"parameters": None, "experiment": None, "environment": None, "lock_file": None},
        "overrides": {"parameters": [], "experiment": []},
        "inputs": [],
        "seed": 0,
        "hash_seed": 0,
        "timeout_s": None,
        "environment": {"python": "3.11.7", "torch": None, "gpus": [], "packages": 3},
        "host": "here",
        "user": "me",
        "lease": lease.process_identity(),
        "times": {
            "created": record.now_utc(),
            "started": None,
            "ended": None,
            "run_s": None,
            "total_s": None,
        },
        "usage": None,
        "parents": {"resumed_from": None, "rerun_of": None},
        "comparison": None,
        "summary": None,
        "findings": [],
        "wandb": None,
        "outputs": None,
        "logs": None,
        "reruns": [],
        "tags": [],
        "notes": [],
        "pinned": False,
    }
    return {**made, **changes}


def make_run(
    root, name="digits", state="completed", parameters="lr = 0.1\n", created=None, **changes
):
    """A run folder with a record in the given state; `changes` are keys of the record."""
    paths = record.new_run_folder(root, name)
    for folder in (paths.provenance, paths.inputs, paths.outputs):
        folder.mkdir()
    paths.lease.touch()
    paths.parameters.write_text(parameters)
    first = first_record(paths, name, **changes)
    if created is not None:
        first["times"]["created"] = created
    record.create(paths, first)
    Index(RootPaths(root)).note(paths.folder)
    if state != "created":
        record.change(paths, state="running", started=created or record.now_utc())
    if state not in ("created", "running"):
        cause = "main returned" if state == "completed" else "ValueError: it broke"
        ending = {"code": 0, "signal": None, "cause": cause, "exception": None}
        record.change(paths, state=state, exit=ending, run_s=1.5)
        Index(RootPaths(root)).note(paths.folder)
    return paths


def make_hashed_run(root, **changes):
    """A completed run with outputs, logs, an input of each strategy, and all their hashes."""
    paths = record.new_run_folder(root, "digits")
    for folder in (paths.provenance, paths.inputs, paths.outputs / "deep"):
        folder.mkdir(parents=True)
    files = {
        paths.parameters: "lr = 0.1\n",
        paths.experiment: 'script = "work.py"\n',
        paths.environment: "{}\n",
        paths.lock_file: "version = 1\n",
        paths.patch: "diff\n",
        paths.source: "PACK",
        paths.log_out: "out\n",
        paths.log_err: "err\n",
        paths.outputs / "a.txt": "a\n",
        paths.outputs / "deep" / "b.bin": "b\n",
        paths.inputs / "copied.txt": "copied\n",
    }
    for path, text in files.items():
        path.write_text(text)
    (paths.outputs / "link").symlink_to("a.txt")
    source = root.parent / "data"
    source.mkdir(exist_ok=True)
    (source / "x.csv").write_text("1,2\n")
    (source / "y.csv").write_text("3,4\n")
    (paths.inputs / "data").symlink_to(source)
    inside = hash_tree(source)
    copied = hash_file(paths.inputs / "copied.txt")
    inputs = [
        an_input("data", source, "symlink", tree_hash(inside), inside),
        an_input("copied.txt", "/gone/copied.txt", "copy", copied, []),
    ]
    manifest = [
        {**inputs[0], "entries": [entry.as_json() for entry in inside]},
        {**inputs[1], "entries": [{"path": "copied.txt", "size": 7, "sha256": copied}]},
    ]
    write_json(paths.inputs_manifest, manifest)
    made = first_record(paths, inputs=inputs, **changes)
    made["hashes"] = {
        "parameters": hash_file(paths.parameters),
        "experiment": hash_file(paths.experiment),
        "environment": hash_file(paths.environment),
        "inputs": hash_file(paths.inputs_manifest),
        "lock_file": hash_file(paths.lock_file),
    }
    made["code"]["patch_sha256"] = hash_file(paths.patch)
    made["code"]["source_sha256"] = hash_file(paths.source)
    record.create(paths, made)
    entries = hash_tree(paths.outputs)
    write_json(paths.outputs_manifest, [entry.as_json() for entry in entries])
    record.change(paths, state="running")
    record.change(
        paths,
        state="completed",
        exit={"code": 0, "signal": None, "cause": "main returned", "exception": None},
        summary={"accuracy": 0.9},
        run_s=1.0,
        outputs={
            "files": len(entries),
            "size": sum(entry.size for entry in entries),
            "sha256": tree_hash(entries),
            "manifest_sha256": hash_file(paths.outputs_manifest),
        },
        logs={"out_sha256": hash_file(paths.log_out), "err_sha256": hash_file(paths.log_err)},
    )
    return paths


def an_input(name, path, strategy, sha256, entries):
    """One item of the record's inputs."""
    size = sum(entry.size for entry in entries)
    return {
        "name": name,
        "path": str(path),
        "strategy": strategy,
        "run": None,
        "sha256": sha256,
        "size": size,
        "files": len(entries) or 1,
    }
