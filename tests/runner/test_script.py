"""What may be run is decided from the syntax tree alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engram.errors import ScriptError
from engram.script import check_script

ALL = "input_dir, output_dir, params_file, wandb_config=None, resume_from=None"


@pytest.mark.parametrize(
    "text",
    [
        f"def main({ALL}):\n    pass\n",
        "def main(*, input_dir, output_dir, params_file, wandb_config, resume_from): ...\n",
        "def main(**everything): ...\n",
        "def main(output_dir, **rest): ...\n",
        f"def main({ALL}, extra=1, *, more=2): ...\n",
        "import functools\nmain = functools.partial(print)\n",
        "main: object = print\n",
        "from somewhere import main\n",
        "from somewhere import train as main\n",
        "from somewhere import *\n",
        "@decorated\ndef main(anything): ...\n",
        f"try:\n    import torch\nexcept ImportError:\n    def main({ALL}): ...\n",
        f"def main(wrong): ...\ndef main({ALL}): ...\n",
        f"def main({ALL}):\n    def inner():\n        yield 1\n    return list(inner())\n",
        f"# -*- coding: latin-1 -*-\nname = '\xe9'\ndef main({ALL}): ...\n",
    ],
)
def test_a_main_that_takes_the_five_arguments_passes(text):
    check_script(Path("work.py"), text.encode("latin-1"))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("x = 1\n", "has no main"),
        (f"def Main({ALL}): ...\n", "line 1 defines 'Main'"),
        (f"class A:\n    def main({ALL}): ...\n", "line 2 defines 'main'"),
        (f"if __name__ == '__main__':\n    def main({ALL}): ...\n", "has no main"),
        ("def main(): ...\n", "does not take 'input_dir', 'output_dir', 'params_file'"),
        ("def main(input_dir, output_dir, params_file): ...\n", "'wandb_config', 'resume_from'"),
        ("def main(*args): ...\n", "does not take"),
        (f"def main(config, {ALL}): ...\n", "asks for 'config'"),
        (f"def main({ALL}, *, config): ...\n", "asks for 'config'"),
        (f"def main(input_dir, /, {ALL[11:]}): ...\n", "'input_dir' by position only"),
        ("def main(a, /, **rest): ...\n", "asks for 'a'"),
        (f"async def main({ALL}): ...\n", "is async"),
        (f"def main({ALL}):\n    yield 1\n", "contains yield"),
        (f"def main({ALL}): ...\ndef main(): ...\n", "line 2: main does not take"),
    ],
)
def test_a_main_that_could_not_be_called_is_refused(text, what):
    with pytest.raises(ScriptError, match=re.escape(what)) as caught:
        check_script(Path("folder/work.py"), text.encode())
    assert "folder/work.py" in str(caught.value)
    assert "main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None)" in str(
        caught.value
    )


def test_a_syntax_error_is_refused_with_its_line(tmp_path: Path):
    path = tmp_path / "work.py"
    path.write_text(f"def main({ALL}):\n    x = (1,\n    return x\n")
    with pytest.raises(ScriptError, match=r"work\.py', line 2: .*never closed"):
        check_script(path)


@pytest.mark.parametrize("data", [b"def main(\x00): ...", b"\xff\xfe", b"(" * 5000])
def test_bytes_that_are_no_source_are_refused(data):
    with pytest.raises(ScriptError, match=r"work\.py"):
        check_script(Path("work.py"), data)


def test_a_missing_script_is_named_and_nothing_is_executed(tmp_path: Path):
    with pytest.raises(ScriptError, match=r"absent\.py.*No such file.*'script'"):
        check_script(tmp_path / "absent.py")
    path = tmp_path / "work.py"
    path.write_text(f"raise SystemExit('executed')\ndef main({ALL}): ...\n")
    check_script(path)
