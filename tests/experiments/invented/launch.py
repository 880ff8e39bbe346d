"""`python launch.py experiments ...` is `python -m experiments ...` where only counting exists."""

import runpy
import signal
import sys
from pathlib import Path

# A background job of a shell ignores interrupts, and so would what it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
here = Path(__file__).resolve().parent
sys.path[0] = str(here.parents[2])

import experiments  # noqa: E402
import lab.papers  # noqa: E402

lab.papers.__path__ = [str(here / "lab_papers")]
experiments.__path__.append(str(here / "experiments"))
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
