"""Inputs: every rule that refuses one, how they are placed, and what is noticed afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engram import inputs, manifest
from engram.config import InputSpec
from engram.errors import InputError, RunNotFoundError
from engram.paths import CachePaths, RunPaths
from engram.recorded import RecordedInputs

LIB = Path(inputs.__file__).parents[1]
UNPRIVILEGED = 65534


def no_runs(reference: str) -> RunPaths:
    msg = f"no run {reference!r}"
    raise RunNotFoundError(msg)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The run root."""
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with two files, one of them in a folder of its own."""
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "a.txt").write_text("alpha")
    (tmp_path / "data" / "deep" / "b.bin").write_bytes(bytes(range(256)))
    return tmp_path / "data"


def check(runs: Path, *specs: InputSpec, **options) -> list[inputs.ResolvedInput]:
    options.setdefault("resolve_run", no_runs)
    return inputs.check(specs, output_dir=runs, **options)


def refusal(runs: Path, *specs: InputSpec, **options) -> str:
    with pytest.raises(InputError) as caught:
        check(runs, *specs, **options)
    assert caught.value.exit_code == 2
    return str(caught.value)


def start(runs: Path, *specs: InputSpec, **options) -> tuple[list[inputs.ResolvedInput], Path]:
    """Check and place, as a run does."""
    folder = runs / "run" / "inputs"
    folder.mkdir(parents=True)
    found = check(runs, *specs, **options)
    inputs.place(found, folder)
    return found, folder


def state(folder: Path) -> dict[str, tuple[int, int, int, int, bytes]]:
    """Everything a write to a folder would show in."""
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        times = (status.st_mtime_ns, status.st_ctime_ns)
        found[str(path)] = (status.st_ino, status.st_mode, *times, content)
    return found


def test_a_file_has_the_hash_of_its_content(runs: Path, data: Path):
    (found,) = check(runs, InputSpec(path=data / "a.txt"))
    assert found.sha256 == hashlib.sha256(b"alpha").hexdigest()
    assert found.as_json() == {
        "name": "a.txt",
        "path": str(data / "a.txt"),
        "strategy": "symlink",
        "run": None,
        "sha256": found.sha256,
        "size": 5,
        "files": 1,
    }


def test_a_folder_has_the_hash_of_what_sha256sum_prints(runs: Path, data: Path):
    (found,) = check(runs, InputSpec(path=data))
    printed = subprocess.run(
        ["sha256sum", "a.txt", "deep/b.bin"], cwd=data, check=True, capture_output=True
    ).stdout
    assert found.sha256 == hashlib.sha256(printed).hexdigest()
    assert found.size == 5 + 256


def test_a_folder_reads_the_same_through_its_links(runs: Path, data: Path, tmp_path: Path):
    linked = tmp_path / "linked"
    (linked / "deep").mkdir(parents=True)
    (linked / "a.txt").symlink_to(data / "a.txt")
    (linked / "deep" / "b.bin").symlink_to("../../data/deep/b.bin")
    plain, through = check(runs, InputSpec(path=data), InputSpec(path=linked))
    assert plain.entries == through.entries
    assert plain.sha256 == through.sha256


def test_an_empty_folder_is_an_input(runs: Path, tmp_path: Path):
    (tmp_path / "nothing").mkdir()
    (found,) = check(runs, InputSpec(path=tmp_path / "nothing"))
    assert (found.entries, found.size) == ([], 0)


def test_two_inputs_with_one_base_name_are_refused(runs: Path, data: Path, tmp_path: Path):
    (tmp_path / "a.txt").write_text("other")
    specs = [InputSpec(path=data / "a.txt"), InputSpec(path=tmp_path / "a.txt")]
    said = refusal(runs, *specs)
    assert str(data / "a.txt") in said
    assert str(tmp_path / "a.txt") in said
    assert "name" in said
    found = check(runs, specs[0], specs[1]._replace(name="b.txt"))
    assert [item.name for item in found] == ["a.txt", "b.txt"]


@pytest.mark.parametrize("where", [".", "run", "run/outputs/x.txt"])
def test_an_input_inside_the_run_root_is_refused(runs: Path, where):
    (runs / "run" / "outputs").mkdir(parents=True)
    (runs / "run" / "outputs" / "x.txt").touch()
    said = refusal(runs, InputSpec(path=runs / where))
    assert str(runs / where) in said
    assert "run root" in said


def test_a_run_root_inside_an_input_is_refused(runs: Path, tmp_path: Path):
    assert "holds the run root" in refusal(runs, InputSpec(path=tmp_path))
    assert "holds the run root" in refusal(tmp_path / "not" / "yet", InputSpec(path=tmp_path))


def test_links_do_not_hide_an_input_inside_the_run_root(runs: Path, tmp_path: Path):
    (runs / "x.txt").touch()
    (tmp_path / "link").symlink_to(runs / "x.txt")
    assert "lies inside the run root" in refusal(runs, InputSpec(path=tmp_path / "link"))
    (tmp_path / "alias").symlink_to(runs)
    assert "run root" in refusal(tmp_path / "alias", InputSpec(path=runs / "x.txt"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inner").symlink_to(runs / "x.txt")
    said = refusal(runs, InputSpec(path=tmp_path / "folder"))
    assert str(tmp_path / "folder" / "inner") in said


def test_links_do_not_hide_a_run_root_inside_an_input(runs: Path, tmp_path: Path, data: Path):
    (data / "up").symlink_to(tmp_path)
    assert "holds the run root" in refusal(runs, InputSpec(path=data))
    (data / "up").unlink()
    (data / "inside").mkdir()
    (tmp_path / "alias").symlink_to(data / "inside")
    assert "holds the run root" in refusal(tmp_path / "alias" / "runs", InputSpec(path=data))


def test_a_name_that_only_begins_like_the_run_root_is_fine(runs: Path, tmp_path: Path):
    (tmp_path / "runs2").write_text("x")
    assert check(runs, InputSpec(path=tmp_path / "runs2"))


def test_a_missing_input_is_refused(runs: Path, tmp_path: Path):
    assert f"{str(tmp_path / 'absent')!r} does not exist" in refusal(
        runs, InputSpec(path=tmp_path / "absent")
    )


def test_a_broken_link_is_refused_with_its_target(runs: Path, data: Path):
    (data / "broken").symlink_to("nowhere")
    said = refusal(runs, InputSpec(path=data))
    assert "broken' links to 'nowhere', which is missing" in said
    assert str(data) in refusal(runs, InputSpec(path=data / "broken"))


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "inside a folder"])
def test_a_fifo_is_refused(runs: Path, data: Path, inside):
    os.mkfifo(data / "pipe")
    said = refusal(runs, InputSpec(path=data if inside else data / "pipe"))
    assert f"{str(data / 'pipe')!r} is a named pipe" in said


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "inside a folder"])
def test_a_socket_is_refused(runs: Path, data: Path, inside, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(data)  # the address of a socket is at most 107 bytes long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    said = refusal(runs, InputSpec(path=data if inside else data / "socket"))
    assert f"{str(data / 'socket')!r} is a socket" in said


def test_a_device_is_refused(runs: Path):
    assert "'/dev/null' is a device" in refusal(runs, InputSpec(path=Path("/dev/null")))


def test_a_link_to_itself_is_refused(runs: Path, data: Path):
    (data / "self").symlink_to("self")
    for path in (data, data / "self"):
        assert f"{str(data / 'self')!r} is a loop of links" in refusal(runs, InputSpec(path=path))


def test_a_link_to_its_own_folder_is_refused(runs: Path, data: Path):
    (data / "deep" / "again").symlink_to(data)
    said = refusal(runs, InputSpec(path=data))
    assert f"{str(data / 'deep' / 'again')!r} is a loop of links" in said


UNREADABLE = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from engram import inputs
from engram.config import InputSpec
from engram.errors import InputError
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid({uid})
    os.setuid({uid})
try:
    spec = InputSpec(path=Path(sys.argv[2]))
    inputs.check([spec], output_dir=Path(sys.argv[3]), resolve_run=None)
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize("kind", ["file", "file in a folder", "folder"])
def test_an_unreadable_input_is_refused(runs: Path, data: Path, tmp_path: Path, kind):
    locked = data / "deep" if kind == "folder" else data / "a.txt"
    declared = data if kind == "file in a folder" else locked
    locked.chmod(0)
    for parent in (data, *data.parents):
        if not parent.stat().st_mode & stat.S_IXOTH and parent.owner() == "root":
            parent.chmod(parent.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
    # The library is copied to where an unprivileged user may read it.
    no_bytecode = shutil.ignore_patterns("__pycache__")
    shutil.copytree(LIB / "engram", tmp_path / "lib" / "engram", ignore=no_bytecode)
    done = subprocess.run(
        [sys.executable, "-c", UNREADABLE.format(uid=UNPRIVILEGED)]
        + [str(tmp_path / "lib"), str(declared), str(runs)],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    locked.chmod(0o700)
    if done.returncode != 0 and os.geteuid() == 0:
        pytest.skip(f"cannot become an unprivileged user here: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    assert f"{str(locked)!r} cannot be read: Permission denied" in done.stdout


def test_another_content_than_declared_is_refused(runs: Path, data: Path):
    right = hashlib.sha256(b"alpha").hexdigest()
    assert check(runs, InputSpec(path=data / "a.txt", sha256=right))
    said = refusal(runs, InputSpec(path=data / "a.txt", sha256="0" * 64))
    assert str(data / "a.txt") in said
    assert right in said
    assert "0" * 64 in said


def test_refused_inputs_leave_nothing_behind_and_sources_are_never_written(
    runs: Path, data: Path, tmp_path: Path
):
    before = state(data)
    refusal(runs, InputSpec(path=data), InputSpec(path=tmp_path / "absent"))
    assert list(runs.iterdir()) == []
    found, _ = start(runs, InputSpec(path=data), InputSpec(path=data, name="copy", strategy="copy"))
    inputs.changed_since(found)
    assert state(data) == before


def test_a_linked_input_leads_to_its_source(runs: Path, data: Path):
    found, folder = start(runs, InputSpec(path=data), InputSpec(path=data / "a.txt", name="x"))
    assert (folder / "data").is_symlink()
    assert (folder / "data").resolve() == data.resolve()
    assert (folder / "x").read_text() == "alpha"
    assert inputs.changed_since(found) == []


def test_a_copied_input_is_independent_and_writable(runs: Path, data: Path):
    (data / "a.txt").chmod(0o444)
    (data / "link").symlink_to("a.txt")
    (data / "empty").mkdir()
    (data / "deep").chmod(0o555)
    _, folder = start(runs, InputSpec(path=data, strategy="copy"))
    copied = folder / "data"
    assert not any(path.is_symlink() for path in [copied, *copied.rglob("*")])
    assert (copied / "empty").is_dir()
    for name in ("a.txt", "link", "deep/b.bin"):
        assert (copied / name).read_bytes() == (data / name).read_bytes()
        assert (copied / name).stat().st_ino != (data / name).stat().st_ino
        assert (copied / name).stat().st_mode & stat.S_IWUSR
        assert (copied / name).stat().st_mtime_ns == (data / name).stat().st_mtime_ns
    assert (copied / "deep").stat().st_mode & stat.S_IWUSR
    (copied / "a.txt").write_text("changed")
    assert (data / "a.txt").read_text() == "alpha"
    (data / "deep").chmod(0o755)


def test_a_source_that_changes_before_it_is_copied_is_refused(runs: Path, data: Path):
    found = check(runs, InputSpec(path=data, strategy="copy"))
    (data / "a.txt").write_text("other")
    (runs / "inputs").mkdir()
    with pytest.raises(InputError, match=r"a\.txt' changed between hashing and copying"):
        inputs.place(found, runs / "inputs")


def finding(found: list[inputs.ResolvedInput]) -> tuple[str, list[str]]:
    (one,) = inputs.changed_since(found)
    assert one.severity == "error"
    return one.code, one.evidence


def test_an_input_edited_during_the_run_is_found(runs: Path, data: Path):
    found, folder = start(runs, InputSpec(path=data))
    (folder / "data" / "a.txt").write_text("ALPHA")
    assert finding(found) == ("inputs_changed", ["data/a.txt: changed"])


def test_an_edit_that_hides_its_times_is_found(runs: Path, data: Path):
    before = (data / "a.txt").stat()
    found, _ = start(runs, InputSpec(path=data / "a.txt"))
    (data / "a.txt").write_text("ALPHA")
    os.utime(data / "a.txt", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert finding(found) == ("inputs_changed", ["a.txt: changed"])


def test_files_that_come_and_go_during_the_run_are_found(runs: Path, data: Path):
    found, _ = start(runs, InputSpec(path=data))
    (data / "deep" / "b.bin").unlink()
    (data / "c.txt").touch()
    assert finding(found)[1] == ["data/c.txt: new", "data/deep/b.bin: missing"]
    shutil.rmtree(data)
    assert "does not exist" in finding(found)[1][0]


def test_a_link_that_the_script_replaces_is_found(runs: Path, data: Path):
    found, folder = start(runs, InputSpec(path=data / "a.txt"))
    (folder / "a.txt").unlink()
    (folder / "a.txt").write_text("alpha")
    assert finding(found)[1] == ["a.txt: its link leads elsewhere"]


def test_only_the_copy_counts_for_a_copied_input(runs: Path, data: Path):
    found, folder = start(runs, InputSpec(path=data, strategy="copy"))
    (data / "a.txt").write_text("ALPHA")
    assert inputs.changed_since(found) == []
    (folder / "data" / "a.txt").write_text("ALPHA")
    assert finding(found)[1] == ["data/a.txt: changed"]


def test_an_untouched_input_is_not_read_again(runs: Path, data: Path, monkeypatch):
    later = max(path.stat().st_ctime for path in data.rglob("*")) + 3600
    monkeypatch.setattr(time, "time", lambda: later)
    found, _ = start(runs, InputSpec(path=data))
    monkeypatch.setattr(manifest, "hash_file", None)
    assert inputs.changed_since(found) == []


def test_known_hashes_are_used_by_the_next_run(runs: Path, data: Path, tmp_path, monkeypatch):
    later = max(path.stat().st_ctime for path in data.rglob("*")) + 3600
    monkeypatch.setattr(time, "time", lambda: later)
    cache = CachePaths(tmp_path / "cache")
    (first,) = check(runs, InputSpec(path=data), cache=cache)
    monkeypatch.setattr(manifest, "hash_file", None)
    (second,) = check(runs, InputSpec(path=data), cache=cache)
    assert first.entries == second.entries
    assert cache.hashes.is_file()


def test_a_manifest_is_the_same_every_time(runs: Path, data: Path):
    first, second = (inputs.manifest(check(runs, InputSpec(path=data))) for _ in range(2))
    assert json.dumps(first) == json.dumps(second)
    assert [entry["path"] for entry in first[0]["entries"]] == ["a.txt", "deep/b.bin"]


def ended_run(runs: Path, state: str = "completed") -> RunPaths:
    """A run folder of an earlier experiment, as far as inputs look at it."""
    paths = RunPaths(runs / "pretraining" / "20261121T070000.123Z-pretraining-3f2a9c")
    paths.outputs.mkdir(parents=True)
    (paths.outputs / "weights.bin").write_bytes(b"w")
    (paths.outputs / "best.bin").symlink_to("weights.bin")
    values = {
        "schema_version": 1,
        "run_id": paths.run_id,
        "experiment": "pretraining",
        "state": state,
    }
    paths.metadata.write_text(json.dumps(values))
    return paths


def test_the_outputs_of_an_earlier_run_are_an_input(runs: Path, monkeypatch: pytest.MonkeyPatch):
    earlier = ended_run(runs)
    asked = []
    monkeypatch.setattr("engram.record.load", lambda paths: json.loads(paths.metadata.read_text()))
    (found,) = check(
        runs,
        InputSpec(run="latest:pretraining"),
        resolve_run=lambda reference: asked.append(reference) or earlier,
    )
    assert asked == ["latest:pretraining"]
    assert (found.name, found.run, found.path) == ("pretraining", earlier.run_id, earlier.outputs)
    assert [entry.path for entry in found.entries] == ["best.bin", "weights.bin"]


def test_the_outputs_of_a_running_run_are_refused(runs: Path, monkeypatch: pytest.MonkeyPatch):
    earlier = ended_run(runs, "running")
    monkeypatch.setattr("engram.record.load", lambda paths: json.loads(paths.metadata.read_text()))
    said = refusal(runs, InputSpec(run="x"), resolve_run=lambda _: earlier)
    assert earlier.run_id in said
    assert "is running" in said


def test_the_latest_run_is_refused_where_it_did_not_complete_unless_it_is_named(
    runs: Path, monkeypatch: pytest.MonkeyPatch
):
    earlier = ended_run(runs, "failed")
    monkeypatch.setattr("engram.record.load", lambda paths: json.loads(paths.metadata.read_text()))
    said = refusal(runs, InputSpec(run="latest:pretraining"), resolve_run=lambda _: earlier)
    assert earlier.run_id in said
    assert "is failed" in said
    (found,) = check(runs, InputSpec(run=earlier.run_id), resolve_run=lambda _: earlier)
    assert found.run == earlier.run_id


@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_outputs_that_are_not_what_their_run_left_are_refused(project, damage):
    project.commit()
    assert project.run("experiment.toml").returncode == 0
    earlier = project.latest()
    project.write(
        "next.toml",
        f'script = "work.py"\nparameters_file = "parameters.toml"\n'
        f'[[data.inputs]]\nrun = "{earlier.run_id}"\n',
    )
    project.commit()
    # What was added since is an input like any other.
    (earlier.outputs / "note.txt").write_text("seen")
    assert project.run("next.toml").returncode == 0
    result = earlier.outputs / "result.txt"
    result.unlink()
    if damage == "altered":
        result.write_text("another result\n")
    refused = project.run("next.toml")
    assert refused.returncode == 2
    assert str(result) in refused.stderr
    assert f"{damage} since that ended" in refused.stderr


def test_an_unknown_run_is_refused(runs: Path):
    with pytest.raises(RunNotFoundError, match="no run 'latest:x'"):
        check(runs, InputSpec(run="latest:x"))


@pytest.mark.parametrize("beside", [True, False, "named"])
def test_an_experiment_that_never_ran_is_refused_with_the_command_that_runs_it(project, beside):
    script = 'script = "work.py"\n'
    file = "first" if beside == "named" else "prepare"
    if beside:
        name = 'name = "prepare"\n' if beside == "named" else ""
        project.write(f"stages/{file}.toml", name + script)
    project.write("stages/analyze.toml", f'{script}[[data.inputs]]\nrun = "latest:prepare"\n')
    project.commit()
    refused = project.run("stages/analyze.toml")
    assert refused.returncode == 2
    assert "no run of an experiment 'prepare'" in refused.stderr
    assert (f"make one with `./run stages/{file}.toml`" in refused.stderr) is bool(beside)


def test_a_repeated_run_uses_its_own_copy_and_insists_on_its_hashes(runs: Path, data: Path):
    found, folder = start(runs, InputSpec(path=data, strategy="copy"))
    recorded = RecordedInputs({"data": folder / "data"}, {"data": found[0].sha256}, False)
    shutil.rmtree(data)
    (again,) = check(runs, InputSpec(path=data, strategy="copy"), recorded=recorded)
    assert again.source == folder / "data"
    (folder / "data" / "a.txt").write_text("other")
    said = refusal(runs, InputSpec(path=data, strategy="copy"), recorded=recorded)
    assert "not the recorded" in said
    assert "--allow-changed-inputs" in said


def test_changed_inputs_are_allowed_on_request_and_are_a_finding(runs: Path, data: Path):
    recorded = RecordedInputs({}, {"data": "0" * 64}, True)
    found, _ = start(runs, InputSpec(path=data), recorded=recorded)
    (one,) = inputs.changed_since(found)
    assert one.code == "inputs_differ"
    assert one.evidence == {"data": {"recorded": "0" * 64, "now": found[0].sha256}}


def test_many_changes_are_told_shortly(runs: Path, tmp_path: Path):
    (tmp_path / "many").mkdir()
    found, _ = start(runs, InputSpec(path=tmp_path / "many"))
    for i in range(100):
        (tmp_path / "many" / f"{i:03}").touch()
    (one,) = inputs.changed_since(found)
    assert one.message == "inputs changed while the run was on: many/000: new and 99 more"
    assert len(one.evidence) == 20


def test_no_inputs_cost_nothing(runs: Path):
    assert check(runs) == []
    assert inputs.changed_since([]) == []
    assert inputs.manifest([]) == []
