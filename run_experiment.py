"""The door: puts lib/ on the path and hands over to engram.cli; a bare python3 will do."""

import gc
import os.path
import sys

if sys.version_info < (3, 11):  # noqa: UP036
    sys.stderr.write("error: engram needs Python 3.11 or newer, not " + sys.version[:6] + "\n")
    sys.exit(2)
gc.disable()  # imports leave no garbage; workflow.py enables it while a script runs
sys.path.insert(0, os.path.realpath(__file__ + "/../lib"))
from engram.cli import leave, main  # noqa: E402

if __name__ == "__main__":
    leave(main())
