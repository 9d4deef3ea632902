"""The tutorial "Bring your own physics" runs as it stands there, on less data and with fewer steps."""

import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

PAGE = Path(__file__).parents[2] / "docs" / "bring-your-own-physics.md"
TEXT = PAGE.read_text(encoding="utf-8")
FILES = dict(re.findall(r"<!-- file: (.+?) -->\n```python\n(.*?)```", TEXT, re.DOTALL))
IN_PYTHON = re.search(r"<!-- python -->\n```python\n(.*?)```", TEXT, re.DOTALL)
SHELL = "".join(re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)).replace("\\\n    ", "")
COMMANDS = SHELL.splitlines()
BIN = Path(sys.executable).parent
# Options that follow the page's own take their place.
QUICK = {
    "physdiff train": "--training.steps 4 --network.width 4",
    "physdiff sample": "--n 3 --steps 2",
    "physdiff likelihood": "--limit 2 --probes 2 --method midpoint --steps 6",
    "physdiff evaluate": "--settings.samples 4 --settings.sample_steps 2 --settings.likelihood_fields 2 "
    "--settings.likelihood_steps 4 --settings.probes 2",
}
# The mistakes of the page, and what the check says of each.
MISTAKES = {
    "physdiff processes check forgotten.py": "refinement is as declared",
    "physdiff processes check closed_form.py": "solution solves the equation",
}
pytestmark = pytest.mark.xdist_group("tutorial")  # one worker runs the page for all


def shell(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, subprocess.CompletedProcess[str]]]:
    """The folder in which every command of the page was run, in its order, and what each said."""
    folder = tmp_path_factory.mktemp("newcomer")
    for name, text in FILES.items():
        file, _, begun_with = name.partition(", from ")
        if begun_with:  # lines of the class, which the page shows from its margin
            text = FILES[begun_with] + "\n" + textwrap.indent(text, "    ")
        (folder / file).write_text(text, encoding="utf-8")
    said = {}
    for command in COMMANDS:
        if command == "physdiff data make turbulence":
            from datasets.turbulence import make

            make(folder / "data" / "turbulence", train_runs=16, valid_runs=4, test_runs=4, progress=False)
            continue
        quick = next((options for words, options in QUICK.items() if command.startswith(words)), "")
        said[command] = shell(folder, f"{command} {quick}")
    return folder, said


def test_the_page_names_what_the_test_expects() -> None:
    assert [name.partition(", ")[0] for name in FILES] == ["damped_beam.py", "closed_form.py"]
    assert len(FILES["damped_beam.py"].splitlines()) <= 36
    assert [c for c in COMMANDS if c in MISTAKES] == list(MISTAKES)
    for words in ("physdiff data make turbulence", "physdiff processes check damped_beam.py", *QUICK):
        assert any(command.startswith(words) for command in COMMANDS), words
    for command in COMMANDS:  # the physics is the only file that a newcomer writes
        assert not any(word.endswith((".yaml", ".yml")) for word in shlex.split(command)), command


def test_every_command_does_what_the_page_says(
    done: tuple[Path, dict[str, subprocess.CompletedProcess[str]]],
) -> None:
    for command, ran in done[1].items():
        assert ran.returncode == (2 if command in MISTAKES else 0), (command, ran.stdout, ran.stderr)


def test_the_beam_keeps_every_law_and_each_mistake_breaks_the_one_that_is_named(
    done: tuple[Path, dict[str, subprocess.CompletedProcess[str]]],
) -> None:
    laws = "(refinement is as declared|solution solves the equation)"

    def broken(command: str) -> list[str]:
        return re.findall(rf"(?im)^fail\s+{laws}", done[1][command].stdout)

    assert broken("physdiff processes check damped_beam.py") == []
    for command, law in MISTAKES.items():
        assert broken(command) == [law], done[1][command].stdout


def test_samples_are_fields_like_the_data(done: tuple[Path, dict[str, subprocess.CompletedProcess[str]]]) -> None:
    from physdiff import load_fields

    folder = done[0]
    data = load_fields(folder / "data" / "turbulence", split="train")
    with xr.open_dataset(folder / "runs" / "beam" / "samples.nc", engine="h5netcdf") as samples:
        vorticity = samples["vorticity"]
        assert vorticity.dims == ("sample", "x", "y")
        assert vorticity.shape == (3, *data.grid.shape)
        assert vorticity.attrs["units"] == "1/s"
        for axis, dim in enumerate(("x", "y")):
            np.testing.assert_allclose(vorticity[dim], data.grid.coordinate(axis))
        assert bool(np.isfinite(vorticity).all())
        # Four steps leave the Gaussian field: the data's deviation, to 5 standard errors of 3 rough fields.
        assert abs(float(vorticity.std()) / float(data.values.std()) - 1) < 0.3


def test_log_densities_are_near_the_gaussian_field(
    done: tuple[Path, dict[str, subprocess.CompletedProcess[str]]],
) -> None:
    with xr.open_dataset(done[0] / "runs" / "beam" / "likelihood.nc", engine="h5netcdf") as score:
        assert score.attrs["n_support"] == 32 * 32 - 1 - 63  # the mean and the Nyquist row and column do not vary
        assert bool(np.isfinite(score["log_prob"]).all())
        np.testing.assert_allclose(
            score["log_prob"] - score["log_prob_reference"], score["relative_to_reference"], atol=1e-6
        )
        assert (abs(score["relative_to_reference"]) < 0.05 * score.attrs["n_support"]).all()


def test_the_python_of_the_page_finds_the_untrained_model_to_be_the_gaussian_field(
    done: tuple[Path, dict[str, subprocess.CompletedProcess[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert IN_PYTHON is not None
    monkeypatch.chdir(done[0])
    monkeypatch.syspath_prepend(str(done[0]))  # damped_beam.py, as for Python started in that folder
    names: dict[str, object] = {}
    exec(compile(IN_PYTHON[1], PAGE.name, "exec"), names)
    untrained, model, held_out = (names[name] for name in ("untrained", "model", "held_out"))
    assert float(abs(untrained["relative_to_reference"]).max()) < 1e-6  # type: ignore[index]
    # The Gaussian log-density once more, at the earliest time, by the equation's own formulas.
    path = model.denoiser.path  # type: ignore[attr-defined]
    laplacian, reference, time = path.basis.laplacian, path.reference, path.clock.time(torch.tensor(path.t_min))
    rate = 1.0 + 0.01 * laplacian**2
    noise = 2.0**2 / (2 * torch.pi / 32) ** 2 / (1 + 0.2**2 * laplacian)
    variance = torch.exp(-2 * rate * time) * reference.spectrum + noise * (1 - torch.exp(-2 * rate * time)) / (2 * rate)
    moved = path.basis.forward(model.normalised(held_out)) - reference.mean  # type: ignore[attr-defined]
    moved = torch.exp(-rate * time) * moved
    terms = -0.5 * (moved.square() / variance + torch.log(2 * torch.pi * variance)) - rate * time
    expected = torch.where(reference.support, terms, 0.0).flatten(1).sum(1) + model.log_det  # type: ignore[attr-defined]
    np.testing.assert_allclose(untrained["log_prob"], expected, atol=1e-5)  # type: ignore[index]
