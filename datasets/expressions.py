"""Equations in py-pde's words, read before py-pde reads them: one line for what would not do.

    laplace(c**3 - c - laplace(c))      or      ∇²(c³ - c - ∇²c)

py-pde hands an expression to sympy, and sympy evaluates it as Python, whatever it says. So nothing gets there but
numbers, names that are known, and calls of known functions: settings from somebody else cannot run code.
"""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Collection, Mapping

from physdiff.registry import nearest

# Those that py-pde evaluates with numpy; it does not Min, Max, sign and hypot.
FUNCTIONS = (
    "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "exp",
    "log", "sqrt", "abs", "Abs", "floor", "ceiling", "Heaviside", "heaviside", "erf",
)  # fmt: skip
_NUMBERS = ("pi", "E")  # sympy's own names for numbers
_TIME = ("t", "time")  # the first in expressions, the second in conditions

_SHORT = (
    (r"\|\s*∇\s*(\w+)\s*\|(?:²|\*\*2)", r"gradient_squared(\1)"),
    (r"∇(?:²|\*\*2)\s*(?=\()", "laplace"),
    (r"∇(?:²|\*\*2)\s*(\w+)", r"laplace(\1)"),
    ("²", "**2"),
    ("³", "**3"),
)
_ALLOWED = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.Call, ast.Name, ast.Load, ast.Constant, ast.Add, ast.Sub, ast.Mult,
    ast.Div, ast.Pow, ast.USub, ast.UAdd,
)  # fmt: skip


def operators(dims: Collection[str]) -> tuple[str, ...]:
    """py-pde's operators on a Cartesian grid, each a stencil of second order but the one-sided ones."""
    lines = (f"{name}{side}" for dim in dims for name, side in (
        (f"d_d{dim}", ""), (f"d_d{dim}", "_forward"), (f"d_d{dim}", "_backward"), (f"d2_d{dim}2", ""),
    ))  # fmt: skip
    return (
        "laplace", "gradient", "divergence", "gradient_squared", "dot", "inner", "outer", "integral", "vector_laplace",
        "vector_gradient", "tensor_divergence", *lines,
    )  # fmt: skip


def check_names(variables: Collection[str], constants: Collection[str], dims: Collection[str]) -> None:
    """Names of variables and constants must be words that stand for nothing else.

    Raises:
        ValueError: one is no word, or stands for something else.
    """
    taken = dict.fromkeys(_TIME, "time") | dict.fromkeys(dims, "a coordinate") | dict.fromkeys(_NUMBERS, "a number")
    taken |= dict.fromkeys((*FUNCTIONS, *operators(dims)), "a function")
    for kind, names in (("variable", variables), ("constant", constants)):
        for name in names:
            if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
                raise ValueError(f"a {kind} is named by a word of letters, digits and _; got {name!r}.")
            if name in taken:
                raise ValueError(f"the {kind} '{name}' needs another name: '{name}' is {taken[name]} in expressions.")
            taken[name] = f"a {kind} too"


def checked(what: str, expression: object, names: Mapping[str, Collection[str]], functions: Collection[str]) -> str:
    """An expression as py-pde takes it, of known names only.

    Args:
        what: What messages call it, such as "rhs of 'c'".
        expression: Text, or a number.
        names: Names that it may hold, by what they are.
        functions: Functions that it may call.

    Raises:
        ValueError: it is no expression, or holds something else than numbers, these names and these functions.
    """
    if isinstance(expression, bool) or not isinstance(expression, str | int | float):
        raise ValueError(f"{what} is an expression, such as 'laplace(c)'; got {expression!r}.")
    text = str(expression)
    for short, long in _SHORT:
        text = re.sub(short, long, text)
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        words = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ValueError(f"{what} is no expression: {words} in '{expression}'.") from None
    called: set[int] = set()
    known = {name for group in names.values() for name in group} | set(_NUMBERS)
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitXor):
            raise ValueError(f"{what}: a power is written **, not ^; got '{expression}'.")
        if isinstance(node, ast.Call):
            function = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
            if function not in functions or node.keywords:
                raise ValueError(f"{what} calls '{function}', no function here. {nearest(function, functions)}")
            called.add(id(node.func))
        elif isinstance(node, ast.Name) and id(node) not in called and node.id not in known:
            there_are = "; ".join(f"{kind}: {', '.join(group) or 'none'}" for kind, group in names.items())
            near = nearest(node.id, known)
            end = f" {near}" if near.startswith("Did") else ""
            raise ValueError(f"{what} names '{node.id}', which stands for nothing ({there_are}).{end}")
        # True is a number to Python.
        if not isinstance(node, _ALLOWED) or (isinstance(node, ast.Constant) and type(node.value) not in (int, float)):
            got = ast.unparse(node)
            raise ValueError(
                f"{what} may hold numbers, names, + - * / ** and functions; got '{got}' in '{expression}'."
            )
    return text.strip()
