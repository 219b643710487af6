"""Fetching a data set from a mirror and from a server of our own, with a builder of few lines."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import shutil
import subprocess
import threading
import tracemalloc
from pathlib import Path

import pytest

from engram import download as downloading
from engram.dataset import Source, load_description, providing
from engram.download import git_blob
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


def state(path: Path) -> tuple[int, ...]:
    """What changes when a file is written or replaced, and not when it is read."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


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
    before = {path: state(path) for path in (tables, *tables.iterdir())}
    shutil.rmtree(mirror / "things")
    fetch("toy", root=root, mirror=mirror)
    assert {path: state(path) for path in before} == before


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
        ('path = "b c.txt"\n', 'path = "b c.txt"\nsha1 = "0"\n', "file 2: the keys are"),
        ('commit = "c0ffee1"\n', "", "file 2: repository and commit go together"),
        (
            'commit = "c0ffee1"\n',
            'commit = "c0ffee1"\nurl = "https://x.org/y"\n',
            "file 2: write either",
        ),
        ('repository = "someone/things"\ncommit = "c0ffee1"\n', "", "file 2: write either"),
        (f'sha256 = "{sha256(CONTENT["b c.txt"])}"\n', "", "file 2: write sha256 or git_blob"),
        (
            f'sha256 = "{sha256(CONTENT["b c.txt"])}"',
            'git_blob = "12"',
            "file 2: git_blob = '12' is not",
        ),
        ('notice = "Cite the toy."', "notice = 3", "notice = 3 is no str"),
        ('notice = "Cite the toy."\n', "", "the keys are"),
        ('builder = "build.py"\n', "", "builder and table go together"),
    ],
)
def test_wrong_description_is_refused_with_file_and_key(root, old, new, message):
    path = root / "experiments/toy/sources.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=message) as caught:
        load_description("toy", root=root)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("taken", ["things/numbers/a.csv/x", "things"])
def test_a_place_that_cannot_be_taken_is_named(root, mirror, taken):
    """A folder where the file belongs, and a file where its folder belongs."""
    place = root / "data/toy/raw" / taken
    place.parent.mkdir(parents=True)
    place.write_text("mine")
    with pytest.raises(EnvironmentMissingError, match=r"cannot put '.*a\.csv' in place"):
        fetch("toy", root=root, mirror=mirror)
    assert place.read_text() == "mine"
    assert not list((root / "data/toy").rglob("*.part"))


@pytest.mark.parametrize(
    "second", ["numbers/a.csv", "numbers/./a.csv", "numbers", "numbers/a.csv/deeper"]
)
def test_two_files_of_one_place_are_refused(root, second):
    path = root / "experiments/toy/sources.toml"
    path.write_text(path.read_text().replace('path = "b c.txt"', f'path = "{second}"'))
    with pytest.raises(ConfigError, match="'things/numbers/a.csv' and .* would lie in one place"):
        load_description("toy", root=root)


def test_a_path_with_marks_of_an_address_is_asked_for_whole():
    source = Source("a b/c#1?.csv", "MIT", {"sha256": "0" * 64}, "someone/things", "c0ffee")
    assert source.url.endswith("/someone/things/c0ffee/a%20b/c%231%3F.csv")


def test_addresses_name_repository_commit_and_path():
    source = Source("a/b.csv", "MIT", {"sha256": "0" * 64}, "someone/things", "c0ffee")
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
    monkeypatch.setattr(downloading, "ATTEMPTS", 1)


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
        with pytest.raises(InputError, match=r"b c\.txt has sha256 .* as described"):
            fetch("toy", root=root)
    assert not (root / "data/toy/raw/things/b c.txt").exists()


def test_unreachable_server_is_named_and_the_mirror_recommended(
    root, mirror, monkeypatch, no_proxy
):
    with serving(mirror) as address:
        serve_instead(monkeypatch, address)
    with pytest.raises(EnvironmentMissingError, match=r"cannot get http.*--mirror FOLDER"):
        fetch("toy", root=root)


EXTRA = """\
target = "data/extra"
notice = "Cite the extra."

[[file]]
repository = "someone/large"
commit = "c0ffee2"
path = "deep/table.bin"
git_blob = "{blob}"
license = "MIT"

[[file]]
url = "{address}/elsewhere/b.bin?version=2"
path = "elsewhere/b.bin"
sha256 = "{sha256}"
git_blob = "{other}"
license = "CC0"
"""
FILES = {"large/deep/table.bin": bytes(range(256)) * 40, "elsewhere/b.bin": b"b\r\n"}


