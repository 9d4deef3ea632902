"""`physdiff train CONFIG --sweep ...`: the runs of a sweep, one after the other."""

from __future__ import annotations

import gc
import json
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from physdiff.training.company import ProcessLost, rank, say
from physdiff.training.lock import only_process
from physdiff.training.sweep import points
from physdiff.training.sweep_table import Outcome, best_of, compared_by, found_in, write_tables

# A command that a signal has ended exits with this and the signal's number.
SIGNALS = 128

HELP = (
    "train a sweep: values of a setting, as in --sweep training.learning_rate=1e-3,2e-3, or a YAML file of settings "
    "with lists of values, or of a list of overrides; several of these make a grid. Each point has its own folder in "
    "that of --run, where sweep.md is the table; the same command goes on after an interruption"
)


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command line without its sweep, and the axes of the sweep.

    Raises:
        ValueError: --sweep stands alone.
    """
    rest, axes, words = [], [], iter(arguments)
    for word in words:
        if word == "--sweep":
            word = f"--sweep={next(words, '')}"
        if word.startswith("--sweep="):
            axes.append(word.removeprefix("--sweep="))
            if not axes[-1] or axes[-1].startswith("-"):
                raise ValueError("--sweep takes NAME=VALUE,VALUE or a YAML file.")
        else:
            rest.append(word)
    return rest, axes


def sweep(
    words: Sequence[str],
    axes: Sequence[str],
    run: Callable[[Sequence[str]], int],
    settings_of: Callable[[Sequence[str]], dict[str, Any]],
    input_errors: tuple[type[Exception], ...],
) -> int:
    """Train every point, skipping those that are done; one table of all.

    Args:
        words: The command line that all points share.
        axes: See `physdiff.training.sweep.points`.
        run: Carries out one command line.
        settings_of: All settings of a command line, by name; raises on what cannot be understood.
        input_errors: What is the input's fault, and needs no traceback.

    Returns:
        Exit code: 0 all done; 2 some failed; 1 one failed by a bug; above 128 it was interrupted.

    Raises:
        ValueError: the sweep or a setting cannot be understood; nothing has run.
    """
    found = points(axes)
    settings = [settings_of([*words, *point.words]) for point in found]
    root = Path(settings[0]["run"])
    digests = [_digest({name: x for name, x in s.items() if name != "run"}) for s in settings]
    first = rank() == 0  # of several processes, one writes
    worst = 0
    with only_process(root) if first else nullcontext():
        # All are read before any runs, so that all processes of a distributed run skip the same.
        before = [_done(root / p.name, digest) for p, digest in zip(found, digests, strict=True)]
        outcomes = [
            b or Outcome(p.name, p.overrides, "unfinished", d) for b, p, d in zip(before, found, digests, strict=True)
        ]
        for i, point in enumerate(found):
            say(f"[{i + 1}/{len(found)}] {point.name}{': done before' if before[i] else ''}")
            if before[i]:
                continue
            outcomes[i], code = _train(outcomes[i], root, [*words, *point.words], run, input_errors)
            if first:
                outcomes[i].save(root / point.name)
                write_tables(root, outcomes)
            if code > SIGNALS:
                say("interrupted; the same command continues the sweep", sys.stderr)
                return code
            worst = 1 if 1 in (code, worst) else max(code, worst)
            gc.collect()  # the model's memory, before the next one needs it
        if first:
            write_tables(root, outcomes)
    if (best := best_of(outcomes)) is not None:
        by = compared_by(outcomes)
        say(f"best: {best.name}, {by.replace('_', ' ')} {best.found[by]:.4g}")
    for outcome in outcomes:
        if outcome.status != "done":
            say(f"{outcome.status}: {outcome.name}{': ' + outcome.error if outcome.error else ''}", sys.stderr)
    say(f"table: {root / 'sweep.md'}")
    return worst


def _train(
    outcome: Outcome,
    root: Path,
    words: Sequence[str],
    run: Callable[[Sequence[str]], int],
    input_errors: tuple[type[Exception], ...],
) -> tuple[Outcome, int]:
    """Train one point, or continue it; how it ended, and the exit code of its command."""
    folder = root / outcome.name
    before = _saved(folder)
    try:
        code = run([*words, f"--run={folder}"])
    except KeyboardInterrupt:
        return outcome, SIGNALS + signal.SIGINT
    except ProcessLost as lost:
        # Where all processes fail of the same, one is the first; this one knows what it was too.
        known = isinstance(lost.__cause__, input_errors)
        error = lost.__cause__ if known else lost
        return replace(outcome, status="failed", error=" ".join(str(error).split())), 2 if known else 1
    except input_errors as error:
        return replace(outcome, status="failed", error=" ".join(str(error).split())), 2
    except Exception as error:  # a bug in one point does not take the others with it
        traceback.print_exc()
        return replace(outcome, status="failed", error=f"{type(error).__name__}: {error}"), 1
    # A launch that a time limit has ended is no failure, and saves no model.
    status = "unfinished" if code or _saved(folder) == before else "done"
    return replace(outcome, status=status, found=found_in(folder)), code


def _saved(folder: Path) -> int:
    """When a run's model was written; 0 if there is none."""
    file = folder / "model" / "model.json"
    return file.stat().st_mtime_ns if file.is_file() else 0


def _done(folder: Path, settings: str) -> Outcome | None:
    """How a run ended that was trained with these settings; None if it is to be trained."""
    outcome = Outcome.of(folder)
    known = outcome is not None and outcome.status == "done" and outcome.settings == settings
    return outcome if known and _saved(folder) else None


def _digest(settings: dict[str, Any]) -> str:
    return blake2b(json.dumps(settings, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()
