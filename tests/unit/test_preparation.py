"""From samples to tensors: the scale is that of the training split, and no bit depends on what is prepared together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from physdiff import Grid
from physdiff.condition import Condition
from physdiff.config import DataSettings, RunSettings
from physdiff.data.conditions import Conditions, Told
from physdiff.data.fields import open_fields
from physdiff.data.fieldset import FieldSet
from physdiff.data.formats.the_well_writer import FieldSpec, WellFile
from physdiff.data.preparation import Preparation, constant
from physdiff.data.samples import Samples
from physdiff.data.selection import Selection
from physdiff.data.statistics import Statistics, measure
from physdiff.data.symmetry import senses, sources, turns
from physdiff.model import NetworkSettings
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.training import TrainSettings
from physdiff.training.job import Job, prepare

SQUARE = Grid((6, 6), 2.0)


def write(folder: Path, seed: int = 0) -> Path:
    """A wind with a mean along x, a tracer, a map that is the same for all runs; numbers and a class."""
    for split, runs in (("train", 5), ("valid", 2)):
        rng = np.random.default_rng([seed, runs])
        wind = rng.normal(size=(runs, 4, *SQUARE.shape, 2)) * [2.0, 0.5] + [3.0, 0.0]
        fields = {
            "wind": FieldSpec("m/s", rank=1), "tracer": FieldSpec("kg"),
            "slope": FieldSpec("1", rank=1, sample_varying=False, time_varying=False),
        }  # fmt: skip
        parameters = {"viscosity": rng.uniform(1, 2, runs), "regime": np.arange(runs) % 3, "gravity": 9.81}
        with WellFile(
            folder / "data" / split / "a.hdf5", fields, SQUARE, runs, np.arange(4.0), parameters=parameters
        ) as out:
            slope = rng.normal(size=(*SQUARE.shape, 2))
            out.write(0, {"wind": wind, "tracer": rng.normal(7, 3, (runs, 4, *SQUARE.shape)), "slope": slope})
    return folder


SELECTION = Selection(
    fields=("wind", "tracer"), past=1, condition=("slope", "viscosity", "gravity", "time"), classes="regime"
)


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> FieldSet:
    return open_fields(write(tmp_path_factory.mktemp("wind")), split="train", selection=SELECTION)


@pytest.fixture(scope="module")
def statistics(fields: FieldSet) -> Statistics:
    return measure(fields)


@pytest.fixture(scope="module")
def preparation(fields: FieldSet, statistics: Statistics) -> Preparation:
    return Preparation.fit(fields, statistics)


def test_every_part_has_mean_zero_and_variance_one_over_the_training_split(
    fields: FieldSet, statistics: Statistics, preparation: Preparation
) -> None:
    samples = fields.read(range(len(fields)))
    x, condition = preparation.tensors(samples)
    assert x.dtype == torch.float32 and condition is not None and condition.fields is not None
    assert preparation.conditions.names == (
        "wind_x@-1", "wind_y@-1", "tracer@-1", "slope_x", "slope_y", "viscosity", "gravity", "time", "regime",
    )  # fmt: skip
    for values in (x, condition.fields):
        np.testing.assert_allclose(values.double().mean((0, 2, 3)), 0, atol=1e-6)
        np.testing.assert_allclose(values.double().square().mean((0, 2, 3)), 1, atol=1e-6)
    assert condition.scalars is not None and samples.scalars is not None
    np.testing.assert_allclose(condition.scalars[:, [0, 2]].double().mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(condition.scalars[:, [0, 2]].double().square().mean(0), 1, atol=1e-6)
    assert not bool(condition.scalars[:, 1].any())  # gravity is the same everywhere, and tells nothing
    assert constant(statistics) == ["gravity"]
    assert condition.classes is not None and condition.classes.tolist() == [r % 3 for r in range(5) for _ in range(3)]
    # by hand, one number of each part
    v, s = samples.values.astype(float), samples.scalars
    by_hand = (v[4, 1, 2, 3] - v[:, 1].mean()) / v[:, 1].std()
    np.testing.assert_allclose(float(x[4, 1, 2, 3]), by_hand, rtol=1e-6)
    np.testing.assert_allclose(float(condition.scalars[4, 0]), (s[4, 0] - s[:, 0].mean()) / s[:, 0].std(), rtol=1e-6)


def test_no_bit_depends_on_the_batch(fields: FieldSet, preparation: Preparation) -> None:
    whole, told = preparation.tensors(fields.read(range(len(fields))))
    assert told is not None and told.fields is not None and told.scalars is not None and told.classes is not None
    for rows in ([3], [14, 0, 3], list(range(7))):
        x, given = preparation.tensors(fields.read(rows))
        assert torch.equal(x, whole[rows]) and given is not None
        for part in ("fields", "scalars", "classes"):
            assert torch.equal(getattr(given, part), getattr(told, part)[rows])


def test_it_comes_back_from_json_with_the_same_bits(fields: FieldSet, preparation: Preparation) -> None:
    again = Preparation.from_dict(json.loads(json.dumps(preparation.to_dict())))
    samples = fields.read([1, 5])
    x, told = preparation.tensors(samples)
    y, given = again.tensors(samples)
    assert torch.equal(x, y) and told is not None and given is not None
    assert told.fields is not None and given.fields is not None and torch.equal(told.fields, given.fields)
    assert again.selection == preparation.selection and again.conditions == preparation.conditions
    assert again.selection.fields == ("wind_x", "wind_y", "tracer")


def test_a_condition_comes_back_in_physical_units(fields: FieldSet, preparation: Preparation) -> None:
    samples = fields.read([0, 9])
    condition = preparation.tensors(samples)[1]
    assert condition is not None and samples.given is not None and samples.scalars is not None
    back = preparation.conditions.samples(condition)
    assert back.given is not None and back.scalars is not None and back.classes is not None
    np.testing.assert_allclose(back.given, samples.given, atol=1e-5)
    np.testing.assert_allclose(back.scalars, samples.scalars, rtol=1e-6)
    np.testing.assert_array_equal(back.classes, samples.classes)


def test_an_older_models_file_has_a_normaliser_alone() -> None:
    old = Preparation.from_dict({"normaliser": {"mean": [1.5], "std": [2.0]}})
    x, condition = old.tensors(Samples(np.full((1, 1, 4), 5.5, np.float32)))
    assert condition is None and x.tolist() == [[[2.0] * 4]]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: Samples(s.values, None, s.scalars, s.classes), "told the fields .*; the data has none"),
        (lambda s: Samples(s.values, s.given[:, :2], s.scalars, s.classes), "told the fields .*; the data has 2"),
        (lambda s: Samples(s.values, s.given, s.scalars, None), "told the class regime; the data has none"),
        (lambda s: Samples(s.values, s.given, s.scalars, s.classes + 2), "'regime' is 3; .* classes 0 to 2"),
        (lambda s: Samples(s.values, s.given * np.nan, s.scalars, s.classes), "'wind_x@-1' of sample 0 .* not finite"),
    ],
    ids=["no fields", "few fields", "no class", "unknown class", "nan"],
)
def test_what_does_not_fit_is_refused(
    fields: FieldSet, preparation: Preparation, spoil: Callable[[Samples], Samples], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        preparation.tensors(spoil(fields.read(range(6))))


def test_a_scale_must_be_positive_and_finite() -> None:
    with pytest.raises(ValueError, match=r"condition 'k' has the mean 0\.0 and the standard deviation 0\.0"):
        Told("k", std=0.0)
    assert not Conditions() and Conditions(fields=(Told("k"),))


# ---- symmetries


@pytest.fixture(scope="module")
def turned_job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    data = DataSettings(
        str(write(tmp_path_factory.mktemp("turned"))), ["wind", "tracer"], condition=["slope"], past=1,
        symmetries=["shift", "flip", "rotate"],
    )  # fmt: skip
    return prepare(
        VariancePreserving, RunSettings(data, TrainSettings(steps=1), NetworkSettings(width=4, multipliers=(1,)))
    )


def test_a_turn_of_normalised_fields_is_one_of_physical_fields(turned_job: Job, fields: FieldSet) -> None:
    """Wind and slope have the mean 0 and one scale a vector, whatever the files say; the tracer keeps its own."""
    prepared, augment = turned_job.model.preparation, turned_job.augment
    told = prepared.conditions.fields
    assert [t.mean for t in told[:2]] == [0, 0] and told[0].std == told[1].std and told[3].std == told[4].std
    assert told[2].mean != 0
    given = fields.read(range(len(fields))).given
    assert given is not None
    np.testing.assert_allclose(told[0].std, np.sqrt(np.mean(given[:, :2].astype(float) ** 2)), rtol=1e-6)
    assert augment is not None
    samples = fields.read([0, 7])
    x = prepared.fields(samples)
    channels, group = senses(fields.channels), turns(["flip", "rotate"], SQUARE)
    for number, turn in enumerate(group):
        index, signs = sources(turn, channels)
        physical = turn.moved(torch.from_numpy(samples.values).double()[:, index]) * torch.tensor(signs).reshape(
            3, 1, 1
        )
        again = prepared.normaliser.inverse(augment.turned(number, x)[0])  # pyright: ignore[reportFunctionMemberAccess]
        torch.testing.assert_close(again, physical, rtol=0, atol=1e-12 * 20)


def test_the_reference_has_the_symmetry(turned_job: Job) -> None:
    """Along x a wind along x has the spectrum that a wind along y has along y; its mean is 0."""
    reference = turned_job.model.denoiser.path.reference
    torch.testing.assert_close(reference.spectrum[0], reference.spectrum[1].T, rtol=1e-12, atol=0)
    torch.testing.assert_close(reference.spectrum[2], reference.spectrum[2].T, rtol=1e-12, atol=0)
    assert float(reference.mean[:2].abs().max()) < 1e-12
    assert not torch.allclose(reference.spectrum[0], reference.spectrum[1])


def test_a_batch_is_augmented_with_its_condition(turned_job: Job) -> None:
    x, condition = turned_job.train.batch(torch.arange(15))
    assert turned_job.augment is not None and isinstance(condition, Condition) and condition.fields is not None
    moved, given = turned_job.augment(x, torch.Generator().manual_seed(0), condition)  # pyright: ignore
    assert isinstance(given, Condition) and given.fields is not None
    assert not torch.equal(moved, x) and not torch.equal(given.fields, condition.fields)
    for before, after in ((x, moved), (condition.fields, given.fields)):
        squares = (before.square().sum((2, 3)), after.square().sum((2, 3)))
        for some in (slice(0, 2), slice(2, 3)):
            torch.testing.assert_close(squares[0][:, some].sum(1), squares[1][:, some].sum(1))
    assert given.scalars is None


def test_a_log_scale_of_what_a_turn_mixes_is_refused(tmp_path: Path) -> None:
    data = DataSettings(str(write(tmp_path)), ["wind"], symmetries=["flip"], normalise="yeo-johnson")
    with pytest.raises(
        ValueError, match=r"data\.symmetries turn wind_x, wind_y, .* 'standard' for them; got 'yeo-johns"
    ):
        prepare(VariancePreserving, RunSettings(data, TrainSettings(steps=1)))
    alone = DataSettings(str(tmp_path), ["wind_x"], symmetries=["rotate"])
    with pytest.raises(ValueError, match="'wind_x' alone cannot be rotated"):
        prepare(VariancePreserving, RunSettings(alone, TrainSettings(steps=1)))
