"""`python -m experiments.compositions`: all of them, one after the other."""

import sys

from experiments.compositions.launch import launch_all

if __name__ == "__main__":
    raise SystemExit(launch_all(sys.argv[1:]))
