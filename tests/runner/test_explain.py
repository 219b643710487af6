"""Why two runs differ: causes, results, and what follows from them."""

from __future__ import annotations

import json
import shutil

import pytest
from made_runs import an_input, make_run

from engram import record
from engram.explain import explain
from engram.files import write_json
from engram.manifest import hash_tree, tree_hash

TRAIN = """\
import json
import tomllib
import model
from engram import metrics


def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):
    parameters = tomllib.loads(params_file.read_text())
    if parameters.get("late"):
        import late
    with metrics.open(output_dir) as log:
        for step in range(3):
            log(step=step, loss=model.double(step) * parameters["value"])
    (output_dir / "result.json").write_text(json.dumps({"x": model.double(parameters["value"])}))
    return {"doubled": model.double(parameters["value"])}
"""
MODEL = "def double(x):\n    return x * 2\n"
ENVIRONMENT = {
    "python": "3.11.7",
    "build": "3.11.7 (gcc)",
    "torch": "2.9.0+cpu",
    "platform": "Linux-6.1",
    "os": "Debian 12",
    "cpu": "Xeon",
    "gpus": [{"uuid": "GPU-1", "name": "H200"}],
    "driver": "570",
    "packages": {"numpy": "2.0.0", "pandas": "2.2.0", "torch": "2.9.0", "old": "1"},
    "installed_from": {},
    "variables": {"LANG": "C", "SLURM_JOB_ID": "7"},
}


@pytest.fixture
def training(project):
    """A project with a module that is imported, one that may be, and one that never is."""
    project.write("work.py", TRAIN)
    project.write("lib/model.py", MODEL)
    project.write("lib/late.py", "LATE = 1\n")
    project.write("lib/unused.py", "UNUSED = 1\n")
    project.write("parameters.toml", "value = 21\nlate = false\n")
    project.write("experiment.toml", 'script = "work.py"\nparameters_file = "parameters.toml"\n')
    project.commit()
    return project


def ran(project, *options):
    """Run the experiment with a fixed seed; the new run."""
    done = project.run("experiment.toml", "--seed", "1", *options)
    assert done.returncode == 0, done.stderr
    return project.latest()


def differing(a, b):
    """Name of the part -> its changes that matter, as (key, a, b)."""
    found = explain(a, b).sections
    return {
        part.name: [(item.key, item.a, item.b) for item in part.changes if item.matters]
        for part in found
        if part.differs
    }


def part(a, b, name):
    (found,) = [part for part in explain(a, b).sections if part.name == name]
    return found


@pytest.fixture
def pair(tmp_path):
    """A run that was made directly, and how to make another like it."""

    def make(**changes):
        paths = make_run(tmp_path / "runs", **changes)
        paths.experiment.write_text('script = "work.py"\n[environment]\nthreads = 2\n')
        write_json(paths.environment, ENVIRONMENT)
        write_json(paths.imports, {"modules": [], "outside": [], "packages": ["pandas"]})
        write_json(paths.outputs_manifest, [])
        return paths

    (tmp_path / "runs").mkdir()
    return make(), make


def test_equal_runs_of_one_commit_exit_with_0(training):
    a, b = ran(training), ran(training)
    done = training.run("diff", a.run_id, b.run_id)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.rstrip().endswith("nothing that matters differs")
    assert explain(a, b).same


def test_causes_come_before_results_on_one_screen_and_exit_is_4(training):
    ran(training)
    training.write("lib/model.py", MODEL.replace("* 2", "* 3"))
    training.commit()
    ran(training, "--set", "value=5")
    a, b = training.runs()
    done = training.run("diff", a.run_id, "latest")
    assert done.returncode == 4, done.stderr
    lines = done.stdout.splitlines()
    order = ["code", "parameters", "summary", "metrics", "outputs"]
    assert [line.split()[0] for line in lines if line[2:].startswith(tuple(order))] == order
    assert "  code       lib/model.py: changed, +1 -1" in lines
    assert "                 -    return x * 2" in lines
    assert "  parameters value: 21 -> 5" in lines
    assert "  summary    doubled: 42 -> 15" in lines
    assert any("step 1: loss: 42 -> 15  (2 of 3 lines differ)" in line for line in lines)
    assert any("result.json x: 42 -> 15" in line for line in lines)
    assert lines[-1] == "the results differ; what can have caused it: code, parameters"
    assert len(lines) < 40
    assert training.run("explain", a.run_id, b.run_id).stdout == done.stdout


