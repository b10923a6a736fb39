"""The command ``gpulime``: explain images, report, export and compare runs, measure, check the machine."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from gpulime import __version__, config
from gpulime.cli import options
from gpulime.errors import GpulimeError, check
from gpulime.runs.progress import exits, signals, terminal
from gpulime.runs.progress.terminal import note, say

START = """
Start from one of the files in configs/, then try it on images of your own:

  gpulime explain --config configs/quickstart.yaml
  gpulime explain --config configs/quickstart.yaml --data.source my_photos --out runs/mine
"""

VERDICTS = """
Nothing is changed. Exit codes:

  0   all files are intact, and every image is explained
  3   all files are intact; some images have error rows, or no row yet
  65  something differs: corrupt shards, damaged rows, rows of other settings, unknown files in results/, changed or missing
      images
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; a user's mistake is one line on stderr and code 2.

    With --debug its traceback comes first.
    """
    parser = _parser()
    argv = sys.argv[1:] if argv is None else argv
    if not argv:
        parser.print_help(sys.stderr)
        return exits.BAD_USAGE
    try:
        given = parser.parse_args(argv)
    except SystemExit:  # --help and --version have answered
        return 0
    except (ArgumentError, GpulimeError) as error:
        return _refuse(options.plain(str(error), COMMANDS))
    chosen = given[given.subcommand]
    debug = chosen.pop("debug", False)
    try:
        with _warnings_as_lines():
            return COMMANDS[given.subcommand].run(chosen)
    except BaseException as error:
        code = exits.code(error)
        if code is None:
            raise
        if debug:
            traceback.print_exception(error)
        return _refuse(_message(error, debug), code)


def explain(given: Namespace) -> int:
    """Explain images and write a run directory."""
    settings = given.as_dict()
    del settings["config"]
    call = {name: settings.pop(name) for name in ("retry_failed", "dry_run")}
    for name in ("limit", "shard"):
        if (value := settings.pop(name)) is not None:
            settings["data"][name] = value
    chosen = config.from_dict(settings)
    with signals.heard():
        from gpulime.runs import from_config

        return from_config.run(chosen, **call)


def report(given: Namespace) -> int:
    """Write RUN/report.html again from the results of a run."""
    check(given.run is not None, "report needs RUN, the directory of a run: gpulime report runs/quickstart")
    from gpulime.runs import from_config

    say(str(from_config.report(config.expanded(given.run))))
    return 0


def status(given: Namespace) -> int:
    """Show the progress of a run: images on disk, running processes, time left."""
    check(given.run is not None, "status needs RUN, the directory of a run: gpulime status runs/quickstart")
    from gpulime.runs.progress.status import status

    found = status(config.expanded(given.run))
    if given.json:
        print(json.dumps(found.as_json(), indent=2))
    else:
        say(str(found))
    return 0


def export(given: Namespace) -> int:
    """Write explanations as files: an overlay per label as PNG, heat maps and label map as .npz."""
    check(given.run is not None, "export needs RUN, the directory of a run: gpulime export runs/quickstart --to exported")
    check(given.to is not None, "export needs --to DIR, a folder that is not there yet: --to exported")
    from gpulime.views import export

    to = config.expanded(given.to)
    written = export.export(config.expanded(given.run), _ids(given), to)
    for image_id, reason in written.damaged.items():
        note(f"gpulime: image {image_id!r} is left out, its row is damaged: {reason}")
    if written.without_picture:
        transparent = "their overlays are transparent, to lay over any picture"
        note(f"{written.without_picture:,} without a picture at hand: {transparent}")
    say(f"{written.images:,} images: {to / export.INDEX}")
    return exits.ERROR_ROWS if written.damaged else exits.OK


def diff(given: Namespace) -> int:
    """Compare two runs: rank correlation, overlap of the top segments, labels that changed, and a page of both."""
    both = given.run_a is not None and given.run_b is not None
    check(both, "diff needs RUN_A and RUN_B, the directories of two runs: gpulime diff runs/before runs/after")
    from gpulime.views import diff, diff_text
    from gpulime.views.report import diff_page

    found = diff.compare(config.expanded(given.run_a), config.expanded(given.run_b))
    say(diff_text.table(found))  # first: the page may not be writable
    say(f"\npage: {diff_page.write(found, config.expanded(given.to or given.run_b))}")
    return 0


def verify(given: Namespace) -> int:
    """Read a whole run and report its contents and all damage."""
    check(given.run is not None, "verify needs RUN, the directory of a run: gpulime verify runs/quickstart")
    from gpulime.runs.store import verify
    from gpulime.views import verify_text

    found = verify.verify(config.expanded(given.run), given.inputs)
    say(verify_text.text(found))
    return found.exit_code


def compact(given: Namespace) -> int:
    """Merge a run's small result files into bigger ones; safe to stop at any time."""
    check(given.run is not None, "compact needs RUN, the directory of a run: gpulime compact runs/quickstart")
    from gpulime.runs.store import compact

    done = compact.compact(config.expanded(given.run), given.rows)
    for error in done.corrupt:
        note(f"gpulime: {error}. It is left as it is; gpulime verify {given.run} says more")
    say(f"{done.before:,} shard{'s are' if done.before != 1 else ' is'} now {done.after:,}, of {done.rows:,} rows")
    return 0


def bench(given: Namespace) -> int:
    """Measure the speed on your images and this machine, the time by stage, and faster settings."""
    settings = given.as_dict()
    del settings["config"]
    call = {name: settings.pop(name) for name in ("seconds", "variants", "images")}
    out = settings.pop("to")
    chosen = config.from_dict(settings)
    from gpulime.bench import command

    command.run(chosen, **call, out=out)
    return 0


