"""Pages of what is registered: each process, solver and objective, from its own docstrings and its own formulas.

A Sphinx extension. It runs before the sources are read and writes `generated/`, so that a new file in
`physdiff/processes`, `physdiff/solvers` or `physdiff/objectives` has a page, with a figure where there is something to
draw, without an edit here. Tables of settings, and what was measured (`measured.py`), are written there as well.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, ClassVar

import drawing
import measured
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

import physdiff
from physdiff.config import DenoiserSettings, ObjectiveSettings
from physdiff.networks.settings import NetworkSettings
from physdiff.objectives import Objective, Weighting, objectives, time_samplings, weightings
from physdiff.phase_space import PhaseSpaceProcess
from physdiff.process import AutonomousProcess, ForwardProcess, LinearProcess
from physdiff.registry import processes
from physdiff.semilinear import SemilinearProcess
from physdiff.solvers import Solver, solvers
from physdiff.training.settings import FREE_SETTINGS, TrainSettings

HERE = Path(__file__).parent
GIVEN_BY_THE_TOOLKIT = ("basis", "clock")
SECTIONS = ("Args:", "Attributes:", "Returns:", "Raises:")
INCLUDED = ("which_solver", "coverage")  # by pages, from `measured`
# Tables of settings, included by pages too, with the settings that may change within a run.
SETTINGS: dict[str, tuple[type, tuple[str, ...]]] = {
    "training_settings": (TrainSettings, FREE_SETTINGS),
    "network_settings": (NetworkSettings, ()),
    "denoiser_settings": (DenoiserSettings, ()),
    "objective_settings": (ObjectiveSettings, ()),
}
NAMED = {"True": "yes", "False": "no", "None": "none"}


def setup(app: Sphinx) -> dict[str, Any]:
    """Entry point of the extension."""
    app.connect("builder-inited", write_pages)
    app.connect("builder-inited", check_api_page)
    app.connect("autodoc-process-docstring", Properties.put_aside, priority=400)  # before napoleon, at 500
    app.connect("autodoc-process-docstring", Properties.put_back, priority=600)
    app.connect("autodoc-process-docstring", keep_signs, priority=700)
    return {"parallel_read_safe": True}


def write_pages(app: Sphinx) -> None:
    """Write a page and a figure for every registered class, and remove the pages of those that are gone."""
    asked = {**objectives.classes(), **weightings.classes(), **time_samplings.classes()}
    for kind, classes, page in (
        ("processes", processes.classes(), process_page),
        ("solvers", solvers.classes(), solver_page),
        ("objectives", asked, objective_page),
    ):
        files = _by_file(classes, kind)
        folder = HERE / "generated" / kind
        folder.mkdir(parents=True, exist_ok=True)
        for old in set(folder.glob("*.md")) - set(files):
            old.unlink()
        for path, members in files.items():
            _write(path, page(members, path))
    for name, (cls, free) in SETTINGS.items():
        _write(HERE / "generated" / f"{name}.md", settings_table(cls, free) + "\n")
    try:
        for name in INCLUDED:
            _write(HERE / "generated" / f"{name}.md", getattr(measured, name)())
    except ValueError as error:
        raise ExtensionError(str(error)) from None


def _by_file(classes: dict[str, type], kind: str) -> dict[Path, list[type]]:
    files: dict[Path, list[type]] = {}
    for cls in classes.values():
        path = HERE / "generated" / kind / f"{cls.__module__.rpartition('.')[2]}.md"
        files.setdefault(path, []).append(cls)
    return files


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:  # an unchanged page is not built again
        path.write_text(text, encoding="utf-8")


# ---- pages


def process_page(members: list[type[ForwardProcess]], path: Path) -> str:
    """The page of one file of `physdiff/processes`, Markdown."""
    parts = _opening(members[0])
    for cls in members:
        summary, settings, rest = read_docstring(cls)
        name, equation = split_equation(summary)
        parts += _heading(cls, name)
        parts += [f"```text\n{equation}\n```"] if equation else []
        process = drawing.on_the_box(cls)
        rows = [
            (
                f"`{f.name}`",
                f"`{f.default!r}`",
                _resolved(f.default, getattr(process, f.name)),
                settings.get(f.name, ""),
            )
            for f in fields(cls)
            if f.name not in GIVEN_BY_THE_TOOLKIT
        ]
        head = ("name", "default", "on the 64 x 64 unit box", "meaning")
        parts += ["**Settings**", _table(head, rows)] if rows else []
        parts += rest
        refines = "leaves the resolved modes alone" if cls.refines else "changes the physics of a resolved wave"
        figure = path.with_name(f"{path.stem}_{cls.__name__}.png")
        if isinstance(process, SemilinearProcess):
            parts += _simulated(process, figure, name)
            continue
        exactly = issubclass(cls, (AutonomousProcess, PhaseSpaceProcess))
        solved = "exactly, from the equation" if exactly else _how_solved(cls)
        parts += [f"Solved {solved}. As declared, and held to by a law, refining the grid {refines}."]
        assert isinstance(process, LinearProcess)
        world = drawing.world_of(process)
        figure.write_bytes(drawing.forward_run(world))
        parts += [f"![{name}: a field noised, and the moments of its modes]({figure.name})", drawing.CAPTION]
        parts += [drawing.PHASE_SPACE_CAPTION] if issubclass(cls, PhaseSpaceProcess) else []
        parts += [_table(("with this clock", ""), drawing.facts(world))]
    return "\n\n".join([*parts, *_code(members[0], path)]) + "\n"


def _simulated(process: SemilinearProcess, figure: Path, name: str) -> list[str]:
    """What a page says of a process that is simulated."""
    end = "has the stationary law of its linear part, which the reaction conserves"
    if not process.conserves:
        end = "is Gaussian because the reaction fades"
    clocked = drawing.clocked(process)
    assert isinstance(clocked, SemilinearProcess)
    figure.write_bytes(drawing.simulated_run(clocked))
    return [
        "Simulated: steps of the reaction's flow and of the exact linear part; trained by transition score matching. "
        f"As declared, and held to by a law, the end {end}.",
        f"![{name}: a field noised, and the variances of its modes]({figure.name})",
        drawing.SIMULATED_CAPTION,
    ]


def solver_page(members: list[type[Solver]], path: Path) -> str:
    """The page of one file of `physdiff/solvers`, Markdown."""
    parts = _opening(members[0])
    for cls in members:
        summary, settings, rest = read_docstring(cls)
        parts += _heading(cls, summary)
        head = ("", *(f"`{rule!r}`" for rule in cls.examples()))
        parts += ["**Declared, and held to by the laws**", _table(head, _declared(cls))]
        rows = [(f"`{f.name}`", f"`{f.default!r}`", settings.get(f.name, "")) for f in fields(cls)]
        parts += ["**Settings**", _table(("name", "default", "meaning"), rows)] if rows else []
        parts += rest
        if cls.adaptive:
            continue
        figure = path.with_name(f"{path.stem}_{cls.__name__}.png")
        figure.write_bytes(drawing.convergence(cls))
        parts += [f"![{cls.__name__}: error against evaluations]({figure.name})", drawing.CONVERGENCE_CAPTION]
    return "\n\n".join([*parts, *_code(members[0], path)]) + "\n"


def objective_page(members: list[type], path: Path) -> str:
    """The page of one file of `physdiff/objectives`, Markdown."""
    parts = _opening(members[0])
    for cls in members:
        summary, _, rest = read_docstring(cls)
        parts += [*_heading(cls, summary), f"`{spelling(cls)}`", *rest]
        parts += ["**Settings**", settings_table(cls)] if fields(cls) else []
    return "\n\n".join([*parts, *_code(members[0], path)]) + "\n"


def spelling(cls: type) -> str:
    """How an objective or a part of one is asked for on the command line."""
    if issubclass(cls, Objective):
        return f"--objective.name {cls.__name__}"
    word = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()
    return f"--objective.{'weighting' if issubclass(cls, Weighting) else 'times'} {word}"


def settings_table(cls: type, free: tuple[str, ...] = ()) -> str:
    """Every setting of a class, its default, and what its docstring says of it.

    Args:
        cls: A dataclass.
        free: Settings that may change within a run; no column is made for none.

    Raises:
        ExtensionError: a setting is not told of.
    """
    meanings = read_docstring(cls)[1]
    own = [f for f in fields(cls) if f.init]
    if silent := [f.name for f in own if f.name not in meanings]:
        raise ExtensionError(f"the docstring of {cls.__name__} does not say what {', '.join(silent)} means.")
    rows = [(f"`{f.name}`", _default(f), "yes" if f.name in free else "", meanings[f.name]) for f in own]
    return _table(("name", "default", "may change in a run", "meaning"), rows)


def _default(setting: Field[Any]) -> str:
    if setting.default is MISSING and setting.default_factory is MISSING:
        return "must be given"
    value = setting.default if setting.default is not MISSING else setting.default_factory()  # pyright: ignore
    return f"`{value!r}`"


def _declared(cls: type[Solver]) -> list[tuple[str, ...]]:
    """What a rule says of itself, with each of the settings that the laws try."""
    rules = cls.examples()

    def row(words: str, of: Callable[[Solver], object]) -> tuple[str, ...]:
        said = (of(rule) for rule in rules)
        return (words, *(NAMED.get(repr(x), repr(x)) for x in said))

    return [
        row("order of convergence", lambda rule: rule.order),
        row("evaluations of the denoiser per step", lambda rule: rule.evaluations),
        row("draws noise", lambda rule: rule.stochastic),
        row("exact on Gaussian data in any number of steps", lambda rule: rule.exact_on_gaussian),
        row("uses earlier steps", lambda rule: rule.multistep),
        row("takes steps of its own, to a tolerance", lambda rule: rule.adaptive),
        row("runs under simulated processes", lambda rule: rule.any_process),
    ]


def _opening(cls: type) -> list[str]:
    text = inspect.getdoc(sys.modules[cls.__module__]) or ""
    first, _, rest = text.partition("\n\n")
    sentence = " ".join(first.split())
    title, colon, lead = (part.strip() for part in sentence.partition(":"))
    if not colon:
        title, lead = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", cls.__name__), sentence
    opening = [f"# {title}", lead if lead[1:2] == "_" else f"{lead[:1].upper()}{lead[1:]}", as_markdown(rest)]
    return [part for part in opening if part]


def _heading(cls: type, summary: str) -> list[str]:
    return [f"## `{cls.__name__}`", f"{summary.rstrip('.')}."]


def _code(cls: type, path: Path) -> list[str]:
    source = Path(inspect.getsourcefile(cls) or "")
    relative = Path("../../..") / source.relative_to(HERE.parent)
    return ["## The file", f"```{{literalinclude}} {relative.as_posix()}\n:language: python\n```"]


def _how_solved(cls: type) -> str:
    stated = [name for name in ("log_gain", "variance") if getattr(cls, name) is not getattr(LinearProcess, name)]
    return "in closed form, which a law holds to the equation" if len(stated) == 2 else "by quadrature at every call"


def _resolved(default: object, value: object) -> str:
    if value == default:
        return ""
    return f"`{value:.4g}`" if isinstance(value, float) else f"`{value!r}`"


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    kept = [i for i in range(len(head)) if any(str(row[i]) for row in rows)]
    lines = [[head[i] for i in kept], ["---"] * len(kept), *([str(row[i]) for i in kept] for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


# ---- docstrings


def read_docstring(cls: type) -> tuple[str, dict[str, str], list[str]]:
    """Summary, meaning of each attribute, and the paragraphs that follow."""
    summary, *blocks = (inspect.getdoc(cls) or "").split("\n\n")
    meanings: dict[str, str] = {}
    rest: list[str] = []
    for block in blocks:
        if block.startswith("Attributes:"):
            for entry in re.split(r"\n    (?=\S)", block)[1:]:
                name, _, meaning = " ".join(entry.split()).partition(": ")
                meanings[name] = meaning
        elif not block.startswith(SECTIONS):
            rest.append(as_markdown(block))
    return " ".join(summary.split()), meanings, rest


def split_equation(summary: str) -> tuple[str, str]:
    """`Heat equation, dx = …` as its name and its equation; the equation is empty if there is none."""
    found = re.match(r"(.*?), (d\S* = .*?)(, with .*)?\.?$", summary)
    return (f"{found[1]}{found[3] or ''}", found[2]) if found else (summary, "")


def as_markdown(text: str) -> str:
    """A docstring's text, with aligned formulas kept as they are."""
    blocks = []
    for block in text.split("\n\n"):
        lines = block.split("\n")
        if all(line.startswith("    ") for line in lines):
            blocks.append("```text\n" + inspect.cleandoc(block) + "\n```")
        elif any(line.startswith("    ") for line in lines):
            blocks.append(_mixed(lines))
        else:
            blocks.append(block)
    return "\n\n".join(blocks)