def test_json_holds_the_same_for_programs(training):
    a, b = ran(training), ran(training, "--set", "value=5")
    done = training.run("diff", "--json", a.run_id, b.run_id)
    found = json.loads(done.stdout)
    assert done.returncode == 4
    assert (found["same"], found["a"]["run_id"], found["b"]["folder"]) == (
        False,
        a.run_id,
        str(b.folder),
    )
    assert [(part["name"], part["kind"]) for part in found["sections"] if part["differs"]] == [
        ("parameters", "cause"),
        ("summary", "result"),
        ("metrics", "result"),
        ("outputs", "result"),
    ]
    changes = {part["name"]: part["changes"] for part in found["sections"]}
    assert changes["parameters"][0]["key"] == "value"
    assert "code" not in found


def test_full_shows_the_whole_difference_as_git_does(training):
    a = ran(training)
    old = training.git("rev-parse", "HEAD")
    training.write("lib/model.py", MODEL + "".join(f"X{i} = {i}\n" for i in range(40)))
    training.commit()
    b = ran(training)
    short = training.run("diff", a.run_id, b.run_id).stdout
    full = training.run("diff", "--full", a.run_id, b.run_id).stdout
    assert "lib/model.py: changed, +40 -0" in short
    assert "+X39 = 39" not in short
    assert training.git("diff", "--no-color", old, "HEAD", "--", "lib/model.py") in full


def test_a_module_that_no_run_imported_does_not_matter(training):
    a = ran(training)
    training.write("lib/unused.py", "UNUSED = 2\n")
    training.commit()
    b = ran(training)
    assert differing(a, b) == {}
    assert "differ in no module that either run imported" in part(a, b, "code").remarks[0]


def test_a_module_that_one_run_imported_matters(training):
    a = ran(training, "--set", "late=true")
    training.write("lib/late.py", "LATE = 2\n")
    training.commit()
    b = ran(training)
    assert [change.key for change in part(a, b, "code").changes] == ["lib/late.py"]
    assert [change.key for change in part(b, a, "code").changes] == ["lib/late.py"]


def test_a_file_of_the_commit_that_a_script_may_have_read_is_named(training):
    training.write("lib/table.txt", "1\n")
    training.commit()
    a = ran(training)
    training.write("lib/table.txt", "2\n")
    training.write("README.md", "new\n")
    training.commit()
    section = part(a, ran(training), "code")
    assert (section.changes, section.differs) == ([], False)
    assert section.remarks[1] == "a script may have read, as no record says: 1 file: lib/table.txt"


def test_dirty_runs_are_compared_by_what_ran(training):
    a = ran(training)
    training.write("lib/model.py", MODEL.replace("* 2", "+ x"))
    b = ran(training, "--allow-dirty")
    (change,) = part(a, b, "code").changes
    assert (change.key, change.lines) == (
        "lib/model.py",
        ("-    return x * 2", "+    return x + x"),
    )


def test_live_runs_are_compared_by_hashes(training):
    a = ran(training)
    training.write("lib/model.py", MODEL.replace("* 2", "+ x"))
    b = ran(training, "--live")
    section = part(a, b, "code")
    assert [change.key for change in section.changes] == ["lib/model.py"]
    assert "ran from the working tree" in section.remarks[0]
    assert "recorded hashes" in section.remarks[1]


def two_versions(training, tmp_path):
    """Runs of two commits, moved to where no repository is."""
    ran(training)
    training.write("lib/model.py", MODEL.replace("* 2", "+ x"))
    training.commit()
    ran(training)
    for paths in training.runs():
        shutil.move(paths.folder, tmp_path / "moved" / paths.run_id)
    shutil.rmtree(training.root)
    return sorted((tmp_path / "moved").iterdir())


def test_packs_serve_when_the_repository_is_gone(training, tmp_path, monkeypatch):
    (tmp_path / "moved").mkdir()
    a, b = two_versions(training, tmp_path)
    monkeypatch.chdir(tmp_path)
    training.root = tmp_path
    done = training.run("diff", str(a), str(b))
    assert "lib/model.py: changed, +1 -1" in done.stdout, done.stderr
    assert done.returncode == 4


def test_hashes_serve_when_repository_and_packs_are_gone(training, tmp_path, monkeypatch):
    (tmp_path / "moved").mkdir()
    a, b = two_versions(training, tmp_path)
    (b / "provenance" / "source.pack").unlink()
    monkeypatch.chdir(tmp_path)
    training.root = tmp_path
    done = training.run("diff", str(a), str(b))
    assert "lib/model.py: sha256 " in done.stdout
    assert "the commits are not at hand" in done.stdout
    assert done.returncode == 4


