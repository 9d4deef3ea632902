"""The recipe of any equation, as far as it goes without py-pde: what it takes, and what it refuses in one line.

`tests/peers/test_equation_by_py_pde.py` solves equations.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from datasets import recipes
from datasets.expressions import FUNCTIONS, checked, operators
from physdiff.commands.data import make as command_make

NAMES = {"variables": ("c", "u"), "constants": ("kappa",), "coordinates": ("x", "y"), "time": ("t",)}
WORDS = (*operators(("x", "y")), *FUNCTIONS)


@pytest.mark.parametrize(
    ("expression", "read"),
    [
        ("laplace(c**3 - c - kappa*laplace(c))", "laplace(c**3 - c - kappa*laplace(c))"),
        ("∇²(c³ - c - kappa*∇²c)", "laplace(c**3 - c - kappa*laplace(c))"),
        ("-|∇c|² + |∇ u|**2", "-gradient_squared(c) + gradient_squared(u)"),
        ("∇**2 c - ∇² (u)", "laplace(c) - laplace(u)"),
        ("dot(gradient(c), gradient(u)) + d_dx(c) - d2_dy2(u)/2e-3", None),
        ("sin(2*pi*x)*exp(-t) + Heaviside(c, -1)", None),
        (" 0.5 ", "0.5"),
        (3, "3"),
    ],
)  # fmt: skip
def test_an_expression_reaches_py_pde_in_its_long_form(expression: Any, read: str | None) -> None:
    assert checked("rhs", expression, NAMES, WORDS) == (expression if read is None else read)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("laplace(c", r"^rhs of 'c' is no expression: '\(' was never closed in 'laplace\(c'\.$"),
        ("", "is no expression: "),
        ("c u", "is no expression: invalid syntax in 'c u'"),
        ("laplac(c)", r"^rhs of 'c' calls 'laplac', no function here\. Did you mean 'laplace'\?$"),
        ("d_dz(c)", "calls 'd_dz', no function here. Did you mean 'd_dy'"),
        ("laplace(v)", "^rhs of 'c' names 'v', which stands for nothing .variables: c, u; constants: kappa; coord"),
        ("kapa*c", r"names 'kapa', .*Did you mean 'kappa'\?$"),
        ("c^2", r"a power is written \*\*, not \^; got 'c\^2'"),
        ("c > 0", "may hold numbers, names, .* got 'c > 0' in 'c > 0'"),
        (None, "is an expression, such as 'laplace.c.'; got None"),
        (True, "is an expression, such as"),
        ("c*True", "got 'True'"),
        ("I*c", "names 'I', which stands for nothing"),
    ],
)  # fmt: skip
def test_what_is_no_expression_is_told(expression: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        checked("rhs of 'c'", expression, NAMES, WORDS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('touch run')", "eval('1')", "open('run', 'w')", "c.__class__", "[c for c in (1,)]",
        "(lambda: c)()", "'c'", "c[0]", "exit()", "print(c)", "f'{c}'", "sin(x=c)", "(c := 1)", "c if c else c",
    ],
)  # fmt: skip
def test_an_expression_cannot_run_code(expression: str) -> None:
    """sympy evaluates whatever it is handed."""
    with pytest.raises(ValueError, match=r"calls '|may hold numbers|stands for nothing|is no expression"):
        checked("rhs", expression, NAMES, WORDS)


def make(folder: Path, **settings: Any) -> Path:
    return recipes()["equation"].make(folder, 0, progress=False, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rhs": {}}, r"rhs and constants go by name, as in .*; got \{\}"),
        ({"rhs": "laplace(c)"}, "rhs and constants go by name"),
        ({"rhs": {"u": "laplace(v)"}}, "rhs of 'u' names 'v', which stands for nothing .variables: u; constants: none"),
        ({"rhs": {"x": "1"}}, "the variable 'x' needs another name: 'x' is a coordinate in expressions"),
        ({"rhs": {"t": "1"}}, "'t' is time in expressions"),
        ({"rhs": {"sin": "1"}}, "'sin' is a function in expressions"),
        ({"rhs": {"a b": "1"}}, "a variable is named by a word of letters, digits and _; got 'a b'"),
        ({"rhs": {"lambda": "1"}}, "got 'lambda'"),
        ({"constants": {"c": 1}}, "the constant 'c' needs another name: 'c' is a variable too"),
        ({"constants": {"k": [2, 1]}}, r"constant 'k' is a number or a range \[lowest, highest\]; got \[2, 1\]"),
        ({"constants": {"k": "fast"}}, "constant 'k' is a number or a range"),
        ({"constants": {"k": float("nan")}}, "constant 'k' is a number or a range"),
        ({"cells": 64}, r"cells is a list, a number for each of 1 to 3 axes, as in '\[64, 64\]'; got 64"),
        ({"cells": (8, 2)}, r"needs at least 4 cells along each axis; got \[8, 2\]"),
        ({"extent": (1.0,)}, "grid of 2 axes was given 1 values of 'extent'"),
        ({"boundary": "wall"}, "unknown boundary 'wall'"),
        ({"mean": {"u": 1}}, r"mean is given for 'u', which has no equation\. Known: c"),
        ({"mean": "c"}, "mean of 'c' names 'c', which stands for nothing"),
        ({"mean": "laplace(x)"}, "mean of 'c' calls 'laplace', no function here"),
        ({"amplitude": -1.0}, "amplitude of 'c' is a number at least 0; got -1.0"),
        ({"length": {"c": 0}}, "length of 'c' is a number above 0; got 0"),
        ({"noise": 0.1}, "a time_step of at least 0, above 0 with noise; got 1e-05 and 0.0"),
        ({"frames": 0}, "runs, frames and times must be positive"),
        ({"duration": -1.0}, "runs, frames and times must be positive"),
    ],
)  # fmt: skip
def test_settings_that_would_not_do_are_told(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make(tmp_path / "set", **settings)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_the_extra_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pde", None)
    with pytest.raises(ValueError, match=r"needs py-pde, which cannot be imported .* 'physdiff\[py-pde\]'\.$"):
        make(tmp_path / "set")
    assert not list(tmp_path.iterdir())


def test_a_setting_of_several_types_is_judged_by_the_recipe(tmp_path: Path) -> None:
    """The command knows types from defaults; `amplitude` may be a number or go by name."""
    with pytest.raises(ValueError, match="amplitude is given for 'v', which has no equation"):
        command_make("equation", str(tmp_path / "set"), settings={"amplitude": {"v": 1}})
    with pytest.raises(ValueError, match="setting 'frames' is '4'; it is 4 when not given"):
        command_make("equation", str(tmp_path / "set"), settings={"frames": "4"})
    with pytest.raises(ValueError, match="setting 'tolerance' is 'small'"):
        command_make("equation", str(tmp_path / "set"), settings={"tolerance": "small"})
