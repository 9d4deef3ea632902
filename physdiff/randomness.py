"""Random numbers that depend on what they are for, never on what was drawn before.

A generator is keyed by a seed and by words and numbers that name its use: step 300's noise is the same in a run that
was killed at step 200 and resumed, sample 7 is the same in any batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def require_seed(seed: int) -> None:
    """Raise unless a seed is a whole number in [0, 2⁶³)."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise ValueError(f"seed must be a whole number, at least 0 and below 2**63; got {seed!r}.")


def keyed_generator(seed: int, *keys: int | str) -> torch.Generator:
    """A CPU generator whose state is a hash of the seed and the keys."""
    text = "\x1f".join(f"{type(key).__name__}:{key}" for key in (seed, *keys))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


class SampleNoise:
    """Independent noise for each sample of a batch, the same for a sample whatever batch it is in.

    Args:
        seeds: One seed a sample.
        use: What the noise is for; different uses are independent.
    """

    def __init__(self, seeds: Sequence[int], use: str) -> None:
        self.generators = [keyed_generator(seed, use) for seed in seeds]

    def __call__(self, shape: Sequence[int]) -> Tensor:
        """Unit normal noise, shape (samples, *shape), float64; each call continues the streams."""
        return torch.stack([torch.randn(*shape, generator=g, dtype=torch.float64) for g in self.generators])


class RowDraws:
    """Random numbers for some rows of a batch, the same for a row however the batch is split over processes or parts.

    Each call draws for the whole batch and hands out the rows, in the order of the calls.

    Args:
        generator: Where the batch's numbers come from.
        total: Rows of the batch.
        rows: Which of them are asked for; all when not given.
    """

    def __init__(self, generator: torch.Generator, total: int, rows: slice | None = None) -> None:
        self.generator = generator
        self.total = total
        self.rows = slice(0, total) if rows is None else rows

    def __len__(self) -> int:
        """Number of rows."""
        return len(range(self.total)[self.rows])

    @property
    def device(self) -> torch.device:
        """Where the numbers are drawn."""
        return self.generator.device

    def normal(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Unit normal numbers, shape (rows, *shape)."""
        return torch.randn(self.total, *shape, generator=self.generator, dtype=dtype, device=self.device)[self.rows]

    def uniform(self, *shape: int) -> Tensor:
        """In [0, 1), shape (rows, *shape), float64."""
        drawn = torch.rand(self.total, *shape, generator=self.generator, dtype=torch.float64, device=self.device)
        return drawn[self.rows]

    def signs(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """−1 or 1 (Rademacher), shape (rows, *shape)."""
        drawn = torch.randint(2, (self.total, *shape), generator=self.generator, device=self.device)[self.rows]
        return (2 * drawn - 1).to(dtype)

    def below(self, high: int) -> Tensor:
        """Whole numbers in [0, high), shape (rows,), int64."""
        return torch.randint(high, (self.total,), generator=self.generator, device=self.device)[self.rows]

    def stratified(self) -> Tensor:
        """In [0, 1), one of the whole batch in each of its equal shares, in random order; shape (rows,), float64."""
        shift = torch.rand(self.total, generator=self.generator, dtype=torch.float64, device=self.device)
        order = torch.randperm(self.total, generator=self.generator, device=self.device)
        return ((order + shift) / self.total)[self.rows]

    @classmethod
    def of(cls, source: torch.Generator | RowDraws, n: int) -> RowDraws:
        """Draws for a batch of n rows from a generator; draws as they are."""
        return source if isinstance(source, RowDraws) else cls(source, n)
