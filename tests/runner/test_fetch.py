"""Fetching a data set from a mirror and from a server of our own, with a builder of few lines."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import shutil
import threading
from pathlib import Path

import pytest

from engram import fetch as fetching
from engram.dataset import Source, load_description, providing
from engram.errors import ConfigError, EnvironmentMissingError, InputError
from engram.fetch import fetch, fetch_command

CONTENT = {"numbers/a.csv": b"1\n2\n", "b c.txt": b"x\n"}
# The "content hash" of this builder is the text's length: engram does not care what it is.
BUILDER = """\
import json, sys
from pathlib import Path
import helper
raw, tables = map(Path, sys.argv[1:])
text = (raw / "things" / "numbers" / "a.csv").read_text() + (raw / "things" / "b c.txt").read_text()
(tables / "all.txt").write_text(helper.shout(text))
(tables / "content_hashes.json").write_text(json.dumps({"all": str(len(text))}))
"""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def description(**changed: str) -> str:
    values = {"target": "data/toy", "builder": "build.py", "notice": "Cite the toy.", "table": "6"}
    values |= changed
    files = "".join(
        f'[[file]]\nrepository = "someone/things"\ncommit = "c0ffee{i}"\npath = "{path}"\n'
        f'sha256 = "{sha256(data)}"\nlicense = "{"CC0" if i else "MIT"}"\n'
        for i, (path, data) in enumerate(CONTENT.items())
    )
    top = "".join(f'{key} = "{values[key]}"\n' for key in ("target", "builder", "notice"))
    return f'{top}{files}[[table]]\nname = "all"\nsha256 = "{values["table"]}"\n'


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository that describes one data set."""
    monkeypatch.delenv("ENGRAM_MIRROR", raising=False)
    folder = tmp_path / "repository"
    for name, text in {
        ".git/HEAD": "ref: refs/heads/main\n",
        "experiments/toy/sources.toml": description(),
        "experiments/toy/build.py": BUILDER,
        "lib/helper.py": "def shout(text):\n    return text.upper()\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def mirror(tmp_path):
    folder = tmp_path / "mirror"
    for path, data in CONTENT.items():
        (folder / "things" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "things" / path).write_bytes(data)
    return folder


def describe_anew(root: Path, **changed: str) -> None:
    (root / "experiments/toy/sources.toml").write_text(description(**changed))


def listing(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_mirror_gives_checked_files_and_built_tables(root, mirror):
    data = fetch("toy", root=root, mirror=mirror)
    assert data.target == root / "data/toy"
    found = listing(data.target)
    assert found.pop("NOTICE.md").decode().count("Cite the toy.") == 1
    assert found == {
        "raw/things/numbers/a.csv": CONTENT["numbers/a.csv"],
        "raw/things/b c.txt": CONTENT["b c.txt"],
        "tables/all.txt": b"1\n2\nX\n",
        "tables/content_hashes.json": json.dumps({"all": "6"}).encode(),
    }


def test_mirror_is_taken_from_the_environment(root, mirror, monkeypatch):
    monkeypatch.setenv("ENGRAM_MIRROR", str(mirror))
    assert (fetch("toy", root=root).target / "tables/all.txt").exists()


def test_command_works_below_the_root_and_prints_licenses_and_place(root, mirror):
    text = fetch_command(root / "lib", "toy", mirror=mirror)
    assert "- MIT\n  - someone/things at c0ffee0" in text
    assert "- CC0\n  - someone/things at c0ffee1" in text
    assert "Cite the toy." in text
    assert text.endswith(f"fetched 1 tables: {root / 'data/toy/tables'}")


def test_second_fetch_touches_nothing_and_needs_no_source(root, mirror):
    tables = fetch("toy", root=root, mirror=mirror).target / "tables"
    before = {path: path.stat() for path in (tables, *tables.iterdir())}
    shutil.rmtree(mirror / "things")
    fetch("toy", root=root, mirror=mirror)
    assert {path: path.stat()[:9] for path in before} == {
        path: status[:9] for path, status in before.items()
    }


def test_damaged_download_is_got_again_and_damaged_table_built_again(root, mirror):
    target = fetch("toy", root=root, mirror=mirror).target
    before = listing(target)
    (target / "raw/things/b c.txt").write_text("y\n")
    (target / "tables/all.txt").write_text("z")
    fetch("toy", root=root, mirror=mirror)
    assert listing(target) == before


def test_file_with_another_hash_is_refused_by_name_and_not_kept(root, mirror):
    (mirror / "things/b c.txt").write_text("altered")
    with pytest.raises(InputError, match=rf"b c\.txt.*{sha256(b'altered')}"):
        fetch("toy", root=root, mirror=mirror)
    assert not (root / "data/toy/raw/things/b c.txt").exists()
    assert not (root / "data/toy/tables").exists()


def test_file_missing_from_the_mirror_and_missing_mirror_are_named(root, mirror, tmp_path):
    (mirror / "things/b c.txt").unlink()
    with pytest.raises(EnvironmentMissingError, match=r"has no file 'things/b c\.txt'"):
        fetch("toy", root=root, mirror=mirror)
    with pytest.raises(EnvironmentMissingError, match="nowhere.*is no folder"):
        fetch("toy", root=root, mirror=tmp_path / "nowhere")


def test_tables_with_another_content_are_refused_and_the_old_ones_stay(root, mirror):
    target = fetch("toy", root=root, mirror=mirror).target
    before = listing(target / "tables")
    describe_anew(root, table="7")
    with pytest.raises(InputError, match="all: 6, described as 7"):
        fetch("toy", root=root, mirror=mirror)
    assert listing(target / "tables") == before
    assert [path.name for path in target.iterdir() if path.name.startswith(".")] == []


def test_table_the_builder_leaves_out_is_missed(root, mirror):
    path = root / "experiments/toy/sources.toml"
    path.write_text(path.read_text() + '[[table]]\nname = "more"\nsha256 = "1"\n')
    with pytest.raises(InputError, match="more: missing, described as 1"):
        fetch("toy", root=root, mirror=mirror)


@pytest.mark.parametrize(
    ("program", "error", "message"),
    [
        ("raise SystemExit('no such column')", EnvironmentMissingError, "code 1:\nno such column"),
        ("pass", InputError, r"left no content_hashes\.json"),
    ],
)
def test_failing_builder_is_shown_and_leaves_no_tables(root, mirror, program, error, message):
    (root / "experiments/toy/build.py").write_text(program)
    with pytest.raises(error, match=message):
        fetch("toy", root=root, mirror=mirror)
    assert {path.name for path in (root / "data/toy").iterdir()} == {"raw"}


def test_unknown_data_set_is_refused_with_the_known_ones(root):
    with pytest.raises(ConfigError, match="no data set 'toys'.*'toy'"):
        load_description("toys", root=root)


def test_missing_input_is_known_to_come_with_the_data_set_whose_target_it_lies_in(root):
    assert providing(root / "data/toy/tables/all.txt", root=root) == "toy"
    assert providing(root / "data/toy", root=root) == "toy"
    assert providing(root / "data/toys/tables", root=root) is None
    (root / "experiments/toy/sources.toml").write_text("target = 3\n")
    assert providing(root / "data/toy", root=root) is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('target = "data/toy"', 'target = "../toy"', "must be a relative path"),
        ('target = "data/toy"', 'target = "/toy"', "must be a relative path"),
        ('path = "b c.txt"', 'path = "../b"', "file 2: path"),
        ('license = "CC0"', 'licence = "CC0"', "file 2: the keys are"),
        ('notice = "Cite the toy."', "notice = 3", "notice = 3 is no str"),
        ('builder = "build.py"\n', "", "the keys are"),
    ],
)
def test_wrong_description_is_refused_with_file_and_key(root, old, new, message):
    path = root / "experiments/toy/sources.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=message) as caught:
        load_description("toy", root=root)
    assert str(path) in str(caught.value)


