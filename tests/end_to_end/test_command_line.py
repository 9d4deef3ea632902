"""The command line on good and bad input: exit codes, one clear line, nothing half-written."""

import io
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
import yaml
from safetensors.torch import load_file

from datasets.turbulence import make
from physdiff import FieldModel, cli, load_fields

pytestmark = pytest.mark.xdist_group("command line")  # one worker trains the run for all
BIN = Path(sys.executable).parent / "physdiff"
CONFIG = {
    "process": "Heat",
    "data": {"path": "data", "homogeneous": True},
    "network": {"width": 4, "multipliers": [1, 2]},
    "training": {"steps": 6, "batch_size": 4, "checkpoint_every": 2, "validate_every": 3, "log_every": 1},
    "run": "run",
}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command within this process, which has imported everything."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["physdiff", *arguments])
        patch.setattr(sys, "path", list(sys.path))
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    return subprocess.CompletedProcess(arguments, int(stopped.value.code or 0), out.getvalue(), err.getvalue())


def spawn(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as it is installed, in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([BIN, *arguments], cwd=folder, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data (16², few runs), a config and a run of six steps."""
    folder = tmp_path_factory.mktemp("work")
    make(folder / "data", train_runs=12, valid_runs=4, test_runs=4, cells=16, duration=3.0, progress=False)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    done = spawn(folder, "train", "config.yaml")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def work(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(trained, tmp_path / "work"))


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2, and one line that holds all the words."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("physdiff: error: "), done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in line, f"'{word}' is not in: {line}"


def test_sample_writes_the_models_fields(trained: Path) -> None:
    assert run(trained, "sample", "run", "--n", "3", "--steps", "2", "--seed", "5").returncode == 0
    with xr.open_dataset(trained / "run" / "samples.nc", engine="h5netcdf") as found:
        expected = FieldModel.load(trained / "run").sample(3, steps=2, seed=5)
        np.testing.assert_array_equal(found["vorticity"], expected["vorticity"])
        assert found["vorticity"].attrs["units"] == "1/s"


def test_likelihood_of_the_exact_trace_is_within_the_probes_error(trained: Path) -> None:
    common = ("likelihood", "run", "--data", "data", "--limit", "2", "--method", "midpoint", "--steps", "2")
    assert run(trained, *common, "--probes", "exact", "--out", "exact.nc").returncode == 0
    assert run(trained, *common, "--probes", "8", "--out", "probes.nc").returncode == 0
    with (
        xr.open_dataset(trained / "exact.nc", engine="h5netcdf") as exact,
        xr.open_dataset(trained / "probes.nc", engine="h5netcdf") as probes,
    ):
        assert (exact["standard_error"] == 0).all()
        z = (probes["log_prob"] - exact["log_prob"]) / probes["standard_error"]
        assert (abs(z) < 6).all(), z.values  # Student's t with 7 degrees of freedom: 6 is beyond 1 in 1000
        assert exact.attrs["n_support"] == 16 * 16 - 1 - 31  # the mean and the Nyquist row and column do not vary


def test_units_are_physical(trained: Path) -> None:
    """The density of the same fields in 1/min is lower by log 60 for each degree of freedom."""
    model = FieldModel.load(trained / "run")
    data = load_fields(trained / "data", split="test").first(2)
    score = model.log_likelihood(data, probes="exact", method="midpoint", steps=2)
    model.normaliser = type(model.normaliser)(60 * model.normaliser.mean, 60 * model.normaliser.std)
    faster = type(data)(60 * data.values, data.grid, data.names, data.units, data.trajectory, data.time, "in 1/min")
    rescaled = model.log_likelihood(faster, probes="exact", method="midpoint", steps=2)
    shift = (score["log_prob"] - rescaled["log_prob"]) / score.attrs["n_support"]
    np.testing.assert_allclose(shift, np.log(60), rtol=1e-5)  # float32 data, rounded after the factor


def test_evaluate_and_report(work: Path) -> None:
    done = run(work, "evaluate", "run", "--settings.samples", "4", "--settings.likelihood_fields", "2",
               "--settings.likelihood_steps", "4", "--settings.probes", "2")  # fmt: skip
    assert done.returncode == 0, done.stderr
    (work / "run" / "report.html").unlink()
    assert run(work, "report", "run").returncode == 0
    assert "Settings" in (work / "run" / "report.html").read_text()


def test_resumed_run_of_the_command_line_is_the_same_to_the_bit(work: Path) -> None:
    """A run killed after its checkpoint at step 4 (the later one removed) ends in the same model."""
    shutil.copytree(work / "run", work / "cut")
    config = yaml.safe_load((work / "run" / "config.yaml").read_text())
    (work / "cut" / "config.yaml").write_text(yaml.safe_dump({**config, "run": "cut"}))
    shutil.rmtree(work / "cut" / "model")
    shutil.rmtree(work / "cut" / "checkpoints" / "step-00000006")
    done = run(work, "resume", "cut")
    assert done.returncode == 0, done.stderr
    assert "continued from step 4" in done.stdout
    for name in ("weights", "reference"):
        whole, again = (load_file(work / run_ / "model" / f"{name}.safetensors") for run_ in ("run", "cut"))
        assert whole.keys() == again.keys()
        assert all(whole[key].equal(again[key]) for key in whole)


# ---- bad input


def test_unknown_process_names_the_nearest(work: Path) -> None:
    refused(run(work, "train", "config.yaml", "--process", "Heta"), "unknown process 'Heta'", "Heat")


def test_misspelt_setting_of_a_process_names_those_it_has(work: Path) -> None:
    done = run(work, "train", "config.yaml", "--process.diffusion", "2")
    refused(done, "Heat has no setting 'diffusion'", "diffusivity = 1.0")


@pytest.mark.parametrize("option", ["training.stps", "data.feilds"])
def test_misspelt_option_names_the_nearest(work: Path, option: str) -> None:
    right = {"training.stps": "training.steps", "data.feilds": "data.fields"}[option]
    refused(run(work, "train", "config.yaml", f"--{option}", "3"), f"'{option}'", right)


def test_misspelt_key_in_the_file_names_the_nearest(work: Path) -> None:
    (work / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "trainin": {"steps": 3}}))
    refused(run(work, "train", "config.yaml"), "trainin", "training")


def test_bad_value_of_a_physics(work: Path) -> None:
    done = run(work, "train", "config.yaml", "--process.diffusivity=-1", "--run", "new")
    refused(done, "Heat needs a positive, finite 'diffusivity'; got -1.0")
    assert not (work / "new").exists()


def _spoil(work: Path, how: str) -> None:
    file = work / "data" / "data" / "train" / "turbulence.hdf5"
    if how == "truncated":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        return
    with h5py.File(file, "r+") as content:
        name = "t0_fields/vorticity"
        if how == "missing":
            content.move(name, "t0_fields/omega")
            content["t0_fields"].attrs["field_names"] = ["omega"]
        elif how == "nan":
            content[name][3, 0, 2, 1] = np.nan
        else:
            attributes = dict(content[name].attrs)
            values = content[name][..., :12]
            del content[name]
            content[name] = values
            content[name].attrs.update(attributes)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("truncated", ("turbulence.hdf5",)),
        ("missing", ("turbulence.hdf5", "no field 'vorticity'", "omega")),
        ("nan", ("turbulence.hdf5", "vorticity", "nan", "trajectory 3", "(2, 1)")),
        ("shape", ("turbulence.hdf5", "vorticity", "12", "16")),
    ],
)
def test_unfit_data_is_refused_and_no_run_is_begun(work: Path, how: str, words: tuple[str, ...]) -> None:
    _spoil(work, how)
    refused(run(work, "train", "config.yaml", "--run", "new", "--data.fields", "[vorticity]"), *words)
    assert not (work / "new").exists()


def test_model_refuses_fields_of_another_grid(work: Path) -> None:
    make(work / "fine", train_runs=1, valid_runs=1, test_runs=1, cells=32, duration=1.0, progress=False)
    done = run(work, "likelihood", "run", "--data", "fine", "--out", "fine.nc")
    refused(done, "32 (x, periodic", "16 (x, periodic")
    assert not (work / "fine.nc").exists()


def test_run_folder_refuses_another_grid(work: Path) -> None:
    make(work / "fine", train_runs=4, valid_runs=1, test_runs=1, cells=32, duration=1.0, progress=False)
    before = sorted((work / "run" / "checkpoints").iterdir())
    refused(run(work, "train", "config.yaml", "--data.path", "fine"), "run", "step-00000006")
    assert sorted((work / "run" / "checkpoints").iterdir()) == before


def test_damaged_model_is_refused(work: Path) -> None:
    weights = work / "run" / "model" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    refused(run(work, "sample", "run", "--out", "none.nc"), "weights.safetensors", "damaged")
    assert not (work / "none.nc").exists()


def test_energy_outside_the_support_is_refused(work: Path) -> None:
    """The training data has no mean mode; a field that has one is no draw from any law on that support."""
    model = FieldModel.load(work / "run")
    data = load_fields(work / "data", split="test").first(2)
    shifted = type(data)(data.values + 0.1, data.grid, data.names, data.units, data.trajectory, data.time, "shifted")
    with pytest.raises(ValueError, match="energy outside the support"):
        model.log_likelihood(shifted, probes=2)


def test_run_folder_refuses_other_data_of_the_same_shape(work: Path) -> None:
    shutil.rmtree(work / "data")
    make(work / "data", seed=1, train_runs=12, valid_runs=4, test_runs=4, cells=16, duration=3.0, progress=False)
    refused(run(work, "train", "config.yaml"), "run", "step-00000006")


def test_boundary_in_place_of_the_datas_own(work: Path) -> None:
    done = run(
        work, "train", "config.yaml", "--data.boundary", "neumann", "--data.homogeneous", "false", "--run", "walls"
    )
    assert done.returncode == 0, done.stderr
    done = run(work, "likelihood", "walls", "--limit", "1", "--probes", "2", "--method", "midpoint", "--steps", "2")
    assert done.returncode == 0, done.stderr


def test_physics_of_another_folder_is_found_again(work: Path) -> None:
    (work / "sub").mkdir()
    (work / "sub" / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from physdiff.processes.heat import Heat\n"
        "from physdiff import AutonomousProcess\n"
        "@dataclass(frozen=True)\n"
        "class Mine(AutonomousProcess):\n"
        "    def drift_symbol(self, time): return -1 - self.basis.laplacian\n"
        "    def noise_spectrum(self, time): return 1 + 0 * self.basis.laplacian\n"
    )
    done = run(work, "train", "config.yaml", "--process", "sub/mine.py:Mine", "--run", "mine")
    assert done.returncode == 0, done.stderr
    assert spawn(work, "sample", "mine", "--n", "1", "--steps", "1").returncode == 0


def test_a_simulated_process_goes_all_the_way(work: Path) -> None:
    """Trained, continued in the same bits, sampled, scored and evaluated; its moments travel with the model."""
    base = ("train", "config.yaml", "--process", "AllenCahn", "--simulation.tolerance", "0.3")
    assert run(work, *base, "--run", "whole").returncode == 0
    trained = load_file(work / "whole" / "model" / "weights.safetensors")
    shutil.rmtree(work / "whole" / "checkpoints" / "step-00000006")  # as if it had been killed before it
    done = run(work, "resume", "whole")
    assert done.returncode == 0, done.stderr
    assert "continued from step 4" in done.stdout
    again = load_file(work / "whole" / "model" / "weights.safetensors")
    assert all(trained[name].equal(again[name]) for name in trained)
    assert run(work, "sample", "whole", "--n", "2", "--steps", "3", "--seed", "1").returncode == 0
    with xr.open_dataset(work / "whole" / "samples.nc", engine="h5netcdf") as found:
        expected = FieldModel.load(work / "whole").sample(2, steps=3, seed=1)
        np.testing.assert_array_equal(found["vorticity"], expected["vorticity"])
        assert np.isfinite(found["vorticity"]).all()
    done = run(work, "likelihood", "whole", "--data", "data", "--limit", "2", "--method", "midpoint", "--steps", "4")
    assert done.returncode == 0, done.stderr
    assert "scored: noised" in done.stdout
    quick = {"samples": 2, "sample_steps": 2, "likelihood_fields": 2, "likelihood_steps": 2, "probes": 2}
    done = run(work, "evaluate", "whole", *(word for k, v in quick.items() for word in (f"--settings.{k}", str(v))))
    assert "structure has density" in done.stdout, done.stderr
    assert "Wiener" not in done.stdout  # what is noised by a nonlinear drift is not denoised by a filter
    refused(run(work, *base, "--run", "whole", "--simulation.target", "backward"), "cannot continue", "simulation was")
