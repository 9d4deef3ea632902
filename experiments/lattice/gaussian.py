"""The weak theory without any Markov chain: three million samples of a Gaussian field, reweighted.

    python -m experiments.lattice.gaussian      # half a minute; after experiments.lattice.theories

The field has mean 0 and the spectrum of the training data; any spectrum would do, this one has the fewest lost samples.
"""

from __future__ import annotations

import torch

from experiments.lattice.theories import FOLDERS, THEORIES
from physdiff.actions import observables
from physdiff.basis import SpectralBasis
from physdiff.data.fields import load_fields
from physdiff.gaussian import GaussianField
from physdiff.importance import importance_weights
from physdiff.randomness import keyed_generator

BATCHES, SAMPLES = 60, 50_000


def main() -> None:
    """Print averages and the free energy."""
    torch.set_num_threads(1)
    data = load_fields(FOLDERS["weak"], split="train")
    basis, action = SpectralBasis(data.grid), THEORIES["weak"]
    fitted = GaussianField.fit(torch.from_numpy(data.values).double(), basis, homogeneous=True)
    law = GaussianField.centred(basis, fitted.spectrum[0])
    generator = keyed_generator(5, "gaussian")
    log_prob, found = [], {}
    for _ in range(BATCHES):
        fields = law.sample(SAMPLES, generator)
        log_prob.append(law.log_prob(fields))
        for name, values in observables(fields, action).items():
            found.setdefault(name, []).append(values)
    values = {name: torch.cat(parts) for name, parts in found.items()}
    weights = importance_weights(torch.cat(log_prob), values["action"])
    print(f"{weights.effective_samples / len(weights):.4f} of {len(weights)} effective")
    estimates = {"free energy": weights.free_energy, **{name: weights.mean(v) for name, v in values.items()}}
    for name, estimate in estimates.items():
        print(f"{name:14} {estimate.value:.6f} ± {estimate.standard_error:.6f}")


if __name__ == "__main__":
    main()