def log(paths, losses):
    lines = [json.dumps({"step": step, "loss": loss}) for step, loss in enumerate(losses)]
    paths.metrics.write_text("".join(f"{line}\n" for line in lines))


def test_equal_causes_and_other_results_are_called_unexplained(pair):
    a, make = pair
    b = make()
    log(a, [1.0])
    log(b, [2.0])
    found = explain(a, b)
    assert not found.same
    assert "nothing recorded explains it" in found.conclusion


def test_other_causes_and_equal_results_are_said_to_be_so(pair):
    a, make = pair
    found = explain(a, make(parameters="lr = 0.2\n"))
    assert found.conclusion == "the results are the same, although this differs: parameters"


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("lr = 0.1\n", []),
        ("lr = 0.10 # same\n", []),
        ("lr = 0.2\n", [("lr", "0.1", "0.2")]),
        ("lr = '0.1'\n", [("lr", "0.1", "'0.1'")]),
        ("lr = 0.1\nnew = true\n", [("new", "absent", "True")]),
        ("[net]\nsize = 1\n", [("lr", "0.1", "absent"), ("net.size", "absent", "1")]),
    ],
)
def test_parameters_are_compared_by_flattened_key(pair, text, changes):
    a, make = pair
    assert differing(a, make(parameters=text)).get("parameters", []) == changes


def test_the_place_in_a_list_is_named(tmp_path):
    (tmp_path / "runs").mkdir()
    a, b = (
        make_run(tmp_path / "runs", parameters=f"sizes = [1, {size}]\nx = nan\n") for size in (2, 3)
    )
    assert differing(a, b)["parameters"] == [("sizes[1]", "2", "3")]


def test_unreadable_parameters_are_judged_by_hash(pair):
    a, make = pair
    hashes = {"parameters": "a" * 64, "experiment": None, "environment": None, "lock_file": None}
    b = make(hashes=hashes)
    b.parameters.write_text("lr = ")
    assert differing(a, b)["parameters"] == [("parameters.toml", "None", "a" * 12)]


def with_input(make, folder, name="data"):
    entries = hash_tree(folder)
    paths = make(inputs=[an_input(name, folder, "symlink", tree_hash(entries), entries)])
    manifest = [{"name": name, "entries": [entry.as_json() for entry in entries]}]
    write_json(paths.inputs_manifest, manifest)
    return paths


def test_inputs_are_compared_by_hash_and_their_files_named(pair, tmp_path):
    _, make = pair
    folders = [tmp_path / name for name in ("one", "two", "three")]
    for folder in folders:
        folder.mkdir()
        (folder / "x.csv").write_text("1")
        (folder / "y.csv").write_text("2" if folder.name == "three" else "1")
    one, two, three = (with_input(make, folder) for folder in folders)
    assert differing(one, two) == {}
    (moved,) = part(one, two, "inputs").changes
    assert (moved.a, moved.note, moved.matters) == (str(folders[0]), "the same content", False)
    (changed,) = part(one, three, "inputs").changes
    assert (changed.key, changed.note) == ("data", "1 file: y.csv")
    renamed = with_input(make, folders[0], "other")
    assert [change.key for change in part(one, renamed, "inputs").changes] == ["data", "other"]


def test_seeds_and_where_a_run_began_are_causes(pair):
    a, make = pair
    edge = {"run": "earlier", "checkpoint": "outputs/checkpoints/step-3", "sha256": "f" * 64}
    b = make(seed=2, parents={"resumed_from": edge, "rerun_of": None})
    start = "checkpoint outputs/checkpoints/step-3 of earlier"
    assert differing(a, b) == {
        "seeds": [("seed", "0", "2"), ("start", "from the beginning", start)]
    }


def changed_environment(make, **changes):
    paths = make()
    write_json(paths.environment, {**ENVIRONMENT, **changes})
    return paths


