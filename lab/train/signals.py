"""Stopping a loop on SIGTERM or SIGINT between two steps instead of within one."""

import signal
import threading
from typing import Any


class StopSignals:
    """Context in which the first SIGTERM or SIGINT is only noted; a second one acts as ever.

    Attributes: received, the name of the signal, or None.
    """

    WATCHED = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.received: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        # Python allows handlers in the main thread alone; elsewhere signals act as ever.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self.WATCHED}
        return self

    def __exit__(self, *_: Any) -> None:
        self._restore()

    def _note(self, number: int, _) -> None:
        self.received = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
