"""What the card of one data set adds to that of its recipe: the settings it was made with, where they were changed."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from pathlib import Path

from physdiff.atomic import replacing_file

Make = Callable[..., Path]

_NOT_OF_THE_DATA = ("folder", "progress", "overwrite", "device")


def telling_its_settings(make: Make) -> Make:
    """The same recipe, whose data set's card ends with every setting that is not the recipe's own."""

    @wraps(make)
    def told(*args: object, **settings: object) -> Path:
        folder = make(*args, **settings)
        given = signature(make).bind(*args, **settings)
        own = {name: p.default for name, p in signature(make).parameters.items() if name not in _NOT_OF_THE_DATA}
        changed = {name: value for name, value in given.arguments.items() if name in own and value != own[name]}
        if changed:
            rows = "".join(f"| {name} | {_cell(value)} | {own[name]} |\n" for name, value in changed.items())
            with replacing_file(folder / "card.md") as partial:
                partial.write_text(
                    f"{(folder / 'card.md').read_text(encoding='utf-8').rstrip()}\n\n## This data set\n"
                    "What stands above is of the recipe with its own settings; this data set was made with others.\n\n"
                    f"| setting | here | above |\n|---|---|---|\n{rows}",
                    encoding="utf-8",
                )
        return folder

    return told


def _cell(value: object) -> str:
    """A value as a cell of a table, which a bar would end."""
    return str(value).replace("|", "\\|")
