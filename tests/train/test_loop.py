import contextlib
import json
import os
import resource
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lab.data.resident import Resident
from lab.data.streams import ArraySource, stream
from lab.errors import (
    CheckpointError,
    CorruptFileError,
    InvalidInputError,
    NonFiniteError,
    StoppedError,
)
from lab.report import Run
from lab.train import Checkpoints, fit
from lab.train.state import TrainState


def counting_step(state, batch):
    """Adds the batch's sum to a weight; the metric tells it before."""
    total = jnp.sum(batch["x"] * batch["mask"])
    new = state.replace(step=state.step + 1, params=state.params + total)
    return new, {"loss": state.params, "total": total}


def new_state():
    return TrainState(jnp.int32(0), jnp.float32(0), {}, {}, jax.random.key(0))


class Ones:
    """Endless batches of ones that remember their position, and do something at one of them."""

    def __init__(self, at=None, do=None):
        self.taken, self.at, self.do = 0, at, do

    def __iter__(self):
        return self

    def __next__(self):
        self.taken += 1
        batch = {"x": np.ones(4, np.float32), "mask": np.ones(4, np.float32)}
        return self.do(batch) if self.taken == self.at and self.do else batch

    def get_state(self):
        return self.taken

    def set_state(self, state):
        self.taken = state


def test_all_steps_are_taken_and_measured():
    fitted = fit(counting_step, new_state(), Ones(), num_steps=9)
    assert (fitted.step, int(fitted.state.step), float(fitted.state.params)) == (9, 9, 36.0)
    assert fitted.metrics == {"loss": 32.0, "total": 4.0}
    assert fitted.steps_per_second > 0
    assert 0 <= fitted.waiting_share < 1


def test_slow_data_shows_as_waiting():
    class Slow(Ones):
        def __next__(self):
            time.sleep(0.02)
            return super().__next__()

    assert fit(counting_step, new_state(), Slow(), num_steps=12).waiting_share > 0.7


def test_a_slow_step_does_not_show_as_waiting():
    def slow(state, batch):
        x = jnp.ones((400, 400)) * batch["x"][0] * 1e-3
        busy = jax.lax.fori_loop(0, 20, lambda _, x: jnp.tanh(x @ x), x)
        state, metrics = counting_step(state, batch)
        return state, metrics | {"busy": busy.sum()}

    assert fit(slow, new_state(), Ones(), num_steps=12).waiting_share < 0.3


def test_a_resumed_run_goes_on_with_the_next_batch(tmp_path):
    source = ArraySource({"x": np.arange(10, dtype=np.float32)})
    straight = fit(counting_step, new_state(), stream(source, 4), num_steps=8)
    saved = Checkpoints(tmp_path)
    fit(counting_step, new_state(), stream(source, 4), num_steps=3, checkpoints=saved)
    resumed = fit(counting_step, new_state(), stream(source, 4), num_steps=8, checkpoints=saved)
    assert resumed.step == 8
    assert float(resumed.state.params) == float(straight.state.params)
    assert resumed.metrics == straight.metrics


def test_a_stream_is_left_behind_the_last_batch_that_was_used():
    source = ArraySource({"x": np.arange(12, dtype=np.float32)})
    batches, straight = stream(source, 4), stream(source, 4)
    fit(counting_step, new_state(), batches, num_steps=2)
    expected = [next(straight) for _ in range(3)][2]
    np.testing.assert_array_equal(next(batches)["x"], expected["x"])


def test_a_finished_run_is_not_run_again(tmp_path):
    saved, seen = Checkpoints(tmp_path), []
    for _ in range(2):
        fitted = fit(
            counting_step,
            new_state(),
            Ones(),
            num_steps=3,
            checkpoints=saved,
            evaluate=lambda state: {"accuracy": 0.5},
            log=lambda step, metrics: seen.append((step, metrics)),
        )
        assert fitted.metrics == {"loss": 8.0, "total": 4.0, "accuracy": 0.5}
    assert seen == [(3, {"loss": 8.0, "total": 4.0}), (3, {"accuracy": 0.5})]


def test_the_best_evaluations_are_kept(tmp_path):
    scores = {2: 0.1, 4: 0.9, 6: 0.8, 8: 0.2, 10: 0.3}
    saved = Checkpoints(tmp_path, keep=1, best=lambda m: m["accuracy"], keep_best=2)
    fit(
        counting_step,
        new_state(),
        Ones(),
        num_steps=10,
        checkpoints=saved,
        evaluate=lambda state: {"accuracy": scores[int(state.step)]},
        eval_every=2,
    )
    assert saved.steps() == [4, 6, 10]
    assert saved.best() == 4


def test_metrics_go_to_the_run_and_a_resumed_run_does_not_log_twice(tmp_path):
    run = Run.open(tmp_path, "paper", "quick", "mine", {})
    saved = Checkpoints(run.checkpoints)
    settings = {"log": run, "log_every": 2, "name": "teacher", "checkpoints": saved}
    fit(counting_step, new_state(), Ones(), num_steps=4, **settings)
    run.log(5, stage="teacher", loss=1.0)  # as a kill after step 5 would leave it
    run.log(5, stage="other", loss=1.0)
    fit(counting_step, new_state(), Ones(), num_steps=6, **settings)
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    logged = [(line["stage"], line["step"], line["loss"]) for line in lines]
    assert logged == [
        ("teacher", 2, 4.0),
        ("teacher", 4, 12.0),
        ("other", 5, 1.0),
        ("teacher", 6, 20.0),
    ]


