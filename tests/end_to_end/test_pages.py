"""The pages on likelihoods, solvers and training: code and numbers as shown, commands as typed, advice as measured."""

import importlib.util
import io
import math
import re
import shlex
import sys
from contextlib import redirect_stdout
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import xarray as xr
import yaml
from conftest import Command  # pyright: ignore[reportMissingImports]

import physdiff
from physdiff import cli, named_options
from physdiff.commands import likelihood as likelihood_command
from physdiff.denoisers.prediction import PREDICTIONS
from physdiff.likelihood import LogLikelihood
from physdiff.networks.conventions import CONVENTIONS
from physdiff.objectives import objectives, time_samplings, weightings
from physdiff.objectives.by_name import find
from physdiff.solvers import solvers

DOCS = Path(__file__).parents[2] / "docs"
LIKELIHOOD = (DOCS / "what-this-likelihood-is.md").read_text(encoding="utf-8")
WHICH = (DOCS / "which-solver.md").read_text(encoding="utf-8")
TRAINING = (DOCS / "training.md").read_text(encoding="utf-8")
CONFIG = TRAINING.partition("<!-- config -->\n```yaml\n")[2].partition("```")[0]
RUN = r"<!-- run -->\n```python\n(.*?)```\n\n```text\n(.*?)```"
BLOCKS = re.findall(RUN, LIKELIHOOD, re.DOTALL)
NUMBER = r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?"
pytestmark = pytest.mark.xdist_group("pages")  # one worker runs the page for all


# ---- What this likelihood is


@pytest.fixture(scope="module")
def page() -> tuple[dict[str, Any], list[str]]:
    """The names that the page's code leaves, and what each block printed."""
    names: dict[str, Any] = {}
    printed = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for code, _ in BLOCKS:
        said = io.StringIO()
        with redirect_stdout(said):
            exec(compile(code, "what-this-likelihood-is.md", "exec"), names)
        printed.append(said.getvalue())
    torch.set_num_threads(threads)
    return names, printed


def test_every_block_of_python_is_run() -> None:
    assert len(BLOCKS) == LIKELIHOOD.count("```python") == 7


def test_the_page_shows_what_its_code_prints(page: tuple[dict[str, Any], list[str]]) -> None:
    """Numbers to 0.02: tolerances of 1e-5 over 144 modes move the nats shown by a few thousandths."""
    for printed, (_, shown) in zip(page[1], BLOCKS, strict=True):
        assert re.sub(NUMBER, "#", printed) == re.sub(NUMBER, "#", shown)
        for ours, theirs in zip(re.findall(NUMBER, printed), re.findall(NUMBER, shown), strict=True):
            assert float(ours) == pytest.approx(float(theirs), abs=0.02, rel=1e-3), (printed, shown)


def test_the_gaussian_field_has_its_closed_form_density(page: tuple[dict[str, Any], list[str]]) -> None:
    """Against torch's dense normal distribution; the rest is the noise of t_min, 10⁻³ in the weakest mode."""
    names = page[0]
    assert float((names["gaussian"].log_prob - names["closed_form"]).abs().max()) < 6e-3  # measured 1.8e-3
    assert 0 < names["gaussian"].gaussian_bias < 2.5e-7 * 144


def test_the_mixture_has_its_closed_form_density(page: tuple[dict[str, Any], list[str]]) -> None:
    names = page[0]
    truth, result = names["truth"], names["result"]
    without_mismatch = (names["known_end"].log_prob - truth).abs()
    assert float(without_mismatch.max()) < 0.03  # measured 0.009: t_min and tolerances
    assert 0 < result.terminal_mismatch < 0.05
    assert float((result.log_prob - truth).abs().max()) < 0.2  # a bound of 0.046 on the mean; measured 0.065
    low, high = names["probed"].interval(1 - 1e-4)  # four fields: one in 2,500 such pages fails by chance
    assert bool(((low < result.log_prob) & (result.log_prob < high)).all())
    assert float(names["probed"].standard_error.min()) > 0.01


def test_units_bits_and_bounds_are_what_the_page_says(page: tuple[dict[str, Any], list[str]]) -> None:
    names = page[0]
    halved, result = names["in_units_of_2_kelvin"], names["result"]
    assert torch.allclose(halved.log_prob - 144 * math.log(2), result.log_prob, atol=5e-3, rtol=0)  # measured 1e-3
    assert torch.allclose(halved.relative_to_reference, result.relative_to_reference, atol=5e-3, rtol=0)
    assert torch.allclose(names["bits"], names["by_hand"], atol=2e-3, rtol=0)  # 0.2 nats over 144 log 2
    assert torch.allclose(names["one_step"].bound, names["closed_form"], atol=1e-9, rtol=0)
    exact = names["exact_density"](names["many"])
    gaps = {n: exact - physdiff.elbo(names["model"], names["many"], steps=n).bound for n in (8, 32)}
    assert float(gaps[8].mean()) > float(gaps[32].mean()) > 4 * float(gaps[32].std()) / 8 > 0


