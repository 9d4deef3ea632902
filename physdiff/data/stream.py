"""Rows that are read from their files when they are asked for, or ahead: by processes, or by a thread of this one.

HDF5 serves one thread of a process at a time, so that only processes decompress side by side. What is read ahead is
what the schedule says; a batch that was not expected is read at once. The order in which processes finish changes
nothing.
"""

from __future__ import annotations

import ctypes
import signal
import sys
from collections import deque
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from physdiff.condition import Given
from physdiff.data.ahead import Ahead
from physdiff.data.fieldset import FieldSet
from physdiff.data.fingerprint import content_of, digest_with
from physdiff.data.order import FullOrder, Order
from physdiff.data.rows import Prepares, joined, parts_of

AHEAD = 4  # batches that each process has read or is reading


class StreamedRows:
    """Samples of files as rows.

    Args:
        fields: The samples.
        preparation: What makes tensors of them.
        workers: Processes that read ahead; 0 reads when asked.
        digest: What tells the data from other data; found out when not given.
        order: In which order an epoch visits them; in full random order when not given.
        start_method: How processes are started: "fork", "spawn", "forkserver", or None for the system's way.
        is_pinned: Whether batches lie in memory that a GPU fetches by itself.
        reads_ahead: Whether a thread reads ahead where there are no workers.
    """

    def __init__(
        self, fields: FieldSet, preparation: Prepares, workers: int = 0, digest: str | None = None,
        order: Order | None = None, start_method: str | None = None,
        is_pinned: bool = False, reads_ahead: bool = False,
    ) -> None:  # fmt: skip
        self.fields, self.workers = fields, workers
        self.digest = digest or digest_with(content_of(fields), preparation.to_dict())
        self.order: Order = order or FullOrder(len(fields))
        self._reader = _Reader(fields, preparation)
        self._here = Ahead(self._reader.tensors, reads_ahead and not workers, is_pinned)
        self._shape = (len(fields), *self._reader.tensors([0])["x"].shape[1:])
        self._plan = _Plan()
        self._loader: DataLoader[Any] | None = None
        self._ahead: Iterator[Any] | None = None
        if workers:
            self._loader = DataLoader(
                self._reader, sampler=self._plan, batch_size=None, num_workers=workers, prefetch_factor=AHEAD,
                persistent_workers=True, pin_memory=is_pinned, multiprocessing_context=start_method,
                worker_init_fn=_end_with_parent,
            )  # fmt: skip

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    def __len__(self) -> int:
        return len(self.fields)

    def batch(self, rows: Tensor) -> tuple[Tensor, Given | None]:
        wanted = rows.tolist()
        if self._ahead is not None and self._plan.issued and self._plan.issued[0] == wanted:
            self._plan.issued.popleft()
            return joined(self._next())
        return joined(self._here.batch(wanted))

    def expect(self, schedule: Iterator[Tensor]) -> None:
        if self._loader is not None:
            self._plan.begin(schedule)
            self._ahead = iter(self._loader)
        else:
            self._here.expect(schedule)

    def close(self) -> None:
        self._here.close()
        if self._loader is not None and self._ahead is not None:
            self._ahead = None
            self._plan.begin(iter(()))
            # Processes go with the iterator, which a persistent loader holds.
            self._loader._iterator = None  # pyright: ignore[reportAttributeAccessIssue]

    def _next(self) -> dict[str, Tensor]:
        assert self._ahead is not None
        try:
            found = next(self._ahead)
        except RuntimeError as error:
            said = str(error).splitlines()[0].rstrip(".")
            raise ValueError(
                f"a process that reads {self.fields.source} has ended: {said}; there may be too little memory, or "
                "shared memory (/dev/shm), for so many workers."
            ) from error
        if isinstance(found, Exception):
            raise found
        return found


def _end_with_parent(_: int) -> None:
    """Let this worker end the moment that its parent is killed.

    A forked worker shares its parent's open files, and with them the lock on a run's folder: the run could not be
    launched again until the worker noticed, which takes seconds.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class _Plan:
    """What will be asked for, as the loader's sampler; `issued` holds what was handed out and not yet fetched."""

    def __init__(self) -> None:
        self.issued: deque[list[int]] = deque()
        self._schedule: Iterator[Tensor] = iter(())

    def begin(self, schedule: Iterator[Tensor]) -> None:
        self._schedule = schedule
        self.issued.clear()

    def __iter__(self) -> Iterator[list[int]]:
        for rows in self._schedule:
            self.issued.append(rows.tolist())
            yield self.issued[-1]


class _Reader(Dataset[Any]):
    """Reads and prepares lists of samples; all that a worker process is sent."""

    def __init__(self, fields: FieldSet, preparation: Prepares) -> None:
        self.fields, self.preparation = fields, preparation

    def __len__(self) -> int:
        return len(self.fields)

    def __getitem__(self, rows: list[int]) -> dict[str, Tensor] | Exception:
        # As a value: torch makes a page of traceback of what a worker raises.
        try:
            return self.tensors(rows)
        except (ValueError, OSError) as error:
            return error

    def tensors(self, rows: list[int]) -> dict[str, Tensor]:
        """Prepared rows, as `parts_of` names them."""
        return parts_of(*self.preparation.tensors(self.fields.read(rows)))
