"""The command line. Arguments are the arguments of the functions in `physdiff.commands`; YAML and dotted overrides mix.

Exit codes: 0 done, 2 wrong usage or input (one line, no traceback), 130 interrupted, 141 nobody reads what is printed,
1 a bug.
"""

from __future__ import annotations

import os
import re
import select
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace  # pyright: ignore[reportPrivateImportUsage]

from physdiff import named_options
from physdiff.registry import nearest, processes, spelled
from physdiff.settings import check_names

INPUT_ERRORS = (ValueError, OSError, FloatingPointError, MemoryError)
CHECKPOINTED = "; the same command continues from the last checkpoint"
CONTINUED = {
    **dict.fromkeys(("train", "resume", "demo"), CHECKPOINTED),
    "likelihood": "; the same command goes on with the fields that are left",
}
ONE_OF_SEVERAL = r"Does not validate against any of the Union subtypes\s+Subtypes: \[(.*?)\]\n.*Given value: "
ONE_WORD_OF = r"Expected a typing\.Literal\[([^\]]*)\]\. Got value: (.*)"
A_LIST = r"--([\w.]+): Expected (?:a <class 'list'>|one of list\[\w+\], <class 'NoneType'>)\. Got value: ([^\[{]+)$"
A_MAPPING = r"--([\w.]+): Expected one of dict\[str, (.+)\], <class 'NoneType'>\. Got value: (.+)$"
PROCESS_OF_CONFIG = r"""(?m)^(process:\s*\{?\s*(?:class_path:\s*)?['"]?)(\w+)\b"""
SECTIONS = ("data", "training", "network", "denoiser", "simulation", "objective")


class UsageError(Exception):
    """A command line that cannot be understood."""


class _Parser(ArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UsageError(self._clearer(message))

    def parse_string(self, *args: Any, **settings: Any) -> Any:
        """A config whose process may be named in any case."""
        if isinstance(content := settings.get("content"), str):
            settings["content"] = re.sub(PROCESS_OF_CONFIG, _as_registered, content, count=1)
        return super().parse_string(*args, **settings)

    def _clearer(self, message: str) -> str:
        """One sentence, with the nearest valid name where a name was not known."""
        for pattern in (
            r"unrecognized arguments: --([\w.]+)",
            r"not accept(?:ed)? (?:option|nested key) '([\w.]+)'",
            r"(?:Key|Option|key) ['\"]([\w.]+)['\"] is not (?:expected|accepted)",
        ):
            if found := re.search(pattern, message):
                actions = [a for a in self._named_in(message)._actions if a.dest not in ("help", "config")]
                unnamed, known = [a.dest for a in actions if not a.option_strings], [a.dest for a in actions]
                if found.group(1) in unnamed:
                    places = " ".join(name.upper() for name in unnamed)
                    return f"'{found.group(1)}' has no dashes, it is told by its place: {places}."
                if "recipe" in unnamed:
                    near = nearest(found.group(1), known)
                    end = near if near.startswith("Did") else f"A setting of the recipe is --settings.{found.group(1)}."
                    return f"there is no option '{found.group(1)}'. {end}"
                return f"there is no option '{found.group(1)}'. {nearest(found.group(1), known)}"
        if found := re.search(r"following arguments are required: (.*)", message):
            return self._missing(found.group(1).split(", "))
        if found := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message, re.DOTALL):
            return f"there is no command '{found.group(1)}'. {nearest(found.group(1), _quoted(found.group(2)))}"
        if found := re.search(r"Subclasses are disabled for NetworkSettings, thus '(.*?)' is not", message):
            return f"a network's class is its kind: network.kind = {found.group(1)}, with network.arguments by name."
        message = re.sub(ONE_OF_SEVERAL, r"Expected one of \1. Got value: ", message, flags=re.DOTALL)
        message = re.sub(ONE_WORD_OF, _one_word_of, message)
        message = " ".join(re.sub(r'Parser key "([\w.]+)"', r"--\1", message).split())
        message = re.sub(A_LIST, r"--\1 is a list, --\1 '[\2]'; got \2", message)
        return re.sub(A_MAPPING, r"--\1 is a mapping, --\1 '{NAME: \2}', and so on; got \3", message)

    def _named_in(self, message: str) -> ArgumentParser:
        """The parser of the subcommand that a message is about; this one if it names none."""
        found = re.search(r"Subcommand '(\w+)'", message)
        return _commands_of(self).get(found.group(1), self) if found else self

    def _missing(self, names: Sequence[str]) -> str:
        """What a command needs, as it is typed: `train.data.path` is --data.path, `sample.run` is RUN."""
        command, needed = [], []
        for name in names:
            parser, command, words = self, [], name.split(".")
            while words[0] in _commands_of(parser):
                parser = _commands_of(parser)[words[0]]
                command.append(words.pop(0))
            dest = ".".join(words)
            is_option = any(action.dest == dest and action.option_strings for action in parser._actions)
            needed.append(f"--{dest}" if is_option else dest.upper())
        words = " ".join(command)
        return f"{words} needs {_listed(needed)}; `physdiff {words} --help` explains."


