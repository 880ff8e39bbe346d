"""`python -m experiments`: see `python -m experiments --help`."""

import sys

from experiments.command import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
