"""The two theories on 8 x 8 sites, and the data of the second.

    python -m experiments.lattice.theories      # data/lattice_phi4 and data/lattice_phi4_strong

`weak` is κ = 0.21, λ = 0.022, the one whose averages are published, and the recipe's own; `strong`, κ = 0.26, λ = 0.5,
is far from any Gaussian field.
"""

from __future__ import annotations

from pathlib import Path

from datasets import recipe
from physdiff.actions import Phi4Action

SITES = 8
THEORIES = {"weak": Phi4Action(0.21, 0.022), "strong": Phi4Action(0.26, 0.5)}
FOLDERS = {"weak": "data/lattice_phi4", "strong": "data/lattice_phi4_strong"}

if __name__ == "__main__":
    for name, action in THEORIES.items():
        settings = {"sites": SITES, "hopping": action.hopping, "coupling": action.coupling}
        recipe("lattice_phi4").make(Path(FOLDERS[name]), overwrite=True, **settings)