def _commands_of(parser: ArgumentParser) -> dict[str, ArgumentParser]:
    """The parsers of a parser's commands, by name."""
    return getattr(parser._subcommands_action, "choices", None) or {}


def _unfinished(parser: ArgumentParser, arguments: Sequence[str]) -> ArgumentParser | None:
    """The parser of a command line that stops short of naming a command; None if it does not."""
    for word in arguments:
        if word not in _commands_of(parser):
            return None
        parser = _commands_of(parser)[word]
    return parser if _commands_of(parser) else None


def _listed(words: Sequence[str]) -> str:
    return " and ".join(", ".join(words).rsplit(", ", 1))


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']+)'", text)


def _as_registered(found: re.Match[str]) -> str:
    return found.group(1) + spelled(found.group(2), processes.classes())


def _one_word_of(found: re.Match[str]) -> str:
    """Which words a setting may be, with the nearest if there is one."""
    near = nearest(found.group(2), _quoted(found.group(1)))
    end = f". {near}" if near.startswith("Did") else ""
    return f"Expected one of {found.group(1)}. Got value: {found.group(2)}{end}"


def build_parser() -> tuple[ArgumentParser, dict[str, Callable[..., Any]]]:
    """The parser, and the function of each command by its words."""
    from physdiff.commands import (
        calibrate,
        data,
        demo,
        doctor,
        ema,
        likelihood,
        networks,
        physics,
        report,
        sample,
        sweep,
        training,
    )  # fmt: skip

    parser = _Parser(prog="physdiff", description="Physics-informed diffusion for scientific fields.")
    commands = parser.add_subcommands(dest="command")
    functions: dict[str, Callable[..., Any]] = {}

    def add(group: Any, name: str, function: Callable[..., Any], key: str | None = None) -> _Parser:
        sub = _Parser(description=(function.__doc__ or "").split("\n\n")[0])
        configured = function is training.train
        if configured:
            sub.add_argument("--config", action=ActionConfigFile, help="YAML file; `train CONFIG` is the same")
            sub.add_argument("--sweep", metavar="NAME=VALUE,...|FILE", help=sweep.HELP)
        sub.add_function_arguments(function, as_positional=not configured)
        for option, named in named_options.OPTIONS.get(name, {}).items():
            action = next(action for action in sub._actions if action.dest == option)
            action.help = f"{action.help} {named.help}"
            # No list of subclasses: not all of them can be made by name.
            action.extra_help = str  # pyright: ignore[reportAttributeAccessIssue]
        group.add_subcommand(name, sub, help=(function.__doc__ or "").split("\n")[0])
        functions[key or name] = function
        return sub

    add(commands, "demo", demo.demo)
    for name, members in (
        (
            "data",
            {
                "make": data.make,
                "list": data.list_recipes,
                "inspect": data.inspect,
                "stats": data.stats,
                "duplicates": data.find_duplicates,
                "repack": data.repack,
                "formats": data.formats,
            },
        ),
        ("processes", {"list": physics.list_processes, "check": physics.check}),
    ):
        group = _Parser(description=f"Commands about {name}.")
        commands.add_subcommand(name, group, help=", ".join(members))
        inner = group.add_subcommands(dest="verb")
        for verb, function in members.items():
            add(inner, verb, function, f"{name} {verb}")
    add(commands, "train", training.train)
    add(commands, "resume", resume)
    add(commands, "ema", ema.ema)
    add(commands, "calibrate", calibrate.calibrate)
    add(commands, "sample", sample.sample)
    add(commands, "likelihood", likelihood.likelihood)
    add(commands, "evaluate", report.evaluate)
    add(commands, "report", report.report)
    add(commands, "networks", networks.networks)
    add(commands, "doctor", doctor.doctor)
    return parser, functions


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line; returns the exit code, raises what goes wrong."""
    arguments = _with_config(named_options.with_underscores(arguments))
    if arguments[:1] == ["train"]:
        from physdiff.commands import sweep

        words, axes = sweep.split(arguments)
        if axes:
            return sweep.sweep(words, axes, run, _settings_of, (UsageError, *INPUT_ERRORS))
    _resolve_process(arguments)
    arguments = named_options.resolve(named_options.with_layout_in_full(arguments))
    parser, functions = build_parser()
    if (group := _unfinished(parser, arguments)) is not None:
        group.print_help(sys.stderr)
        return 2
    try:
        parsed = parser.parse_args(arguments)
    except UsageError as error:
        raise UsageError(named_options.as_typed(str(error), arguments)) from None
    command = parsed.command
    settings: Namespace = parsed[command]
    verb = settings.pop("verb", None)
    key = f"{command} {verb}" if verb else command
    if verb:
        settings = settings[verb]
    if "run" in settings:
        _check_run_folder(settings["run"])
    built = parser.instantiate(parsed)
    values = built[command][verb] if verb else built[command]
    values = {name: value for name, value in vars(values).items() if name not in ("config", "sweep", "verb")}
    return functions[key](**values) or 0


def resume(folder: str) -> int:
    """Continue a run that was interrupted, with its own config.yaml.

    Args:
        folder: Run folder; options of `train` that follow it take the place of its settings.
    """
    return run(["resume", folder])


def _settings_of(arguments: Sequence[str]) -> dict[str, Any]:
    """All settings of a command line of `train`, by name.

    Raises:
        UsageError: it cannot be understood.
        ValueError: a setting is outside its range.
    """
    arguments = list(arguments)
    _resolve_process(arguments)
    arguments = named_options.resolve(named_options.with_layout_in_full(arguments))
    parser, _ = build_parser()
    parsed = parser.parse_args(arguments)
    parser.instantiate(parsed)
    _check_run_folder(parsed.train.run)
    return {name: value for name, value in parsed.train.as_dict().items() if name not in ("config", "sweep")}


def _check_run_folder(name: str) -> None:
    if not name.strip():
        raise ValueError(f"run must name a folder, such as runs/model; got '{name}'.")
    if name.startswith("~"):
        raise ValueError(f"run folder '{name}': only the shell knows '~', and here it did not; name it in full.")
    for path in (Path(name), *Path(name).parents):
        if path.exists() and not path.is_dir():
            raise ValueError(f"run folder '{path}' is a file; choose another.")


def _with_config(arguments: list[str]) -> list[str]:
    """`train CONFIG` and `resume RUN` in terms of `train --config`."""
    if len(arguments) > 1 and arguments[0] in ("train", "resume") and not arguments[1].startswith("-"):
        path = Path(arguments[1])
        if arguments[0] == "resume":
            path = path / "config.yaml"
        return ["train", "--config", str(path), *arguments[2:]]
    return arguments


def _resolve_process(arguments: list[str]) -> None:
    """Import the named physics, so that its settings are options; rename it to its import path, in place.

    Its settings are checked here, where the class is known, so that a wrong one is answered with those it has.
    """
    if not arguments or arguments[0] not in ("train", "demo"):
        return
    chosen, settings = None, []
    for i, word in enumerate(arguments):
        value = arguments[i + 1] if i + 1 < len(arguments) else ""
        if word in ("--config", "--config="):
            if word != "--config" or not value or value.startswith("-"):
                raise UsageError("--config needs a YAML file, as in `physdiff train --config config.yaml`.")
            chosen, settings = _process_of_config(Path(value))
        elif word.startswith("--config="):
            chosen, settings = _process_of_config(Path(word.partition("=")[2]))
        elif word == "--process":
            chosen, settings = processes.find(value), []
            arguments[i + 1] = f"{chosen.__module__}.{chosen.__qualname__}"
        elif word.startswith("--process="):
            chosen, settings = processes.find(word.partition("=")[2]), []
            arguments[i] = f"--process={chosen.__module__}.{chosen.__qualname__}"
        elif found := re.match(r"--process\.(?:init_args\.)?(\w+)", word):
            settings.append(found.group(1))
    if chosen is not None:
        check_names(chosen, [name for name in settings if name not in ("class_path", "clock")])


def _process_of_config(path: Path) -> tuple[type | None, list[str]]:
    """The physics that a YAML file names, and the names of the settings that it gives."""
    if spelled(str(path), processes.classes()) in processes.classes() or re.search(r"\.py(:\w+)?$", path.name):
        raise UsageError(f"train takes a YAML file of settings; physics is named by an option, --process {path}.")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file '{path}'.")
    try:
        content = yaml.safe_load(path.read_text())
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text; expected a YAML file of settings.") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold settings by name (data, process, training, ...).")
    for section in SECTIONS:
        if section in content and not isinstance(content[section], dict):
            raise ValueError(f"{path}: '{section}' must hold settings by name; got {content[section]!r}.")
    if "process" not in content:
        return None, []
    process = content["process"]
    name, settings = (process, {}) if not isinstance(process, dict) else (
        process.get("class_path"), process.get("init_args") or {}
    )  # fmt: skip
    if not isinstance(name, str) or not isinstance(settings, dict):
        raise ValueError(
            f"{path}: 'process' must be a name, such as Heat, or a class_path with init_args by name; got {process!r}."
        )
    return processes.find(name), list(settings)


def as_options(message: str, arguments: Sequence[str]) -> str:
    """An error of a command about data with `data.mask`, a setting of a run, as the command's own `--mask`."""
    if arguments[:1] != ["data"]:
        return message
    return re.sub(r"(?:--)?\bdata\.(fields|boundary|mask|splits|layout)\b(?!\.\w)", r"--\1", message)