def test_weights_find_the_constant(page: tuple[dict[str, Any], list[str]]) -> None:
    weighted = page[0]["weighted"]
    assert abs(weighted.free_energy.value + 5) < 4 * weighted.free_energy.standard_error < 0.2
    # Its relative error from 2,048 weights is about 4 %; it is skewed, and 0.1 is five standard errors.
    assert abs(weighted.effective_samples / len(weighted) - 0.99**72) < 0.1


def test_every_number_of_a_result_is_explained() -> None:
    table = LIKELIHOOD.partition("## Every number of a result")[2].partition("**What limits")[0]
    for field in fields(LogLikelihood):
        assert f"`{field.name}`" in table, field.name


def test_the_command_lines_words_are_those_that_are_explained() -> None:
    (shown,) = re.findall(r"```text\n(16 fields, .*?)\nwritten:", LIKELIHOOD, re.DOTALL)
    names = ("log_prob", "per_dimension", "relative_to_reference", "standard_error")
    per_field = {name: ("sample", [1.0] * 16) for name in names}
    scores = xr.Dataset(per_field, attrs={"n_support": 960, "evaluations": 7, "scored": "field"})
    said = likelihood_command._summary(scores, None)  # pyright: ignore[reportPrivateUsage]
    assert re.sub(rf"\+?{NUMBER}", "#", said) == re.sub(rf"\+?{NUMBER}", "#", " ".join(shown.split()))


def test_the_table_of_error_bars_has_every_measurement(measured: ModuleType) -> None:
    text = measured.coverage()
    for entry in measured.numbers("coverage")["rows"]:
        assert f"| {entry['probes']} | {entry['spread']:.3f} | {entry['stated']:.3f} |" in text


# ---- Which solver?


