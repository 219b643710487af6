"""Door of the child process, run by path; its body is child.py, whose bytecode can be cached."""

import sys

if __name__ == "__main__":
    from _frozen_importlib_external import SourceFileLoader

    here = sys.path.pop(0)  # this folder must not be importable for the script
    body = type(sys)("_engram_child")
    body.__file__ = here[: -len("hook")] + "child.py"
    sys.modules["_engram_child"] = body
    SourceFileLoader("_engram_child", body.__file__).exec_module(body)
    start = (int(sys.argv[1]),)
    if len(sys.argv) > 2:  # the runner wants a zygote; its children go on below
        start = body.zygote_loop(*start)
    sys.exit(body.main(*start))
