"""What the audit sees, and that the code of the snapshot is what runs: real processes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from supervision import Bench, until


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    assert until(lambda: not made.living(), 50.0), made.living()


@pytest.fixture
def live(tmp_path):
    """A working tree whose package differs from the snapshot's."""
    package = tmp_path / "live" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("where = 'live'\n")
    (package / "part.py").write_text("where = 'live'\n")
    (package.parent / "only_live.py").write_text("where = 'live'\n")
    return package.parent


def give_package(bench):
    package = bench.snapshot / "package"
    package.mkdir()
    (package / "__init__.py").write_text("where = 'snapshot'\n")
    (package / "part.py").write_text("where = 'snapshot'\n")


def environment_with(tmp_path, files):
    """Make a virtual environment whose site-packages holds these files; return its interpreter."""
    folder = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next(folder.glob("lib/python3*/site-packages"))
    for name, text in files.items():
        (site / name).write_text(textwrap.dedent(text))
    return str(folder / "bin" / "python")


def codes(digest):
    return sorted(item.code for item in digest.findings)


def finding(digest, code):
    return next(item for item in digest.findings if item.code == code)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


IMPORT_PACKAGE = """
    import package
    import package.part
    return {"where": package.where, "part": package.part.where}
"""
FROM_SNAPSHOT = {"where": "snapshot", "part": "snapshot"}


def test_imported_modules_are_listed_with_their_hash(bench):
    give_package(bench)
    outcome = bench.supervise(IMPORT_PACKAGE)
    found = bench.digest()

    assert outcome.summary == FROM_SNAPSHOT
    assert found.findings == []
    assert [(m["name"], m["path"], m["sha256"]) for m in found.imports["modules"]] == [
        (name, path, sha256(bench.snapshot / path))
        for name, path in [
            ("package", "package/__init__.py"),
            ("package.part", "package/part.py"),
            ("work", "work.py"),
        ]
    ]


def test_imports_are_known_after_a_crash(bench):
    give_package(bench)
    bench.supervise("import package.part, os, signal\nimport json\nos.kill(os.getpid(), 9)")

    assert [m["name"] for m in bench.digest().imports["modules"]] == [
        "package",
        "package.part",
        "work",
    ]


def test_pythonpath_of_the_shell_does_not_beat_the_snapshot(bench, live, monkeypatch):
    give_package(bench)
    monkeypatch.setenv("PYTHONPATH", str(live))
    outcome = bench.supervise(IMPORT_PACKAGE)

    assert outcome.summary == FROM_SNAPSHOT
    assert bench.digest().findings == []


@pytest.mark.parametrize("kind", ["path", "appended finder", "leading finder", "import at start"])
def test_an_editable_install_does_not_beat_the_snapshot(bench, live, tmp_path, kind):
    give_package(bench)
    finder = f"""
        import sys
        from importlib.machinery import PathFinder
        class Editable:
            @staticmethod
            def find_spec(name, path=None, target=None):
                if name.split(".")[0] in ("package", "only_live"):
                    return PathFinder.find_spec(name, path or [{str(live)!r}])
        sys.meta_path.{"append(Editable)" if kind == "appended finder" else "insert(0, Editable)"}
    """
    early = f"import sys; sys.path.append({str(live)!r}); import package"
    start = {"path": str(live), "import at start": early}.get(kind, "import editable_finder")
    python = environment_with(
        tmp_path, {"editable.pth": start + "\n", "editable_finder.py": finder}
    )
    outcome = bench.supervise(IMPORT_PACKAGE, python=python)

    assert outcome.summary == FROM_SNAPSHOT
    assert codes(bench.digest()) == (
        ["imported_outside_snapshot"] if kind == "import at start" else []
    )


