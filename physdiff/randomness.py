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