@pytest.fixture(scope="module")
def measured() -> ModuleType:
    """`docs/measured.py`, which makes the tables."""
    spec = importlib.util.spec_from_file_location("measured", DOCS / "measured.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["measured"] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_registered_solver_has_a_row(measured: ModuleType) -> None:
    text = measured.which_solver()
    for cls in solvers.classes().values():
        for rule in cls.examples():
            assert text.count(f"| `{measured.brief(rule)}` | {rule.order or ''} | {rule.evaluations} |") == 1, rule


def test_a_benchmark_that_was_not_run_is_named(
    measured: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(measured, "BENCHMARKS", tmp_path)
    with pytest.raises(ValueError, match=r"few_steps\.json.*run `python -m experiments\.benchmarks few_steps`\.$"):
        measured.which_solver()


def test_the_advice_is_what_was_measured(measured: ModuleType) -> None:
    """On every mixture, in 8 evaluations or more, it is better than all other rules here and elsewhere."""
    for name in measured.MIXTURES:
        curves = [measured._curve(entry) for entry in measured.numbers("few_steps")[name]]
        for budget in (8, 12, 16, 24, 32, 64):
            order = 3 if budget <= 16 else 5
            advised = [c for c in curves if c.name == f"WhitenedAdams(order={order})"]
            advised = [c for c in advised if c.options == "Angle()" or c.options.startswith("calibrated")]
            taken = min(c.error(budget) for c in advised)
            others = min(c.error(budget) for c in curves if not c.name.startswith("WhitenedAdams"))
            assert taken < others, (name, budget)


def test_the_commands_of_the_page_are_understood() -> None:
    commands = "".join(re.findall(r"```sh\n(.*?)```", WHICH, re.DOTALL)).splitlines()
    assert [shlex.split(c)[1] for c in commands] == ["calibrate", "sample"]
    for command in commands:
        arguments = shlex.split(command, comments=True)[1:]
        cli.build_parser()[0].parse_args(named_options.resolve(named_options.with_underscores(arguments)))


def test_the_python_of_the_page_draws_fields() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", WHICH, re.DOTALL)
    basis = physdiff.SpectralBasis(physdiff.Grid(4))
    reference = physdiff.GaussianField.matern(basis, 0.5)
    from physdiff.processes.heat import Heat

    path = physdiff.ReferencePath(physdiff.fit_clock(Heat(basis), reference), reference)
    denoiser = physdiff.GaussianDenoiser(path)
    names: dict[str, Any] = {"model": SimpleNamespace(sample=lambda n, **s: physdiff.sample(denoiser, n, **s))}
    exec(compile(code, "which-solver.md", "exec"), names)
    assert names["fields"].shape == (64, 1, 4)


# ---- Training


def commands(block: str) -> list[list[str]]:
    """The command lines of a block of the shell, as words."""
    lines = re.split(r"\n(?=physdiff |torchrun |accelerate )", block.replace("\\\n", " "))
    return [shlex.split(line, comments=True) for line in lines]


def shell(mark: str = "") -> list[list[str]]:
    """Commands of the blocks that have a mark before them, or of those that have none."""
    found = re.findall(r"(?:<!-- (\w+)[^\n]*-->\n)?```sh\n(.*?)```", TRAINING, re.DOTALL)
    return [words for marked, block in found if marked == mark for words in commands(block)]


def first_column(heading: str) -> list[str]:
    """Words in the first column of the first table below a heading."""
    rows = TRAINING.partition(f"\n{heading}\n")[2].partition("|---")[2].partition("\n\n")[0].splitlines()[1:]
    return [word for row in rows for word in re.findall(r"`(\w+)`", row.split("|")[1])]


def test_training_in_python_prints_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred steps in single precision: 0.05 of an error, 0.15 K, are what another machine may change."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(RUN, TRAINING, re.DOTALL)
    assert len(blocks) == 2 and TRAINING.count("```python") == 3  # the third is a file of the user's
    names: dict[str, Any] = {}
    for code, shown in blocks:
        said = io.StringIO()
        with redirect_stdout(said):
            exec(compile(code, "training.md", "exec"), names)
        assert re.sub(NUMBER, "#", said.getvalue()) == re.sub(NUMBER, "#", shown)
        for ours, theirs in zip(re.findall(NUMBER, said.getvalue()), re.findall(NUMBER, shown), strict=True):
            assert float(ours) == pytest.approx(float(theirs), abs=0.05 if float(theirs) < 1 else 0.15), (ours, theirs)
    fields, warm = names["fields"], names["warm"]
    means = (float(fields[warm == 1].mean()), float(fields.mean()))
    assert (
        tuple(f"{mean:.1f} K" for mean in means)
        == re.findall(r"class 1 in the data is (\S+ K).* fields (\S+ K)", TRAINING)[0]
    )
    again = physdiff.load("runs/patches")
    assert torch.equal(again.denoiser.network(*probe(16)), names["model"].denoiser.network(*probe(16)))


def probe(cells: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.linspace(-1, 1, cells).reshape(1, 1, cells), torch.full((1,), 0.5)


def test_the_commands_on_training_run(tiny: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """On tiny data and for two steps; those of other packages and of launchers are tested elsewhere."""
    monkeypatch.setattr(cli, "build_parser", cache(cli.build_parser))  # one is enough for all of them
    Path("data").rename("turbulence")
    Path("data").mkdir()
    Path("turbulence").rename("data/turbulence")
    Path("data/lattice_phi4").symlink_to("turbulence")  # an action takes any field
    settings = yaml.safe_load(CONFIG)
    assert settings["training"] == {"steps": 1500}
    settings |= {"training": {"steps": 2, "batch_size": 4, "validation_levels": 2}}
    Path("config.yaml").write_text(yaml.safe_dump(settings))
    for name, text in re.findall(r"<!-- file (\S+) -->\n```python\n(.*?)```", TRAINING, re.DOTALL):
        Path(name).write_text(text)
    typed = shell()
    assert len(typed) > 20
    for words in typed:
        short = ("--training.steps", "2") if words[1] == "train" else ()
        code, said, error = command(*words[1:], *short)
        assert code == 0, (words, error)
        if words[1] == "networks":
            assert said.strip() in TRAINING
    sys.modules.pop("my_network", None)
    assert (
        "Best: " in Path("runs/rates/sweep.md").read_text() and Path("runs/widths/model-ema-0.08/model.json").exists()
    )
    assert "continued from step 2" in command(*shell("resumes")[0][1:])[1]


def test_commands_of_other_packages_and_launchers_are_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(CONFIG)
    launched = shell("launched")
    assert [words[0] for words in launched] == ["torchrun", "accelerate"]
    for words in [*shell("peers"), *launched]:
        arguments = cli._with_config(words[words.index("physdiff") + 1 :])  # pyright: ignore[reportPrivateUsage]
        assert cli._settings_of(arguments)["run"] == words[words.index("--run") + 1]  # pyright: ignore


def test_the_tables_on_training_are_complete() -> None:
    assert first_column("## Predictions") == list(PREDICTIONS)
    assert set(first_column("### Your own, and other people's")) == set(CONVENTIONS)
    for heading, registry in (
        ("## Objectives", objectives),
        ("### Weightings", weightings),
        ("### Times", time_samplings),
    ):
        words = set(first_column(heading)) - {"TransitionLoss"}  # of simulated processes, and not to be named
        told = {find(registry, word).__name__ for word in words}
        assert told == set(registry.classes()), heading