def _mixed(lines: list[str]) -> str:
    """A paragraph with formulas in it that are set off by indentation alone."""
    out: list[str] = []
    inside = False
    for line in lines:
        if line.startswith("    ") != inside:
            out += ["\n```text" if not inside else "```\n"]
            inside = not inside
        out.append(line[4:] if inside else line)
    return "\n".join([*out, "```"] if inside else out)


def keep_signs(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """|m| is an absolute value and *grid a shape, not markup of reStructuredText."""
    for i, line in enumerate(lines):
        without_bars = re.sub(r"(?<!\\)\|", r"\\|", line)
        lines[i] = re.sub(r"(?<![*\w\\])\*(?=\w+\b(?!\*))", r"\\*", without_bars)


class Properties:
    """Docstrings of properties go past napoleon, which takes what stands before a colon for a type."""

    aside: ClassVar[list[str]] = []

    @classmethod
    def put_aside(cls, app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
        """Take the lines of a property away."""
        if what == "property":
            cls.aside[:], lines[:] = lines, []

    @classmethod
    def put_back(cls, app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
        """Give them back."""
        if what == "property":
            lines[:] = cls.aside


def check_api_page(app: Sphinx) -> None:
    """Refuse to build if `api.md` and `physdiff.__all__` name different things."""
    text = (HERE / "api.md").read_text(encoding="utf-8")
    named = re.findall(r"\.\. auto(?:class|function):: physdiff\.(\w+)$", text, flags=re.MULTILINE)
    missing, twice = sorted(set(physdiff.__all__) - set(named)), sorted({n for n in named if named.count(n) > 1})
    unknown = sorted(set(named) - set(physdiff.__all__))
    if missing or twice or unknown:
        raise ExtensionError(f"docs/api.md: missing {missing}, named twice {twice}, not public {unknown}.")
