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

_RUN = ("run", {"nargs": "?", "metavar": "RUN", "help": "directory of the run"})
_DEBUG = ("--debug", {"action": "store_true", "help": "show the traceback of an error, also of one in your model"})
_DRY = "print what would be done, how many forwards and how long; write nothing"
_SECONDS = "for the present settings and for each variant, in five pieces (default: 6)"
_VARIANTS = "variants to try: precision, channels_last, cudnn_benchmark, compile, batch_size, threads, workers (default: all)"
_WITH = (
    "methods to stand beside LIME, random segments and a centre blob: gradient, gradcam, ig, smoothgrad, vargrad, "
    "guided_backprop, deeplift, lrp, occlusion, kernelshap, rise, fgvis"
)
_METRICS = "curves (deletion, insertion ...) and held_out (R2 and infidelity on unseen masks) (default: both)"
_UNIT = "units that curves hide, one after the other (default: segments)"
_FILL = "pixels of hidden units, as for lime.fill (default: that of the run); rows of other fills stay beside"
_LABELS = "each image's most probable explained class, or all that were explained (default: top)"
_TRUST = "run the code that RUN/run.json names, even if you have not run it in this folder before"
# Options of the commands that are not settings.
OPTIONS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "explain": [
        ("--limit", {"metavar": "N", "type": int, "help": "the same as --data.limit"}),
        ("--shard", {"metavar": "I/N", "type": str, "help": "the same as --data.shard"}),
        ("--retry-failed", {"action": "store_true", "help": "retry inputs that failed in an earlier call"}),
        ("--dry-run", {"action": "store_true", "help": _DRY}),
        _DEBUG,
    ],
    "status": [_RUN, ("--json", {"action": "store_true", "help": "as JSON, for other programs"})],
    "report": [_RUN],
    "evaluate": [
        _RUN,
        ("--with", {"dest": "methods", "metavar": "NAME", "type": str, "nargs": "+", "help": _WITH}),
        ("--metrics", {"metavar": "NAME", "type": str, "nargs": "+", "help": _METRICS}),
        ("--unit", {"metavar": "segments|pixels", "type": str, "default": "segments", "help": _UNIT}),
        ("--fill", {"metavar": "FILL", "type": str, "help": _FILL}),
        ("--steps", {"metavar": "N", "type": int, "help": "steps of a curve (default: one for each segment, 28 for pixels)"}),
        ("--labels", {"metavar": "top|all", "type": str, "default": "top", "help": _LABELS}),
        ("--samples", {"metavar": "N", "type": int, "default": 100, "help": "masks of the held-out fit (default: 100)"}),
        ("--limit", {"metavar": "N", "type": int, "help": "measure only the first N explained inputs"}),
        ("--shard", {"metavar": "I/N", "type": str, "help": "measure only a part of the inputs, such as 2/8"}),
        ("--retry-failed", {"action": "store_true", "help": "measure inputs again that failed in an earlier call"}),
        ("--device", {"metavar": "TEXT", "type": str, "help": "cpu, cuda, cuda:1 ... (default: that of the run)"}),
        ("--trust", {"action": "store_true", "help": _TRUST}),
        ("--json", {"action": "store_true", "help": "the summary as JSON, for other programs"}),
        _DEBUG,
    ],
    "export": [
        _RUN,
        ("--to", {"metavar": "DIR", "type": str, "help": "folder for the files, empty or new"}),
        (
            "--ids",
            {"metavar": "ID", "type": str, "nargs": "+", "action": "extend", "help": "ids of inputs to write (default: all)"},
        ),
        ("--ids-file", {"metavar": "FILE", "type": str, "help": "text file of ids to write, one a line, in addition to --ids"}),
    ],
    "diff": [
        ("run_a", {"nargs": "?", "metavar": "RUN_A", "help": "directory of the run before"}),
        ("run_b", {"nargs": "?", "metavar": "RUN_B", "help": "directory of the run after"}),
        ("--to", {"metavar": "DIR", "type": str, "help": "folder for diff.html (default: RUN_B)"}),
    ],
    "verify": [
        _RUN,
        ("--inputs", {"action": "store_true", "help": "also hash the inputs again, to find changed or missing ones"}),
    ],
    "compact": [
        _RUN,
        ("--rows", {"metavar": "N", "type": int, "default": 8192, "help": "the most rows of a merged shard (default: 8192)"}),
    ],
    "bench": [
        ("--seconds", {"metavar": "X", "type": float, "help": _SECONDS}),
        ("--variants", {"metavar": "NAME", "type": str, "nargs": "*", "help": _VARIANTS}),
        _DEBUG,
        ("--images", {"metavar": "random", "type": str, "help": "random pixels instead of data.source"}),
        ("--out", {"dest": "to", "metavar": "FILE", "type": str, "help": "JSON file for all numbers"}),
    ],
    "doctor": [],
}
START = """
Start from one of the files in configs/, then try it on inputs of your own:

  gpulime explain --config configs/quickstart.yaml
  gpulime explain --config configs/quickstart.yaml --data.source my_photos --out runs/mine
  gpulime explain --config configs/texts.yaml --data.source posts.csv --data.text post --model.estimator pipeline.skops
  gpulime explain --config configs/table.yaml --data.source rows.csv --model.estimator model.skops
"""

