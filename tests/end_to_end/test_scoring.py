"""`physdiff likelihood` survives kills, damage and company: the result has the same bits whatever happened."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from conftest import Command  # pyright: ignore[reportMissingImports]

from physdiff import FieldData, FieldModel, GaussianField, Grid, ReferencePath, SpectralBasis, fit_clock
from physdiff.data.normalise import Standardise
from physdiff.model import NetworkSettings, around, build_network
from physdiff.parts import Parts
from physdiff.processes.heat import Heat
from physdiff.transport import METHODS

pytestmark = pytest.mark.xdist_group("tiny run")  # one worker trains the run for all
QUICK = ("--method", "midpoint", "--steps", "2", "--probes", "2", "--chunk", "1")
FIELDS = 4
ROOT = Path(__file__).parents[2]
TOLD = """
import os
from physdiff import cli, parts

write = parts.Parts.write


def told(self, index, part, source):
    print(f"part {index} by {os.environ['RANK']}", flush=True)
    write(self, index, part, source)


parts.Parts.write = told
cli.main()
"""
OWN_HEAT = """
from dataclasses import dataclass

from physdiff.processes.heat import Heat


@dataclass(frozen=True)
class MyHeat(Heat):
    pass
"""


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the fields that are scored, as they are."""
    seen: list[int] = []
    score = FieldModel.log_likelihood

    def counted(model: FieldModel, data: Any, **settings: Any) -> xr.Dataset:
        seen.append(settings["first"])
        return score(model, data, **settings)

    monkeypatch.setattr(FieldModel, "log_likelihood", counted)
    return seen


