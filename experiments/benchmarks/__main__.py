"""Run the benchmarks, all or by name, and write what was measured beside them."""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Measure, print and write `NAME.md`."""
    known = sorted(m.name for m in pkgutil.iter_modules([str(HERE)]) if not m.name.startswith("_"))
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; all if none is given")
    parser.add_argument("--quick", action="store_true", help="try the code of those that can on little; write nothing")
    given = parser.parse_args()
    names = given.names or known
    for name in names:
        if name not in known:
            parser.error(f"there is no benchmark '{name}'; known: {', '.join(known)}.")
    for name in names:
        measure = importlib.import_module(f"experiments.benchmarks.{name}").measure
        if given.quick:
            if "quick" in inspect.signature(measure).parameters:
                print(measure(quick=True))
            continue
        text = measure()
        print(text)
        (HERE / f"{name}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
