"""A process that reads files for a test and says what came of it: it may use little memory, and write nothing.

One request a line, `{"path": ..., "layout": ...}`; one answer a line, with the outcome "read", "refused" or "broken".
"""

from __future__ import annotations

import json
import resource
import sys
import traceback
from typing import Any

MEMORY = 2**30  # beyond what the process has when it begins


def attempt(path: str, layout: dict[str, Any]) -> dict[str, Any]:
    from physdiff.data.fields import load_fields
    from physdiff.data.inspect import inspect
    from physdiff.data.layout import Layout

    told = Layout.checked(layout, "layout")
    refused = None
    for act in (lambda: inspect(path, told), lambda: load_fields(path, layout=told)):
        try:
            found = act()
        except (ValueError, FileNotFoundError) as error:
            refused = f"{type(error).__name__}: {error}"
        except BaseException:
            return {"outcome": "broken", "message": traceback.format_exc()}
    if refused is not None:
        return {"outcome": "refused", "message": refused}
    return {"outcome": "read", "shape": list(found.values.shape)}  # pyright: ignore


def main() -> None:
    import physdiff.data.inspect  # noqa: F401  before memory is counted

    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    answers, sys.stdout = sys.stdout, sys.stderr
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(attempt(**json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
