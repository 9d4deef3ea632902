"""Error bars of a network's log-density cover the exact trace at their nominal rate, in 1,000 repeats."""

from __future__ import annotations

from scipy import stats

from experiments.benchmarks.coverage import problems
from physdiff import Hutchinson, log_likelihood

REPEATS = 1000


def test_intervals_of_a_network_cover_at_their_rate() -> None:
    """A U-Net with random weights on 144 modes, 4 probes: the number covered is in the binomial's 99.9 % interval."""
    model, x = problems()["random U-Net, 144 modes"]
    options = {"method": "rk4", "steps": 8, "scored": "state"}
    exact = float(log_likelihood(model, x, trace="exact", **options).log_prob)
    repeated = x.expand(REPEATS, *x.shape[1:])
    found = log_likelihood(model, repeated, trace=Hutchinson(4), seed=9, chunk=250, **options)
    for level in (0.5, 0.8, 0.95):
        low, high = found.interval(level)
        covered = int(((low <= exact) & (exact <= high)).sum())
        least, most = stats.binom.interval(0.999, REPEATS, level)
        print(f"{covered} of {REPEATS} cover at {level:.0%}; binomial {least:.0f} to {most:.0f}")
        assert least <= covered <= most
