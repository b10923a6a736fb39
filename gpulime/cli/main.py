"""The command ``gpulime``: explain, report, export and compare runs, measure, check the machine."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from gpulime import __version__, config
from gpulime.cli import options
from gpulime.errors import GpulimeError, check, unknown
from gpulime.runs.progress import exits, signals, terminal
from gpulime.runs.progress.terminal import counted, note, say


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
        return _refuse(options.plain(str(error), COMMANDS, next((word for word in argv if word in COMMANDS), None)))
    chosen = given[given.subcommand]
    debug = chosen.pop("debug", False)
    try:
        with _warnings_as_lines():
            return COMMANDS[given.subcommand](chosen)
    except BaseException as error:
        code = exits.code(error)
        if code is None:
            raise
        if debug:
            traceback.print_exception(error)
        return _refuse(_message(error, debug), code)


def explain(given: Namespace) -> int:
    """Explain images, texts or table rows and write a run directory."""
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
    run = _run(given, "report")
    from gpulime.runs import from_config

    say(str(from_config.report(run)))
    return 0


def status(given: Namespace) -> int:
    """Show the progress of a run: inputs on disk, running processes, time left."""
    run = _run(given, "status")
    from gpulime.runs.progress.status import status

    found = status(run)
    if given.json:
        print(json.dumps(found.as_json(), indent=2))
    else:
        say(str(found))
    return 0


def evaluate(given: Namespace) -> int:
    """Measure how good a run's explanations are: deletion, insertion, held-out R2, beside random and other methods."""
    run = _run(given, "evaluate")
    with signals.heard():
        from gpulime.runs.evaluation import calls
        from gpulime.runs.evaluation.settings import Settings
        from gpulime.runs.progress.partition import Share

        found = calls.evaluate(
            run,
            Settings(
                methods=tuple(given.methods or ()),
                measurements=tuple(given.metrics or Settings.measurements),
                fill=None if given.fill is None else options.value(given.fill),
                **{name: given[name] for name in ("unit", "steps", "labels", "samples")},
            ),
            **{name: given[name] for name in ("limit", "retry_failed", "shard", "device", "trust")},
        )
    if given.json:
        print(json.dumps(found.as_json(), indent=2))
    else:
        say(str(found))
    ranks = Share.of(given.shard).world > 1  # torchrun would stop the others
    return exits.ERROR_ROWS if (found.failed or found.failing) and not ranks else exits.OK


def export(given: Namespace) -> int:
    """Write explanations as files: an overlay per label of an image, or a page of a text or row; numbers and maps as .npz."""
    run = _run(given, "export", " --to exported")
    check(given.to is not None, "export needs --to DIR, a folder that is not there yet: --to exported")
    from gpulime.views import export

    to = config.expanded(given.to)
    written = export.export(run, _ids(given), to)
    for image_id, reason in written.damaged.items():
        note(f"gpulime: {written.kind} {image_id!r} is left out, its row is damaged: {reason}")
    if written.without_picture:
        transparent = "their overlays are transparent, to lay over any picture"
        note(f"{written.without_picture:,} images have no picture: {transparent}")
    say(f"{counted(written.images, written.kind)}: {to / export.INDEX}")
    return exits.ERROR_ROWS if written.damaged else exits.OK


def diff(given: Namespace) -> int:
    """Compare two runs: rank correlation, overlap of the top segments, labels that changed, and a page of both."""
    both = given.run_a is not None and given.run_b is not None
    check(both, "diff needs RUN_A and RUN_B, the directories of two runs: gpulime diff runs/before runs/after")
    from gpulime.views import diff
    from gpulime.views.report import diff_page

    found = diff.compare(config.expanded(given.run_a), config.expanded(given.run_b))
    say(str(found))  # first: the page may not be writable
    say(f"\npage: {diff_page.write(found, config.expanded(given.to or given.run_b))}")
    return 0


