"""`python -m engram` is the console script."""

from engram.cli import leave, main

if __name__ == "__main__":
    leave(main())
