"""When a launch ends before its last step: a signal, a time limit, or a validation error that no longer falls."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from tqdm import tqdm

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
TIME_LIMIT = "time limit"
REASONS = (TIME_LIMIT, *(s.name for s in SIGNALS))


class Wishes:
    """Asks for an end: the signals that this process was sent, and the time that it is allowed.

    Within the block the first signal is remembered, so that the step can be finished; a second one acts at once.

    Args:
        seconds: Time allowed from here on.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._caught: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Wishes:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._catch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self._caught is not None:
            self._restore()
            os.kill(os.getpid(), number)
            return
        self._caught = number
        if int(os.environ.get("RANK", "0")) == 0:
            name = signal.Signals(number).name
            tqdm.write(f"{name}: stopping after a checkpoint; once more to stop at once", file=sys.stderr)

    @property
    def reason(self) -> str | None:
        """One of `REASONS`; None to go on."""
        if self._caught is not None:
            return signal.Signals(self._caught).name
        return TIME_LIMIT if time.monotonic() >= self._end else None


def exit_code(reason: str | None) -> int:
    """What a command that ended for a reason tells the shell: 128 + the signal's number, as if it had been killed."""
    return 0 if reason is None or reason not in signal.Signals.__members__ else 128 + signal.Signals[reason]