def test_packages_are_named_those_in_use_first(pair):
    a, make = pair
    packages = {"numpy": "2.1.0", "pandas": "2.2.1", "torch": "2.9.1", "new": "1"}
    b = changed_environment(make, packages=packages, torch="2.9.1+cu130")
    assert differing(a, b)["environment"] == [
        ("torch", "'2.9.0+cpu'", "'2.9.1+cu130'"),
        ("pandas", "2.2.0", "2.2.1"),
        ("new", "absent", "1"),
        ("numpy", "2.0.0", "2.1.0"),
        ("old", "1", "absent"),
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"python": "3.12.1"}, {"environment": [("python", "'3.11.7'", "'3.12.1'")]}),
        ({"variables": {"LANG": "de"}}, {"environment": [("$LANG", "'C'", "'de'")]}),
        ({"cpu": "EPYC"}, {"hardware": [("cpu", "'Xeon'", "'EPYC'")]}),
        ({"gpus": []}, {"hardware": [("gpus", "1 items", "0 items")]}),
        ({"build": "3.11.7 (clang)", "platform": "Linux-6.2"}, {}),
        ({"variables": {"LANG": "C", "SLURM_JOB_ID": "8"}}, {}),
        ({"gpus": [{"uuid": "GPU-2", "name": "H200"}]}, {}),
    ],
)
def test_environment_and_hardware_matter_where_numbers_depend_on_them(pair, changes, expected):
    a, make = pair
    assert differing(a, changed_environment(make, **changes)) == expected


def test_missing_environment_is_said(pair):
    a, make = pair
    b = make()
    b.environment.unlink()
    assert "packages not compared" in part(a, b, "environment").remarks[0]


def test_threads_matter_and_descriptions_do_not(pair):
    a, make = pair
    b = make()
    b.experiment.write_text(
        'script = "work.py"\ndescription = "x"\ntimeout = "2h"\n[environment]\nthreads = 4\n'
    )
    assert differing(a, b) == {"environment": [("threads", "2", "4")]}
    assert {change.key for change in part(a, b, "experiment").changes} == {"description", "timeout"}


def test_first_differing_step_is_named(pair):
    a, make = pair
    b = make()
    log(a, [0, 1, 2, 3, 4])
    log(b, [0, 1, 2, 0])
    (change,) = part(a, b, "metrics").changes
    assert (change.key, change.a, change.b) == ("step 3: loss", "3", "0")
    assert change.note == "2 of 5 lines differ"


def test_failure_and_success_differ(pair):
    a, make = pair
    b = make(state="failed")
    assert ("state", "completed", "failed") in differing(a, b)["ending"]


def with_outputs(paths, files, settings=""):
    for name, text in files.items():
        (paths.outputs / name).parent.mkdir(parents=True, exist_ok=True)
        (paths.outputs / name).write_text(text)
    entries = hash_tree(paths.outputs)
    write_json(paths.outputs_manifest, [entry.as_json() for entry in entries])
    paths.experiment.write_text(f'script = "work.py"\n[outputs]\n{settings}\n')
    return paths


def test_outputs_are_compared_by_content_without_volatile_ones(pair):
    a, make = pair
    with_outputs(a, {"a.json": '{"x": 1, "y": 1}', "t.log": "1", "gone": "", "s.json": "[1]"})
    b = with_outputs(
        make(),
        {"a.json": '{"y":1, "x":2}', "t.log": "2", "s.json": "[ 1 ]"},
        'volatile = ["*.log"]',
    )
    found = part(a, b, "outputs").changes
    assert [(change.key, change.b) for change in found] == [("a.json x", "2"), ("gone", "absent")]
    shutil.rmtree(b.outputs)
    assert [change.key for change in part(a, b, "outputs").changes] == ["a.json", "gone", "s.json"]


def test_differences_within_the_tolerance_do_not_matter(pair):
    a, make = pair
    with_outputs(a, {"a.json": "[1.0]"}, "rtol = 0.1")
    b = with_outputs(make(), {"a.json": "[1.01]"}, "rtol = 0.1")
    (change,) = part(a, b, "outputs").changes
    assert (change.matters, change.note) == (False, "within the tolerance")
    assert explain(a, b).same


def test_a_run_without_a_record_is_refused(project):
    ran_folder = record.new_run_folder(project.root / "runs", "early")
    done = project.run("diff", str(ran_folder.folder), str(ran_folder.folder))
    assert done.returncode == 2
    assert "record" in done.stderr


def test_many_changes_fit_a_screen(tmp_path):
    (tmp_path / "runs").mkdir()
    a, b = (
        make_run(
            tmp_path / "runs",
            parameters="".join(f"key{i} = '{str(value) * 200}'\n" for i in range(50)),
        )
        for value in (1, 2)
    )
    found = explain(a, b)
    lines = list(found.lines(full=False))
    assert any("and 38 more: --full shows them" in line for line in lines)
    assert max(map(len, lines)) < 200
    assert len(list(found.lines(full=True))) > 50
