"""The streaming loop: a step over batches, with progress, evaluation, checkpoints and resuming."""

import collections
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lab.data.resident import Resident
from lab.errors import InvalidInputError, NonFiniteError, StoppedError, require
from lab.train.checkpoints import Checkpoints
from lab.train.devices import AXIS, CompiledStep, compile, largest_over_processes
from lab.train.feed import ConstantFeed, Feed
from lab.train.signals import StopSignals
from lab.train.steps import Step
from lab.train.whole import all_finite

_FINITE = "is_finite"


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What `fit` returns.

    Attributes:
      state: after the last step, without a device axis.
      step: how many steps were taken in all, earlier parts of a resumed run included.
      metrics: of the last step and, over them, of the last evaluation.
      steps_per_second: of this call, compilation, evaluation and saving left out; 0 where it had
        no more than one step to take.
      waiting_share: the share of that time in which the devices waited for data.
    """

    state: Any
    step: int
    metrics: dict[str, float]
    steps_per_second: float
    waiting_share: float


def fit(
    step: Step,
    state: Any,
    batches: Iterable[Any] | Resident,
    *,
    num_steps: int,
    devices: Sequence[jax.Device] | None = None,
    checkpoints: Checkpoints | None = None,
    evaluate: Callable[[Any], dict[str, float]] | None = None,
    eval_every: int | None = None,
    save_every: int | None = None,
    log: Any = None,
    log_every: int = 10,
    name: str = "train",
    in_flight: int = 2,
) -> Fitted:
    """Trains until `num_steps` steps are taken, going on from the newest checkpoint, if any.

    The result of a run that was killed and resumed is that of an undisturbed one, to the bit. On
    several hosts every process calls it with the same arguments and its part of the batches.

    Args:
      step: `(state, batch) -> (state, metrics)`, pure, written for the device axis "batch".
      state: a fresh state, a pytree with `step` and `key`; also tells what a checkpoint holds.
      batches: a stream (`lab.data.streams`); any iterable of equally shaped pytrees, if it has
        `get_state` and `set_state` where checkpoints are kept; or a `lab.data.resident.Resident`.
        A stream is left behind the last batch that was used, its workers ended.
      devices: all by default.
      checkpoints: where to save and resume; saved every `save_every` steps, after evaluations if
        they are scored (`Checkpoints(best=...)`), at a stop, and at the end.
      evaluate: `state -> metrics`, called every `eval_every` steps and at the end. It must not
        keep the state.
      log: an open `lab.report.Run`, or a function `(step, metrics)`; called every `log_every`
        steps with the metrics of that step, and with those of an evaluation.
      name: of this training within a run, which may have several.
      in_flight: how many steps the devices may be behind the loop.
    Raises:
      NonFiniteError naming the step, the earlier checkpoints being kept.
      StoppedError after SIGTERM or SIGINT, the state being saved.
      InvalidInputError where the stream ends early or cannot be resumed; whatever else it raises,
        after the state was saved (on one host).
    """
    require(num_steps >= 0, f"num_steps must not be negative, got {num_steps}")
    for value, what in ((eval_every, "eval_every"), (save_every, "save_every")):
        require(value is None or value >= 1, f"{what} must be at least 1 or None, got {value}")
    require(log_every >= 1 and in_flight >= 1, "log_every and in_flight must be at least 1")
    if isinstance(batches, Resident):
        resident, stream = batches, None
        step = _taking_from(resident, step)
    else:
        resident, stream = None, _resumable(batches, checkpoints)
    compiled = compile(_checked(step), devices)
    with _opened(log, name, num_steps, log_every) as journal:
        work = _Work(compiled, checkpoints, journal, in_flight)
        work.resume(state, stream)
        with StopSignals() as signals, work.feed_on(stream, resident):
            while work.done < num_steps:
                work.take_step()
                if evaluate is not None and _is_due(work.done, eval_every, num_steps):
                    work.evaluate(evaluate)
                if _is_due(work.done, save_every, num_steps):
                    work.save()
                if work.done < num_steps and _is_stopped(signals, work.done, log_every):
                    work.stop(signals.received)
            return work.result()


class _Work:
    """The loop's moving parts: the state on the devices, and metrics that are still computed."""

    feed: Feed | ConstantFeed
    state: Any

    def __init__(
        self,
        compiled: CompiledStep,
        checkpoints: Checkpoints | None,
        journal: "_Journal",
        in_flight: int,
    ):
        self.compiled, self.checkpoints, self.journal = compiled, checkpoints, journal
        self.in_flight = in_flight
        self.done = self.first_step = self.saved_at = self.evaluated_at = 0
        self.metrics: dict[str, float] = {}
        self.evaluation: dict[str, float] = {}
        self._pending = collections.deque()
        self._start: float | None = None
        self._paused = 0.0

    def resume(self, state: Any, batches: Any) -> None:
        """Places the given state, or the saved one, and sets the stream to its position."""
        latest = None if self.checkpoints is None else self.checkpoints.latest()
        if self.checkpoints is not None and latest is not None:
            self.done = latest
            self.first_step = self.saved_at = self.evaluated_at = self.done
            state = self.checkpoints.restore(state, self.done)
            note = self.checkpoints.note(self.done)
            self.evaluation, self.metrics = note["metrics"], note["position"]["metrics"]
            if batches is not None:
                batches.set_state(note["position"]["stream"])
        self.journal.begin(self.done)
        self.state = self.compiled.place(state)

    def feed_on(self, batches: Any, resident: Resident | None) -> Feed | ConstantFeed:
        """Begins to feed the steps."""
        if resident is None:
            self.feed = Feed(batches, self.compiled)
        else:
            arrays = {name: jnp.asarray(array) for name, array in resident.arrays.items()}
            self.feed = ConstantFeed(self.compiled.place(arrays))
        return self.feed

    def take_step(self) -> None:
        """Takes the next batch and starts a step on it."""
        try:
            batch = self.feed.take([metrics for _, metrics in self._pending])
        except StopIteration:
            self.save()
            raise InvalidInputError(
                f"the batches ended after {self.done} steps; give more epochs (num_epochs=None) "
                "or fewer num_steps"
            ) from None
        except Exception:
            # Bad data must not cost the steps since the last checkpoint. Of several processes this
            # may be the only one to meet it, and a save would wait for the others for ever.
            if jax.process_count() == 1:
                self.save()
            raise
        self.state, metrics = self.compiled(self.state, batch)
        self.done += 1
        self._pending.append((self.done, metrics))
        self._settle(self.in_flight)
        if self._start is None:  # the first step of a call compiles, and starts the stream
            self._settle(0)
            self._start, self.feed.seconds_waited = time.perf_counter(), 0.0

    def evaluate(self, evaluate: Callable[[Any], dict[str, float]]) -> None:
        """Evaluates, logs and, where scores count, saves."""
        self._settle(0)
        with self._pause():
            metrics = evaluate(self.compiled.fetch(self.state))
            self.evaluation = {name: float(value) for name, value in metrics.items()}
            self.evaluated_at = self.done
            self.journal.log(self.done, self.evaluation)
        if self.checkpoints is not None and self.checkpoints.best_fn is not None:
            self.save()

    def save(self) -> None:
        """Saves the state, unless that was done; only one that is known to be finite."""
        self._settle(0)
        if self.checkpoints is None or self.saved_at == self.done:
            return
        with self._pause():
            self.checkpoints.save(
                self.done,
                self.compiled.fetch(self.state),
                metrics=self.evaluation if self.evaluated_at == self.done else None,
                position={"stream": self.feed.position, "metrics": self.metrics},
            )
            self.saved_at = self.done

    def stop(self, signal_name: str | None) -> None:
        """Saves and raises StoppedError."""
        self.save()
        kept = (
            "it is saved: resume to go on" if self.checkpoints is not None else "nothing is saved"
        )
        cause = signal_name or "a signal to another process"
        raise StoppedError(f"stopped by {cause} after step {self.done}; {kept}", step=self.done)

    def result(self) -> Fitted:
        """Waits for the last steps and returns what came of it all."""
        self._settle(0)
        return Fitted(
            state=self.compiled.fetch(self.state),
            step=self.done,
            metrics=self.metrics | self.evaluation,
            steps_per_second=self._steps_per_second(self.done),
            waiting_share=self.feed.seconds_waited / self._seconds() if self._start else 0.0,
        )

    def _settle(self, remaining: int) -> None:
        """Waits until at most `remaining` steps are in flight, and looks at those that are not."""
        while len(self._pending) > remaining:
            step, metrics = self._pending.popleft()
            values = {name: float(self.compiled.fetch(x)) for name, x in metrics.items()}
            if not values.pop(_FINITE):
                raise NonFiniteError(
                    f"the loss or the state became non-finite at step {step - 1} (from 0). "
                    f"{self._what_is_kept()} Lower the learning rate or look for extreme inputs.",
                    step=step - 1,
                )
            self.metrics = values
            self.journal.step(step, values, self._steps_per_second(step))

    def _what_is_kept(self) -> str:
        latest = None if self.checkpoints is None else self.checkpoints.latest()
        if latest is None:
            return "Nothing was saved before."
        return f"The checkpoint of step {latest} is the last good one."

    @contextlib.contextmanager
    def _pause(self) -> Iterator[None]:
        """Leaves the time of the block out of the speed."""
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    def _seconds(self) -> float:
        """Of training in this call, from the end of its first step."""
        return 0.0 if self._start is None else time.perf_counter() - self._start - self._paused

    def _steps_per_second(self, done: int) -> float:
        return 0.0 if self._start is None else (done - self.first_step - 1) / self._seconds()