@pytest.fixture
def keeping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are left where they are, as if the command had been killed just before it would remove them."""
    monkeypatch.setattr(Parts, "remove", lambda parts: None)


def read(file: str) -> xr.Dataset:
    with xr.open_dataset(file, engine="h5netcdf") as found:
        return found.load()


def parts() -> list[Path]:
    return sorted(Path("run/likelihood.parts").glob("*/part-*.safetensors"))


def environment() -> dict[str, str]:
    """Of a process that computes the same bits: as many threads."""
    python_path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": python_path}


def launched(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Two processes by accelerate, at a port that is free."""
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--num_processes", "2"]
    return subprocess.run(
        [*launch, "--main_process_port", "0", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_killed_command_goes_on_and_ends_in_the_same_bits(tiny: Path, command: Command, computed: list[int]) -> None:
    slow = ("likelihood", "run", "--method", "midpoint", "--steps", "12", "--probes", "8", "--chunk", "1")
    killed = subprocess.Popen(
        [sys.executable, "-m", "physdiff", *slow], env=environment(), stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 60
    while len(parts()) < 2 and killed.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    done = len(parts())
    assert 2 <= done < FIELDS and not Path("run/likelihood.nc").exists()
    code, said, error = command(*slow)
    assert code == 0, error
    assert f"{FIELDS} fields" in said and computed == list(range(done, FIELDS))
    assert not Path("run/likelihood.parts").exists()
    assert command(*slow, "--out", "whole.nc")[0] == 0
    assert len(computed) == FIELDS - done + FIELDS
    assert read("run/likelihood.nc").identical(read("whole.nc"))


def test_two_processes_share_the_work(tiny: Path, command: Command) -> None:
    assert command("likelihood", "run", *QUICK, "--out", "alone.nc")[0] == 0
    Path("told.py").write_text(TOLD)
    done = launched("--multi_gpu", "told.py", "likelihood", "run", *QUICK)
    assert done.returncode == 0, done.stderr
    told = sorted(re.findall(r"part \d by \d", done.stdout))
    assert told == [f"part {i} by {i % 2}" for i in range(FIELDS)]
    assert done.stdout.count("written: run/likelihood.nc") == 1
    assert read("run/likelihood.nc").identical(read("alone.nc"))
    assert not Path("run/likelihood.parts").exists()


def test_one_process_in_the_place_of_several_is_noticed(
    tiny: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment that `accelerate launch --num_processes 2` leaves where there is no GPU."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")
    code, said, error = command("likelihood", "run", *QUICK)
    assert code == 0 and "written: run/likelihood.nc" in said
    assert "asked for several processes and started one, as it does without GPUs: add --multi_gpu" in error


@pytest.mark.usefixtures("keeping")
@pytest.mark.parametrize("how", ["cut", "flipped", "emptied", "replaced"])
def test_a_damaged_part_is_computed_again(tiny: Path, command: Command, computed: list[int], how: str) -> None:
    assert command("likelihood", "run", *QUICK, "--out", "before.nc")[0] == 0
    part = parts()[2]
    content = part.read_bytes()
    spoilt = {
        "cut": content[:-20],
        "flipped": content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
        "emptied": b"",
        "replaced": (tiny / "run" / "model" / "weights.safetensors").read_bytes(),
    }[how]
    part.write_bytes(spoilt)
    code, _, error = command("likelihood", "run", *QUICK, "--out", "after.nc")
    assert code == 0, error
    assert f"{part} is damaged; its fields are computed again" in error
    assert computed == [0, 1, 2, 3, 2]
    assert read("after.nc").identical(read("before.nc"))


@pytest.mark.usefixtures("keeping")
def test_parts_are_used_for_the_same_model_data_and_settings_only(
    tiny: Path, command: Command, computed: list[int]
) -> None:
    assert command("likelihood", "run", *QUICK, "--limit", "2", "--out", "two.nc")[0] == 0
    assert command("likelihood", "run", *QUICK, "--out", "all.nc")[0] == 0
    assert computed == [0, 1, 2, 3]  # with more fields of the same data the first are not scored again
    xr.testing.assert_identical(read("all.nc").isel(sample=slice(2)), read("two.nc"))
    computed.clear()
    with h5py.File(next(Path("data/data/test").glob("*.hdf5")), "r+") as file:
        values = file["t0_fields/vorticity"]
        values[1] = 1.5 * values[1]  # pyright: ignore
    assert command("likelihood", "run", *QUICK, "--out", "changed.nc")[0] == 0
    assert computed == [1]
    changed = np.flatnonzero((read("changed.nc")["log_prob"] != read("all.nc")["log_prob"]).values)
    assert changed.tolist() == [1]
    for settings in (("--seed", "1"), ("--steps", "3")):
        computed.clear()
        assert command("likelihood", "run", *QUICK, *settings, "--out", "other.nc")[0] == 0
        assert computed == [0, 1, 2, 3]
        assert bool((read("other.nc")["log_prob"] != read("changed.nc")["log_prob"]).all())
    computed.clear()
    model = tiny / "run" / "model" / "model.json"
    model.write_text(model.read_text() + "\n")
    assert command("likelihood", "run", *QUICK, "--out", "again.nc")[0] == 0
    assert computed == [0, 1, 2, 3]


@pytest.mark.usefixtures("keeping")
def test_parts_follow_the_users_equations_and_no_result(
    tiny: Path, command: Command, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tiny))
    Path("my_heat.py").write_text(OWN_HEAT)
    model = Path("run/model/model.json")
    model.write_text(model.read_text().replace('"class": "Heat"', '"class": "my_heat.MyHeat"'))
    assert command("likelihood", "run/model", *QUICK, "--data", "data")[0] == 0
    assert Path("run/model/likelihood.nc").is_file()  # beside the model's own files
    computed.clear()
    assert command("likelihood", "run/model", *QUICK, "--data", "data")[0] == 0
    assert computed == []
    Path("my_heat.py").write_text(OWN_HEAT + "# another equation\n")
    assert command("likelihood", "run/model", *QUICK, "--data", "data")[0] == 0
    assert computed == [0, 1, 2, 3]


def test_one_probe_is_said_to_have_no_error_bar(tiny: Path, command: Command) -> None:
    for probes in ("1", "hutch++3"):
        code, said, error = command("likelihood", "run", *QUICK, "--limit", "1", "--probes", probes)
        assert code == 0, error
        assert "nan" not in said and "trace error unknown, as one probe has no error bar" in said


def test_the_help_names_the_methods_and_which_is_the_default(command: Command) -> None:
    said = " ".join(command("likelihood", "--help")[1].split())
    assert "adams, the default" in said and all(name in said for name in METHODS)


def test_parts_of_other_work_stay(tiny: Path, command: Command) -> None:
    other = Path("run/likelihood.parts/another")
    other.mkdir(parents=True)
    (other / "part-00000000.safetensors").write_bytes(b"mine")
    assert command("likelihood", "run", *QUICK)[0] == 0
    assert parts() == [other / "part-00000000.safetensors"]


def test_a_field_has_the_same_score_in_any_chunk(tiny: Path, command: Command) -> None:
    """To rounding of the network, in float32: its probes are those of its place among all fields."""
    for chunk in ("1", "3", "16"):
        assert command("likelihood", "run", *QUICK, "--chunk", chunk, "--out", f"{chunk}.nc")[0] == 0
    for chunk in ("3", "16"):
        off = float(abs(read(f"{chunk}.nc")["log_prob"] - read("1.nc")["log_prob"]).max())
        print(f"chunks of {chunk}: off by {off:.1e} nats")
        assert off < 1e-4


def test_ways_to_take_the_trace(tiny: Path, command: Command) -> None:
    """All agree with the exact one within their error bars, pooled over the fields, and a target is met."""
    common = ("likelihood", "run", "--method", "rk4", "--steps", "2", "--limit", "1")
    assert command(*common, "--probes", "exact", "--out", "exact.nc")[0] == 0
    for option in ("--probes 8", "--probes hutch++", "--probes hutch++18", "--probes 8 --target-error 0.01"):
        code, said, error = command(*common, *option.split(), "--out", "other.nc")
        assert code == 0, error
        found = read("other.nc")
        pooled = float((found["standard_error"] ** 2).mean() ** 0.5)
        off = float(abs(found["log_prob"] - read("exact.nc")["log_prob"]).max())
        print(f"{option}: off by {off:.3f} nats, error bar {pooled:.3f}")
        assert 0 < off < 5 * pooled
        if "target" in option:
            assert pooled < 0.0125 and "above" not in said
        else:
            assert pooled > 0.02  # so that there was something to be met


@pytest.fixture
def counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of independent Gaussian cells, N(20, 3²) in K, and 40 fields of them that are rounded to halves."""
    monkeypatch.chdir(tmp_path)
    grid = Grid((8, 8))
    values = 20 + 3 * torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis = SpectralBasis(grid)
    law = GaussianField(basis, torch.zeros(1, 8, 8), torch.ones(1, 8, 8, dtype=torch.float64))
    network = NetworkSettings(width=4, multipliers=(1,))
    path = ReferencePath(fit_clock(Heat(basis, noise_level=1.0), law), law)
    denoiser = around(build_network(grid, 1, network, False), path, 0.0, False)
    FieldModel(denoiser, Standardise([20.0], [3.0]), ("heat",), ("K",), network).save("run/model")  # pyright: ignore
    rounded = (2 * values).round().numpy() / 2
    data = FieldData(rounded, grid, ("heat",), ("K",), np.arange(40), np.zeros(40), "counts")
    data.to_xarray().to_netcdf("counts.nc", engine="h5netcdf")
    return tmp_path


COUNTS = ("likelihood", "run", "--data", "counts.nc", "--probes", "2", "--method", "rk4", "--steps", "1")


@pytest.mark.usefixtures("keeping")
def test_bits_per_dimension_of_quantised_data(counts: Path, command: Command) -> None:
    """Close above the entropy log₂(σ √(2πe)/q) of cells that are narrow beside σ: 4.632 bits at q = σ/6.

    What is close: the width of the noise, q²/(24 σ²)/log 2 = 1.7e-3 bits, and five standard errors of the mean over
    2,560 values, each of variance ½ nats².
    """
    code, said, error = command(*COUNTS, "--quantum", "0.5", "--limit", "40")
    assert code == 0, error
    found = read("run/likelihood.nc")
    bits = float(found["bits_per_dimension"].mean())
    entropy = math.log2(6 * math.sqrt(2 * math.pi * math.e))
    error_bar = math.sqrt(0.5 / 2560) / math.log(2)
    print(f"{bits:.4f} bits, entropy {entropy:.4f}, standard error {error_bar:.4f}")
    assert abs(bits - entropy - 1.7e-3) < 5 * error_bar
    assert f"{bits:.4f} bits per dimension, at most" in said
    assert found["bits_per_dimension"].attrs["units"] == "bit"
    assert (found.attrs["quantum"], found.attrs["quantum_offset"]) == (0.5, 0.0)
    # The same fields have the same noise in other parts, and another with another seed.
    assert command(*COUNTS, "--quantum", "0.5", "--chunk", "7", "--out", "7.nc")[0] == 0
    assert float(abs(read("7.nc")["log_prob"] - found["log_prob"]).max()) < 1e-4
    assert command(*COUNTS, "--quantum", "0.5", "--seed", "1", "--out", "other.nc")[0] == 0
    assert float(abs(read("other.nc")["log_prob"] - found["log_prob"]).min()) > 1e-3
    assert command(*COUNTS, "--out", "nats.nc")[0] == 0
    assert "bits_per_dimension" not in read("nats.nc")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--quantum 0.3", "the data is not quantised with quantum 0.3: the value at index (0, 0, 0, 0)"),
        ("--quantum 0.5 --offset 0.2", "the data is not quantised with quantum 0.5"),
        ("--quantum 0", "quantum must be positive and finite; got [0.0]"),
        ("--quantum [0.5,1]", "quantum must be one number, or one for each of 1 channels; got [0.5, 1.0]"),
        ("--quantum 0.5 --scored noised", "bits per dimension need scored = 'field'"),
    ],
)
def test_no_bits_for_other_data(counts: Path, command: Command, arguments: str, words: str) -> None:
    code, _, error = command(*COUNTS, *arguments.split())
    assert code == 2 and words in error
    assert not Path("run/likelihood.nc").exists() and not Path("run/likelihood.parts").exists()


def test_no_bits_where_the_law_is_on_fewer_modes(tiny: Path, command: Command, computed: list[int]) -> None:
    code, _, error = command("likelihood", "run", *QUICK, "--quantum", "1e-9")  # float32 cannot object to that
    assert code == 2 and "bits per dimension need a density over all 256 values" in error
    assert not computed  # it is known before a field is scored


def test_an_error_of_one_part_writes_nothing(tiny: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy("run/config.yaml", "run/likelihood.nc")  # what is there stays

    def failing(model: FieldModel, data: Any, **settings: Any) -> xr.Dataset:
        raise FloatingPointError("the step shrank to nothing")

    monkeypatch.setattr(FieldModel, "log_likelihood", failing)
    code, _, error = command("likelihood", "run", *QUICK)
    assert code == 2 and error.strip().endswith("physdiff: error: the step shrank to nothing")
    assert Path("run/likelihood.nc").read_text() == Path("run/config.yaml").read_text()


def test_an_interrupted_command_says_that_it_goes_on(
    tiny: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(model: FieldModel, data: Any, **settings: Any) -> xr.Dataset:
        raise KeyboardInterrupt

    monkeypatch.setattr(FieldModel, "log_likelihood", interrupted)
    code, _, error = command("likelihood", "run", *QUICK)
    assert code == 130 and error.strip().endswith("interrupted; the same command goes on with the fields that are left")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--chunk 0", "chunk must be at least 1 field; got 0"),
        ("--chunk -2", "chunk must be at least 1 field; got -2"),
        ("--limit 0", "limit must be at least 1 field; got 0"),
        ("--probes 0", "at least 1 probe; got 0"),
        ("--probes few", "probes must be a number, 'exact' or 'hutch++'; got 'few'"),
        ("--probes hutch++2", "HutchPlusPlus needs at least 3 products; got 2"),
        (
            "--probes exact --target-error 0.1",
            "target_error needs a number of probes to begin with; got --probes exact",
        ),
        ("--target-error -1", "a target above 0 nats, and finite; got -1.0"),
        ("--data nowhere --method rk_45", "unknown method 'rk_45'"),
        ("--data nowhere --seed -1", "seed"),
        ("--data nowhere --rtol 0", "rtol must be positive and finite; got 0.0"),
        ("--data nowhere --atol -1", "atol must be positive and finite; got -1.0"),
        ("--data nowhere --probes few", "probes must be a number"),
        ("--offset 0.5", "offset is that of quantised data; give its --quantum too. Got --offset 0.5"),
        ("--method rk_45", "unknown method 'rk_45'. Did you mean 'rk45'?"),
        ("--data nowhere", "no file or folder 'nowhere'"),
        ("--chunks 3", "there is no option 'chunks'. Did you mean 'chunk'?"),
    ],
)
def test_bad_input(tiny: Path, command: Command, arguments: str, words: str) -> None:
    code, _, error = command("likelihood", "run", *arguments.split())
    assert code == 2
    assert error.strip().splitlines()[-1].startswith("physdiff: error: ") and words in error
    assert not Path("run/likelihood.nc").exists() and not Path("run/likelihood.parts").exists()
