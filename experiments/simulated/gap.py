"""Held-out log-density of models under simulated processes, trained and untrained, relative to the Gaussian reference.

    python -m experiments.simulated.gap runs/EulerVorticity runs/AllenCahn     # the model's folders

prints nats per dimension over the first 12 test fields: mean ± standard error, at 12 and at 24 steps of rk4.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import torch

from physdiff import FieldModel, load_fields

FIELDS, PROBES = 12, 4


def gaps(folder: Path) -> dict[str, list[float]]:
    """Mean and standard error by model and number of steps."""
    model = FieldModel.load(folder)
    data = load_fields(model.card["data"], model.names, "test")
    fields = model.normalised(data)[:FIELDS]
    found = {}
    for name, one in (("trained", model), ("untrained", model.untrained())):
        for steps in (12, 24):
            scored = one.score(fields, probes=PROBES, method="rk4", steps=steps)
            gap = scored.relative_to_reference / scored.n_support
            found[f"{name}, {steps} steps"] = [float(gap.mean()), float(gap.std()) / math.sqrt(FIELDS)]
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = {Path(name).name: gaps(Path(name)) for name in sys.argv[1:]}
    (Path(__file__).parent / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))
