"""Batches on their way to the devices: read and transferred ahead of use, waiting measured."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from lab.errors import InvalidInputError
from lab.train.devices import CompiledStep


class Ready(NamedTuple):
    """A batch on the devices, and the position of the stream behind it; or what went wrong."""

    batch: Any
    position: Any
    error: BaseException | None = None


class Feed:
    """Reads a stream in a thread and transfers its batches, up to `ahead` of them before use.

    Attributes:
      position: of the stream behind the batch that `take` returned last; None for a stream
        without `get_state`.
      seconds_waited: how long `take` had nothing to give while the devices had nothing to do.
    """

    position: Any
    seconds_waited: float

    def __init__(self, batches: Iterator[Any], compiled: CompiledStep, ahead: int = 2):
        self.position, self.seconds_waited = _position(batches), 0.0
        self._batches: Any = batches  # may have set_state and close
        self._ready: queue.Queue[Ready] = queue.Queue(ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._read, args=(compiled.put,), name="feed", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()
        if self.position is not None:  # what was read ahead and not used comes again
            self._batches.set_state(self.position)
        if hasattr(self._batches, "close"):
            self._batches.close()

    def take(self, in_progress: Any) -> Any:
        """The next batch, on the devices.

        Args: in_progress, arrays that are ready when the devices have finished their work.
        Raises: StopIteration at the end; whatever the stream raised.
        """
        try:
            ready = self._ready.get_nowait()
        except queue.Empty:
            jax.block_until_ready(in_progress)
            start = time.perf_counter()
            ready = self._ready.get()
            self.seconds_waited += time.perf_counter() - start
        if ready.error is not None:
            raise ready.error
        self.position = ready.position
        return ready.batch

    def _read(self, put: Callable[[Any], Any]) -> None:
        first = None
        while not self._stop.is_set():
            try:
                batch = next(self._batches)
                shapes = _shapes(batch)
                first = first or shapes
                _require_equal_shapes(first, shapes)
                self._offer(Ready(put(batch), _position(self._batches)))
            except BaseException as error:  # every error is handed to the one who takes
                self._offer(Ready(None, None, error))
                return

    def _offer(self, ready: Ready) -> None:
        while not self._stop.is_set():
            try:
                return self._ready.put(ready, timeout=0.2)
            except queue.Full:
                continue


class ConstantFeed:
    """The same data at every step: that of a `lab.data.resident.Resident`."""

    position, seconds_waited = None, 0.0

    def __init__(self, data: Any):
        self._data = data

    def __enter__(self) -> "ConstantFeed":
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def take(self, in_progress: Any) -> Any:
        """The data, on the devices."""
        return self._data


def _position(batches: Any) -> Any:
    return batches.get_state() if hasattr(batches, "get_state") else None


def _shapes(batch: Any) -> dict[str, tuple]:
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    return {jax.tree_util.keystr(path): (x.shape, str(x.dtype)) for path, x in leaves}


def _require_equal_shapes(first: dict[str, tuple], shapes: dict[str, tuple]) -> None:
    """A batch of another shape would compile the step once more."""
    if first == shapes:
        return
    name = next(k for k in first | shapes if first.get(k) != shapes.get(k))
    raise InvalidInputError(
        f"a batch has {name} {shapes.get(name)}, the first one had {first.get(name)}; "
        "batches must be alike: pad and mask the last one (lab.data.streams.pad)"
    )
