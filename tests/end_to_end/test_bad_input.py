"""Bad input of every kind ends in one clear line and exit code 2, in this process."""

import json
import math
import re
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
import yaml
from conftest import CONFIG
from torch import Tensor

import physdiff.likelihood
from physdiff import FieldModel, cli, load_fields
from physdiff.basis import SpectralBasis
from physdiff.clock import LinearClock
from physdiff.clock_fit import fit_clock
from physdiff.evaluation.evaluate import EvaluationSettings
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.path import ReferencePath
from physdiff.process import LinearProcess
from physdiff.processes.heat import Heat
from physdiff.registry import processes
from physdiff.solvers import sample
from physdiff.training.settings import TrainSettings

pytestmark = pytest.mark.xdist_group("bad input")  # one worker trains the run for all
PHYSICS = """
from dataclasses import dataclass
import torch
from physdiff.process import LinearProcess


class Loose:
    pass


@dataclass(frozen=True)
class Half(LinearProcess):
    def drift_symbol(self, time):
        return -torch.ones(())


class Bare(LinearProcess):
    rate: float = 1.0

    def drift_symbol(self, time):
        return -torch.ones(())

    def noise_spectrum(self, time):
        return torch.ones(())
"""

Refused = Callable[..., str]


@pytest.fixture
def refused(tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Run a command line; expect exit code 2 and one line that holds all the words, which is returned."""

    def check(*arguments: str, words: tuple[str, ...]) -> str:
        monkeypatch.setattr(sys, "argv", ["physdiff", *arguments])
        monkeypatch.setattr(sys, "path", list(sys.path))
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        lines = capsys.readouterr().err.strip().splitlines()
        assert stopped.value.code == 2, lines
        assert lines[-1].startswith("physdiff: error: "), lines
        for word in words:
            assert word in lines[-1], f"'{word}' is not in: {lines[-1]}"
        return lines[-1]

    return check


# ---- likelihood


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("limit", "0", ("limit", "at least 1", "0")),
        ("limit", "-3", ("limit", "at least 1", "-3")),
        ("scored", "state", ("scored", "'field' or 'noised'", "state")),
        ("rtol", "0", ("rtol", "positive and finite", "0")),
        ("atol", "-1", ("atol", "positive and finite", "-1")),
        ("rtol", "nan", ("rtol", "nan")),
        ("steps", "0", ("steps", "at least 1", "0")),
        ("seed", "-1", ("seed", "-1")),
        ("seed", str(2**63), ("seed", str(2**63))),
        ("method", "dopry5", ("dopry5", "dopri5")),
    ],
)
def test_likelihood(refused: Refused, tiny: Path, option: str, value: str, words: tuple[str, ...]) -> None:
    refused("likelihood", "run", f"--{option}={value}", words=words)
    assert not (tiny / "run" / "likelihood.nc").exists()


def test_likelihood_of_a_model(tiny_run: Path) -> None:
    model = FieldModel.load(tiny_run / "run")
    data = load_fields(tiny_run / "data", split="test").first(2)
    with pytest.raises(ValueError, match="'field' or 'noised'"):
        model.log_likelihood(data, scored="state")
    fields = model.normalised(data)
    for settings, words in (
        ({"chunk": 0}, "chunk must be at least 1; got 0"),
        ({"steps": 0, "method": "rk4"}, "steps must be at least 1; got 0"),
        ({"scored": "stat"}, "scored must be 'field', 'noised' or 'state'; got 'stat'"),
    ):
        with pytest.raises(ValueError, match=words):
            physdiff.likelihood.log_likelihood(model.denoiser, fields, **settings)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="at least 1 field"):
        physdiff.likelihood.log_likelihood(model.denoiser, fields[:0])


def test_a_step_that_shrinks_to_nothing(tiny_run: Path) -> None:
    """A velocity that is random at each call cannot be integrated to any tolerance."""
    model = FieldModel.load(tiny_run / "run")
    fields = model.normalised(load_fields(tiny_run / "data", split="test").first(1))
    generator = torch.Generator().manual_seed(0)

    def erratic(x: Tensor, *_: object) -> Tensor:
        return x * 1e6 * torch.randn((), generator=generator)

    model.denoiser.residual = erratic  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(FloatingPointError, match="adams cannot meet rtol = 1e-10"):
        model.score(fields, probes=1, rtol=1e-10, atol=1e-10)


# ---- a user's process


@pytest.mark.parametrize(
    ("source", "member", "words"),
    [
        ("class :\n", "", ("line 1", "invalid syntax")),
        ("x = 1\ny = 1 / 0\n", "", ("line 2", "ZeroDivisionError", "division by zero")),
        ("import no_such_package\n", "", ("line 1", "no_such_package")),
        (PHYSICS, ":Missing", ("no class 'Missing'",)),
        (PHYSICS, ":Loose", ("Loose is not a subclass of physdiff.LinearProcess",)),
        (PHYSICS, ":Half", ("Half is abstract", "noise_spectrum")),
        (PHYSICS, ":Bare", ("Bare is no dataclass", "@dataclass(frozen=True)")),
    ],
)
@pytest.mark.parametrize("dotted", [False, True])
def test_process_file(
    refused: Refused, tiny: Path, request: pytest.FixtureRequest, source: str, member: str, words: tuple[str, ...],
    dotted: bool,
) -> None:  # fmt: skip
    stem = f"physics_{zlib.crc32(request.node.name.encode())}"
    (tiny / f"{stem}.py").write_text(source)
    name = f"{stem}.{member[1:] or 'Any'}" if dotted else f"{stem}.py{member}"
    refused("train", "config.yaml", "--process", name, words=(f"process '{name}': ", *words))
    sys.modules.pop(stem, None)


def test_every_registered_process_is_fit() -> None:
    assert [processes.unfit(cls) for cls in processes.classes().values()] == [None] * len(processes.classes())


GRID = Grid(shape=(8, 6), extent=(1.0, 1.0), boundary="periodic")


@dataclass(frozen=True)
class Given(LinearProcess):
    """A process of whatever symbols a test gives."""

    drift: object = None
    noise: object = None

    def drift_symbol(self, time: Tensor) -> Tensor:
        return self.drift  # pyright: ignore[reportReturnType]

    def noise_spectrum(self, time: Tensor) -> Tensor:
        return self.noise  # pyright: ignore[reportReturnType]


ONE = torch.ones((), dtype=torch.float64)


@pytest.mark.parametrize(
    ("drift", "noise", "message"),
    [
        (-1.0, ONE, r"Given.drift_symbol must return a torch tensor; got float"),
        (-ONE.expand(6, 8), ONE, r"Given.drift_symbol has shape \(6, 8\).*\(8, 6\)"),
        (-ONE, ONE.expand(1, 1, 8, 6), r"Given.noise_spectrum has shape \(1, 1, 8, 6\).*\(1, 8, 6\)"),
        (-ONE, ONE.expand(2, 8, 6), r"Given.noise_spectrum has shape \(2, 8, 6\).*\(1, 8, 6\)"),
        (-ONE * torch.inf, ONE, r"Given.drift_symbol must be finite"),
        (-ONE, ONE * torch.nan, r"Given.noise_spectrum must be finite"),
        (-ONE, -ONE, r"Given.noise_spectrum must be real and at least 0; got -1"),
        (-ONE, ONE * 1j, r"Given.noise_spectrum must be real and at least 0; got complex"),
    ],
)
def test_symbols(drift: object, noise: object, message: str) -> None:
    basis = SpectralBasis(GRID)
    fields = torch.randn(40, 1, 8, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    reference = GaussianField.fit(fields, basis, homogeneous=True)
    with pytest.raises(ValueError, match=message):
        fit_clock(Given(basis, drift, noise), reference)
    assert fit_clock(Heat(basis), reference).clock is not None


@dataclass(frozen=True)
class Grown(LinearProcess):
    """Mode (1, 0) and its like grow at a rate until a time, and decay thereafter; white noise."""

    rate: float = 1.0
    until: float = math.inf
    noise: float = 1.0

    def drift_symbol(self, time: Tensor) -> Tensor:
        first = torch.isclose(self.basis.laplacian, torch.tensor(4 * math.pi**2, dtype=torch.float64))
        return torch.where(first & (time < self.until), self.rate, -1.0).to(torch.float64) + 0 * time

    def noise_spectrum(self, time: Tensor) -> Tensor:
        return torch.full_like(time, self.noise)


def test_growth_without_bound_is_refused_at_the_door() -> None:
    basis = SpectralBasis(GRID)
    reference = GaussianField(basis, torch.zeros(1, 8, 6), torch.ones(1, 8, 6, dtype=torch.float64))
    message = r"^Grown grows at the rate 2.5 per unit of time in mode \(0, 1\), and never forgets the data"
    for clock in (None, LinearClock(20.0)):
        with pytest.raises(ValueError, match=message):
            fit_clock(Grown(basis, rate=2.5, clock=clock), reference)


@pytest.mark.parametrize(
    "settings",
    [
        {"rate": 0.01, "noise": 10.0},  # noise soon outgrows the signal: n/(2A) = 500 c
        {"until": 3.0},  # growth for a while
        {"rate": 2.5, "clock": LinearClock(1.0)},  # a clock of one's own that stops early
    ],
)
def test_growth_that_does_no_harm_is_not_refused(settings: dict[str, Any]) -> None:
    basis = SpectralBasis(GRID)
    reference = GaussianField(basis, torch.zeros(1, 8, 6), torch.ones(1, 8, 6, dtype=torch.float64))
    process = fit_clock(Grown(basis, **settings), reference)
    mismatch = ReferencePath(process, reference, 0.5).terminal_mismatch
    assert math.isfinite(mismatch)
    if "clock" not in settings:
        assert mismatch / reference.n_support <= 0.0102  # ½ log(V/S) where |m|²c/V = 0.02


# ---- the command line


def test_run_folder(refused: Refused, tiny: Path) -> None:
    (tiny / "afile").write_text("")
    refused("train", "config.yaml", "--run", "afile", words=("run folder 'afile' is a file; choose another",))
    refused("train", "config.yaml", "--run", "afile/in", words=("run folder 'afile' is a file; choose another",))
    refused("train", "config.yaml", "--run", "", words=("run must name a folder", "''"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"process": 5}, ("config.yaml: 'process' must be a name", "got 5")),
        ({"process": {"class_path": 3}}, ("config.yaml: 'process' must be a name", "3")),
        ({"training": 7}, ("config.yaml: 'training' must hold settings by name", "got 7")),
        ({"data": ["a"]}, ("config.yaml: 'data' must hold settings by name", "['a']")),
    ],
)
def test_config(refused: Refused, tiny: Path, change: dict[str, object], words: tuple[str, ...]) -> None:
    (tiny / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **change}))
    refused("train", "config.yaml", words=words)
    refused("train", "--config=config.yaml", words=words)


def test_config_that_is_no_text_or_not_named(refused: Refused, tiny: Path) -> None:
    (tiny / "config.yaml").write_bytes(bytes(range(128, 256)))
    refused("train", "config.yaml", words=("config.yaml is not text",))
    refused("train", "--config", words=("--config needs a YAML file",))
    refused("train", "--config", "--run", "x", words=("--config needs a YAML file",))


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("train", "interrupted; the same command continues from the last checkpoint"),
        ("demo", "interrupted; the same command continues from the last checkpoint"),
        ("sample", "interrupted"),
    ],
)
def test_interrupt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, line: str
) -> None:
    def interrupted(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", interrupted)
    monkeypatch.setattr(sys, "argv", ["physdiff", command])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 130
    assert capsys.readouterr().err.strip() == line


def test_resume_is_a_command(refused: Refused, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.run(["--help"])
    assert "resume" in capsys.readouterr().out
    refused("resume", "nowhere", words=("nowhere/config.yaml",))
    refused("resume", words=("resume needs FOLDER",))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("train", ("train needs --process, --data.path and --training.steps",)),
        ("train --process Heat --training.steps 2", ("train needs --data.path;",)),
        ("sample", ("sample needs RUN;",)),
        ("processes check", ("processes check needs PROCESS;", "`physdiff processes check --help`")),
        ("sample run --n x", ("--n: ", "Got value: x")),
        ("train config.yaml --training.steps x", ("--training.steps: ", "Got value: x")),
    ],
)
def test_options_are_named_as_they_are_typed(refused: Refused, arguments: str, words: tuple[str, ...]) -> None:
    refused(*arguments.split(), words=words)


@pytest.mark.parametrize("words", ["mine.py", "mine.py:Bath", "Heat", "--config mine.py", "--config=mine.py"])
def test_physics_in_the_place_of_a_config(refused: Refused, tiny: Path, words: str) -> None:
    (tiny / "mine.py").write_text(PHYSICS)
    physics = words.removeprefix("--config").strip(" =")
    refused("train", *words.split(), words=("train takes a YAML file", f"--process {physics}."))


def test_a_file_named_without_its_ending(refused: Refused, tiny: Path) -> None:
    (tiny / "damped_wav.py").write_text("class DampedWav:\n    pass\n")
    for command in (("train", "config.yaml", "--process", "damped_wav"), ("processes", "check", "damped_wav")):
        said = refused(*command, words=("unknown process 'damped_wav'",))
        assert "There is a file damped_wav.py here: say damped_wav.py or damped_wav.DampedWav." in said
    refused("processes", "check", "damped_wave_", words=("Did you mean 'DampedWave'?",))


def test_settings_are_listed_without_the_clock(refused: Refused, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused("train", "config.yaml", "--process.difusivity", "1", words=("Did you mean 'diffusivity'?",))
    assert said.endswith("It has: diffusivity = 1.0, noise_level = None.")
    said = refused("train", "config.yaml", "--process", "EDM", "--process.x", "1", words=())
    assert said.endswith("EDM has no setting 'x'. It has: none.")
    assert cli.run(["processes", "list"]) == 0
    assert "clock = " not in capsys.readouterr().out


def test_a_clock_may_be_given_all_the_same(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clock = ["--process", "Heat", "--process.clock", "LinearClock", "--process.clock.duration", "0.123456789"]
    assert cli.run(["train", "config.yaml", *clock, "--run", "clocked"]) == 0
    said = capsys.readouterr().out
    assert "Heat, LinearClock(duration=0.1235); " in said
    beyond = r"loss [\d.]+ \(below 1 is structure beyond the Gaussian field\), denoising error [\d.]+ of the Wiener"
    assert re.search(beyond, said, re.M)


def test_the_loss_of_a_simulated_process_says_what_it_is(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train", "config.yaml", "--process", "AllenCahn", "--run", "simulated"]) == 0
    said = capsys.readouterr().out
    assert re.search(
        r"loss [\d.]+ \(.*transition score matching, where even the exact score stays near 1\)$", said, re.M
    )


@pytest.mark.parametrize(("words", "members"), [("", "demo train sample"), ("data", "make"), ("processes", "check")])
def test_no_command_is_answered_with_the_help(capsys: pytest.CaptureFixture[str], words: str, members: str) -> None:
    assert cli.run(words.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("usage: physdiff")
    assert all(f"    {member} " in said for member in members.split())


# ---- a damaged model


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, ("format is 2", "expected 1")),
        ({"grid": {"shape": [16, 16], "colour": 3}}, ("damaged or of another version", "colour")),
        ({"network": {"multipliers": [1], "colour": 3}}, ("damaged or of another version", "colour")),
        ({"t_min": 7}, ("damaged or of another version", "t_min", "7")),
        ({"process": {"class": "Heat"}}, ("damaged or of another version", "no 'settings'")),
    ],
)
def test_model(refused: Refused, tiny: Path, change: dict[str, object], words: tuple[str, ...]) -> None:
    file = tiny / "run" / "model" / "model.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    refused("sample", "run", words=("model.json", *words))


# ---- settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("samples", 1), ("likelihood_fields", 1), ("sample_steps", 0), ("likelihood_steps", 0), ("tolerance", 0.0),
        ("tolerance", float("nan")), ("seed", -1), ("seed", 2**63),
    ],
)  # fmt: skip
def test_evaluation_settings(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} .*got {value}"):
        EvaluationSettings(**{name: value})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds(tiny_run: Path, seed: int) -> None:
    with pytest.raises(ValueError, match=f"seed .*got {seed}"):
        TrainSettings(steps=1, seed=seed)
    with pytest.raises(ValueError, match=f"seed .*got {seed}"):
        sample(FieldModel.load(tiny_run / "run").denoiser, 1, seed=seed)


# ---- data


def _group_for_a_field(file: h5py.File) -> None:
    del file["t0_fields/vorticity"]
    file.create_group("t0_fields/vorticity")


def _words_for_a_count(file: h5py.File) -> None:
    file.attrs["n_trajectories"] = "many"


def _words_for_an_extent(file: h5py.File) -> None:
    file["dimensions/x"].attrs["grid_origin"] = 0.0
    file["dimensions/x"].attrs["grid_extent"] = "wide"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_group_for_a_field, ("t0_fields/vorticity", "is a group")),
        (_words_for_a_count, ("n_trajectories", "'many'")),
        (_words_for_an_extent, ("dimension 'x'", "grid_extent", "'wide'")),
    ],
)
def test_data(refused: Refused, tiny: Path, spoil: Callable[[h5py.File], None], words: tuple[str, ...]) -> None:
    with h5py.File(tiny / "data" / "data" / "train" / "turbulence.hdf5", "r+") as file:
        spoil(file)
    refused("train", "config.yaml", "--run", "new", words=("turbulence.hdf5", *words))
    assert not (tiny / "new").exists()


def test_a_setting_of_a_recipe_that_is_typed_as_an_option(refused: Refused) -> None:
    said = refused("data", "make", "poisson", "--train_runs", "24", words=("no option 'train_runs'",))
    assert said.endswith("A setting of the recipe is --settings.train_runs.")
    refused("data", "make", "poisson", "--foldr", "a", words=("Did you mean 'folder'?",))


def test_a_device_that_is_not_here_is_refused_before_data_is_read(refused: Refused) -> None:
    words = ("training.device must be", "'tpu' is not here")
    refused("train", "config.yaml", "--training.device", "tpu", "--data.path", "nowhere", words=words)


def test_data_that_is_not_here_is_told_with_the_folder_it_is_looked_for_in(refused: Refused, tiny: Path) -> None:
    """A run that was trained in another working directory names its data as it was typed there."""
    refused("train", "config.yaml", "--data.path", "nowhere", words=(f"no file or folder 'nowhere' in {tiny}",))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--data.condition heat", "--data.condition is a list, --data.condition '[heat]'; got heat"),
        ("--data.fields a", "--data.fields is a list, --data.fields '[a]'; got a"),
        ("--data.patch 8", "--data.patch is a list, --data.patch '[8]'; got 8"),
        ("--data.splits 0.8", "--data.splits is a mapping, --data.splits '{NAME: int | float}', and so on; got 0.8"),
        ("--data.crop [0,3]", "--data.crop is a mapping, --data.crop '{NAME: list[int]}', and so on; got [0, 3]"),
    ],
)
def test_a_word_where_a_list_or_a_mapping_stands(refused: Refused, words: str, expected: str) -> None:
    assert refused("train", "config.yaml", *words.split(), words=()).endswith(expected)


def test_a_reader_that_was_killed_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch tells of it by a RuntimeError in the middle of anything; any other one is a fault of ours and is shown."""

    def stopped(message: str) -> Callable[[object], int]:
        def run(arguments: object) -> int:
            raise RuntimeError(message)

        return run

    monkeypatch.setattr(cli, "run", stopped("DataLoader worker (pid 7) is killed by signal: Killed. "))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr().err
    assert ended.value.code == 1 and told.count("\n") == 1 and "a process that reads ahead has ended" in told
    monkeypatch.setattr(cli, "run", stopped("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        cli.main()