def _nobody_reads() -> bool:
    """Whether the reader of what is printed has gone, as `head` does; what is left to print is then dropped."""
    output = sys.stdout.fileno()
    watched = select.poll()
    watched.register(output, select.POLLOUT)
    gone = any(event & (select.POLLERR | select.POLLHUP) for _, event in watched.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return gone


def main() -> None:
    """Entry point of the `physdiff` command."""
    import physdiff.processes  # noqa: F401  registers the physics that comes with the toolkit
    from physdiff.training.company import ProcessLost, tells

    sys.path.insert(0, os.getcwd())  # a user's own physics lies in the folder where the command is typed
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except (UsageError, *INPUT_ERRORS) as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            sys.exit(141)  # as the shell counts a command that a closed pipe ended
        if os.environ.get("PHYSDIFF_TRACEBACK"):
            raise
        if tells(error):
            print(f"physdiff: error: {as_options(' '.join(str(error).split()), sys.argv[1:])}", file=sys.stderr)
        code = 2
    except ProcessLost:
        code = 1
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):  # torch raises this wherever the main thread happens to be
            raise
        print(f"physdiff: error: a process that reads ahead has ended: {' '.join(str(error).split())}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print(f"interrupted{CONTINUED.get(''.join(sys.argv[1:2]), '')}", file=sys.stderr)
        code = 130
    sys.exit(code)
