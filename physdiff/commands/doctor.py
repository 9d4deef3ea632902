"""`physdiff doctor`: what a bug report needs, and whether the numbers can be trusted here."""

from __future__ import annotations

import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version

import torch


def doctor() -> int:
    """Report versions, devices, and a self-check of the exact Gaussian likelihood."""
    print(f"python {platform.python_version()} on {platform.platform()}, {torch.get_num_threads()} threads")
    missing = 0
    for package in packages():
        try:
            print(f"  {package:14} {version(package)}")
        except PackageNotFoundError:
            missing += 1
            print(f"  {package:14} missing: pip install -c constraints.txt {package}")
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(f"accelerators: {', '.join(devices) or 'none'}")
    error = _self_check()
    trusted = error < 1e-8
    print(
        f"self-check: exact Gaussian log-density off by {error:.1e} nats per dimension ({'ok' if trusted else 'BAD'})"
    )
    sys.stdout.flush()
    return 0 if trusted and not missing else 1


def packages() -> list[str]:
    """physdiff and what it cannot do without."""
    needed = [r for r in requires("physdiff") or [] if "extra ==" not in r]
    return ["physdiff", *(re.split(r"[\s\[<>=!~;]", requirement)[0] for requirement in needed)]


def _self_check() -> float:
    """Largest deviation of the flow's log-density from the closed form, over the registered processes."""
    from physdiff.basis import SpectralBasis
    from physdiff.clock_fit import fit_clock
    from physdiff.denoisers import GaussianDenoiser
    from physdiff.gaussian import GaussianField
    from physdiff.grid import Grid
    from physdiff.likelihood import log_likelihood
    from physdiff.path import ReferencePath
    from physdiff.process import LinearProcess
    from physdiff.randomness import keyed_generator
    from physdiff.registry import processes

    basis = SpectralBasis(Grid((6, 5), boundary=("periodic", "neumann")))
    reference = GaussianField.matern(basis, 0.3)
    worst = 0.0
    for cls in processes.classes(LinearProcess).values():
        path = ReferencePath(fit_clock(cls(basis), reference), reference)
        law = reference.at(path.process, path.t_min)
        x = law.sample(4, keyed_generator(0, "doctor"))
        result = log_likelihood(GaussianDenoiser(path), x, scored="state", method="midpoint", steps=2)
        worst = max(worst, float((result.log_prob - law.log_prob(x)).abs().max()) / result.n_support)
    return worst