def test_addresses_name_repository_commit_and_path():
    source = Source("someone/things", "c0ffee", "a/b.csv", "0" * 64, "MIT")
    assert source.url == "https://raw.githubusercontent.com/someone/things/c0ffee/a/b.csv"
    assert source.place == "things/a/b.csv"


@contextlib.contextmanager
def serving(folder):
    """A server on this machine that stands for the public one."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=folder)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def no_proxy(monkeypatch):
    pytest.importorskip("pooch", reason="pooch is not installed")
    pytest.importorskip("requests")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetching, "ATTEMPTS", 1)


def serve_instead(monkeypatch, address):
    monkeypatch.setattr(Source, "url", property(lambda self: f"{address}/{self.place}"))


def test_downloaded_files_are_checked_and_built(root, mirror, monkeypatch, no_proxy):
    with serving(mirror) as address:
        serve_instead(monkeypatch, address)
        target = fetch("toy", root=root).target
    assert (target / "tables/all.txt").read_text() == "1\n2\nX\n"
    assert listing(target / "raw/things") == CONTENT


def test_download_with_another_hash_is_refused_and_not_kept(root, mirror, monkeypatch, no_proxy):
    (mirror / "things/b c.txt").write_text("altered")
    with serving(mirror) as address:
        serve_instead(monkeypatch, address)
        with pytest.raises(InputError, match=r"b c\.txt does not have the sha256 described"):
            fetch("toy", root=root)
    assert not (root / "data/toy/raw/things/b c.txt").exists()


def test_unreachable_server_is_named_and_the_mirror_recommended(
    root, mirror, monkeypatch, no_proxy
):
    with serving(mirror) as address:
        serve_instead(monkeypatch, address)
    with pytest.raises(EnvironmentMissingError, match=r"cannot get http.*--mirror FOLDER"):
        fetch("toy", root=root)
