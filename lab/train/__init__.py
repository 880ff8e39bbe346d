"""Running things: state, steps, whole runs in one call, devices, saved states."""

from lab.train.checkpoints import Checkpoints
from lab.train.devices import CompiledStep, compile, compile_copies
from lab.train.state import Aux, TrainState, check_key, init_state, state_of, step_key
from lab.train.steps import make_train_step, mean_over
from lab.train.whole import (
    all_finite,
    first_bad_step,
    join_history,
    require_finite,
    run,
    run_in_chunks,
)

__all__ = [
    "Aux",
    "Checkpoints",
    "CompiledStep",
    "TrainState",
    "all_finite",
    "check_key",
    "compile",
    "compile_copies",
    "first_bad_step",
    "init_state",
    "join_history",
    "make_train_step",
    "mean_over",
    "require_finite",
    "run",
    "run_in_chunks",
    "state_of",
    "step_key",
]
