"""The speed harness, on a clock that ways of known cost move."""

import json

import jax
import jax.numpy as jnp
import pytest

from experiments import speed
from experiments.speed import SpeedCase, measure


class Clock:
    """A clock that stands still but for the work that is done."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def work(self, *seconds):
        """A way that takes the given seconds, call by call, the last ones for ever."""
        costs = list(seconds)

        def way():
            self.now += costs.pop(0) if len(costs) > 1 else costs[0]
            return jnp.zeros(1)

        return way


def test_case_is_measured_cold_then_warm_in_turns():
    clock = Clock()
    case = SpeedCase(
        "shards",
        together=clock.work(5.0, 1.0, 2.0, 1.0),
        one_at_a_time=clock.work(9.0, 3.0, 6.0, 5.0),
        python_loop=clock.work(40.0, 20.0, 40.0, 10.0),
        num_steps=100,
        num_copies=20,
    )
    found = measure("counting", case, repeats=3, clock=clock)
    assert found.first_seconds == 5.0
    assert found.seconds == 1.0
    assert found.compile_seconds == 4.0
    assert found.steps_per_second == 2000.0
    assert found.one_at_a_time_ratio == 3.0  # of 3/1, 6/2, 5/1
    assert found.python_loop_ratio == 20.0  # of 20/1, 40/2, 10/1
    assert found.spread.n == 3
    assert found.peak_bytes > 2**20


def test_budget_ends_the_turns_but_one_is_always_taken():
    clock = Clock()
    turns = []
    case = SpeedCase("slow", clock.work(10.0), num_steps=1)
    found = measure("p", case, 5, budget=5.0, turn_done=lambda: turns.append(1), clock=clock)
    assert (found.spread.n, len(turns)) == (1, 1)
    assert measure("p", case, 5, budget=25.0, clock=clock).spread.n == 2
    assert found.python_loop_ratio is None


def test_command_prints_and_writes(call, counting, monkeypatch):
    from experiments import papers

    def cases():
        step = jax.jit(lambda x: x @ x)
        yield SpeedCase("square", lambda: step(jnp.eye(8)), num_steps=3, num_copies=2, note="tiny")

    monkeypatch.setattr(papers.load("counting"), "speed_cases", cases, raising=False)
    monkeypatch.setattr(speed, "_compile_cold", lambda: None)
    done = call("speed", "counting", "--repeats", "2")
    assert done.code == 0, done.err
    for part in ("counting: square", "compile", "steps/s", "MiB", "square: tiny", "speed.json"):
        assert part in done.out
    values = json.loads((counting / "runs" / "speed.json").read_text())
    (case,) = values["cases"]
    assert case["spread"]["n"] == 2
    assert case["steps_per_second"] == pytest.approx(6 / case["seconds"])
    assert "core" in values["machine"]


def test_paper_without_cases_is_told_when_it_is_named(call):
    assert "no paper offers speed cases" in call("speed").out
    done = call("speed", "counting")
    assert done.code == 2
    assert done.err == "error: no speed cases are offered by: counting\n"
