"""`physdiff evaluate --action`: a model held against a user's own unnormalised density."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import Command

from datasets.lattice_phi4 import make
from physdiff import cli, load
from physdiff.data import load_fields

QUICK = (
    "--settings.samples", "4", "--settings.sample_steps", "1", "--settings.likelihood_fields", "2",
    "--settings.likelihood_steps", "2", "--settings.probes", "2", "--settings.method", "midpoint",
    "--importance.samples", "8", "--importance.held_out_fields", "4", "--importance.exact_modes", "1",
    "--importance.probes", "2", "--importance.tolerance", "1e-2",
)  # fmt: skip

CONFIG = {
    "process": "VariancePreserving",
    "data": {"path": "data"},
    "network": {"width": 4, "multipliers": [1, 2]},
    "training": {"steps": 2, "batch_size": 4},
    "run": "run",
}

# The Gaussian field with the reference's own mean and spectrum, as an action, less a constant.
ACTION = """
import physdiff

model = physdiff.load("run")
law, normaliser = model.denoiser.path.reference, model.normaliser


def action(fields):
    return -law.log_prob(normaliser.forward(fields)) - 3.0


def of_one_field(fields):
    return fields.square().sum()


def of_a_mass(fields, mass):
    return mass * fields.square().flatten(1).sum(1)


def failing(fields):
    raise RuntimeError("no such thing")
"""


@pytest.fixture(scope="module")
def lattice_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configurations of φ⁴ on 4 x 4 sites, a run of two steps on them, and the user's own actions."""
    folder = tmp_path_factory.mktemp("lattice")
    make(folder / "data", sites=4, train_chains=8, valid_chains=2, test_chains=4, configurations=4, progress=False)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (folder / "mine.py").write_text(ACTION)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.run(["train", "config.yaml"]) == 0
    return folder


def test_the_reference_is_its_own_action(lattice_run: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of the reference under its own action are all equal, and −log Z is the constant and the volume."""
    monkeypatch.chdir(lattice_run)
    code, out, error = command("evaluate", "run", "--action", "mine.py:action", *QUICK)
    assert code == 0, error
    reference = json.loads(Path("run/importance.json").read_text())["reference"]
    assert reference["effective_samples"] == pytest.approx(reference["samples"], rel=1e-9)
    # S = −log p − 3 with p the density of normalised fields: Z of physical ones is e³ times |det| of the normaliser.
    volume = load("run").log_det
    assert abs(volume) > 0.01
    assert reference["free_energy"][0] == pytest.approx(-3.0 + volume, abs=1e-9)
    assert "samples are effective (100.00%)" in out and "free energy −log Z" in out


def test_the_built_in_action_takes_its_settings(
    lattice_run: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lattice_run)
    code, out, error = command(
        "evaluate", "run", "--action", "LatticePhi4", "--action_settings.hopping", "0.21", "--action_settings.coupling",
        "0.022", *QUICK,
    )  # fmt: skip
    assert code == 0, error
    assert "coupling" in out and "0.022" in out


def test_an_action_that_is_none_is_refused_in_one_line(
    lattice_run: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lattice_run)
    Path("run/importance.json").unlink(missing_ok=True)
    one = load_fields("data", split="test")
    dataclasses.replace(one, trajectory=np.zeros_like(one.trajectory)).to_xarray().to_netcdf("one.nc")
    monkeypatch.setattr("physdiff.commands.report.evaluate_model", None)  # nothing is computed before
    for given, words in (
        ("mine.py:nothing", "nothing"), ("LatticePhi5", "LatticePhi4"), ("mine.py:of_one_field", "shape"),
        ("mine.py:of_a_mass", "needs the setting 'mass'"), ("mine.py:failing", "RuntimeError: no such thing"),
        ("LatticePhi4 --action_settings.coupling abc", "finite 'coupling' ≥ 0; got abc"),
        ("LatticePhi4 --action_settings.coupling 0 --action_settings.hopping 0.3", "Z is infinite"),
        ("mine.py:action --importance.held_out_fields 2 --data one.nc", "at least 2 trajectories; the 2 that were"),
    ):  # fmt: skip
        code, _, error = command("evaluate", "run", *QUICK, "--action", *given.split())
        last = error.strip().splitlines()[-1]
        assert code == 2 and "physdiff: error" in last and words in last
        assert not Path("run/importance.json").exists()
