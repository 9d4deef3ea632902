"""Fields that flips or rotations turn wrongly, told by their names and places: none of it stands in what they are."""

from __future__ import annotations

import re
from collections.abc import Sequence

from physdiff.data.formats.marks import axis_of
from physdiff.data.source import Source, Variable
from physdiff.data.symmetry import Turn

_PSEUDO = re.compile(
    r"vor|vo|.*vort(icity)?([^a-z].*)?|vort.*|omega([^a-z].*)?|curl([^a-z].*)?|.*stream_?func.*|psi_?stream.*|helicity"
    r"|magnetic.*|[bh]_?field.*"
)
_SIZES = re.compile(r".*(magnitude|norm|abs|squared|enstrophy|energy|pressure|potential_?energy).*")
_STEMS = ("v", "vel", "velocity", "u", "mom", "momentum", "flow", "wind")
_SPEED = re.compile(r"(c|k)?m( s\*?\*?\^?-1|/s|/second| per second)|(c|k)?m s\^\{-1\}")


def doubtful_signs(source: Source, fields: Sequence[Variable], turns: Sequence[Turn]) -> list[str]:
    """What is to be known of fields that training turns, a sentence each; nothing where it turns none.

    Args:
        source: The file that they are from.
        fields: Those that are turned, of the condition too.
        turns: All turns, the identity among them.
    """
    if len(turns) < 2:
        return []
    found = []
    mirrored = [v.name for v in fields if not v.pseudo and _is_pseudo(v)]
    if mirrored and any(turn.determinant < 0 for turn in turns):
        found.append(
            f"{_listed(mirrored)}, by the name a field whose sign a reflection turns, is mirrored without that: if it "
            "is one, as vorticity is, name it in pseudo= (--data.layout.pseudo)"
        )
    alone = [v.name for v in fields if not v.parent and not v.pseudo and _is_component(v, fields, source.grid.dims)]
    if alone:
        found.append(
            f"{_listed(alone)}, by the name a component of a vector, is turned as a scalar: if it is one, say so by "
            "vectors= (--data.layout.vectors), such as {v: {" + ", ".join(f"{d}: v{d}" for d in source.grid.dims) + "}}"
        )
    places = {str(source.attrs[f"{v.name}.offset"]) for v in fields if f"{v.name}.offset" in source.attrs}
    if len(places) > 1:
        found.append(
            "the fields stand at different places of a cell (offset in `physdiff data inspect`), and turns put those "
            "that are not in its middle one cell off beside the others: interpolate them to the centres first, or "
            "leave flip and rotate out of data.symmetries"
        )
    return found


def _is_pseudo(variable: Variable) -> bool:
    word = (variable.parent or variable.name).lower()
    # In the weather omega is a velocity in pascals a second, a scalar on maps.
    return bool(_PSEUDO.fullmatch(word)) and not _SIZES.fullmatch(word) and not variable.units.lower().startswith("pa")


def _is_component(variable: Variable, fields: Sequence[Variable], dims: Sequence[str]) -> bool:
    """Whether a field is called after an axis: as velocities are, or with another of its stem along each axis."""
    name = variable.name.lower()
    along = axis_of(name, dims)
    if along is None or name in (dim.lower() for dim in dims):
        return False
    if re.fullmatch(r"[uvw](\d*|_.*)", name) and not name.endswith(tuple(f"_{dim}".lower() for dim in dims)):
        return bool(_SPEED.fullmatch(variable.units.strip().lower()))
    stem = re.sub(rf"_?{re.escape(along.lower())}$|^{re.escape(along.lower())}_", "", name)
    others = {v.name.lower() for v in fields if not v.parent}
    siblings = [{f"{stem}{d}".lower(), f"{stem}_{d}".lower(), f"{d}_{stem}".lower()} & others for d in dims]
    return stem in _STEMS or (len(dims) > 1 and all(siblings))


def _listed(names: Sequence[str]) -> str:
    return " and ".join(f"'{name}'" for name in names)