VERDICTS = """
Nothing is changed. Exit codes:

  0   all files are intact, and every input is explained
  3   all files are intact; some inputs have error rows, or no row yet
  65  something differs: corrupt shards, damaged rows, rows of other settings, unknown files in results/, changed or missing
      inputs
"""

EVALUATING = """
It makes the model and the images again from RUN/run.json, compares their sums with those of the run, and measures the stored
explanations: nothing is explained again. Rows go to RUN/evaluation and can be resumed; the report shows them. A method that
this model does not allow is named with the reason. Higher is better for insertion, insertion minus deletion, IROF and held-out
R2; lower for deletion, minimal deletion and infidelity. No metric is a proof: read it beside random and centre.

  gpulime evaluate runs/quickstart
  gpulime evaluate runs/quickstart --with gradcam ig --limit 100
  gpulime evaluate runs/quickstart --fill blur --metrics curves --json

Exit codes: 0 if all inputs were measured, 3 if some have changed, are missing or failed.
"""

COMPACTING = """
The merged shard is written and read back before the old ones are deleted. Readers of gpulime may run meanwhile; another
program that misses a file it has just listed must run again. Corrupt shards are left as they are.
"""

BENCHING = """
It prints images per second with your settings, the time by stage, the time for the whole set, and faster settings, each
measured. docs/measuring.md explains the lines. For a small model it takes a minute or two, plus compiling; after warming up
it prints the time left. --seconds and --variants make it shorter.

  gpulime bench --config configs/quickstart.yaml --out quickstart.json
  gpulime bench --config configs/imagenet_val.yaml --images random --variants precision compile
"""
# Usage of the commands, and the text below their help.
HELP = {
    "explain": (
        "[--config FILE] [--SETTING VALUE ...] [--limit N] [--shard I/N] [--retry-failed] [--dry-run] [--debug]",
        START,
    ),
    "status": ("RUN [--json]", None),
    "report": ("RUN", None),
    "evaluate": ("RUN [--with NAME ...] [--metrics NAME ...] [--unit UNIT] [--fill FILL] [--json] ...", EVALUATING),
    "export": ("RUN --to DIR [--ids ID ...] [--ids-file FILE]", None),
    "diff": ("RUN_A RUN_B [--to DIR]", None),
    "verify": ("RUN [--inputs]", VERDICTS),
    "compact": ("RUN [--rows N]", COMPACTING),
    "bench": (
        "[--config FILE] [--SETTING VALUE ...] [--seconds X] [--variants NAME ...] [--images random] [--out FILE] [--debug]",
        BENCHING,
    ),
    "doctor": ("", None),
}
# Commands that take settings, and the group of their own options.
GROUPS = {
    "explain": ("this call", "These options affect this call only. They are not part of the settings."),
    "bench": ("this measurement", "Nothing is written except the file of --out."),
}


def add(parser: ArgumentParser, command: str) -> None:
    """Add the options of a command, and for some the settings; its own option replaces a setting of the same name."""
    group: Any = parser
    if command in GROUPS:
        group = parser.add_argument_group(*GROUPS[command])
        _add_settings(parser, hidden=[name.removeprefix("--") for name, _ in OPTIONS[command]])
    for name, how in OPTIONS[command]:
        group.add_argument(name, **how)


def _add_settings(parser: ArgumentParser, hidden: Collection[str]) -> None:
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


def value(text: str) -> Any:
    """An option's value as in YAML: a number, a list or text."""
    try:
        return safe_load(text)
    except YAMLError:
        return text


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
    said = str(default).lower() if isinstance(default, bool) else str(default)
    shown = f" (default: {said})" if default not in (None, {}, []) else ""
    return f"{field.metadata['help']}{shown}".replace("%", "%%")


def plain(message: str, commands: Iterable[str], command: str | None) -> str:
    """The parser's message in one line: the setting, what it must be, what was given and the nearest name of ``command``'s."""
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
        known = [name for name, _ in OPTIONS.get(command or "", []) if name.startswith("-")]
        known += [*(f"--{name}" for name in fields), "--config"] if command in GROUPS else []
        return f"unknown {what} {option[1]!r}{nearest(option[1], known)}"
    if choice := re.search(r"invalid choice: '(.*?)'", message):
        return str(unknown("the command", choice[1], commands))
    return " ".join(message.split())