class _Journal:
    """Metrics and progress of one training, to an open Run or a function."""

    def __init__(self, log: Any, name: str, num_steps: int, log_every: int, task: Any):
        self.run = log if hasattr(log, "progress") else None
        self.function = log if self.run is None else None
        self.name, self.num_steps, self.log_every, self.task = name, num_steps, log_every, task

    def begin(self, done: int) -> None:
        """Forgets what was logged after the step that is gone on from."""
        if self.run is not None:
            self.run.rewind(done, stage=self.name)
            self.task.advance(done)

    def step(self, step: int, metrics: dict[str, float], steps_per_second: float) -> None:
        """Shows a finished step, and logs it if it is its turn."""
        if _is_due(step, self.log_every, self.num_steps):
            self.log(step, metrics)
        if self.task is None:
            return
        info = {"loss": metrics["loss"]} if "loss" in metrics else {}
        if steps_per_second:
            minutes, seconds = divmod(round((self.num_steps - step) / steps_per_second), 60)
            info |= {"steps/s": steps_per_second, "ETA": f"{minutes}:{seconds:02d}"}
        self.task.advance(1, **info)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Logs a line; the metrics of one step may come as several."""
        if self.run is not None:
            self.run.log(step, stage=self.name, **metrics)
        elif self.function is not None:
            self.function(step, metrics)


@contextlib.contextmanager
def _opened(log: Any, name: str, num_steps: int, log_every: int) -> Iterator[_Journal]:
    if jax.process_index() != 0:
        log = None
    if not hasattr(log, "progress"):
        yield _Journal(log, name, num_steps, log_every, None)
        return
    with log.progress(name, num_steps) as task:
        yield _Journal(log, name, num_steps, log_every, task)


def _checked(step: Step) -> Step:
    """The step with one more metric: whether the loss and the whole new state are finite."""

    def checked(state, batch):
        state, metrics = step(state, batch)
        finite = all_finite(state) & all_finite(metrics.get("loss", jnp.float32(0)))
        return state, metrics | {_FINITE: finite}

    return checked


def _taking_from(resident: Resident, step: Step) -> Step:
    def taking(state, arrays):
        return step(state, resident.batch_at(arrays, state.step, AXIS))

    return taking


def _resumable(batches: Iterable[Any], checkpoints: Checkpoints | None) -> Iterator[Any]:
    batches = iter(batches)
    require(
        checkpoints is None or hasattr(batches, "set_state"),
        f"batches are a {type(batches).__name__} without get_state and set_state, so a checkpoint "
        "cannot keep their position; make them with lab.data.streams.stream",
    )
    return batches


def _is_due(step: int, every: int | None, num_steps: int) -> bool:
    """Whether something that happens every so many steps, and at the end, happens after `step`."""
    return step == num_steps or (every is not None and step % every == 0)


def _is_stopped(signals: StopSignals, step: int, every: int) -> bool:
    """Whether to stop now; several processes agree on it, and ask each other only so often."""
    if jax.process_count() == 1:
        return signals.received is not None
    return step % every == 0 and bool(largest_over_processes(signals.received is not None))
