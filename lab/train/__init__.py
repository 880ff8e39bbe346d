"""Running things: state, steps, whole runs, the streaming loop, devices, saved states."""

from lab.train.checkpoints import Checkpoints
from lab.train.devices import CompiledStep, compile, compile_copies, start_distributed
from lab.train.loop import Fitted, fit
from lab.train.state import Aux, TrainState, check_key, init_state, seed_keys, state_of, step_key
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
    "Fitted",
    "TrainState",
    "all_finite",
    "check_key",
    "compile",
    "compile_copies",
    "first_bad_step",
    "fit",
    "init_state",
    "join_history",
    "make_train_step",
    "mean_over",
    "require_finite",
    "run",
    "run_in_chunks",
    "seed_keys",
    "start_distributed",
    "state_of",
    "step_key",
]