def test_an_import_from_elsewhere_is_an_error_with_the_files_hash(bench, live, tmp_path):
    python = environment_with(tmp_path, {"editable.pth": f"{live}\n"})
    outcome = bench.supervise("import only_live\nreturn {'w': only_live.where}", python=python)
    found = finding(bench.digest(), "imported_outside_snapshot")

    assert outcome.summary == {"w": "live"}
    assert found.severity == "error"
    assert found.evidence == [
        {
            "name": "only_live",
            "path": str(live / "only_live.py"),
            "sha256": sha256(live / "only_live.py"),
        }
    ]


def test_an_import_from_elsewhere_in_a_spawned_child_is_an_error(bench, live):
    body = f"""
        import subprocess, sys
        code = "import sys; sys.path.append({str(live)!r}); import only_live"
        subprocess.run([sys.executable, "-c", code], check=True)
    """
    bench.supervise(body)

    assert codes(bench.digest()) == ["imported_outside_snapshot"]


@pytest.mark.parametrize("how", ["fork", "spawn", "subprocess"])
def test_python_children_run_the_snapshot_and_are_audited(bench, live, tmp_path, how):
    give_package(bench)
    secret = tmp_path / "secret.txt"
    secret.write_text("x")
    python = environment_with(tmp_path, {"editable.pth": f"{live}\n"})
    top = f"""
        import multiprocessing, subprocess, sys
        def look(_=None):
            import package
            open({str(secret)!r}).close()
            return package.where
    """
    body = f"""
        if {how!r} == "subprocess":
            code = "import work; print(work.look())"
            out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            return {{"where": out.stdout.strip() + out.stderr}}
        with multiprocessing.get_context({how!r}).Pool(1) as pool:
            return {{"where": pool.map(look, [1])[0]}}
    """
    outcome = bench.supervise(body, top=top, python=python)
    found = bench.digest()

    assert outcome.summary == {"where": "snapshot"}
    assert codes(found) == ["read_outside_inputs"]
    assert finding(found, "read_outside_inputs").evidence == [str(secret)]
    assert "package" in [m["name"] for m in found.imports["modules"]]


def test_a_sitecustomize_of_the_environment_still_runs_in_children(bench, tmp_path):
    python = environment_with(tmp_path, {"sitecustomize.py": "import sys\nsys.mark = 'theirs'\n"})
    body = """
        import subprocess, sys
        code = "import sys; print(sys.mark, sys.modules['sitecustomize'].__file__, sys.path)"
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        return {"mark": sys.mark, "child": out.stdout.split(" ")[0], "hook": "hook" in out.stdout}
    """
    outcome = bench.supervise(body, python=python)

    assert outcome.summary == {"mark": "theirs", "child": "theirs", "hook": False}


def test_other_programs_are_named_as_not_audited(bench):
    body = "import os, subprocess\nsubprocess.run(['true'])\nos.system('true')\nos.posix_spawn"
    bench.supervise(body)
    found = finding(bench.digest(), "unaudited_process")

    assert found.severity == "note"
    assert found.evidence == ["sh", "true"]


@pytest.mark.parametrize("flag", ["-I", "-S", "-E"])
def test_a_python_that_escapes_the_hook_is_named_as_not_audited(bench, flag):
    bench.supervise(f"import subprocess, sys\nsubprocess.run([sys.executable, {flag!r}, '-c', ''])")

    assert finding(bench.digest(), "unaudited_process").evidence[0].startswith("python")


def test_audited_python_children_are_not_named(bench):
    bench.supervise("import subprocess, sys\nsubprocess.run([sys.executable, '-c', ''])")
    found = bench.digest()

    assert found.findings == []
    assert [entry["audited"] for entry in found.files["processes"]] == [True]


def test_reading_outside_inputs_is_a_warning(bench, tmp_path):
    (tmp_path / "data.txt").write_text("x")
    bench.supervise(f"open({str(tmp_path / 'data.txt')!r}).read()")
    found = finding(bench.digest(), "read_outside_inputs")

    assert (found.severity, found.evidence) == ("warning", [str(tmp_path / "data.txt")])