def test_progress_shows_loss_speed_and_time_left(tmp_path):
    shown = []

    class Task:
        def advance(self, n=1, **info):
            shown.append((n, info))

    class Reporter:
        def task(self, description, total):
            shown.append((description, total))
            return contextlib.nullcontext(Task())

    run = Run.open(tmp_path, "paper", "quick", "mine", {}, reporter=Reporter())
    fit(counting_step, new_state(), Ones(), num_steps=5, log=run)
    assert shown[0] == ("train", 5)
    assert sum(n for n, _ in shown[1:]) == 5
    assert set(shown[-1][1]) == {"loss", "steps/s", "ETA"}
    assert shown[-1][1]["ETA"] == "0:00"


def test_a_non_finite_step_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    def poison(batch):
        return batch | {"x": np.full(4, np.nan, np.float32)}

    saved = Checkpoints(tmp_path)
    with pytest.raises(NonFiniteError, match=r"at step 6 .*checkpoint of step 6 is the last") as e:
        fit(
            counting_step,
            new_state(),
            Ones(at=7, do=poison),
            num_steps=20,
            checkpoints=saved,
            save_every=2,
        )
    assert e.value.step == 6
    assert saved.latest() == 6
    assert np.isfinite(float(saved.restore(new_state()).params))


def test_a_bad_file_costs_nothing_that_was_learnt(tmp_path):
    def corrupt(_):
        raise CorruptFileError("/pictures/cat.jpg cannot be decoded")

    saved = Checkpoints(tmp_path)
    with pytest.raises(CorruptFileError, match=r"cat\.jpg"):
        fit(counting_step, new_state(), Ones(at=6, do=corrupt), num_steps=9, checkpoints=saved)
    assert saved.latest() == 5
    mended = fit(counting_step, new_state(), Ones(), num_steps=9, checkpoints=saved)
    assert float(mended.state.params) == 36.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_after_saving(tmp_path, number):
    def interrupt(batch):
        os.kill(os.getpid(), number)
        time.sleep(0.2)
        return batch

    saved, before = Checkpoints(tmp_path), signal.getsignal(number)
    with pytest.raises(StoppedError, match=f"{number.name} after step .* saved") as e:
        fit(counting_step, new_state(), Ones(at=5, do=interrupt), num_steps=99, checkpoints=saved)
    assert saved.latest() == e.value.step < 99
    assert signal.getsignal(number) is before


def test_a_full_disk_is_named_and_leaves_the_earlier_checkpoint(tmp_path):
    saved = Checkpoints(tmp_path)
    big = TrainState(jnp.int32(0), jax.random.normal(jax.random.key(0), (300_000,)), {}, {}, None)

    def step(state, batch):
        return state.replace(step=state.step + 1), {}

    fit(step, big, Ones(), num_steps=1, checkpoints=saved)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    try:
        with pytest.raises(CheckpointError, match=f"cannot save step 2 to {tmp_path}"):
            fit(step, big, Ones(), num_steps=2, checkpoints=saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert saved.steps() == [1]
    assert fit(step, big, Ones(), num_steps=2, checkpoints=saved).step == 2


def test_a_truncated_checkpoint_is_named_with_the_way_out(tmp_path):
    saved = Checkpoints(tmp_path)
    fit(counting_step, new_state(), Ones(), num_steps=4, checkpoints=saved, save_every=2)
    files = [p for p in (tmp_path / "4" / "state").rglob("*") if p.is_file() and p.stat().st_size]
    for path in files:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"/4 is damaged.*go on from step 2"):
        fit(counting_step, new_state(), Ones(), num_steps=6, checkpoints=saved)


def test_resident_data_needs_no_stream_and_resumes(tmp_path):
    data = Resident({"x": np.arange(10, dtype=np.float32)}, 4, drop_remainder=False)
    straight = fit(counting_step, new_state(), data, num_steps=7)
    assert float(fit(counting_step, new_state(), data, num_steps=3).state.params) == 45.0
    saved = Checkpoints(tmp_path)
    for steps in (2, 7):
        fitted = fit(counting_step, new_state(), data, num_steps=steps, checkpoints=saved)
    assert float(fitted.state.params) == float(straight.state.params)
    assert fitted.metrics == straight.metrics


def test_the_step_is_compiled_once():
    traces = []

    def step(state, batch):
        traces.append(1)
        return counting_step(state, batch)

    batches = stream(ArraySource({"x": np.arange(5, dtype=np.float32)}), 4, drop_remainder=False)
    fit(step, new_state(), batches, num_steps=6)
    assert len(traces) == 1


def one_row_less(batch):
    return {name: array[:3] for name, array in batch.items()}


@pytest.mark.parametrize(
    ("batches", "settings", "message"),
    [
        (Ones(), {"num_steps": -1}, "num_steps must not be negative"),
        (Ones(), {"save_every": 0}, "save_every must be at least 1"),
        (Ones(at=2, do=one_row_less), {}, r"\['mask'\].*\(3,\).*pad and mask"),
        ([next(Ones())] * 2, {}, "ended after 2 steps"),
        ([], {"checkpoints": Checkpoints("nowhere")}, "without get_state"),
    ],
)
def test_bad_arguments_are_refused(batches, settings, message):
    with pytest.raises(InvalidInputError, match=message):
        fit(counting_step, new_state(), batches, **({"num_steps": 3} | settings))
