"""Power profiles that a run has stored along its way, and the average of any width that is made from them.

    RUN/profiles/step-00000500.safetensors      index/parameter for each of the two widths

Each file is whole or absent. A file of a later step than a run resumes from is removed: it will be written again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from physdiff.atomic import replacing_file
from physdiff.training.power_profile import combination
from physdiff.training.settings import require_width

FOLDER = "profiles"


@dataclass(frozen=True)
class Stored:
    """A file of stored averages.

    Attributes:
        file: Where it is.
        step: Steps taken.
        widths: Relative width of each average in it.
    """

    file: Path
    step: int
    widths: tuple[float, ...]


def store_profiles(run: Path, step: int, profiles: dict[str, Tensor], widths: tuple[float, ...]) -> None:
    """Write the averages after a step, by `index/parameter`."""
    tensors = {name: x.detach().cpu().contiguous().clone() for name, x in profiles.items()}
    with replacing_file(run / FOLDER / f"step-{step:08d}.safetensors") as partial:
        # One entry: several would be written in any order, and equal averages in other bytes.
        save_file(tensors, partial, {"profiles": json.dumps({"step": step, "widths": widths})})


def forget_profiles_after(run: Path, step: int) -> None:
    """Delete stored averages of later steps, and what killed writes have left."""
    for file in (run / FOLDER).glob("step-*.safetensors"):
        if int(file.stem.removeprefix("step-")) > step:
            file.unlink()
    for litter in (run / FOLDER).glob(".*.partial"):
        litter.unlink()


def stored_profiles(run: Path) -> list[Stored]:
    """What a run has stored, in the order of its steps.

    Raises:
        ValueError: there is nothing, or a file is damaged.
    """
    found = []
    for file in sorted((run / FOLDER).glob("step-*.safetensors")):
        try:
            with safe_open(file, "pt") as content:
                about = json.loads(content.metadata()["profiles"])
            found.append(Stored(file, int(about["step"]), tuple(about["widths"])))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file} is damaged ({error}); delete it to do without.") from None
    if not found:
        raise ValueError(
            f"no power profiles are stored in {run / FOLDER}; train with two widths, such as "
            "--training.ema_widths '[0.05, 0.1]'."
        )
    return found


def reconstruct(run: Path, width: float) -> dict[str, Tensor]:
    """The average of a relative width at the last stored step, by parameter.

    Args:
        run: The run's folder.
        width: In (0, 0.28]; most exact between the stored widths.

    Raises:
        ValueError: nothing is stored, or the width is outside its range.
    """
    require_width(width)
    stored = stored_profiles(run)
    each = [(one.step, w) for one in stored for w in one.widths]
    coefficients = iter(combination(each, stored[-1].step, width).tolist())
    total: dict[str, Tensor] = {}
    types: dict[str, torch.dtype] = {}
    for one in stored:
        with safe_open(one.file, "pt") as content:
            for index in range(len(one.widths)):
                coefficient, prefix = next(coefficients), f"{index}/"
                for key in content.keys():
                    if key.startswith(prefix):
                        name, x = key.removeprefix(prefix), content.get_tensor(key)
                        types[name] = x.dtype
                        total[name] = total.get(name, 0) + coefficient * x.double()
    return {name: x.to(types[name]) for name, x in total.items()}