def test_declared_inputs_may_be_read_by_either_path(bench, tmp_path):
    source = tmp_path / "data"
    source.mkdir()
    (source / "a.txt").write_text("x")
    (bench.run.inputs / "data").symlink_to(source)
    bench.supervise(
        f"(input_dir / 'data/a.txt').read_text()\nopen({str(source / 'a.txt')!r}).read()",
        input_dir=str(bench.run.inputs),
    )

    assert bench.digest(inputs=[source]).findings == []


def test_writing_outside_outputs_is_an_error(bench, tmp_path):
    target = tmp_path / "elsewhere.txt"
    bench.supervise(f"open({str(target)!r}, 'w').write('x')\nopen('inside.txt', 'w').write('y')")
    found = finding(bench.digest(), "wrote_outside_outputs")

    assert found.severity == "error"
    assert [entry["path"] for entry in found.evidence] == [str(target)]


def test_writing_through_an_input_link_is_an_error(bench, tmp_path):
    source = tmp_path / "data.txt"
    source.write_text("x")
    (bench.run.inputs / "data.txt").symlink_to(source)
    bench.supervise(
        "(input_dir / 'data.txt').write_text('changed')", input_dir=str(bench.run.inputs)
    )

    assert codes(bench.digest(inputs=[source])) == ["wrote_outside_outputs"]


@pytest.mark.parametrize(
    "body",
    [
        "import os; os.replace('made', {target!r})",
        "import os; os.symlink('made', {target!r})",
        "import os; os.link('made', {target!r})",
        "import shutil; shutil.copyfile('made', {target!r})",
        "import sqlite3; c = sqlite3.connect({target!r}); c.execute('create table t(x)')",
        "import pathlib; pathlib.Path({target!r}).write_text('x')",
        "import os; os.close(os.open({target!r}, os.O_CREAT | os.O_WRONLY))",
    ],
)
def test_every_way_to_make_a_file_elsewhere_is_seen(bench, tmp_path, body):
    target = str(tmp_path / "elsewhere")
    bench.supervise("open('made', 'w').write('x')\n" + body.format(target=target))

    assert codes(bench.digest()) == ["wrote_outside_outputs"]


def test_removing_a_foreign_file_is_an_error(bench, tmp_path):
    (tmp_path / "precious").write_text("x")
    bench.supervise(f"import os\nos.remove({str(tmp_path / 'precious')!r})")

    assert finding(bench.digest(), "wrote_outside_outputs").evidence[0]["mode"] == "removed"


def test_what_was_made_and_removed_again_leaves_no_finding(bench, tmp_path):
    target = str(tmp_path / "short")
    bench.supervise(f"import os\nopen({target!r}, 'w').close()\nos.remove({target!r})")

    assert bench.digest().findings == []


def test_opening_for_writing_without_writing_is_reading(bench, tmp_path):
    target = tmp_path / "old.txt"
    target.write_text("x")
    started = max(target.stat().st_ctime, bench.run.parameters.stat().st_mtime) + 0.2
    bench.supervise(f"open({str(target)!r}, 'r+').read()")

    assert codes(bench.digest(started=started)) == ["read_outside_inputs"]


def test_ignored_roots_give_no_finding(bench, tmp_path):
    body = """
        import os, json, tempfile, decimal
        for path in ("/proc/self/status", "/etc/passwd", "/dev/null", json.__file__, __file__):
            open(path, "rb").read(10)
        open("/dev/null", "w").write("x")
        tempfile.NamedTemporaryFile(delete=False).write(b"x")
        open(params_file).read()
        open(os.environ["CACHE"] + "/x", "w").write("x")
    """
    tmp, cache = tmp_path / "tmp", tmp_path / "cache"
    tmp.mkdir()
    cache.mkdir()
    environ = {"TMPDIR": str(tmp), "CACHE": str(cache)}
    ignored = [str(bench.run.folder), str(tmp), str(cache)]
    bench.supervise(body, environ=environ, ignored=ignored)

    assert bench.digest(ignored=ignored).findings == []