def verify(given: Namespace) -> int:
    """Read a whole run and report its contents and all damage."""
    run = _run(given, "verify")
    from gpulime.runs.store import verify
    from gpulime.views import verify_text

    found = verify.verify(run, given.inputs)
    say(verify_text.text(found))
    return found.exit_code


def compact(given: Namespace) -> int:
    """Merge a run's small result files into bigger ones; safe to stop at any time."""
    run = _run(given, "compact")
    from gpulime.runs.evaluation.rows import EVALUATION
    from gpulime.runs.store import compact
    from gpulime.runs.store.row import EXPLANATIONS

    for of in (EXPLANATIONS, EVALUATION) if (run / EVALUATION.folder).is_dir() else (EXPLANATIONS,):
        done = compact.compact(run, given.rows, of)
        for error in done.corrupt:
            note(f"gpulime: {error}. It is left as it is; gpulime verify {given.run} says more")
        whose = "" if of is EXPLANATIONS else "of the evaluation: "
        say(f"{whose}{done.before:,} shard{'s are' if done.before != 1 else ' is'} now {done.after:,}, of {done.rows:,} rows")
    return 0


def bench(given: Namespace) -> int:
    """Measure the speed on your images and this machine, the time by stage, and faster settings."""
    settings = given.as_dict()
    del settings["config"]
    seconds, kinds, images, out = (settings.pop(name) for name in ("seconds", "variants", "images", "to"))
    chosen = config.from_dict(settings)
    from gpulime.bench.measure import SECONDS, measure
    from gpulime.bench.subject import of_config
    from gpulime.bench.variants import KINDS

    for kind in kinds or ():
        if kind not in KINDS:
            raise unknown("--variants", kind, KINDS)
    fits = out is None or (Path(out).parent.is_dir() and not Path(out).is_dir())
    check(fits, f"--out must be a file in a folder that is there; got {out!r}")
    found = measure(
        of_config(chosen, images),
        SECONDS if seconds is None else seconds,
        KINDS if kinds is None else kinds,
        lambda line: note(f"gpulime bench: {line}"),
    )
    say(str(found))
    if out is not None:
        found.write(Path(out))
        say(f"\nsaved: {out}")
    return 0


def examine(given: Namespace) -> int:
    """Show versions and device, and the command for a faster path."""
    from gpulime import doctor

    for name, fact in doctor.describe().items():
        say(f"{name:12} {'none' if fact is None else fact}")
    return 0


def _run(given: Namespace, command: str, more: str = "") -> Path:
    """The directory of the run."""
    check(given.run is not None, f"{command} needs RUN, the directory of a run: gpulime {command} runs/quickstart{more}")
    return config.expanded(given.run)


def _ids(given: Namespace) -> list[str] | None:
    """The requested ids, or None."""
    if given.ids_file is None:
        return None if given.ids is None else list(given.ids)
    try:
        lines = config.expanded(given.ids_file).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise GpulimeError(f"--ids-file {given.ids_file!r} cannot be read: {error}") from error
    return [*(given.ids or ()), *(line.removesuffix("\r") for line in lines if line.strip())]


COMMANDS: dict[str, Callable[[Namespace], int]] = {
    **{command.__name__: command for command in (explain, status, report, evaluate, export, diff, verify, compact, bench)},
    "doctor": examine,
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
        description="LIME explanations of images, texts and table rows, thousands at a time.",
        epilog=options.START,
        **common,
    )
    commands = parser.add_subcommands(
        title="commands", metavar="COMMAND", description="gpulime COMMAND --help shows the options of each."
    )
    for name, command in COMMANDS.items():
        usage, epilog = options.HELP[name]
        line = command.__doc__
        own = ArgumentParser(usage=f"gpulime {name} [-h] {usage}", description=line, epilog=epilog, **common)
        options.add(own, name)
        commands.add_subcommand(name, own, help=line)
    return parser


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Print warnings of gpulime as one line, like its errors; warnings of others keep their place in the code."""
    before = warnings.formatwarning

    def format_warning(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if Path(filename).is_relative_to(Path(config.__file__).parent):
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
