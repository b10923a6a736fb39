"""Command-line options for the settings of config.py, YAML files, and the parser's errors in plain words."""

from __future__ import annotations

import re
from argparse import SUPPRESS
from collections.abc import Collection, Iterable
from dataclasses import Field
from pathlib import Path
from typing import Any, get_type_hints

from jsonargparse import ActionConfigFile, ArgumentParser  # type: ignore[attr-defined]
from yaml import YAMLError, safe_load

from gpulime import config
from gpulime.errors import GpulimeError, about, nearest, unknown

# An annotation in config.py -> its metavar in the help, and its name in messages.
WORDS = {
    "int": ("N", "a whole number"),
    "float": ("X", "a number"),
    "str": ("TEXT", "text"),
    "bool": ("true|false", "true or false"),
    "list[float]": ("[X, ...]", "a list of numbers"),
    "list[str]": ("[TEXT, ...]", "a list of text"),
    "list[Any]": ("[CLASS, ...]", "a list of classes"),
    "list[int]": ("[N, ...]", "a list of whole numbers"),
    "dict[str, Any]": ("{NAME: VALUE}", "a mapping"),
    "None": ("null", "null"),
}

# Options that are not settings.
OTHERS = (
    *("config", "debug", "dry-run", "limit", "retry-failed", "shard"),
    *("ids", "ids-file", "images", "inputs", "json", "rows", "seconds", "to", "variants"),
)


def add(parser: ArgumentParser, hidden: Collection[str] = ()) -> None:
    """Add --config and an option for each setting; ``hidden`` settings are read from files only."""
    parser.add_argument(
        "--config", action=_ConfigFile, metavar="FILE", help="YAML file of settings; an option after it overrides it"
    )
    groups: dict[str, Any] = {"": parser}
    hints = {"": get_type_hints(config.Config)}
    for section, kind in config.SECTIONS.items():
        groups[section] = parser.add_argument_group(section, kind.__doc__)
        hints[section] = get_type_hints(kind)
    for name, field in config.settings():
        section = name.rpartition(".")[0]
        argument = groups[section].add_argument(
            f"--{name}",
            type=hints[section][field.name],
            default=config.default(field),
            metavar=_words(field)[0],
            help=_help(field),
        )
        argument.option_strings = [f"--{name}"]  # not also jsonargparse's --NAME+, which appends to a list
        if name in hidden:
            argument.help, argument.option_strings = SUPPRESS, [f"--settings.{name}"]
            del parser._option_string_actions[f"--{name}"]  # free for an option of the command's own


def add_call(parser: ArgumentParser) -> None:
    """Add the options of a single call, which do not change the settings."""
    call = parser.add_argument_group("this call", "Options of one call; the settings stay as they are.")
    call.add_argument("--limit", metavar="N", type=int, help="the same as --data.limit")
    call.add_argument("--shard", metavar="I/N", type=str, help="the same as --data.shard")
    call.add_argument("--retry-failed", action="store_true", help="try images with an error row again")
    call.add_argument(
        "--dry-run", action="store_true", help="print what would be done, how many forwards and how long; write nothing"
    )
    add_debug(call)


def add_debug(group: Any) -> None:
    """Add --debug to a group of options."""
    group.add_argument("--debug", action="store_true", help="show the traceback of an error, your model's included")


class _ConfigFile(ActionConfigFile):
    """Read a config file; names are checked first, so that the message has the file and the nearest name."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        with about(f"config {str(values)!r}"):
            config.flat(_read_yaml(Path(values)))
        super().__call__(parser, namespace, values, option_string)  # type: ignore[no-untyped-call]


def _read_yaml(path: Path) -> dict[Any, Any]:
    try:
        content = safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GpulimeError(f"cannot be read: {error.strerror}") from error
    except (YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        reason = f"line {mark.line + 1}, {error.problem}" if mark else str(error)  # type: ignore[union-attr]
        raise GpulimeError(f"is not YAML: {reason}") from error
    if not isinstance(content, dict):
        raise GpulimeError(f"must be a mapping such as 'out: runs/mine'; got {content!r}")
    return content


def _words(field: Field[Any]) -> tuple[str, str]:
    """The metavar of ``field`` in the help, and the expected type in messages."""
    metavars, phrases = [], []
    for piece in str(field.type).split(" | "):
        literal = re.fullmatch(r"Literal\[(.*)\]", piece)
        metavar, phrase = (
            (literal[1].replace("'", "").replace(", ", "|"), literal[1].replace(", ", " or ")) if literal else WORDS[piece]
        )
        metavars += [metavar] if piece != "None" else []
        phrases += [phrase]
    return "|".join(metavars), " or ".join(phrases)


def _help(field: Field[Any]) -> str:
    default = config.default(field)
    shown = f" (default: {str(default).lower()})" if default not in (None, {}) else ""
    return f"{field.metadata['help']}{shown}".replace("%", "%%")


def plain(message: str, commands: Iterable[str]) -> str:
    """The parser's message in one line: the setting, what it must be, what was given and the nearest name."""
    fields = dict(config.settings())
    if key := re.search(r'key "([\w.]+)"', message):
        given = re.search(r"(?:Got|Given) value: (.*)", message)
        got = f"; got {given[1]!r}" if given else ""
        if key[1] in fields:
            return f"{key[1]} must be {_words(fields[key[1]])[1]}{got}"
        if kind := re.search(r"Expected a <class '(\w+)'>", message):
            return f"--{key[1]} must be {WORDS[kind[1]][1]}{got}"
    if option := re.search(r"argument (--[\w.-]+): expected (?:one|at least one) argument", message):
        return f"{option[1]} needs a value"
    if option := re.search(r"[Uu]nrecognized arguments: ([^\s=]+)", message):
        what = "option" if option[1].startswith("-") else "argument"
        known = [f"--{name}" for name in [*fields, *OTHERS]]
        return f"unknown {what} {option[1]!r}{nearest(option[1], known)}"
    if choice := re.search(r"invalid choice: '(.*?)'", message):
        return str(unknown("the command", choice[1], commands))
    return " ".join(message.split())