def test_writing_into_the_snapshot_is_an_error_and_leaves_no_bytecode_there(bench):
    give_package(bench)
    bench.supervise(IMPORT_PACKAGE + "\n", top="open(__file__ + '.note', 'w').write('x')\n")

    assert codes(bench.digest()) == ["wrote_outside_outputs"]
    assert not list(bench.snapshot.rglob("__pycache__"))
    assert len(list((bench.run.folder / "bytecode").rglob("*.pyc"))) == 3


def test_bytecode_of_a_tampered_module_does_not_fit_the_repaired_one(bench):
    give_package(bench)
    part = bench.snapshot / "package" / "part.py"
    stamp = part.stat()
    part.write_text("where = 'tampered'\n"[: stamp.st_size - 3] + "x'\n")
    os.utime(part, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert part.stat().st_size == stamp.st_size
    assert bench.supervise(IMPORT_PACKAGE).summary != FROM_SNAPSHOT
    part.write_text("where = 'snapshot'\n")
    os.utime(part, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))

    assert bench.supervise(IMPORT_PACKAGE).summary == FROM_SNAPSHOT


def test_a_lazy_import_after_the_live_tree_changed_is_the_snapshots(bench, live, tmp_path):
    give_package(bench)
    python = environment_with(tmp_path, {"editable.pth": f"{live}\n"})
    target = str(live / "package" / "part.py")
    body = f"import package\nopen({target!r}, 'w').write('where = 1')\n" + textwrap.dedent(
        IMPORT_PACKAGE
    )

    assert bench.supervise(body, python=python).summary == FROM_SNAPSHOT


def test_what_a_c_library_opens_is_sampled(bench, tmp_path):
    data = tmp_path / "data.h5"
    data.write_bytes(b"x" * 10)
    body = f"""
        import ctypes, os, time
        libc = ctypes.CDLL(None)
        fd = libc.open({os.fsencode(data)!r}, 0)
        audit = os.environ["ENGRAM_AUDIT"].split(chr(31))[0]
        end = time.monotonic() + 120
        while '"fd"' not in open(audit).read() and time.monotonic() < end:
            time.sleep(0.01)
    """
    bench.supervise(body)
    found = bench.digest()

    assert finding(found, "read_outside_inputs").evidence == [str(data)]
    assert [e["seen"] for e in found.files["files"] if e["path"] == str(data)] == ["sampled"]


def test_the_audit_survives_a_script_that_closes_every_descriptor(bench, tmp_path):
    (tmp_path / "data.txt").write_text("x")
    body = f"import os\nos.closerange(3, 4096)\nopen({str(tmp_path / 'data.txt')!r}).read()"
    outcome = bench.supervise(body + "\nreturn {'a': 1}")

    assert (outcome.state, outcome.summary) == ("completed", {"a": 1})
    assert codes(bench.digest()) == ["read_outside_inputs"]


def test_a_million_files_do_not_grow_the_audit_without_bound(bench):
    body = (
        "for i in range(21_000):\n    try:\n        open(f'/nowhere/{i}')\n    except OSError: pass"
    )
    bench.supervise(body)
    found = bench.digest()

    assert codes(found) == ["audit_incomplete"]
    assert len(bench.run.audit.read_bytes().splitlines()) < 20_100


def test_strange_paths_are_kept(bench, tmp_path):
    names = ["line\nbreak", 'quo"te', "ünïcode", "bad\udcff", "tab\t"]
    for name in names:
        (tmp_path / name).write_text("x")
    bench.supervise("\n".join(f"open({str(tmp_path / name)!r}).read()" for name in names))

    assert finding(bench.digest(), "read_outside_inputs").evidence == sorted(
        str(tmp_path / name) for name in names
    )


def test_a_broken_line_does_not_stop_the_reading(bench):
    bench.supervise("return {}")
    with Path(bench.run.audit).open("ab") as stream:
        stream.write(b'{"e":"open","pa')

    assert bench.digest().findings == []
