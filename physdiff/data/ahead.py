"""Batches that a thread makes while a step runs, and batches in memory that a GPU fetches by itself.

A thread reads, decompresses and copies while the main thread waits for a GPU. It makes what the schedule says, in that
order, a few batches at most; so it changes when a batch is made, and no bit of it. Whoever trains on the processor has
no time to win: the step needs the cores that the thread would take.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator

from torch import Tensor

Parts = dict[str, Tensor]
Make = Callable[[list[int]], Parts]

DEPTH = 2  # batches that are made before they are asked for


class Ahead:
    """Batches made when they are asked for, or by a thread before.

    Args:
        make: Makes the named parts of a batch of row numbers.
        reads_ahead: Whether a thread makes what is expected.
        is_pinned: Whether batches lie in memory that a GPU fetches by itself, while the processor goes on.
        depth: Batches that the thread makes before they are asked for, at least 1.
    """

    def __init__(self, make: Make, reads_ahead: bool = False, is_pinned: bool = False, depth: int = DEPTH) -> None:
        self.reads_ahead, self.is_pinned = reads_ahead, is_pinned
        self._make, self._depth = make, depth
        self._line: _Line | None = None

    def expect(self, schedule: Iterator[Tensor]) -> None:
        """What will be asked for, in order; forgets what was expected before."""
        self.close()
        if self.reads_ahead:
            self._line = _Line(self._depth)
            self._line.start(schedule, self._made)
            # The thread holds the line and not this object, so it ends with it.
            self._end = weakref.finalize(self, self._line.stop)

    def batch(self, rows: list[int]) -> Parts:
        """The parts of a batch. What the thread could not make is raised here.

        Raises:
            ValueError: a file cannot be read, or holds what it may not.
        """
        line = self._line
        return line.take() if line is not None and line.is_next(rows) else self._made(rows)

    def close(self) -> None:
        """End the thread, and wait until it has ended."""
        if self._line is not None:
            self._line, _ = None, self._end()

    @property
    def _made(self) -> Make:
        make, is_pinned = self._make, self.is_pinned

        def made(rows: list[int]) -> Parts:
            with _making:
                parts = make(rows)
            return pinned(parts) if is_pinned else parts

        return made


def pinned(parts: Parts) -> Parts:
    """A batch in memory that a GPU fetches by itself; what lies on a GPU stays there."""
    return {name: pin(x) if x.device.type == "cpu" else x for name, x in parts.items()}


def pin(x: Tensor) -> Tensor:
    """A copy in page-locked memory."""
    return x.pin_memory()


# Readers of one file, and fillers of one mask, keep what they found; so one batch is made at a time.
_making = threading.RLock()


def _after_fork() -> None:
    global _making
    _making = threading.RLock()  # a thread of the parent may have held it


os.register_at_fork(after_in_child=_after_fork)


class _Line:
    """What a thread was told to make, and has made: a first-in, first-out line of bounded length."""

    def __init__(self, depth: int) -> None:
        self._depth, self._process = depth, os.getpid()
        self._changed = threading.Condition()
        self._issued: deque[list[int]] = deque()
        self._made: deque[Parts | BaseException] = deque()
        self._is_over, self._is_stopped = False, False
        self._thread: threading.Thread | None = None

    def start(self, schedule: Iterator[Tensor], make: Make) -> None:
        self._thread = threading.Thread(target=self._run, args=(schedule, make), name="reads ahead", daemon=True)
        self._thread.start()

    def is_next(self, rows: list[int]) -> bool:
        """Whether a batch is the next that the thread makes or has made."""
        if os.getpid() != self._process:  # a fork has no threads but the one that forked
            return False
        with self._changed:
            self._changed.wait_for(lambda: self._issued or self._is_over)
            return bool(self._issued) and self._issued[0] == rows

    def take(self) -> Parts:
        """The next batch, as soon as it is made."""
        with self._changed:
            self._changed.wait_for(lambda: self._made)
            self._issued.popleft()
            found = self._made.popleft()
            self._changed.notify_all()
        if isinstance(found, BaseException):
            raise found
        return found

    def stop(self) -> None:
        if os.getpid() != self._process:
            return
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self, schedule: Iterator[Tensor], make: Make) -> None:
        try:
            for rows in schedule:
                numbers = rows.tolist()
                with self._changed:
                    self._changed.wait_for(lambda: self._is_stopped or len(self._issued) < self._depth)
                    if self._is_stopped:
                        return
                    self._issued.append(numbers)
                    self._changed.notify_all()
                try:
                    found: Parts | BaseException = make(numbers)
                except BaseException as error:  # raised again where the batch is asked for, which waits for it
                    found = error
                with self._changed:
                    self._made.append(found)
                    self._changed.notify_all()
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()
