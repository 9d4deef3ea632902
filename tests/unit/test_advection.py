"""Advected waves are exact translations of each other."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import pytest

from datasets.advection import Waves, make
from physdiff.data import load_fields


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(
        tmp_path_factory.mktemp("advection") / "set", 2, progress=False, train_runs=60, valid_runs=2, test_runs=3,
        cells=40, frames=4, frame_interval=0.3, duration=0.1, extent=2.0, slowest=-1.0, fastest=0.5,
    )  # fmt: skip


def test_frames_are_translations_by_speed_times_time(folder: Path) -> None:
    """By turning each Fourier mode, which is exact below Nyquist: the longest wavenumber is 8 of 40 cells."""
    data = load_fields(folder, split="train")
    fields = data.values.reshape(60, 4, 40).astype(np.float64)
    with h5py.File(folder / "data/train/advection.hdf5") as file:
        speed, time = file["scalars/speed"][()], file["dimensions/time"][()]
        assert file["scalars/speed"].attrs["sample_varying"]
    np.testing.assert_allclose(time, [0.1, 0.4, 0.7, 1.0])
    assert -1 <= speed.min() < -0.8 and 0.3 < speed.max() <= 0.5
    k = 2 * math.pi / 2.0 * np.arange(21)
    turn = np.exp(-1j * k * (speed[:, None, None] * (time[:, None] - time[0])))
    moved = np.fft.irfft(np.fft.rfft(fields[:, :1]) * turn, n=40)
    # Stored in single precision, of numbers up to 2: measured 1.5e-7.
    np.testing.assert_allclose(fields, moved, atol=5e-7)
    assert np.abs(fields[:, 1] - fields[:, 0]).max() > 0.5
    assert np.abs(np.fft.rfft(fields)[..., 9:]).max() < 1e-5 * np.abs(np.fft.rfft(fields)).max()


def test_the_equation_holds_and_a_lap_leads_back() -> None:
    waves = Waves(np.random.default_rng(0), 3, (0.7, 0.7), 2.0)
    x, h = np.linspace(0, 2, 50, endpoint=False), 1e-5
    rate = (waves.at(0.3 + h, x) - waves.at(0.3 - h, x)) / (2 * h)
    slope = (waves.at(0.3, x + h) - waves.at(0.3, x - h)) / (2 * h)
    # Errors of the centred differences, h² k³/6 with k up to 25 / m: measured 3.4e-9, times 3.
    np.testing.assert_allclose(rate + waves.speed * slope, 0, atol=1e-8)
    assert np.abs(slope).max() > 1
    np.testing.assert_allclose(waves.at(0.3 + 2.0 / 0.7, x), waves.at(0.3, x), atol=1e-13)


def test_starts_have_the_stated_law() -> None:
    """⟨u²⟩ = waves · ⟨a²⟩/2 = 2 · (1/3)/2, and every wavenumber from 1 to 8 as often."""
    x = (np.arange(32) + 0.5) / 32
    fields = np.stack([Waves(np.random.default_rng([1, i]), 2, (0, 1), 1.0).at(0, x) for i in range(4000)])
    energy = (fields**2).mean(1)
    error = energy.std() / math.sqrt(len(energy))
    assert energy.mean() == pytest.approx(1 / 3, abs=4 * error) and error < 0.01
    power = (np.abs(np.fft.rfft(fields)) ** 2).mean(0)
    share = power / power.sum()
    assert share[0] < 1e-25 and share[9:].max() < 1e-25
    # A wavenumber's power has a relative spread of about 3 from run to run.
    np.testing.assert_allclose(share[1:9], 1 / 8, rtol=4 * 3 / math.sqrt(4000))


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    for settings, message in (
        ({"cells": 16}, "more than 16 cells and at least one wave; got 16 and 2"),
        ({"waves": 0}, "got 128 and 0"),
        ({"slowest": 2.0}, "slowest must be finite and at most fastest; got 2.0 and 1.0"),
        ({"frames": 0}, "runs, frames and times must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            make(tmp_path / "set", **settings)
    assert list(tmp_path.iterdir()) == []
