"""A module imports only from lower layers: what the physics does not know, it cannot depend on."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "physdiff"

# From the bottom up; a name stands for the module or for everything in the folder.
LAYERS = (
    (
        "registry",
        "trust",
        "condition",
        "grid",
        "clock",
        "schedules",
        "randomness",
        "disk",
        "atomic",
        "model_files",
        "jackknife",
        "pareto_tail",
    ),
    ("parts",),
    ("settings", "basis", "bases"),
    ("spectra", "quadrature", "block"),
    ("process",),
    ("phase_space", "semilinear"),
    ("processes", "gaussian", "bridge"),
    (
        "path",
        "cell_kernel",
        "kriging_channel",
        "masked_solve",
        "masked_determinant",
        "kriging",
        "masked_fit",
        "filling",
    ),
    ("simulated_path",),
    ("clock_fit", "description", "actions"),
    ("denoisers", "networks"),
    ("trace", "solvers", "integrate"),
    ("multistep",),
    ("reference_angle", "probability_flow", "estimate"),
    ("scored", "transport"),
    ("flow_ends",),
    (
        "levels",
        "likelihood",
        "observed_likelihood",
        "decoding",
        "quantised",
        "data",
        "importance",
        "bounds",
        "objectives",
    ),
    ("chain", "score_tables"),
    ("laws", "training.settings", "training.randomness", "training.augment"),
    ("given", "observed_scores", "joined", "model_card", "saved_model", "model"),
    ("config",),
    ("training",),
    ("evaluation", "scoring", "training.sample_grids"),
    ("commands", "named_options"),
    ("cli", "__main__"),
)

# What must stay ignorant of each other although no layer forbids it.
STRANGERS = {
    "networks": ("process", "processes", "path", "denoisers", "clock"),
    "data": ("process", "processes", "path", "denoisers", "networks"),
    "processes": ("gaussian", "path", "denoisers", "data"),
}


def layer(module: str) -> int:
    """Height of a module, by its longest listed prefix."""
    parts = module.split(".")[1:]
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        for height, names in enumerate(LAYERS):
            if name in names:
                return height
    raise AssertionError(f"{module} is in no layer; enter it in LAYERS")


def imports(file: Path) -> set[str]:
    """Modules of the package that a file imports at run time."""
    found: set[str] = set()
    tree = ast.parse(file.read_text())
    only_for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in only_for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("physdiff.")}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "physdiff":
            if node.module == "physdiff":
                found |= {f"physdiff.{alias.name}" for alias in node.names}
            else:
                members = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {m if _is_module(m) else node.module for m in members}
    return found


def _is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def module_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(f for f in PACKAGE.rglob("*.py") if f != PACKAGE / "__init__.py")


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_imports_go_down(file: Path) -> None:
    module = module_of(file)
    here = module.split(".")[1]
    for imported in imports(file):
        there = imported.split(".")[1]
        assert layer(imported) <= layer(module), f"{module} imports {imported}, which is above it"
        assert there not in STRANGERS.get(here, ()), f"{module} must not know {imported}"


@pytest.mark.parametrize("file", [f for f in FILES if f.parent.name == "processes"], ids=module_of)
def test_a_physics_sees_only_basis_process_and_torch(file: Path) -> None:
    allowed = {"basis", "phase_space", "process", "registry", "semilinear", "settings", "spectra"}
    assert {name.split(".")[1] for name in imports(file)} <= allowed
