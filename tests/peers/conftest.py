"""The other libraries, and what to do when one is missing."""

from __future__ import annotations

import importlib
from typing import Any

import pytest


def peer(name: str) -> Any:
    """A library to check against; a test that asks for one is not skipped where it is missing, it fails."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        reason = str(error)
    pytest.fail(
        f"this test compares with '{name}', which cannot be imported ({reason}); `make test-all` installs it from "
        "tests/peers/requirements.txt.",
        pytrace=False,
    )


@pytest.fixture(scope="session")
def diffusers() -> Any:
    return peer("diffusers")


@pytest.fixture(scope="session")
def gstools() -> Any:
    return peer("gstools")


@pytest.fixture(scope="session")
def torch_harmonics() -> Any:
    return peer("torch_harmonics")


@pytest.fixture(scope="session")
def well_dataset() -> Any:
    """The Well's own reader."""
    return peer("the_well.data").WellDataset


@pytest.fixture(scope="session")
def pde() -> Any:
    return peer("pde")