def git_says(path: Path) -> str:
    """What git itself says is in a file."""
    command = ["git", "hash-object", "--no-filters", str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def extra_mirror(tmp_path):
    """A folder that holds the files of EXTRA."""
    folder = tmp_path / "extra mirror"
    for place, data in FILES.items():
        (folder / place).parent.mkdir(parents=True)
        (folder / place).write_bytes(data)
    return folder


@pytest.fixture
def describe_extra(root, extra_mirror):
    """Describe EXTRA beside the toy, by the hashes of what the mirror now holds."""

    def describe(address: str = "https://example.org", **changed: str) -> Path:
        large, other = (extra_mirror / place for place in FILES)
        told = {"blob": git_says(large), "other": git_says(other), "address": address}
        told |= {"sha256": sha256(other.read_bytes()), **changed}
        path = root / "experiments/toy/extra.sources.toml"
        path.write_text(EXTRA.format(**told))
        return path

    return describe


def keep_last_file(description: Path) -> None:
    """Take the other files out of a description."""
    text = description.read_text()
    description.write_text(text[: text.index("[[file]]")] + text[text.rindex("[[file]]") :])


@pytest.mark.parametrize("content", [b"", b"a\n", b"a\r\n", bytes(range(256)) * 9000])
def test_a_git_blob_is_what_git_says(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    assert git_blob(path) == git_says(path)


def test_what_an_experiment_does_not_need_has_a_name_of_its_own(
    root, mirror, extra_mirror, describe_extra
):
    describe_extra()
    fetch("toy", root=root, mirror=mirror)
    assert not (root / "data/extra").exists()

    text = fetch_command(root, "extra", mirror=extra_mirror)
    found = listing(root / "data/extra")
    assert found.pop("NOTICE.md").decode().count("Cite the extra.") == 1
    assert found == {f"raw/{place}": data for place, data in FILES.items()}
    assert "- MIT\n  - someone/large at c0ffee2" in text
    assert "- CC0\n  - https://example.org/elsewhere/b.bin?version=2" in text
    assert text.endswith(f"fetched 2 files: {root / 'data/extra/raw'}")
    assert providing(root / "data/extra/raw/large", root=root) == "extra"
    with pytest.raises(ConfigError, match="describes 'toy', 'extra'"):
        load_description("none", root=root)


def test_files_are_downloaded_by_address_and_by_repository_and_got_once(
    root, extra_mirror, monkeypatch, no_proxy, describe_extra
):
    with serving(extra_mirror) as address:
        monkeypatch.setattr(
            Source, "url", property(lambda self: self.address or f"{address}/{self.place}")
        )
        describe_extra(address)
        target = fetch("extra", root=root).target
    assert listing(target / "raw") == FILES
    before = state(target / "raw/elsewhere/b.bin")
    fetch("extra", root=root)  # nobody answers any more
    assert state(target / "raw/elsewhere/b.bin") == before


@pytest.mark.parametrize(
    ("key", "kind", "found"),
    [("other", "git_blob", "git_says"), ("sha256", "sha256", "sha256")],
)
@pytest.mark.parametrize("by", ["server", "mirror"])
def test_a_file_that_one_of_its_hashes_denies_is_refused_and_not_kept(
    root, extra_mirror, no_proxy, describe_extra, key, kind, found, by
):
    expected = {"git_blob": "0" * 40, "sha256": "0" * 64}[kind]
    other = extra_mirror / "elsewhere/b.bin"
    is_it = git_says(other) if found == "git_says" else sha256(other.read_bytes())
    with serving(extra_mirror) as address:
        keep_last_file(describe_extra(address, **{key: expected}))
        with pytest.raises(InputError, match=rf"b\.bin.* has {kind} {is_it}, not {expected} as"):
            fetch("extra", root=root, mirror=extra_mirror if by == "mirror" else None)
    assert listing(root / "data/extra") == {}


def test_a_file_larger_than_the_memory_passes_in_pieces(
    root, extra_mirror, no_proxy, describe_extra
):
    size = 80 << 20
    with (extra_mirror / "elsewhere/b.bin").open("wb") as stream:
        stream.truncate(size)
    with serving(extra_mirror) as address:
        keep_last_file(describe_extra(address))
        tracemalloc.start()
        try:
            target = fetch("extra", root=root).target
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert (target / "raw/elsewhere/b.bin").stat().st_size == size
    assert peak < size / 4


def test_a_download_that_breaks_off_leaves_nothing_and_is_tried_again(
    root, extra_mirror, no_proxy, describe_extra, monkeypatch
):
    monkeypatch.setattr(downloading, "ATTEMPTS", 2)
    monkeypatch.setattr(downloading.time, "sleep", lambda seconds: None)
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"b")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        keep_last_file(describe_extra(f"http://127.0.0.1:{server.server_port}"))
        try:
            with pytest.raises(EnvironmentMissingError, match=r"cannot get http.*b\.bin"):
                fetch("extra", root=root)
        finally:
            server.shutdown()
            thread.join()
    assert len(asked) == 2
    assert listing(root / "data/extra") == {}


def test_an_address_must_be_one_of_the_web(describe_extra, root):
    describe_extra("ftp://example.org")
    with pytest.raises(ConfigError, match="url = 'ftp://.*must begin with https://"):
        load_description("extra", root=root)


def test_the_whole_brain_is_described_apart_from_what_the_experiment_needs():
    root = Path(__file__).parents[2]
    small, whole = (
        load_description(name, root=root) for name in ("fly_olfaction", "fly_whole_brain")
    )
    assert whole.builder is None
    assert whole.target != small.target
    assert {source.path for source in whole.files}.isdisjoint(source.path for source in small.files)
    assert {source.path.rpartition("/")[2]: source.hashes for source in whole.files} == {
        "Connectivity_783.parquet": {"git_blob": "d386555d1a5f40ebfa1380bcb05b1fab044855fd"},
        "Completeness_783.csv": {"git_blob": "b5a26b82b69a3c2e7fd99cd6810c36fc8f0e492b"},
        "Supplemental_file1_neuron_annotations.tsv": {
            "git_blob": "1a3168731618ee62a47392252d3af7664e739e9e"
        },
    }