def examine(given: Namespace) -> int:
    """Show versions and device, and the command for a faster path."""
    from gpulime import doctor

    for name, fact in doctor.describe().items():
        say(f"{name:12} {'none' if fact is None else fact}")
    return 0


class Command(NamedTuple):
    """One command: function, usage, options, and the text below its help."""

    run: Callable[[Namespace], int]
    usage: str
    add_options: Callable[[ArgumentParser], None]
    epilog: str | None = None


def _add_run(parser: ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", metavar="RUN", help="directory of the run")


def _add_explain(parser: ArgumentParser) -> None:
    options.add_call(parser)
    options.add(parser)


def _add_status(parser: ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("--json", action="store_true", help="as JSON, for other programs")


def _add_export(parser: ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("--to", metavar="DIR", type=str, help="folder for the files, empty or new")
    parser.add_argument("--ids", metavar="ID", type=str, nargs="+", action="extend", help="images to write (default: all)")
    parser.add_argument(
        "--ids-file", metavar="FILE", type=str, help="text file of ids to write, one a line, in addition to --ids"
    )


def _add_diff(parser: ArgumentParser) -> None:
    parser.add_argument("run_a", nargs="?", metavar="RUN_A", help="directory of the run before")
    parser.add_argument("run_b", nargs="?", metavar="RUN_B", help="directory of the run after")
    parser.add_argument("--to", metavar="DIR", type=str, help="folder for diff.html (default: RUN_B)")


def _add_verify(parser: ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("--inputs", action="store_true", help="also hash the images again, to find changed or missing ones")


def _add_bench(parser: ArgumentParser) -> None:
    call = parser.add_argument_group("this measurement", "Nothing is written except the file of --out.")
    call.add_argument(
        "--seconds", metavar="X", type=float, help="for the present settings and for each variant, in five pieces (default: 6)"
    )
    call.add_argument(
        "--variants",
        metavar="NAME",
        type=str,
        nargs="*",
        help="variants to try: precision, channels_last, compile, batch_size, threads, workers (default: all)",
    )
    options.add_debug(call)
    call.add_argument("--images", metavar="random", type=str, help="random pixels instead of data.source")
    options.add(parser, hidden=("out",))
    call.add_argument("--out", dest="to", metavar="FILE", type=str, help="JSON file for all numbers")


def _add_compact(parser: ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("--rows", metavar="N", type=int, default=8192, help="the most rows of a merged shard (default: 8192)")


def _ids(given: Namespace) -> list[str] | None:
    """The requested ids, or None."""
    if given.ids_file is None:
        return None if given.ids is None else list(given.ids)
    try:
        lines = config.expanded(given.ids_file).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise GpulimeError(f"--ids-file {given.ids_file!r} cannot be read: {error}") from error
    return [*(given.ids or ()), *(line.removesuffix("\r") for line in lines if line.strip())]


COMMANDS = {
    "explain": Command(
        explain,
        "[--config FILE] [--SETTING VALUE ...] [--limit N] [--shard I/N] [--retry-failed] [--dry-run] [--debug]",
        _add_explain,
        START,
    ),
    "status": Command(status, "RUN [--json]", _add_status),
    "report": Command(report, "RUN", _add_run),
    "export": Command(export, "RUN --to DIR [--ids ID ...] [--ids-file FILE]", _add_export),
    "diff": Command(diff, "RUN_A RUN_B [--to DIR]", _add_diff),
    "verify": Command(verify, "RUN [--inputs]", _add_verify, VERDICTS),
    "compact": Command(compact, "RUN [--rows N]", _add_compact, COMPACTING),
    "bench": Command(
        bench,
        "[--config FILE] [--SETTING VALUE ...] [--seconds X] [--variants NAME ...] [--images random] [--out FILE] [--debug]",
        _add_bench,
        BENCHING,
    ),
    "doctor": Command(examine, "", lambda parser: None),
}


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, **{"max_help_position": 32, **settings})


def _parser() -> ArgumentParser:
    common: dict[str, Any] = {
        "exit_on_error": False,
        "allow_abbrev": False,
        "formatter_class": _Help,
        "print_config": None,
    }
    parser = ArgumentParser(
        prog="gpulime",
        version=__version__,
        description="LIME explanations of image classifiers, thousands of images at a time.",
        epilog=START,
        **common,
    )
    commands = parser.add_subcommands(
        title="commands", metavar="COMMAND", description="gpulime COMMAND --help shows the options of each."
    )
    for name, command in COMMANDS.items():
        line = str(command.run.__doc__)
        usage = f"gpulime {name} [-h] {command.usage}"
        own = ArgumentParser(usage=usage, description=line, epilog=command.epilog, **common)
        command.add_options(own)
        commands.add_subcommand(name, own, help=line)
    return parser


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Print warnings of gpulime as one line, like its errors; warnings of others keep their place in the code."""
    before = warnings.formatwarning

    def format_warning(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if Path(filename).is_relative_to(Path(__file__).parent):
            return terminal.lines_of(f"gpulime: {message}\n")
        return before(message, category, filename, lineno, line)

    warnings.formatwarning = format_warning
    try:
        yield
    finally:
        warnings.formatwarning = before


def _message(error: BaseException, debug: bool) -> str:
    if isinstance(error, SystemExit):
        return f"sys.exit({error.code!r}) was called by the model or other code of yours, which must not end the process"
    more = isinstance(error, exits.ModelFailsError) and not debug
    return f"{error} (--debug shows the traceback)" if more else str(error)


def _refuse(message: str, code: int = exits.BAD_USAGE) -> int:
    if message:
        note(f"gpulime: {message}")
    return code
