"""One run from the command line to the record, on real repositories."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema
import pytest
from conftest import CHECKOUT, EXPERIMENT, Project

from engram import record
from engram.manifest import hash_file

SECRETS = {
    "FOO_SECRET": "hunter2secret",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
}


def test_a_run_leaves_a_completed_record_with_all_its_files(project: Project) -> None:
    done = project.run("experiment.toml")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "value 21\n"
    paths = project.latest()
    found = project.record()
    assert found["state"] == "completed"
    assert found["summary"] == {"doubled": 42}
    assert found["code"]["commit"] == project.git("rev-parse", "HEAD")
    assert found["script"] == {"path": "work.py", "blob": project.git("rev-parse", "HEAD:work.py")}
    assert paths.parameters.read_bytes() == (project.root / "parameters.toml").read_bytes()
    assert (paths.outputs / "result.txt").read_text() == "42\n"
    assert paths.log_out.read_text() == "value 21\n"
    expected = {
        "metadata.json",
        "experiment.toml",
        "parameters.toml",
        "inputs",
        "outputs",
        "README.md",
    }
    assert expected <= {path.name for path in paths.folder.iterdir()}
    evidence = {
        "environment.json",
        "inputs.json",
        "outputs.json",
        "imports.json",
        "files.json",
        "source.pack",
    }
    assert evidence <= {path.name for path in paths.provenance.iterdir()}


def test_the_record_follows_its_published_schema(project: Project) -> None:
    project.run("experiment.toml")
    schema = json.loads((CHECKOUT / "docs" / "metadata.schema.json").read_text())
    jsonschema.validate(json.loads(project.latest().metadata.read_text()), schema)


def test_resolved_experiment_runs_again_as_it_stands(project: Project) -> None:
    project.run("experiment.toml", "--set", "value=5", "--seed", "3")
    first = project.latest()
    again = project.run(str(first.experiment))
    assert again.returncode == 0, again.stderr
    assert project.record()["summary"] == {"doubled": 10}
    assert project.record()["seed"] == 3
    assert project.record()["experiment"] == record.load(first)["experiment"]


def test_lazy_import_after_an_edit_runs_the_commit(project: Project) -> None:
    project.write("lib/late.py", "ANSWER = 'committed'\n")
    project.write(
        "work.py",
        "import pathlib\n"
        "def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):\n"
        f"    live = pathlib.Path({str(project.root / 'lib' / 'late.py')!r})\n"
        "    live.write_text('ANSWER = 0')\n"
        "    import late\n"
        "    return {'answer': late.ANSWER}\n",
    )
    project.commit()
    done = project.run("experiment.toml", env={"PYTHONPATH": str(project.root / "lib")})
    assert done.returncode == 0, done.stderr
    assert project.record()["summary"] == {"answer": "committed"}
    codes = [item["code"] for item in project.record()["findings"]]
    assert "wrote_outside_outputs" in codes


def test_writing_beside_the_script_does_not_poison_the_next_run(project: Project) -> None:
    project.write("helper.py", "VALUE = 1\n")
    project.write(
        "work.py",
        "import os, pathlib, helper\n"
        "def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):\n"
        "    here = pathlib.Path(__file__).parent\n"
        "    os.chmod(here, 0o755); os.chmod(here / 'helper.py', 0o644)\n"
        "    (here / 'helper.py').write_text('VALUE = 2\\n')\n"
        "    (here / 'extra.py').write_text('')\n"
        "    return {'value': helper.VALUE, 'entries': len(list(here.iterdir()))}\n",
    )
    project.commit()
    for _ in range(2):
        done = project.run("experiment.toml")
        assert done.returncode == 0, done.stderr
    first, second = (record.load(paths)["summary"] for paths in project.runs())
    assert first == second
    assert first["value"] == 1


def test_parameters_are_read_once(project: Project) -> None:
    live = project.root / "parameters.toml"
    project.write(
        "work.py",
        "import pathlib, tomllib\n"
        "def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):\n"
        f"    pathlib.Path({str(live)!r}).write_text('value = 99')\n"
        "    return {'value': tomllib.loads(params_file.read_text())['value']}\n",
    )
    project.commit()
    assert project.run("experiment.toml").returncode == 0
    assert project.record()["summary"] == {"value": 21}
    assert project.latest().parameters.read_text() == "value = 21\n"


@pytest.mark.parametrize(
    ("name", "text"), [("work.py", "x = 1\n"), ("new.py", "x = 1\n"), ("lib/deep/new.py", "")]
)
def test_unrecorded_code_is_refused_with_its_name_and_no_folder(
    project: Project, name: str, text: str
) -> None:
    if name == "work.py":
        text += (project.root / name).read_text()
    project.write(name, text)
    done = project.run("experiment.toml")
    assert done.returncode == 3
    assert name in done.stderr
    assert not (project.root / "runs").exists()


def test_files_below_workspace_may_differ(project: Project) -> None:
    project.write("workspace/experiment.toml", EXPERIMENT)
    project.write("workspace/note.txt", "x")
    assert project.run("workspace/experiment.toml").returncode == 0


def test_dirty_code_runs_when_allowed_and_can_be_repeated(project: Project) -> None:
    project.write("extra.py", "VALUE = 'untracked'\n")
    script = (project.root / "work.py").read_text()
    project.write(
        "work.py",
        "import extra\n"
        + script.replace("* 2}\n", "* 3, 'extra': extra.VALUE}\n").replace(
            "* 3, 'extra': extra.VALUE}\\n", "* 2}\\n"
        ),
    )
    done = project.run("experiment.toml", "--allow-dirty")
    assert done.returncode == 0, done.stderr
    found = project.record()
    assert found["summary"] == {"doubled": 63, "extra": "untracked"}
    assert found["code"]["dirty"] is True
    first = project.latest()
    assert b"untracked" in first.patch.read_bytes()
    project.git("checkout", "-q", "--", ".")
    (project.root / "extra.py").unlink()
    again = project.run("--rerun", first.run_id)
    assert again.returncode == 0, again.stderr
    assert "identical" in again.stderr


def test_live_run_is_marked_and_cannot_be_repeated(project: Project) -> None:
    project.write("work.py", (project.root / "work.py").read_text() + "# edited\n")
    done = project.run("experiment.toml", "--live")
    assert done.returncode == 0, done.stderr
    assert project.record()["code"]["live"] is True
    assert "live_code" in [item["code"] for item in project.record()["findings"]]
    refused = project.run("--rerun", "latest")
    assert refused.returncode == 2
    assert "--live" in refused.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('scirpt = "work.py"\n', "script"),
        ('script = "none.py"\n', "none.py"),
        ('script = "work.py"\nseed = \n', "line 2"),
        ('script = "work.py"\nparameters_file = "none.toml"\n', "none.toml"),
    ],
)
def test_bad_experiment_is_refused_before_anything_is_made(
    project: Project, text: str, said: str
) -> None:
    project.write("experiment.toml", text)
    project.commit()
    done = project.run("experiment.toml")
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project.root / "runs").exists()


def test_dry_run_prints_the_plan_and_makes_nothing(project: Project) -> None:
    done = project.run("experiment.toml", "--dry-run", "--set", "value=4")
    assert done.returncode == 0, done.stderr
    assert "value = 4" in done.stdout
    assert project.git("rev-parse", "HEAD") in done.stdout
    assert not (project.root / "runs").exists()
    assert not (project.root / ".git" / "engram").exists()


def test_twenty_starts_at_once_make_twenty_folders(project: Project) -> None:
    with ThreadPoolExecutor(20) as pool:
        done = list(pool.map(lambda _: project.run("experiment.toml"), range(20)))
    assert [one.returncode for one in done] == [0] * 20, done[0].stderr
    assert len(project.runs()) == 20
    lines = (project.root / "runs" / "log.jsonl").read_text().splitlines()
    assert len({json.loads(line)["run_id"] for line in lines}) == 20
    listed = json.loads(project.run("list", "--json").stdout)
    assert len(listed) == 20


def test_no_secret_reaches_the_run_folder(project: Project) -> None:
    project.git("remote", "add", "origin", "https://user:ghp_tokensecret@example.org/x.git")
    project.run("experiment.toml", env=SECRETS)
    assert project.record()["state"] == "completed"
    for secret in (*SECRETS.values(), "ghp_tokensecret"):
        command = ["grep", "-r", "-l", secret, str(project.root / "runs")]
        assert subprocess.run(command, capture_output=True, check=False).stdout == b""


def test_paths_resolve_against_the_repository_from_any_folder(project: Project) -> None:
    (project.root / "deep").mkdir()
    done = project.run("../experiment.toml", cwd=project.root / "deep")
    assert done.returncode == 0, done.stderr
    assert len(project.runs()) == 1


def test_timeout_ends_the_run_and_says_so(project: Project) -> None:
    project.write(
        "work.py",
        (project.root / "work.py")
        .read_text()
        .replace("print(", "import time; time.sleep(60); print("),
    )
    project.commit()
    done = project.run("experiment.toml", "--timeout", "1s")
    assert done.returncode == 124
    assert project.record()["state"] == "timed_out"


def test_script_failure_is_recorded_with_its_cause(project: Project) -> None:
    project.write("parameters.toml", "other = 1\n")
    done = project.run("experiment.toml")
    assert done.returncode == 1
    found = project.record()
    assert found["state"] == "failed"
    assert found["exit"]["exception"]["type"] == "KeyError"
    assert "Traceback" in project.latest().log_err.read_text()


def test_bare_python_without_packages_runs_it_too(project: Project) -> None:
    python = Path("/usr/bin/python3")
    if not python.exists():
        pytest.skip("no /usr/bin/python3 to serve as the bare interpreter")
    command = [
        str(python),
        "-S",
        str(CHECKOUT / "run_experiment.py"),
        "experiment.toml",
        "--set",
        "value=1",
    ]
    done = subprocess.run(
        command,
        cwd=project.root,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert tomllib.loads(project.latest().parameters.read_text()) == {"value": 1}


def test_a_new_run_root_hides_itself_from_git(project: Project) -> None:
    project.write(".gitignore", "__pycache__\n")
    project.commit()
    assert project.run("experiment.toml").returncode == 0
    assert project.git("status", "--porcelain") == ""


def test_uncommitted_module_in_workspace_is_noted(project: Project) -> None:
    project.write("workspace/tool.py", "VALUE = 1\n")
    project.run("experiment.toml")
    assert "uncommitted_workspace" in [item["code"] for item in project.record()["findings"]]


def test_seed_is_drawn_and_recorded_when_none_is_given(project: Project) -> None:
    project.write(
        "work.py",
        "import random\n"
        "def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):\n"
        "    return {'drawn': random.random()}\n",
    )
    project.commit()
    for _ in range(2):
        assert project.run("experiment.toml").returncode == 0
    first, second = (record.load(paths) for paths in project.runs())
    assert first["seed"] != second["seed"]
    assert first["summary"] != second["summary"]
    assert project.run("--rerun", first["run_id"]).returncode == 0
    assert project.record()["summary"] == first["summary"]


def test_parameter_seed_is_the_runs_seed_when_no_other_is_given(project: Project) -> None:
    project.write("parameters.toml", "value = 1\nseed = 7\n")
    project.run("experiment.toml")
    assert project.record()["seed"] == 7
    project.run("experiment.toml", "--seed", "9")
    assert project.record()["seed"] == 9
    assert "seed = 9" in project.latest().parameters.read_text()


def test_on_finding_fail_makes_an_error_fail_the_run(project: Project, tmp_path: Path) -> None:
    stray = tmp_path / "stray.txt"
    project.write(
        "work.py",
        "def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):\n"
        f"    open({str(stray)!r}, 'w').write('x')\n",
    )
    project.commit()
    assert project.run("experiment.toml").returncode == 0
    assert project.record()["state"] == "completed"
    done = project.run("experiment.toml", "--config", 'audit.on_finding="fail"')
    assert done.returncode == 1
    found = project.record()
    assert found["state"] == "failed"
    assert "wrote_outside_outputs" in found["exit"]["cause"]


def test_wandb_without_account_or_network_runs_offline_and_is_recorded(project: Project) -> None:
    pytest.importorskip("wandb", reason="W&B is not installed")
    project.write(
        "work.py",
        "from engram import metrics\n"
        "def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):\n"
        "    with metrics.open(output_dir, wandb_config=wandb_config) as log:\n"
        "        log(step=1, loss=0.5)\n",
    )
    project.commit()
    done = project.run(
        "experiment.toml", "--config", "wandb.enabled=true", env={"HOME": str(project.root.parent)}
    )
    assert done.returncode == 0, done.stderr
    found = project.record()
    assert found["wandb"]["mode"] == "offline"
    assert found["wandb"]["id"]
    assert "wandb_offline" in [item["code"] for item in found["findings"]]
    assert [item for item in found["findings"] if item["severity"] == "error"] == []
    assert project.latest().metrics.read_text() == '{"step": 1, "loss": 0.5}\n'


def test_first_run_of_a_commit_keeps_its_pack_even_when_killed(project: Project) -> None:
    project.write(
        "work.py",
        "import time\n"
        "def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):\n"
        "    print('up', flush=True)\n"
        "    time.sleep(600)\n",
    )
    project.commit()
    started = project.start("experiment.toml")
    assert started.stdout is not None
    assert started.stdout.readline() == "up\n"
    end = time.monotonic() + 120
    while record.load(project.latest())["code"]["source_sha256"] is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    started.kill()
    started.communicate()
    project.run("list")
    found = project.record()
    assert found["state"] == "killed"
    assert hash_file(project.latest().source) == found["code"]["source_sha256"]
    assert project.run("verify", "latest").returncode == 0


def test_library_imported_inside_main_is_seeded_too(project: Project) -> None:
    pytest.importorskip("numpy", reason="numpy is what is seeded")
    project.write(
        "work.py",
        "def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):\n"
        "    import numpy\n"
        "    return {'drawn': float(numpy.random.rand())}\n",
    )
    project.commit()
    assert project.run("experiment.toml", "--seed", "5").returncode == 0
    numpy = pytest.importorskip("numpy")
    assert project.record()["summary"] == {"drawn": numpy.random.RandomState(5).rand()}
    assert project.run("--rerun", "latest").returncode == 0


def test_rerun_names_the_key_of_a_summary_that_differs(project: Project) -> None:
    project.write(
        "work.py",
        "import os\n"
        "def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):\n"
        "    return {'same': 1, 'process': os.getpid()}\n",
    )
    project.commit()
    project.run("experiment.toml")
    done = project.run("--rerun", "latest")
    assert done.returncode == 4
    assert "process" in done.stderr


@pytest.mark.parametrize("how", ["fork", "forkserver", "spawn", "manager"])
def test_multiprocessing_works_in_a_repository_with_a_long_path(project: Project, how: str) -> None:
    deep = project.root.parent / ("a-folder-with-a-rather-long-name-" * 3) / "project"
    deep.parent.mkdir()
    project.root.rename(deep)
    project.root = deep
    project.write("double.py", "def double(x):\n    return 2 * x\n")
    if how == "manager":
        body = (
            "    with multiprocessing.Manager() as manager:\n        shared = manager.dict(a=1)\n"
        )
        body += "        return {'result': shared['a']}\n"
    else:
        body = f"    with multiprocessing.get_context({how!r}).Pool(2) as pool:\n"
        body += "        return {'result': sum(pool.map(double.double, range(4)))}\n"
    project.write(
        "work.py",
        "import multiprocessing, double\n"
        "def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):\n"
        + body,
    )
    project.commit()
    done = project.run("experiment.toml", "--timeout", "30s")
    assert done.returncode == 0, done.stderr
    assert project.record()["summary"] == {"result": 1 if how == "manager" else 12}


def test_temporary_folder_of_a_run_is_its_own_and_goes_with_it(project: Project) -> None:
    project.write(
        "work.py",
        "import tempfile\n"
        "def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):\n"
        "    return {'folder': tempfile.mkdtemp()}\n",
    )
    project.commit()
    project.run("experiment.toml")
    folder = Path(project.record()["summary"]["folder"])
    assert folder.parent.name.startswith("engram-")
    assert not folder.parent.exists()
    assert [item["severity"] for item in project.record()["findings"]] == ["note"]


def test_bytecode_beside_modules_is_no_unrecorded_code(project: Project) -> None:
    project.write(".gitignore", "runs\n")
    project.write("helper.py", "VALUE = 1\n")
    project.commit()
    project.write("__pycache__/helper.cpython-311.pyc", "")
    assert project.run("experiment.toml").returncode == 0
    live = project.run("experiment.toml", "--live", env={"PYTHONDONTWRITEBYTECODE": ""})
    assert live.returncode == 0
    assert [path.name for path in (project.root / "__pycache__").iterdir()] == [
        "helper.cpython-311.pyc"
    ]


@pytest.mark.parametrize(
    ("typed", "said"), [("lsit", "'list'"), ("folder", "folder/experiment.toml")]
)
def test_mistyped_command_says_what_may_have_been_meant(
    project: Project, typed: str, said: str
) -> None:
    project.write("folder/experiment.toml", EXPERIMENT)
    done = project.run(typed)
    assert done.returncode == 2
    assert said in done.stderr


def test_index_of_another_layout_is_made_anew(project: Project) -> None:
    project.run("experiment.toml")
    project.run("list")
    database = project.root / "runs" / ".engram" / "index.sqlite"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("ALTER TABLE facts DROP COLUMN number")
        connection.execute("PRAGMA user_version = 1")
        connection.commit()
    project.run("experiment.toml")
    listed = project.run("list", "--json", "summary.doubled=42")
    assert listed.returncode == 0, listed.stderr
    assert len(json.loads(listed.stdout)) == 2
